"""What three classifiers on one pass of the frozen model cost beside one classifier alone.

    python benchmarks/many_models.py [--part flops|bf16|fp32] [--rounds 9] [--threads 1]

ViT-B/16 at 224 px, random weights, random pixels, no download. A clip of 8 frames is looked at by one classifier and by
three with weights of their own, over one pass (`streaming/together.py`, which is what `predict` with several runs
does); the two take turns, and the ratio is the median over rounds. The frozen model is in bf16 (what `auto` takes on
CPUs with bf16 units, with `train.precision=bf16`) or in float32. FLOPs are counted on shapes, a multiply-add as two.
Largest difference: between each classifier's scores over the shared pass and over its own, in float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from side4video.backbones.create import create_backbone
from side4video.data.transforms import PixelFormat, TestTransform
from side4video.streaming.cost import clip_cost
from side4video.streaming.scorers import ClassScorer, MiddleCrop
from side4video.streaming.together import ClipJob, score_together
from side4video.training.files import write_json
from side4video.training.provenance import hardware, source_commit
from side4video.version import __version__
from timeline import BASE, LONGEST_SECONDS, MODELS, PRECISIONS, TIMED, add_side, write_into_page

RESULT = Path(__file__).parent / "results" / "many_models.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "many-models.md"
BEGIN, END = "<!-- many models begin -->", "<!-- many models end -->"
NUM_FRAMES, NUM_CLIPS, NUM_MODELS = 8, 1, 3
PIXELS = MiddleCrop(TestTransform(PixelFormat((224, 224), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))))


def make_jobs(name: str, backbone: Any) -> list[ClipJob]:
    """Three classifiers with weights of their own, and the clips that each wants."""
    places_VT = torch.arange(NUM_CLIPS * NUM_FRAMES).view(NUM_CLIPS, NUM_FRAMES)
    models = [add_side(backbone, *MODELS[name][1:], seed=10 * number) for number in range(NUM_MODELS)]
    for model in models:
        model.requires_grad_(requires_grad=False)
    scorers = [ClassScorer(str(number), model, NUM_FRAMES, PIXELS) for number, model in enumerate(models)]
    return [ClipJob(scorer, places_VT) for scorer in scorers]


def measure(jobs: list[ClipJob], frames_FCHW: Tensor, rounds: int, context: AbstractContextManager[Any]) -> Any:
    """Seconds of one and of all; a first round warms up."""
    wall: list[tuple[float, float]] = []
    cpu: list[tuple[float, float]] = []
    with context:
        begun = time.perf_counter()
        for number in range(rounds + 1):
            if number > 2 and time.perf_counter() - begun > LONGEST_SECONDS:
                break  # a busy machine
            marks = [(time.perf_counter(), time.process_time())]
            for some in (jobs[:1], jobs):
                score_together(some, frames_FCHW)
                marks.append((time.perf_counter(), time.process_time()))
            if number:
                wall.append((marks[1][0] - marks[0][0], marks[2][0] - marks[1][0]))
                cpu.append((marks[1][1] - marks[0][1], marks[2][1] - marks[1][1]))
    return {
        "rounds": len(wall),
        "one_seconds": round(statistics.median(one for one, _ in wall), 3),
        "three_seconds": round(statistics.median(three for _, three in wall), 3),
        "times_one": round(statistics.median(three / one for one, three in wall), 3),
        "times_one_min": round(min(three / one for one, three in wall), 3),
        "times_one_max": round(max(three / one for one, three in wall), 3),
        "times_one_best_cpu_seconds": round(min(three for _, three in cpu) / min(one for one, _ in cpu), 3),
        "times_one_cpu_seconds": round(statistics.median(three / one for one, three in cpu), 3),
    }


def table(report: dict[str, Any]) -> str:
    """The result as Markdown, as far as it was measured."""
    times, differences = report["seconds"], report["largest_difference_of_scores"]
    measured = [precision for precision in PRECISIONS if any(key.endswith(f", {precision}") for key in times)]
    names = ["arithmetic, times one", *(f"time, {precision}" for precision in measured)]
    lines = [f"| three classifiers | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for name, row in report["flops"].items():
        cells = [f"{row['times_one']:.2f}"]
        for precision in measured:
            time_row = times.get(f"{name}, {precision}")
            cells.append("" if time_row is None else f"{time_row['times_one']:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    machine = f"{report['hardware']['cores']} cores of {report['hardware']['processor']}, {report['threads']} used"
    told = ["A clip of 8 frames, one classifier against three on the same pass."]
    if measured:
        told.append(f"Time is the median of rounds in which the two take turns; {machine}.")
    if differences:
        largest = f"{max(differences.values()):.0e}"
        told.append(f"Largest difference between a classifier's scores on the shared pass and on its own: {largest}.")
    told.append(f"Commit {report['commit'][:7]}, `{report['command']}`.")
    return "\n".join([*lines, "", " ".join(told)])


def main() -> None:
    """Count, measure, compare, and write the result and the page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--part", choices=("flops", *PRECISIONS), help="measure this alone and keep the stored rest")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    stored = json.loads(RESULT.read_text(encoding="utf-8")) if options.part and RESULT.exists() else {}
    flops: dict[str, Any] = stored.get("flops", {})
    times: dict[str, Any] = stored.get("seconds", {})
    differences: dict[str, float] = stored.get("largest_difference_of_scores", {})
    if options.part in (None, "flops"):
        flops = {name: count_flops(name) for name in TIMED}
    frames_FCHW = torch.randn(NUM_CLIPS * NUM_FRAMES, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for precision in PRECISIONS:
        if options.part not in (None, precision):
            continue
        backbone = create_backbone(BASE, pretrained=False, precision=precision)
        for name in TIMED:
            jobs = make_jobs(name, backbone)
            context = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
            times[f"{name}, {precision}"] = measure(jobs, frames_FCHW, options.rounds, context)
            print(name, precision, times[f"{name}, {precision}"], flush=True)
            if precision == "fp32":
                differences[name] = largest_difference(jobs, frames_FCHW)
                print(name, "largest difference", differences[name], flush=True)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "commit": source_commit(),
        "version": __version__,
        "torch": torch.__version__,
        "hardware": hardware(),
        "threads": options.threads,
        "clips": NUM_CLIPS,
        "clip_frames": NUM_FRAMES,
        "rounds": options.rounds,
        "flops": flops,
        "seconds": times,
        "largest_difference_of_scores": differences,
    }
    write_json(RESULT, report)
    write_into_page(PAGE, BEGIN, END, table(report))


def count_flops(name: str) -> dict[str, float]:
    """GFLOPs of one classifier, and of three beside it."""
    with torch.device("meta"):
        backbone = create_backbone(BASE, pretrained=False, precision="fp32", device="meta")
        model = add_side(backbone, *MODELS[name][1:])
    cost = clip_cost(ClassScorer("one", model, NUM_FRAMES, PIXELS))
    assert cost.frozen_flops is not None
    one = cost.frozen_flops + cost.side_flops
    three = cost.frozen_flops + NUM_MODELS * cost.side_flops
    return {"one_gflops": round(one / 1e9, 1), "times_one": round(three / one, 3)}


def largest_difference(jobs: list[ClipJob], frames_FCHW: Tensor) -> float:
    """Between each classifier's scores over the shared pass and over its own."""
    together = score_together(jobs, frames_FCHW)
    clips_VTCHW = frames_FCHW.unflatten(0, (NUM_CLIPS, NUM_FRAMES))
    with torch.no_grad():
        alone = [job.scorer.model(clips_VTCHW).softmax(-1) for job in jobs]  # pyright: ignore[reportAttributeAccessIssue]
    return max(float((found - own).abs().max()) for found, own in zip(together, alone, strict=True))


if __name__ == "__main__":
    main()
