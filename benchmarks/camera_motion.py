"""Trains a side network beside a real DINOv2 ViT-S/14 on clips of a camera that moves over real photographs.

    python scripts/fetch_smoke_inputs.py --into .smoke
    python benchmarks/camera_motion.py --work .smoke [--photos DIR] [--publish]

Draws the clips (`scripts/make_camera_clips.py`), runs `side4video train` and `side4video evaluate` (in order, then with
`--shuffle-frames`), and trains linear probes on frame-averages of the same frozen features. Writes
WORK/camera_motion.json; `--publish` also writes benchmarks/results/camera_motion.json and the table in docs/smoke.md.
Exit code 1 when the motion was not learned, or when something but the order of the frames tells opposites apart.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from side4video.backbones.base import FrozenBackbone
from side4video.batch import VideoBatch
from side4video.build import build_backbone, build_manifests, pixel_format
from side4video.config.load import load_settings
from side4video.config.schema import RunSettings
from side4video.data.dataset import ClipDataset
from side4video.data.loaders import make_eval_loader
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import TestTransform
from side4video.demo.direction import direction_accuracy
from side4video.demo.probe import linear_probe
from side4video.training.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
RESULT, PAGE = ROOT / "benchmarks/results/camera_motion.json", ROOT / "docs/smoke.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
BACKBONE = "timm:vit_small_patch14_dinov2.lvd142m"
PAIRS = (
    ("pan-left", "pan-right"),
    ("tilt-up", "tilt-down"),
    ("zoom-in", "zoom-out"),
    ("rotate-clockwise", "rotate-anticlockwise"),
)
OPPOSITES = dict(PAIRS) | {second: first for first, second in PAIRS}
SETTINGS = (
    "backbone.image_size=70",
    "side.width=128",
    "side.taps=[1,3,5]",
    "memory=fast",
    "data.num_frames=8",
    "data.batch_size=8",
    "data.crop_area=[0.75,1.0]",
    "data.crop_aspect=[0.85,1.18]",
    "data.flip=swap",
    "data.flip_pairs=[[pan-left,pan-right],[rotate-clockwise,rotate-anticlockwise]]",
    "optim.lr=1.5e-3",
    "optim.weight_decay=0.05",
    "optim.warmup_epochs=1",
)
LEAST_GAIN, LEAST_DIRECTION = 0.2, 0.8  # top-1 over the best probe; share of opposites told apart
CHANCE_SIGMAS = 4  # how far from one half the direction of shuffled clips may be


@dataclass(frozen=True)
class Scores:
    """Scores of the validation clips. Shapes: V, clips."""

    scores_VK: Tensor
    labels_V: Tensor
    class_names: tuple[str, ...]

    def top1(self) -> float:
        """Share of the clips whose own class scores highest."""
        return float((self.scores_VK.argmax(1) == self.labels_V).float().mean())

    def direction(self) -> float:
        """Share of the clips whose own class scores above its opposite."""
        return direction_accuracy(self.scores_VK, self.labels_V, self.class_names, OPPOSITES)

    def direction_by_pair(self) -> dict[str, float]:
        """The same for each pair of opposites."""
        return {
            f"{first} / {second}": direction_accuracy(
                self.scores_VK, self.labels_V, self.class_names, {first: second, second: first}
            )
            for first, second in PAIRS
        }

    def numbers(self) -> dict[str, Any]:
        """What the result holds of them."""
        return {
            "top1": round(self.top1(), 4),
            "direction": round(self.direction(), 4),
            "direction_by_pair": {pair: round(share, 4) for pair, share in self.direction_by_pair().items()},
        }


def main() -> None:
    """Draw, train, evaluate, probe, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--work", type=Path, default=Path(".smoke"), help="folder with the weights; clips and run go there"
    )
    parser.add_argument("--photos", type=Path, help="folder of photographs (default: WORK/photographs)")
    parser.add_argument("--train-per-class", type=int, default=80)
    parser.add_argument("--val-per-class", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--publish", action="store_true", help="also write the published result and the table of the docs"
    )
    options = parser.parse_args()
    weights = options.work / "dinov2_vits14.safetensors"
    if not weights.is_file():
        parser.error(f"no weights: {weights}; run scripts/fetch_smoke_inputs.py --into {options.work} first")
    result = measure(options, weights)
    text = json.dumps(result, indent=1) + "\n"
    (options.work / "camera_motion.json").write_text(text)
    if options.publish:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(text)
        PAGE.write_text(with_table(PAGE.read_text(), result))
    print(table(result))
    complaints = judge(result)
    print("\n".join(complaints) or "learned: the motion is read, and only from the order of the frames")
    sys.exit(1 if complaints else 0)


def measure(options: argparse.Namespace, weights: Path) -> dict[str, Any]:
    """The whole result."""
    begin = time.monotonic()
    clips, run = options.work / "camera-motion/clips", options.work / "camera-motion/run"
    shutil.rmtree(clips.parent, ignore_errors=True)
    photos: Path = options.photos or options.work / "photographs"
    drawn = _json_of(
        sys.executable,
        str(ROOT / "scripts/make_camera_clips.py"),
        *("--photos", str(photos), "--out", str(clips), "--seed", str(options.seed)),
        *("--train-per-class", str(options.train_per_class), "--val-per-class", str(options.val_per_class)),
    )
    command = [
        *("train", str(clips / "train"), "--val", str(clips / "val"), "--out", str(run)),
        *("--backbone", BACKBONE, "--weights", str(weights), "--seed", str(options.seed)),
        *("--epochs", str(options.epochs), *SETTINGS),
        # one validation, at the end: no epoch is chosen by the clips that are reported
        f"train.evaluate_every={options.epochs}",
    ]
    seconds = {"draw": time.monotonic() - begin}
    trained = side4video(*command)
    seconds["train"] = trained["seconds"]
    ordered = evaluated(run, run / "ordered.csv")
    shuffled = evaluated(run, run / "shuffled.csv", "--shuffle-frames")
    settings = load_settings(run / "config.yaml")
    backbone = build_backbone(settings)
    probes = {name: scores.numbers() for name, scores in frozen_probes(settings, backbone, ordered.class_names).items()}
    seconds["all"] = time.monotonic() - begin
    return {
        "command": "side4video " + " ".join(command),
        **{key: value for key, value in provenance().items() if key != "command"},
        "backbone": {**backbone.identity(), "precision": str(backbone.precision).removeprefix("torch.")},
        "weights": _read(options.work / "dinov2_vits14.json"),
        "photographs": {"sources": _sources(options), **drawn["photographs"]},
        "clips": drawn["clips"],
        "seed": options.seed,
        "steps": trained["steps"],
        "seconds": {name: round(value) for name, value in seconds.items()},
        "chance": {"top1": 1 / len(ordered.class_names), "direction": 0.5},
        "side_network": ordered.numbers(),
        "side_network_shuffled_frames": shuffled.numbers(),
        "linear_probes_on_frame_averages": probes,
    }


def evaluated(run: Path, table_file: Path, *arguments: str) -> Scores:
    """What `side4video evaluate` says of every validation clip."""
    side4video("evaluate", str(run), "--scores", str(table_file), *arguments)
    return read_scores(table_file)


def read_scores(path: Path) -> Scores:
    """The scores that `side4video evaluate` wrote."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = tuple(name.removeprefix("score_") for name in rows[0] if name.startswith("score_"))
    return Scores(
        torch.tensor([[float(row[f"score_{name}"]) for name in names] for row in rows]),
        torch.tensor([names.index(row["label"]) for row in rows]),
        names,
    )


def frozen_probes(settings: RunSettings, backbone: FrozenBackbone, class_names: tuple[str, ...]) -> dict[str, Scores]:
    """Linear probes on frame-averages: of the tokens that the side network taps, and of the final embedding.

    Of every tapped layer: the class token, the mean patch, and the mean patch of each quarter of the picture, so that
    the probe also sees where things are.
    """
    features: list[dict[str, Tensor]] = []
    labels: list[Tensor] = []
    for manifest in build_manifests(settings):
        dataset = ClipDataset(
            manifest,
            sampler=FrameSampler(settings.data.sampling, settings.data.num_frames),
            transform=TestTransform(pixel_format(backbone.preprocessing), settings.data.resize),
            mode="val",
            seed=settings.train.seed,
        )
        loader = make_eval_loader(dataset, batch_size=32, workers=settings.data.workers)
        features_of, labels_V = _frame_averages(settings, backbone, loader)
        features.append(features_of)
        labels.append(labels_V)
    (train, val), (train_labels_V, val_labels_V) = features, labels
    seed = settings.train.seed
    return {
        name: Scores(
            linear_probe(train[name], train_labels_V, val[name], num_classes=len(class_names), seed=seed).logits_VK,
            val_labels_V,
            class_names,
        )
        for name in train
    }


@torch.no_grad()
def _frame_averages(
    settings: RunSettings, backbone: FrozenBackbone, loader: Iterable[VideoBatch]
) -> tuple[dict[str, Tensor], Tensor]:
    taps = settings.side.taps
    assert isinstance(taps, list)
    parts: dict[str, list[Tensor]] = {"tapped layers": [], "final embedding": []}
    labels: list[Tensor] = []
    for batch in loader:
        pooled: list[Tensor] = []
        for layer in backbone.stream(batch.clip_BTCHW, taps):
            rows, columns = layer.grid_YX
            patches_BYXD = layer.patches_BTND.float().mean(1).unflatten(1, (rows, columns))
            quarters = [
                half.mean((1, 2)) for strip in patches_BYXD.tensor_split(2, 1) for half in strip.tensor_split(2, 2)
            ]
            pooled += [layer.class_BTD.float().mean(1), patches_BYXD.mean((1, 2)), *quarters]
        parts["tapped layers"].append(torch.cat(pooled, 1))
        parts["final embedding"].append(backbone.features(batch.clip_BTCHW).float().mean(1))
        labels.append(batch.labels_B)
    return {name: torch.cat(values) for name, values in parts.items()}, torch.cat(labels)


def judge(result: dict[str, Any]) -> list[str]:
    """What is not as it should be."""
    side, shuffled = result["side_network"], result["side_network_shuffled_frames"]
    best_probe = max(probe["top1"] for probe in result["linear_probes_on_frame_averages"].values())
    complaints: list[str] = []
    if side["top1"] < best_probe + LEAST_GAIN:
        complaints.append(f"top-1 {side['top1']:.3f} is less than {LEAST_GAIN} over the best probe ({best_probe:.3f})")
    if side["direction"] < LEAST_DIRECTION:
        complaints.append(f"direction {side['direction']:.3f} is below {LEAST_DIRECTION}")
    room = CHANCE_SIGMAS * math.sqrt(0.25 / result["clips"]["val"])
    if abs(shuffled["direction"] - 0.5) > room:
        complaints.append(
            f"direction with shuffled frames {shuffled['direction']:.3f} is not chance (0.5 +- {room:.3f})"
        )
    return complaints


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table, with what it was measured on."""
    rows = {
        "side network": result["side_network"],
        "side network, frames shuffled": result["side_network_shuffled_frames"],
        **{f"linear probe, {name}": of for name, of in result["linear_probes_on_frame_averages"].items()},
    }
    pairs = list(result["side_network"]["direction_by_pair"])
    lines = [
        "| | top-1 | direction | " + " | ".join(pairs) + " |",
        "|---|---|---|" + "---|" * len(pairs),
    ]
    for name, of in rows.items():
        shares = [of["top1"], of["direction"], *(of["direction_by_pair"][pair] for pair in pairs)]
        lines.append(f"| {name} | " + " | ".join(f"{100 * share:.1f} %" for share in shares) + " |")
    chance = result["chance"]
    lines.append(
        f"| chance | {100 * chance['top1']:.1f} % |" + f" {100 * chance['direction']:.1f} % |" * (1 + len(pairs))
    )
    photographs, clips, hardware = result["photographs"], result["clips"], result["hardware"]
    lines += [
        "",
        f"{clips['train']} training clips of {photographs['train']} photographs, {clips['val']} validation clips of "
        f"{photographs['val']} other photographs; {result['steps']} steps; frozen weights in "
        f"{result['backbone']['precision']}; {result['seconds']['train']} s of training and "
        f"{result['seconds']['all']} s in all on {hardware['cores']} cores of {hardware['processor']}; seed "
        f"{result['seed']}; commit `{str(result['commit'])[:12]}`. Photographs: {', '.join(photographs['sources'])}.",
        "",
        "```",
        result["command"],
        "```",
    ]
    return "\n".join(lines)


def with_table(page: str, result: dict[str, Any]) -> str:
    """The page with the table between its two marks.

    Raises:
        ValueError: the page lacks the marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} must hold {BEGIN} and, after it, {END}")
    return f"{before}{BEGIN}\n{table(result)}\n{END}{after}"


def side4video(*arguments: str) -> Any:
    """Run a command of the package; its `--json` value."""
    return _json_of(sys.executable, "-m", "side4video.cli.main", *arguments, "--json")


def _json_of(*command: str) -> Any:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}: {' '.join(command)}")
    return json.loads(done.stdout)


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _sources(options: argparse.Namespace) -> list[str]:
    if options.photos is not None and options.photos != options.work / "photographs":
        return ["a folder of the user's"]
    return _read(options.work / "photographs.json") or []


if __name__ == "__main__":
    main()
