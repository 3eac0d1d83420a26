"""EVA02-CLIP-E/14 at its real size with random weights: write, load, run, and what it took in memory and time.

    python scripts/giant.py FOLDER [--model EVA02-E-14-plus] [--task retrieval] [--step]

Writes a weights file of about 9 GB (bf16) into FOLDER and deletes it again. Loading goes through the same code as a
published checkpoint: one tensor at a time. Prints one JSON value: the image tower's own bytes, the most that loading it
took on top of the process, and their ratio; with `--task retrieval` the same of the text tower, which is kept in
float32. `--step` runs a training step: forward, loss, backward.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CustomTextCLIP

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.build_open_clip import open_clip_tower
from side4video.backbones.create import create_backbone
from side4video.backbones.create_text import create_text_tower, create_tokenizer
from side4video.backbones.text import TextTower
from side4video.side.network import SideNetwork
from side4video.tasks.contrastive import contrastive_loss
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel
from side4video.training.provenance import hardware, source_commit

CHUNK = 1 << 24


def peak_bytes() -> int:
    """The most that this process has had in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def write_random(config: dict[str, Any], path: Path, *, text: bool) -> tuple[int, int]:
    """A safetensors file of normal random bf16 weights, written a piece at a time; the bytes of the image tower's
    tensors, and of the text tower's in float32."""
    with torch.device("meta"):
        state = {f"visual.{name}": value for name, value in open_clip_tower(config, {}).state_dict().items()}
        words = CustomTextCLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"]) if text else None
    seen = sum(2 * value.numel() for value in state.values())
    if words is not None:
        state |= {name: value for name, value in words.state_dict().items() if not name.startswith("visual.")}
    header: dict[str, Any] = {}
    offset = 0
    for name, value in state.items():
        end = offset + 2 * value.numel()
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    generator = torch.Generator().manual_seed(0)
    noise = (torch.randn(CHUNK, generator=generator) * 0.02).bfloat16().view(torch.uint8).numpy().tobytes()
    ones = torch.ones(CHUNK).bfloat16().view(torch.uint8).numpy().tobytes()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, value in state.items():
            # norms at one, as trained ones are near: else 64 blocks shrink the tokens to nothing
            source = ones if ("norm" in name or ".ln_" in name) and name.endswith("weight") else noise
            left = 2 * value.numel()
            while left:
                left -= file.write(source[: min(left, len(source))])
    return seen, 2 * (offset - seen)


def main() -> None:
    """Write, load, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="EVA02-E-14", choices=["EVA02-E-14", "EVA02-E-14-plus"])
    parser.add_argument("--task", default="recognition", choices=["recognition", "retrieval"])
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--step", action="store_true", help="a whole training step, not the frozen pass alone")
    options = parser.parse_args()
    path, name = options.folder / "giant.safetensors", f"open_clip:{options.model}"
    config = open_clip.get_model_config(options.model)
    assert config is not None
    report: dict[str, Any] = {"command": f"python scripts/giant.py FOLDER {' '.join(sys.argv[2:])}".strip()}
    text: TextTower | None = None
    try:
        begin = time.perf_counter()
        image_bytes, text_bytes = write_random(config, path, text=options.task == "retrieval")
        report["write_seconds"] = round(time.perf_counter() - begin, 1)
        before, begin = peak_bytes(), time.perf_counter()
        backbone = create_backbone(name, weights=str(path), precision="bf16")
        report |= {"load_seconds": round(time.perf_counter() - begin, 1), **cost("", image_bytes, before)}
        if options.task == "retrieval":
            before, begin = peak_bytes(), time.perf_counter()
            text = create_text_tower(name, weights=str(path))
            report |= {"text_load_seconds": round(time.perf_counter() - begin, 1), **cost("text_", text_bytes, before)}
    finally:
        path.unlink(missing_ok=True)
    side, step = model_and_step(backbone, text)
    clip_BTCHW = torch.randn(1 if text is None else 2, options.frames, 3, 224, 224)
    begin = time.perf_counter()
    if options.step:
        loss = step(clip_BTCHW)
        assert loss.isfinite(), loss
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in side.parameters())
    else:
        layers = [layer.layer for layer in backbone.stream(clip_BTCHW, side.taps)]
        assert layers == list(range(1, 64, 2)), layers
    report["step_seconds" if options.step else "frozen_pass_seconds"] = round(time.perf_counter() - begin, 1)
    report |= {
        "clips": clip_BTCHW.shape[0],
        "frames": options.frames,
        "taps": len(side.taps),
        "side_parameters": sum(p.numel() for p in side.parameters()),
        "peak_bytes": peak_bytes(),
        "torch": torch.__version__,
        "commit": source_commit(),
        "hardware": hardware(),
    }
    print(json.dumps(report, indent=1))


def cost(prefix: str, weights_bytes: int, before: int) -> dict[str, float]:
    """How far the process's peak rose above `before`, and that over the weights' own bytes."""
    rose = peak_bytes() - before
    named = {"weights_bytes": weights_bytes, "peak_rise_bytes": rose, "ratio": round(rose / weights_bytes, 3)}
    return {prefix + key: value for key, value in named.items()}


def model_and_step(
    backbone: FrozenBackbone, text: TextTower | None
) -> tuple[SideNetwork, Callable[[torch.Tensor], torch.Tensor]]:
    """The side network, and the loss of a batch of clips; a caption for each with a text tower."""
    generator = torch.Generator().manual_seed(0)
    if text is None:
        classifier = VideoClassifier(backbone, 174, memory="balanced", generator=generator).train()
        return classifier.side, lambda clip_BTCHW: classifier(clip_BTCHW).logsumexp(1).sum()
    model = VideoTextModel(backbone, text, train_text=False, memory="balanced", generator=generator).train()
    captions = create_tokenizer(backbone.name)(["a hand turns the page of a book", "somebody pours water into a glass"])

    def step(clip_BTCHW: torch.Tensor) -> torch.Tensor:
        frames_BTE, tokens_BQE = model(clip_BTCHW, captions.ids_MQ)
        return contrastive_loss(model, frames_BTE, tokens_BQE, captions.mask_MQ)

    return model.side, step


if __name__ == "__main__":
    main()
