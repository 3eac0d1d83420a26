"""From a backbone's name to its text tower and its tokenizer; the image tower is not built again.

The text half of a checkpoint is read from the same file as the image half, so a name, a weights file and
`pretrained=False` mean here what they mean to `create_backbone`. Neither half is ever in memory twice (see `mapped`).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPTextCfg, _build_text_tower  # pyright: ignore[reportPrivateUsage]
from open_clip.pretrained import download_pretrained
from open_clip.tokenizer import SimpleTokenizer
from torch import nn

from side4video.backbones import tiny
from side4video.backbones.build_open_clip import _record as find_record  # pyright: ignore[reportPrivateUsage]
from side4video.backbones.caption_tokens import MAX_WORDS, ClipTokenizer, FixedLengthTokenizer
from side4video.backbones.catalog import TINY
from side4video.backbones.hub import downloading
from side4video.backbones.mapped import own_weights, without_values
from side4video.backbones.released import LIBRARY as RELEASED
from side4video.backbones.released import build_released_text
from side4video.backbones.text import WHAT_WORKS, TextTower, text_tower_of
from side4video.backbones.weights import State, load_whole, read_weights
from side4video.errors import BackboneError, MissingExtraError

CLIP_CONTEXT = 77
DEFAULT_LOGIT_SCALE = 2.6592600369327783  # ln(1 / 0.07), CLIP's start


def create_text_tower(name: str, *, weights: str | None = None, pretrained: bool = True) -> TextTower:
    """The text tower that belongs to the backbone `name`, in float32 on the CPU.

    Names are those of `create_backbone`: `tiny-clip`, `open_clip:ARCH/PRETRAINED`, `open_clip:ARCH` with `weights` or
    `pretrained=False`.

    Raises:
        BackboneError: a backbone without a text tower that gives a vector for every token (all of timm's, CoCa, Hugging
            Face encoders), an unknown name, or weights that cannot be had.
        CheckpointError: a weights file that cannot be read or does not fit.
    """
    if name == TINY:
        model = tiny.tiny_clip_model(pretrained=pretrained and weights is None)
        if weights is not None:
            load_whole(model, read_weights(weights), path=weights, name=TINY)
        return text_tower_of(model, name=name)
    if name.startswith(f"{RELEASED}:"):
        return build_released_text(name, weights=weights)
    architecture, tag, config = _architecture(name)
    record = find_record(architecture, tag, needed=pretrained and weights is None, label=name)
    quick_gelu = bool(record.get("quick_gelu", config.get("quick_gelu", False)))
    # shapes first: a tower that cannot be used is refused before anything is downloaded
    with torch.device("meta"):
        TextTower(_open_clip_text(name, config, quick_gelu=quick_gelu), name=name, logit_scale_init=0.0)
    scale = float(config.get("init_logit_scale", DEFAULT_LOGIT_SCALE))
    path = weights
    if weights is None and pretrained:
        with downloading(name, url="" if record.get("hf_hub") else record.get("url", "")):
            path = download_pretrained(record)
    with nullcontext() if path is None else without_values():
        tower = _open_clip_text(name, config, quick_gelu=quick_gelu)
    if path is not None:
        state = read_weights(path)
        load_whole(tower, _text_part(state, tower), path=path, name=f"the text tower of {name}")
        own_weights(tower, torch.float32, hashed=False)
        scale = float(state["logit_scale"]) if "logit_scale" in state else scale
    return TextTower(tower, name=name, logit_scale_init=scale).float()


def create_tokenizer(name: str, *, max_words: int = MAX_WORDS) -> ClipTokenizer | FixedLengthTokenizer:
    """The tokenizer of the backbone `name`: captions to ids and mask.

    `max_words` counts start and end; a model with a shorter context takes as many as it has. Towers whose words see
    the padding too (SigLIP, MobileCLIP) want captions of one length, so there `max_words` has no effect.

    Raises:
        BackboneError: as `create_text_tower`, or a tokenizer that cannot be downloaded.
        MissingExtraError: a tokenizer that needs the transformers package (SigLIP), which is not installed.
    """
    if name == TINY:
        return ClipTokenizer(tiny.tiny_clip_tokenizer(), max_words=min(max_words, tiny.CONTEXT_LENGTH))
    if name.startswith(f"{RELEASED}:"):
        return ClipTokenizer(max_words=min(max_words, CLIP_CONTEXT))
    architecture, _, config = _architecture(name)
    text: dict[str, Any] = config["text_cfg"]
    context_length = int(text.get("context_length", 77))
    with downloading(name):
        try:
            found: Any = open_clip.get_tokenizer(architecture)
        except ImportError as error:
            raise MissingExtraError("transformers", "siglip") from error
    if isinstance(found, SimpleTokenizer):
        if text.get("no_causal_mask"):
            max_words = context_length
        return ClipTokenizer(found, max_words=min(max_words, context_length))
    if text.get("pool_type") != "last":
        raise BackboneError(f"{name}: captions of this model cannot be tokenized word by word; {WHAT_WORKS}")
    return FixedLengthTokenizer(found, context_length=context_length, pad_id=int(found.tokenizer.pad_token_id))


def _architecture(name: str) -> tuple[str, str, dict[str, Any]]:
    library, _, model = name.partition(":")
    architecture, _, tag = model.partition("/")
    config = open_clip.get_model_config(architecture) if library == "open_clip" and architecture else None
    if config is None:
        raise BackboneError(f"backbone {name!r} has no text tower; {WHAT_WORKS}")
    return architecture, tag, config


def _open_clip_text(name: str, config: dict[str, Any], *, quick_gelu: bool) -> nn.Module:
    settings = CLIPTextCfg(**config["text_cfg"])
    if settings.hf_model_name or "multimodal_cfg" in config:
        raise BackboneError(f"backbone {name!r} has no text tower with a vector for every token; {WHAT_WORKS}")
    return _build_text_tower(config["embed_dim"], settings, quick_gelu)


def _text_part(state: State, tower: nn.Module) -> State:
    """The entries of the text tower, whether the file keeps them under `text.` or bare beside `visual.`."""
    inner = {key.removeprefix("text."): value for key, value in state.items() if key.startswith("text.")}
    found = inner or state
    return {key: value for key, value in found.items() if key in tower.state_dict()}
