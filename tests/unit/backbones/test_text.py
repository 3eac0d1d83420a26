"""Text towers: a vector for every token, and at the pooled position the library's own embedding."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from safetensors.torch import save_file
from torch import nn

from side4video.backbones.create_text import create_text_tower
from side4video.backbones.text import TextEncoder, TextTower, text_tower_of
from side4video.errors import BackboneError, CheckpointError
from side4video.tasks.similarity import sentence_vectors

M, Q, E, VOCAB = 4, 11, 24, 60
VISION = CLIPVisionCfg(image_size=16, patch_size=8, width=32, layers=1, head_width=16)
KINDS: dict[str, dict[str, Any]] = {
    "clip": {"model": CLIP, "text": {}, "quick_gelu": True},
    "eva": {"model": CustomTextCLIP, "text": {}, "quick_gelu": False},
    "siglip": {
        "model": CustomTextCLIP,
        "text": {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
        "quick_gelu": False,
    },
    "mobileclip": {"model": CustomTextCLIP, "text": {"no_causal_mask": True}, "quick_gelu": False},
}


def make_model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    row = KINDS[kind]
    text = CLIPTextCfg(context_length=Q, vocab_size=VOCAB, width=40, heads=4, layers=2, **row["text"])
    model = row["model"](E, VISION, text, quick_gelu=row["quick_gelu"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
    return model.eval()


def make_captions() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(1, VOCAB - 2, (M, Q), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([11, 5, 8, 3])
    ids[torch.arange(M), lengths - 1] = VOCAB - 1
    mask = torch.arange(Q)[None] < lengths[:, None]
    return ids.masked_fill(~mask, 0), mask


@pytest.mark.parametrize("kind", KINDS)
def test_the_pooled_position_is_the_librarys_embedding(kind: str) -> None:
    model = make_model(kind)
    tower = text_tower_of(model, name=kind)
    assert isinstance(tower, TextEncoder)
    assert (tower.embed_dim, tower.context_length, tower.vocab_size) == (E, Q, VOCAB)
    assert tower.logit_scale_init == pytest.approx(float(model.logit_scale.detach()))
    ids_MQ, mask_MQ = make_captions()
    with torch.no_grad():
        tokens_MQE = tower(ids_MQ)
        expected_ME = model.encode_text(ids_MQ)
    if kind == "siglip":
        mask_MQ[:, -1] = True
    assert tokens_MQE.shape == (M, Q, E)
    torch.testing.assert_close(sentence_vectors(tokens_MQE, mask_MQ), expected_ME, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["clip", "eva"])
def test_shorter_captions_give_the_same_vectors(kind: str) -> None:
    tower = text_tower_of(make_model(kind), name=kind)
    ids_MQ, _ = make_captions()
    with torch.no_grad():
        torch.testing.assert_close(tower(ids_MQ[:, :7]), tower(ids_MQ)[:, :7], atol=1e-5, rtol=0)


def test_ids_that_do_not_fit_are_refused() -> None:
    clip, siglip = (text_tower_of(make_model(kind), name=kind) for kind in ("clip", "siglip"))
    with pytest.raises(ValueError, match="at most 11 ids; got 12"):
        clip(torch.zeros(M, 12, dtype=torch.int64))
    with pytest.raises(ValueError, match="exactly 11 ids; got 7"):
        siglip(torch.zeros(M, 7, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"integers of shape MQ; got \(4, 11\), torch.float32"):
        clip(torch.zeros(M, Q))


def test_identity_tells_towers_apart() -> None:
    first, other = (text_tower_of(make_model(kind), name="same") for kind in ("clip", "eva"))
    before = first.identity()
    assert before == text_tower_of(make_model("clip"), name="same").identity()
    with torch.no_grad():
        first.ln_final.get_parameter("bias")[3] += 1
    assert first.identity()["hash"] != before["hash"]
    assert other.identity()["context_length"] == Q


def test_models_without_such_a_tower_are_refused() -> None:
    with pytest.raises(BackboneError, match=r"Linear has no text tower .*tiny-clip"):
        text_tower_of(nn.Linear(2, 3), name="x")
    coca = open_clip.model._build_text_tower(
        E, CLIPTextCfg(vocab_size=VOCAB, width=40, heads=4, layers=1, embed_cls=True)
    )
    with pytest.raises(BackboneError, match="CoCa's text tower"):
        TextTower(coca, name="coca", logit_scale_init=0.0)


@pytest.mark.parametrize("name", ["timm:vit_base_patch16_224", "auto", "open_clip:nonsense", "ViT-B-16"])
def test_names_without_a_text_tower(name: str) -> None:
    with pytest.raises(BackboneError, match=r"has no text tower; .*tiny-clip"):
        create_text_tower(name, pretrained=False)


@pytest.mark.parametrize("name", ["open_clip:coca_ViT-B-32", "open_clip:roberta-ViT-B-32"])
def test_towers_without_word_vectors(name: str) -> None:
    with pytest.raises(BackboneError, match="no text tower with a vector for every token"):
        create_text_tower(name, pretrained=False)


def test_an_open_clip_tower_from_a_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "embed_dim": E,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"context_length": Q, "vocab_size": VOCAB, "width": 40, "heads": 4, "layers": 2},
    }
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: config if name == "Small" else None)
    model = make_model("clip")
    path = tmp_path / "whole.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    tower = create_text_tower("open_clip:Small", weights=str(path))
    ids_MQ, mask_MQ = make_captions()
    with torch.no_grad():
        torch.testing.assert_close(
            sentence_vectors(tower(ids_MQ), mask_MQ), model.encode_text(ids_MQ), atol=1e-5, rtol=0
        )
        assert tower.logit_scale_init == pytest.approx(float(model.logit_scale))
    image_only = {name: value.contiguous() for name, value in model.visual.state_dict().items()}
    save_file(image_only, path)
    with pytest.raises(CheckpointError, match="lacks"):
        create_text_tower("open_clip:Small", weights=str(path))


def test_tiny_clip_without_weights() -> None:
    tower = create_text_tower("tiny-clip", pretrained=False)
    assert (tower.embed_dim, tower.context_length) == (128, 48)
