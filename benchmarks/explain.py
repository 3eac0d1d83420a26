"""Whether the maps of `explain` say what matters: places taken away by their order, and the drawn object found.

    python benchmarks/explain.py [--clips N] [--work DIR]

Trains the demo's model on fewer clips, then draws other clips of the same motions, of which it is known where the
moving shapes are. For every clip that the model names rightly, each method orders the patches of all frames; the first
5, 10 and 20 % of them are filled (with the mean colour of the clip, or with what the place shows in the median frame),
and the probability of the class is asked for again. A good order lowers it sooner. Also: how often the first patch of
a frame lies on a moving shape, and how much of a map does, beside the share of the patches that do.

The other methods: gradient times tokens at the clip alone (`one point`), a line from zeros in place of means, class
activation maps of the last side block, a random order; and the shapes themselves, which no method is told.

What explaining costs is counted on a ViT-B/16 with random weights: bytes that are kept for the backward pass.

Writes `benchmarks/results/explain.json` and the table in `docs/explain.md`. About three minutes of one core. `--work`
keeps the trained model and what was measured in a folder, and takes them from there when they are there already.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from side4video.backbones.create import create_backbone
from side4video.backbones.trunk import LayerTokens
from side4video.build import load_classifier, pixel_format
from side4video.data.drawing import finish, paint_background, paint_figures, random_background
from side4video.data.motions import MOTION_PAIRS, NUM_FRAMES, PICTURE_SIDES
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import TestTransform
from side4video.demo.run import RUN, DemoSize, run_demo
from side4video.explain import explain_clip
from side4video.explain.attribution import STEPS, log_odds
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier
from side4video.training.checkpoint import WEIGHTS
from side4video.training.provenance import hardware, source_commit
from side4video.version import __version__

ROOT = Path(__file__).resolve().parents[1]
RESULT, PAGE = ROOT / "benchmarks/results/explain.json", ROOT / "docs/explain.md"
BEGIN, END = "<!-- explain begin -->", "<!-- explain end -->"
SIZE = DemoSize(train_per_class=60, val_per_class=10, epochs=5)
SHARES = (0.05, 0.1, 0.2)
FILLS = ("mean colour", "median frame")
RANDOM_ORDERS = 4
CLIPS = 4
STEP_COUNTS = (1, 4, 8, 16)
FIRST_SEED = 10_000
TOUCHED = 0.15
"""A patch counts as part of a shape when the shape covers this share of it."""
METHODS = {
    "ours": "side4video explain",
    "one point": "gradient at the clip alone, times distance from the means",
    "from zeros": "line from zeros",
    "activation": "class activation map",
    "random": "random order",
    "shapes": "the moving shapes themselves",
}


@dataclass(frozen=True)
class Case:
    """A clip that the model names rightly: `shapes_TYX` says which patches a moving shape touches."""

    clip_BTCHW: Tensor
    shapes_TYX: Tensor
    target: int
    probability: float


def draw_case(model: VideoClassifier, class_name: str, seed: int) -> Case | None:
    """A drawn clip as the model sees it, or nothing when it is named wrongly."""
    generator = np.random.default_rng(seed)
    pair = next(pair for pair in MOTION_PAIRS if class_name in (pair.forward, pair.backward))
    background = random_background(generator)
    path = pair.make_path(generator, background)
    width, height = (int(side) for side in generator.choice(PICTURE_SIDES, size=2))
    canvas = paint_background(background, width, height)
    moments = np.linspace(0, 1, int(generator.integers(NUM_FRAMES[0], NUM_FRAMES[1] + 1)))
    painted = [paint_figures(canvas, path(float(moment))) for moment in moments]
    if class_name == pair.backward:
        painted.reverse()
    frames = np.stack([finish(picture, 3.0, generator) for picture in painted])
    shapes = np.stack([np.abs(picture - canvas).sum(-1) > 8 for picture in painted])
    numbers = FrameSampler("segment", 6).val(len(frames))
    pixels = pixel_format(model.backbone.preprocessing)
    transform = TestTransform(pixels)
    clip_TCHW = transform(torch.from_numpy(frames[numbers]).permute(0, 3, 1, 2))[0]
    plain = replace(transform, pixels=replace(pixels, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    mask_TCHW = torch.from_numpy(shapes[numbers]).to(torch.uint8)[:, None].expand(-1, 3, -1, -1) * 255
    covered_TYX = F.avg_pool2d(plain(mask_TCHW)[0][:, 0], model.backbone.patch_size)
    target = (model.class_names or ()).index(class_name)
    with torch.no_grad():
        scores_K = model(clip_TCHW[None])[0].softmax(0)
    if int(scores_K.argmax()) != target:
        return None
    return Case(clip_TCHW[None], covered_TYX > TOUCHED, target, float(scores_K[target]))


def line_map(model: VideoClassifier, case: Case, *, from_zeros: bool, points: list[float]) -> Tensor:
    """Gradient times distance of the taps' patches, at points of a line from zeros or from the means of the clip."""
    side, clip_BTCHW = model.side, case.clip_BTCHW
    layers = list(model.backbone.stream(clip_BTCHW, side.taps))
    ends = [layer.tokens_BTAD for layer in layers]
    starts = [torch.zeros_like(end) if from_zeros else end.mean((1, 2), keepdim=True) for end in ends]
    total = torch.zeros(())
    for point in points:
        inputs = [(s + point * (e - s)).requires_grad_() for s, e in zip(starts, ends, strict=True)]
        replaced: list[LayerTokens] = [
            replace(layer, tokens_BTAD=tokens) for layer, tokens in zip(layers, inputs, strict=True)
        ]
        logits_K = model.head(side(clip_BTCHW, replaced).frames_BTS.mean(1))[0]
        found = torch.autograd.grad(log_odds(logits_K, case.target), inputs)
        parts = [((e - s) * g).sum(-1)[0] for s, e, g in zip(starts, ends, found, strict=True)]
        total = total + torch.stack(parts).sum(0)[:, layers[0].num_prefix :] / len(points)
    return total.unflatten(1, layers[0].grid_YX)


@torch.no_grad()
def activation_map(model: VideoClassifier, case: Case) -> Tensor:
    """The head's scores of single patches of the last side block: the class's less the other classes' mean."""
    patches_BTNS = model.video(case.clip_BTCHW).patches_BTNS
    scores_TNK = model.head(patches_BTNS)[0]
    others_TN = (scores_TNK.sum(-1) - scores_TNK[..., case.target]) / (scores_TNK.shape[-1] - 1)
    return (scores_TNK[..., case.target] - others_TN).unflatten(1, case.shapes_TYX.shape[1:])


def maps_of(model: VideoClassifier, case: Case, generator: torch.Generator) -> dict[str, list[Tensor]]:
    """One map of each method; several random ones."""
    line = [(place + 0.5) / STEPS for place in range(STEPS)]
    noise = torch.rand(case.shapes_TYX.shape, generator=generator)
    return {
        "ours": [explain_clip(model, case.clip_BTCHW, case.target).maps_TYX],
        "one point": [line_map(model, case, from_zeros=False, points=[1.0])],
        "from zeros": [line_map(model, case, from_zeros=True, points=line)],
        "activation": [activation_map(model, case)],
        "random": [torch.rand(case.shapes_TYX.shape, generator=generator) for _ in range(RANDOM_ORDERS)],
        "shapes": [case.shapes_TYX + 0.01 * noise],
    }


@torch.no_grad()
def drops(model: VideoClassifier, case: Case, map_TYX: Tensor) -> Tensor:
    """How much the probability falls, for each fill and share."""
    clip_BTCHW = case.clip_BTCHW
    fills = {
        "mean colour": clip_BTCHW.mean((1, 3, 4), keepdim=True).expand_as(clip_BTCHW),
        "median frame": clip_BTCHW.median(1, keepdim=True).values.expand_as(clip_BTCHW),
    }
    changed: list[Tensor] = []
    rows, columns = model.backbone.patch_size
    for name in FILLS:
        for share in SHARES:
            first = map_TYX.flatten().topk(round(share * map_TYX.numel())).indices
            gone_TYX = torch.zeros(map_TYX.numel(), dtype=torch.bool).index_fill(0, first, value=True)
            gone_TYX = gone_TYX.view(map_TYX.shape).repeat_interleave(rows, 1).repeat_interleave(columns, 2)
            changed.append(torch.where(gone_TYX[None, :, None], fills[name], clip_BTCHW))
    left = model(torch.cat(changed)).softmax(-1)[:, case.target]
    return (case.probability - left).view(len(FILLS), len(SHARES))


def localisation(case: Case, map_TYX: Tensor) -> tuple[float, float]:
    """Share of frames whose first patch lies on a moving shape, and share of the map's positive part that does."""
    shapes_TN, map_TN = case.shapes_TYX.flatten(1), map_TYX.flatten(1)
    visible_T = shapes_TN.any(1)
    hit_T = shapes_TN.gather(1, map_TN.argmax(1, keepdim=True))[:, 0]
    positive_TN = map_TN.clamp(min=0)
    inside = float((positive_TN * shapes_TN).sum() / positive_TN.sum().clamp(min=1e-12))
    return float(hit_T[visible_T].float().mean()), inside


def measure_class(model: VideoClassifier, class_name: str, clips: int) -> dict[str, Any]:
    """Everything of the clips of one class, clip by clip."""
    place = (model.class_names or ()).index(class_name)
    drawn = [draw_case(model, class_name, FIRST_SEED + 1000 * place + number) for number in range(clips)]
    cases = [case for case in drawn if case is not None]
    generator = torch.Generator().manual_seed(place)
    rows: list[dict[str, Any]] = []
    for case in cases:
        row: dict[str, Any] = {
            "probability": case.probability,
            "on_shapes": float(case.shapes_TYX.float().mean()),
            "methods": {},
        }
        for name, maps in maps_of(model, case, generator).items():
            found = [localisation(case, one) for one in maps]
            row["methods"][name] = {
                "drops": torch.stack([drops(model, case, one) for one in maps]).mean(0).tolist(),
                "hit": statistics.mean(hit for hit, _ in found),
                "inside": statistics.mean(inside for _, inside in found),
            }
        rows.append(row)
    # of one clip a class: how much the sum lacks with few steps
    return {"drawn": len(drawn), "rows": rows, "missing": missing(model, cases[0]) if cases else {}}


def missing(model: VideoClassifier, case: Case) -> dict[str, float]:
    """By the number of steps: what the contributions lack, as a share of what they stand for."""
    found = {n: explain_clip(model, case.clip_BTCHW, case.target, steps=n) for n in STEP_COUNTS}
    return {str(n): abs(one.missing) / abs(one.evidence - one.baseline) for n, one in found.items()}


def summary(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """All classes together."""
    rows = [row for part in parts for row in part["rows"]]
    lacking = [part["missing"] for part in parts if part["missing"]]

    def mean(values: Iterable[float]) -> float:
        return round(statistics.mean(values), 4)

    return {
        "clips": sum(part["drawn"] for part in parts),
        "clips_named_rightly": len(rows),
        "classes": len(parts),
        "share_of_patches_on_shapes": mean(row["on_shapes"] for row in rows),
        "mean_probability": mean(row["probability"] for row in rows),
        "methods": {
            name: {
                "probability_drop": {
                    fill: {
                        f"{share:g}": mean(row["methods"][name]["drops"][i][j] for row in rows)
                        for j, share in enumerate(SHARES)
                    }
                    for i, fill in enumerate(FILLS)
                },
                "first_patch_on_shape": mean(row["methods"][name]["hit"] for row in rows),
                "map_on_shapes": mean(row["methods"][name]["inside"] for row in rows),
            }
            for name in METHODS
        },
        "missing_of_the_sum": {
            str(n): round(statistics.median(part[str(n)] for part in lacking), 4) for n in STEP_COUNTS
        },
    }


def kept_bytes(function: Callable[[], object]) -> int:
    """The most bytes that autograd keeps at a time, weights aside, each storage counted once."""
    alive: dict[int, int] = {}
    most = 0

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor, self.key = tensor, tensor.untyped_storage().data_ptr()
            nonlocal most
            if not isinstance(tensor, torch.nn.Parameter):
                alive[self.key] = tensor.untyped_storage().nbytes()
            most = max(most, sum(alive.values()))

        def __del__(self) -> None:
            alive.pop(self.key, None)

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        function()
    return most


def costs() -> dict[str, Any]:
    """Explaining 8 frames beside a ViT-B/16: the bytes that a step keeps for its backward pass."""
    backbone = create_backbone("timm:vit_base_patch16_224", pretrained=False, precision="fp32")
    model = VideoClassifier(backbone, 10, side=SideSpec(width=320, taps="all")).eval()
    clip_BTCHW = torch.randn(1, 8, 3, 224, 224)
    kept = kept_bytes(lambda: explain_clip(model, clip_BTCHW, 0, steps=1))
    return {
        "backbone": "ViT-B/16, 224 px, 8 frames, side width 320, all taps, float32",
        "kept_mebibytes": round(kept / 2**20, 1),
    }


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    found = report["found"]
    head = "".join(f" {100 * share:g} % {fill} |" for fill in FILLS for share in SHARES)
    lines = [
        f"| order of the patches |{head} first patch on a shape | map on shapes |",
        "|---|" + "---:|" * (len(FILLS) * len(SHARES) + 2),
    ]
    for name, title in METHODS.items():
        row = found["methods"][name]
        cells = "".join(
            f" {100 * row['probability_drop'][fill][f'{share:g}']:.1f} |" for fill in FILLS for share in SHARES
        )
        lines.append(
            f"| {title} |{cells} {100 * row['first_patch_on_shape']:.0f} % | {100 * row['map_on_shapes']:.0f} % |"
        )
    lacking = ", ".join(f"{100 * value:.1f} % at {n}" for n, value in found["missing_of_the_sum"].items())
    cost = report["costs"]
    lines += [
        "",
        f"{found['clips_named_rightly']} of {found['clips']} drawn clips of {found['classes']} motions, those that the "
        f"model names rightly, at a mean probability of {100 * found['mean_probability']:.1f} %. Numbers are points of "
        f"probability lost when the first patches are filled. Of all patches, "
        f"{100 * found['share_of_patches_on_shapes']:.0f} % lie on a moving shape.",
        "",
        f"What the contributions lack of the score they stand for, by steps (median): {lacking}. Beside a "
        f"{cost['backbone']}, a step keeps {cost['kept_mebibytes']:.0f} MiB for its backward pass.",
        "",
        f"`{report['command']}`, commit `{report['commit'][:12]}`, {report['hardware']['processor']}, "
        f"{report['hardware']['threads']} thread{'s' if report['hardware']['threads'] != 1 else ''}, "
        f"torch {report['torch']}.",
    ]
    return "\n".join(lines)


def write_page(report: dict[str, Any]) -> None:
    """Put the table between the markers of the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table(report)}\n{END}{after}", encoding="utf-8")


def trained(work: Path) -> VideoClassifier:
    """The demo's model of this size, trained in the folder unless it is there."""
    if not (work / RUN / WEIGHTS).is_file():
        run_demo(work, size=SIZE, tell=lambda text: print(text, file=sys.stderr, flush=True))
    return load_classifier(work / RUN)


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description="Deletion and localisation of the maps of `side4video explain`.")
    parser.add_argument("--clips", type=int, default=CLIPS, help="drawn clips of each class")
    parser.add_argument("--work", type=Path, help="folder for the trained model. Default: a temporary one")
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        model = trained(work)
        parts: list[dict[str, Any]] = []
        for name in model.class_names or ():
            kept = work / f"{name}-{source_commit()}-{options.clips}.json"
            if not kept.is_file():
                print(f"measuring {name}", file=sys.stderr, flush=True)
                kept.write_text(json.dumps(measure_class(model, name, options.clips)), encoding="utf-8")
            parts.append(json.loads(kept.read_text(encoding="utf-8")))
    report = {
        "command": "python benchmarks/explain.py" + (f" --clips {options.clips}" if options.clips != CLIPS else ""),
        "side4video": __version__,
        "torch": torch.__version__,
        "commit": source_commit(),
        "hardware": hardware(),
        "found": summary(parts),
        "costs": costs(),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if PAGE.exists():
        write_page(report)


if __name__ == "__main__":
    main()
