"""How far frozen weights in fewer bits move the gradients of the side network, beside what bf16 does.

    python benchmarks/quantised_gradients.py

A side network is trained for a few steps beside a frozen model in float32, so that gradients reach all of it. Then one
step's gradients are computed once more with the frozen weights in int8, fp8 and int4 (arithmetic in float32), with the
frozen model in bf16, and with the whole step in bf16. The error is the length of the difference over the length of the
float32 gradient, all trained tensors together. Two frozen models: tiny-clip with its trained weights, and a ViT-B/16 at
112 px with random weights. The clips are drawn, so nothing is downloaded; under a minute of one core.

Writes `benchmarks/results/quantised_gradients.json` and the table in `docs/memory.md`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.create import create_backbone
from side4video.backbones.quantised import Quantisation
from side4video.build_recognition import pixel_format
from side4video.data.motions import draw_motion, motion_classes
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import PixelFormat
from side4video.side.spec import SideSpec, Taps
from side4video.tasks.losses import classification_loss
from side4video.tasks.recognition import VideoClassifier
from side4video.training.provenance import hardware, source_commit
from side4video.version import __version__

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "quantised_gradients.json"
PAGE = ROOT / "docs" / "memory.md"
BEGIN, END = "<!-- quantised_gradients begin -->", "<!-- quantised_gradients end -->"
LEARNING_RATE, SMOOTHING = 1e-3, 0.1


@dataclass(frozen=True)
class Setup:
    """A frozen model, the side network beside it, and what is drawn. `steps` are made before anything is measured."""

    title: str
    backbone: str
    pretrained: bool
    image_size: int
    width: int
    taps: Taps
    batch_size: int
    num_frames: int
    steps: int
    batches: int


@dataclass(frozen=True)
class Way:
    """What a step changes against float32."""

    title: str
    quantise: Quantisation = "none"
    precision: str = "fp32"
    autocast: bool = False


SETUPS = {
    "tiny-clip": Setup("tiny-clip, trained weights, 64 px", "tiny-clip", True, 64, 64, "all", 8, 8, 24, 3),
    "b16": Setup("ViT-B/16, random weights, 112 px", "open_clip:ViT-B-16", False, 112, 320, "all", 2, 6, 3, 1),
}
WAYS = {
    "int8": Way("frozen weights in int8", quantise="int8"),
    "fp8": Way("frozen weights in fp8", quantise="fp8"),
    "int4": Way("frozen weights in int4", quantise="int4"),
    "bf16": Way("frozen model in bf16", precision="bf16"),
    "bf16 step": Way("whole step in bf16", precision="bf16", autocast=True),
}
FULL = Way("float32")


def draw_batch(setup: Setup, pixels: PixelFormat, seed: int) -> tuple[Tensor, Tensor]:
    """`clip_BTCHW` and `labels_B`: drawn clips, no class twice before every class was there."""
    generator = np.random.default_rng(seed)
    names = motion_classes()
    labels = np.resize(generator.permutation(len(names)), setup.batch_size)
    sampler = FrameSampler("segment", setup.num_frames)
    clips: list[Tensor] = []
    for label in labels:
        frames_THWC = torch.from_numpy(draw_motion(names[label], generator).frames_THWC)
        chosen_TCHW = frames_THWC[sampler.val(len(frames_THWC))].permute(0, 3, 1, 2)
        clips.append(pixels.normalise(pixels.resize(chosen_TCHW, pixels.size)))
    return torch.stack(clips), torch.from_numpy(labels)


def make_backbone(setup: Setup, way: Way) -> FrozenBackbone:
    """The frozen model; random weights are the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_backbone(
            setup.backbone,
            pretrained=setup.pretrained,
            image_size=setup.image_size,
            precision=way.precision,
            quantise=way.quantise,
        )


def make_model(setup: Setup, backbone: FrozenBackbone) -> VideoClassifier:
    """The side network and its classifier beside a frozen model."""
    generator = torch.Generator().manual_seed(0)
    spec = SideSpec(width=setup.width, taps=setup.taps)
    return VideoClassifier(backbone, len(motion_classes()), side=spec, generator=generator).train()


def backward(model: VideoClassifier, batch: tuple[Tensor, Tensor], *, autocast: bool) -> float:
    """One forward and one backward pass; the loss."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = classification_loss(model(batch[0]), batch[1], smoothing=SMOOTHING)
    model.zero_grad()
    loss.backward()
    return float(loss.detach())


def gradients(model: VideoClassifier, batch: tuple[Tensor, Tensor], *, autocast: bool = False) -> dict[str, Tensor]:
    """The gradient of every trained tensor."""
    backward(model, batch, autocast=autocast)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    return found


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Length of the difference over the length of what is expected, all tensors together."""
    squares = sum(float((found[name].double() - value.double()).square().sum()) for name, value in expected.items())
    return (squares / sum(float(value.double().square().sum()) for value in expected.values())) ** 0.5


def warm_up(setup: Setup, model: VideoClassifier, pixels: PixelFormat) -> Sequence[float]:
    """Train for some steps in float32; the losses."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    losses: list[float] = []
    for step in range(setup.steps):
        losses.append(backward(model, draw_batch(setup, pixels, 1000 + step), autocast=False))
        optimizer.step()
    return losses


def measure(setup: Setup) -> dict[str, Any]:
    """The errors of all ways, over the same batches, beside the same side network."""
    reference = make_model(setup, make_backbone(setup, FULL))
    pixels = pixel_format(reference.backbone.preprocessing)
    losses = warm_up(setup, reference, pixels)
    batches = [draw_batch(setup, pixels, seed) for seed in range(setup.batches)]
    expected = [gradients(reference, batch) for batch in batches]
    moving = sum(any(bool(full[name].any()) for full in expected) for name in expected[0])
    errors: dict[str, Any] = {}
    for key, way in WAYS.items():
        model = make_model(setup, make_backbone(setup, way))
        assert model.backbone.content_hash() == reference.backbone.content_hash(), "the frozen weights are the same"
        model.load_trainable_state(reference.trainable_state())
        found = [
            distance(gradients(model, batch, autocast=way.autocast), full)
            for batch, full in zip(batches, expected, strict=True)
        ]
        errors[key] = {"mean": _rounded(statistics.mean(found)), "largest": _rounded(max(found))}
        print(json.dumps({setup.title: {key: errors[key]}}), file=sys.stderr, flush=True)
    return {
        "title": setup.title,
        "batch_size": setup.batch_size,
        "num_frames": setup.num_frames,
        "side_width": setup.width,
        "steps_before": setup.steps,
        "loss_before": [round(losses[0], 3), round(losses[-1], 3)],
        "batches": setup.batches,
        "trained_tensors": len(expected[0]),
        "trained_tensors_with_gradient": moving,
        "relative_error": errors,
    }


def table(report: dict[str, Any]) -> str:
    """The mean errors as Markdown, in percent; in brackets the largest of several batches."""
    setups = report["setups"]
    lines = [
        "| error of the side network's gradient | " + " | ".join(setup["title"] for setup in setups.values()) + " |",
        "|---" * (len(setups) + 1) + "|",
    ]
    for key, way in WAYS.items():
        texts: list[str] = []
        for setup in setups.values():
            error = setup["relative_error"][key]
            largest = f" ({100 * error['largest']:#.2g} %)" if setup["batches"] > 1 else ""
            texts.append(f"{100 * error['mean']:#.2g} %{largest}")
        lines.append(f"| {way.title} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def write_page(report: dict[str, Any]) -> None:
    """Put the table between its marks in the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table(report)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measure both frozen models and write the result."""
    report = {
        "command": "python benchmarks/quantised_gradients.py",
        "side4video": __version__,
        "torch": torch.__version__,
        "commit": source_commit(),
        "hardware": hardware(),
        "setups": {name: measure(setup) for name, setup in SETUPS.items()},
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    write_page(report)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
