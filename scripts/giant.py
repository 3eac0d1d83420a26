"""EVA02-CLIP-E/14 at its real size with random weights: write, load, run, and what it took in memory and time.

    python scripts/giant.py FOLDER [--model EVA02-E-14-plus] [--step]

Writes a weights file of 8.7 GB (bf16) into FOLDER and deletes it again. Loading goes through the same code as a
published checkpoint: one tensor at a time. Prints one JSON value: the weights' own bytes, the most that loading took on
top of the process, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
from pathlib import Path
from typing import Any

import open_clip
import torch

from side4video.backbones.build_open_clip import open_clip_tower
from side4video.backbones.create import create_backbone
from side4video.tasks.recognition import VideoClassifier
from side4video.training.provenance import hardware, source_commit

CHUNK = 1 << 24


def peak_bytes() -> int:
    """The most that this process has had in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def write_random(config: dict[str, Any], path: Path) -> int:
    """A safetensors file of normal random bf16 weights, written a piece at a time; the bytes of its tensors."""
    with torch.device("meta"):
        state = open_clip_tower(config, {}).state_dict()
    header: dict[str, Any] = {}
    offset = 0
    for name, value in state.items():
        end = offset + 2 * value.numel()
        header[f"visual.{name}"] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [offset, end]}
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
            source = ones if "norm" in name and name.endswith("weight") else noise
            left = 2 * value.numel()
            while left:
                left -= file.write(source[: min(left, len(source))])
    return offset


def main() -> None:
    """Write, load, run, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="EVA02-E-14", choices=["EVA02-E-14", "EVA02-E-14-plus"])
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--step", action="store_true", help="a whole training step, not the frozen pass alone")
    options = parser.parse_args()
    path = options.folder / "giant.safetensors"
    config = open_clip.get_model_config(options.model)
    assert config is not None
    report: dict[str, Any] = {"command": f"python scripts/giant.py FOLDER {' '.join(sys.argv[2:])}".strip()}
    try:
        begin = time.perf_counter()
        weights_bytes = write_random(config, path)
        report["write_seconds"] = round(time.perf_counter() - begin, 1)
        before, begin = peak_bytes(), time.perf_counter()
        backbone = create_backbone(f"open_clip:{options.model}", weights=str(path), precision="bf16")
        report["load_seconds"] = round(time.perf_counter() - begin, 1)
    finally:
        path.unlink(missing_ok=True)
    rose = peak_bytes() - before
    report |= {"weights_bytes": weights_bytes, "peak_rise_bytes": rose, "ratio": round(rose / weights_bytes, 3)}
    model = VideoClassifier(backbone, 174, memory="balanced", generator=torch.Generator().manual_seed(0)).train()
    clip_BTCHW = torch.randn(1, options.frames, 3, 224, 224)
    begin = time.perf_counter()
    if options.step:
        model(clip_BTCHW).logsumexp(1).sum().backward()
    else:
        layers = [layer.layer for layer in backbone.stream(clip_BTCHW, model.side.taps)]
        assert layers == list(range(1, 64, 2)), layers
    report["step_seconds" if options.step else "frozen_pass_seconds"] = round(time.perf_counter() - begin, 1)
    report |= {
        "frames": options.frames,
        "taps": len(model.side.taps),
        "side_parameters": sum(p.numel() for p in model.side.parameters()),
        "peak_bytes": peak_bytes(),
        "torch": torch.__version__,
        "commit": source_commit(),
        "hardware": hardware(),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
