"""Our own tiny CLIP: open_clip's classes at 64 px, trained by `scripts/train_tiny_clip.py` on drawn pictures.

It needs no download: its weights and its tokenizer's merges (one token for each word of the drawn captions, letters for
anything else) lie in `assets/`.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file

IMAGE_SIZE = 64
CONTEXT_LENGTH = 48
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
WEIGHTS = "tiny_clip.safetensors"
MERGES = "tiny_clip_merges.txt.gz"

EMBED_DIM = 128
VISION = open_clip.CLIPVisionCfg(image_size=IMAGE_SIZE, patch_size=8, width=128, layers=6, head_width=32)
TEXT = open_clip.CLIPTextCfg(context_length=CONTEXT_LENGTH, width=128, heads=4, layers=3)


def asset(name: str) -> str:
    """Path of a file that ships with the package."""
    return str(files("side4video.backbones").joinpath("assets", name))


def tiny_clip_tokenizer() -> SimpleTokenizer:
    """Captions to `ids_MQ`, padded with 0 to the context length."""
    return SimpleTokenizer(bpe_path=asset(MERGES), context_length=CONTEXT_LENGTH)


def tiny_clip_model(*, pretrained: bool = True) -> open_clip.CLIP:
    """Both towers, float32, in eval mode; random weights (torch's global generator) unless `pretrained`."""
    text = replace(TEXT, vocab_size=tiny_clip_tokenizer().vocab_size)
    model = open_clip.CLIP(EMBED_DIM, VISION, text)
    if pretrained:
        state = load_file(asset(WEIGHTS))
        model.load_state_dict({name: value.to(torch.float32) for name, value in state.items()})
    # where open_clip's factory leaves the record of what pixels a tower wants
    model.visual.preprocess_cfg = {"mean": MEAN, "std": STD, "interpolation": "bilinear"}  # pyright: ignore[reportArgumentType]
    return model.eval()
