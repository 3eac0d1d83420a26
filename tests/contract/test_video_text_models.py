"""Every kind of open_clip model makes a text-video model, or is refused with what works: built on the meta device.

A kind is what decides how a model is handled: where its image tower comes from and how it ends, how its text tower
attends and pools. The smallest architecture of each kind stands for it.
"""

from __future__ import annotations

import json
from typing import Any

import open_clip
import pytest
import torch

from side4video.backbones import FrozenBackbone
from side4video.backbones.build_open_clip import open_clip_tower, tower_trunk
from side4video.backbones.create_text import _open_clip_text  # pyright: ignore[reportPrivateUsage]
from side4video.backbones.text import TextTower
from side4video.errors import BackboneError
from side4video.tasks.retrieval import VideoTextModel

TEXT_KEYS = ("no_causal_mask", "pool_type", "proj_bias", "proj_type", "embed_cls", "hf_model_name", "act_kwargs")
VISION_KEYS = ("timm_pool", "timm_proj", "attentional_pool", "pool_type", "final_ln_after_pool", "no_ln_pre")


def kinds() -> dict[str, str]:
    """A name for each kind -> its architecture with the narrowest text tower."""
    found: dict[tuple[Any, ...], tuple[int, str]] = {}
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        vision, text = config["vision_cfg"], config["text_cfg"]
        family = str(vision.get("timm_model_name", "own")).split("_")[0]
        kind = (
            family,
            isinstance(vision.get("layers"), list),
            *(json.dumps(vision.get(key)) for key in VISION_KEYS),
            *(json.dumps(bool(text.get(key)) if key == "hf_model_name" else text.get(key)) for key in TEXT_KEYS),
            "multimodal_cfg" in config,
        )
        candidate = (int(text.get("width", 512)) * int(config["embed_dim"]), name)
        found[kind] = min(found.get(kind, candidate), candidate)
    return {name: name for _, name in sorted(found.values(), key=lambda pair: pair[1])}


KINDS = kinds()


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    return {}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_works_or_says_what_does(name: str, outcomes: dict[str, str]) -> None:
    config = open_clip.get_model_config(name)
    refusal = ""
    model, text = None, None
    try:
        with torch.device("meta"):
            text = TextTower(_open_clip_text(name, config, quick_gelu=False), name=name, logit_scale_init=1.0)
            trunk = tower_trunk(open_clip_tower(config, {}), label=name)
            model = VideoTextModel(FrozenBackbone(trunk, name=name), text).eval()
    except BackboneError as error:
        refusal = str(error)
    if model is None or text is None:
        assert "tiny-clip" in refusal
        outcomes[name] = "refused"
        return
    size = model.backbone.preprocessing.image_size
    num_ids = text.context_length
    with torch.device("meta"), torch.no_grad():
        frames_BTE = model.encode_video(torch.zeros(2, 3, 3, *size))
        tokens_MQE = model.encode_text(torch.zeros(5, num_ids, dtype=torch.int64))
    assert frames_BTE.shape == (2, 3, config["embed_dim"])
    assert tokens_MQE.shape == (5, num_ids, config["embed_dim"])
    outcomes[name] = type(model.frame_head).__name__


def test_the_published_families_work(outcomes: dict[str, str]) -> None:
    # what was tried in this process; with several, each sees a part of the kinds
    for name, outcome in outcomes.items():
        if "SigLIP" in name:
            assert outcome == "JointSpaceHead"
        elif name.startswith(("EVA", "ViT-B-", "ViT-L-1", "ViT-H")) and "CLIPA" not in name:
            assert outcome == "ClassTokenHead", name
        elif name.startswith(("coca", "convnext", "RN", "swin", "mt5")):
            assert outcome == "refused", name
    assert len(KINDS) >= 12
