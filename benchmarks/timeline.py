"""What a dense timeline costs beside one pass of the frozen model over the frames.

    python benchmarks/timeline.py [--quick] [--part flops|bf16|fp32] [--rounds 9] [--threads 1]

Windows of 8 frames slide over a stream of frames at stride 1: each further frame completes one window, so the side
network runs over 8 frames for each. Measured is the steady state (8 further frames, 8 further windows, head included),
against the frozen model's pass over the same 8 frames up to the last tapped block. Random weights, random pixels, no
download.

FLOPs are counted on shapes without numbers, a multiply-add as two, for ViT-B/16 (light: side 192 at every second block;
full: side 320 at every block), ViT-L/14 light and EVA02-CLIP-E/14; "tokens only" is without sharing what a side network
makes of each frame, "independent" runs every window by itself. Time is measured for ViT-B/16, the two taking turns, in
bf16 (what `auto` takes on CPUs with bf16 units, with `train.precision=bf16`) and, light only, in float32; the ratio is
the median over rounds. Equality is in float32 with every weight of the side network drawn at random: the largest
difference between class scores of a window in the stream and the same 8 frames as a clip.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.create import create_backbone
from side4video.memory.track import StorageTracker
from side4video.side.norms import simulated_gpu
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier
from side4video.training.files import write_json
from side4video.training.provenance import hardware, source_commit
from side4video.version import __version__
from side4video.windows import WindowPlan, WindowStream

RESULT = Path(__file__).parent / "results" / "timeline.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "timeline.md"
BEGIN, END = "<!-- timeline begin -->", "<!-- timeline end -->"
PRECISIONS = ("bf16", "fp32")
LONGEST_SECONDS = 70
"""A measurement stops after the round that ends later than this, as long as there were two."""
NUM_FRAMES, STRIDE, FURTHER, CLASSES = 8, 1, 8, 174
BASE = "open_clip:ViT-B-16"
# name: backbone, side width, taps
MODELS: dict[str, tuple[str, int, str]] = {
    "B/16 light (side 192, every second block)": (BASE, 192, "every_second"),
    "B/16 (side 320, every block)": (BASE, 320, "all"),
    "L/14 light (side 320, every second block)": ("open_clip:ViT-L-14", 320, "every_second"),
    "E/14 (side 576, every second block)": ("open_clip:EVA02-E-14", 576, "every_second"),
}
TIMED = tuple(MODELS)[:2]


def make_model(name: str, *, precision: str, device: str = "cpu") -> VideoClassifier:
    """A classifier with random weights, none of which is zero."""
    backbone_name, width, taps = MODELS[name]
    backbone = create_backbone(backbone_name, pretrained=False, precision=precision, device=device)
    return add_side(backbone, width, taps)


def add_side(backbone: FrozenBackbone, width: int, taps: str, *, seed: int = 0) -> VideoClassifier:
    """A side network of the backbone's dialect beside it."""
    spec = SideSpec.for_dialect("eva" if backbone.post_norm else "clip")
    spec = replace(spec, width=width, taps=taps)  # pyright: ignore[reportArgumentType]
    model = VideoClassifier(backbone, CLASSES, side=spec, generator=torch.Generator().manual_seed(seed)).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in model.side.parameters():
        if not parameter.is_meta and not bool(parameter.any()):
            # a new side block is the identity, which would make equality too easy
            parameter.data.normal_(std=0.02, generator=generator)
    return model


class Ways:
    """The same further frames through the frozen model alone, and through a timeline."""

    def __init__(self, model: VideoClassifier, frames_TCHW: Tensor, *, shared: bool = True) -> None:
        self.model, self.frames_TCHW, self.shared = model, frames_TCHW, shared

    def frozen(self) -> None:
        """One pass over the further frames, up to the last tapped block."""
        for _ in self.model.backbone.stream(self.frames_TCHW[None, NUM_FRAMES:], self.model.side.taps):
            pass

    def begun(self) -> WindowStream:
        """A stream that has seen the first window."""
        given: dict[str, Any] = {"sides": [self.model.side]} if self.shared else {"taps": self.model.side.taps}
        stream = WindowStream(self.model.backbone, [WindowPlan(NUM_FRAMES, STRIDE)], **given)
        for _ in stream.push(self.frames_TCHW[:NUM_FRAMES]):
            pass
        return stream

    def timeline(self, stream: WindowStream) -> Tensor:
        """The further frames' windows, as `scores_WK`."""
        found = [
            self.model.head(self.model.encode_windows(windows).mean(1)).float().softmax(-1)
            for windows in stream.push(self.frames_TCHW[NUM_FRAMES:])
        ]
        return torch.cat(found)


def count_flops(name: str) -> dict[str, Any]:
    """FLOPs of both ways, in GFLOPs a frame, and their ratio."""
    with torch.device("meta"):
        model = make_model(name, precision="fp32", device="meta")
        height, width = model.backbone.preprocessing.image_size
        frames_TCHW = torch.empty(NUM_FRAMES + FURTHER, 3, height, width)
    counts: dict[str, float] = {}

    def count(what: str, tracker: StorageTracker) -> None:
        counts[what] = sum(operation.flops * operation.count for operation in tracker.operations) / FURTHER / 1e9

    with torch.no_grad(), simulated_gpu():
        ways = Ways(model, frames_TCHW)
        with StorageTracker() as tracker:
            ways.frozen()
        count("frozen", tracker)
        for what, shared in (("timeline", True), ("tokens only", False)):
            ways = Ways(model, frames_TCHW, shared=shared)
            stream = ways.begun()
            with StorageTracker() as tracker:
                ways.timeline(stream)
            count(what, tracker)
        with StorageTracker() as tracker:
            for _ in range(FURTHER):
                model(frames_TCHW[None, :NUM_FRAMES])
        count("independent", tracker)
    return {
        "gflops_a_frame": {what: round(value, 2) for what, value in counts.items()},
        "times_the_frozen_pass": {
            what: round(value / counts["frozen"], 3) for what, value in counts.items() if what != "frozen"
        },
    }


def measure_time(model: VideoClassifier, rounds: int, context: AbstractContextManager[Any]) -> dict[str, Any]:
    """Wall and CPU seconds of both ways, which take turns; a first round warms up."""
    height, width = model.backbone.preprocessing.image_size
    frames_TCHW = torch.randn(NUM_FRAMES + FURTHER, 3, height, width, generator=torch.Generator().manual_seed(2))
    ways = Ways(model, frames_TCHW)
    wall: list[tuple[float, float]] = []
    cpu: list[tuple[float, float]] = []
    with torch.no_grad(), context:
        begun = time.perf_counter()
        for number in range(rounds + 1):
            if number > 2 and time.perf_counter() - begun > LONGEST_SECONDS:
                break  # a busy machine
            stream = ways.begun()
            marks = [(time.perf_counter(), time.process_time())]
            ways.frozen()
            marks.append((time.perf_counter(), time.process_time()))
            ways.timeline(stream)
            marks.append((time.perf_counter(), time.process_time()))
            if number:
                wall.append((marks[1][0] - marks[0][0], marks[2][0] - marks[1][0]))
                cpu.append((marks[1][1] - marks[0][1], marks[2][1] - marks[1][1]))

    def per_frame(seconds: float) -> float:
        return round(1e3 * seconds / FURTHER, 1)

    best = min(line for _, line in cpu) / min(frozen for frozen, _ in cpu)
    return {
        "rounds": len(wall),
        "frozen_ms_a_frame": per_frame(statistics.median(frozen for frozen, _ in wall)),
        "timeline_ms_a_frame": per_frame(statistics.median(line for _, line in wall)),
        "times_the_frozen_pass": round(statistics.median(line / frozen for frozen, line in wall), 3),
        "times_the_frozen_pass_min": round(min(line / frozen for frozen, line in wall), 3),
        "times_the_frozen_pass_max": round(max(line / frozen for frozen, line in wall), 3),
        "times_the_frozen_pass_cpu_seconds": round(statistics.median(line / frozen for frozen, line in cpu), 3),
        "times_the_frozen_pass_best_cpu_seconds": round(best, 3),
    }


def largest_difference(model: VideoClassifier) -> float:
    """Between the class scores of windows in a stream, and of the same frames as clips."""
    height, width = model.backbone.preprocessing.image_size
    frames_TCHW = torch.randn(NUM_FRAMES + FURTHER, 3, height, width, generator=torch.Generator().manual_seed(3))
    ways = Ways(model, frames_TCHW)
    with torch.no_grad():
        found_WK = ways.timeline(ways.begun())
        alone = [
            model(frames_TCHW[None, start + 1 : start + 1 + NUM_FRAMES]).float().softmax(-1) for start in (0, 3, 7)
        ]
    return float((found_WK[[0, 3, 7]] - torch.cat(alone)).abs().max())


def table(report: dict[str, Any]) -> str:
    """The result as Markdown, as far as it was measured."""
    times, differences = report["seconds"], report["largest_difference_of_scores"]
    measured = [precision for precision in PRECISIONS if any(key.endswith(f", {precision}") for key in times)]
    names = ["arithmetic, times one frozen pass", "without sharing", *(f"time, {precision}" for precision in measured)]
    lines = [f"| side network | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for name, row in report["flops"].items():
        ratios = row["times_the_frozen_pass"]
        cells = [f"{ratios['timeline']:.2f}", f"{ratios['tokens only']:.2f}"]
        for precision in measured:
            time_row = times.get(f"{name}, {precision}")
            cells.append("" if time_row is None else f"{time_row['times_the_frozen_pass']:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    apart = report["flops"][TIMED[0]]["times_the_frozen_pass"]["independent"]
    machine = f"{report['hardware']['cores']} cores of {report['hardware']['processor']}, {report['threads']} used"
    told = [f"Every window by itself would be {apart:.1f} passes."]
    if measured:
        told.insert(0, f"Time is the median of rounds in which the two take turns; {machine}.")
    if differences:
        largest = f"{max(differences.values()):.0e}"
        told.append(f"Largest difference between a window's scores and those of its frames as a clip: {largest}.")
    told.append(f"Commit {report['commit'][:7]}, `{report['command']}`.")
    return "\n".join([*lines, "", " ".join(told)])


def main() -> None:
    """Count, measure, compare, and write the result and the page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="light B/16 in bf16 only, two rounds; writes nothing")
    parser.add_argument("--part", choices=("flops", *PRECISIONS), help="measure this alone and keep the stored rest")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    stored = json.loads(RESULT.read_text(encoding="utf-8")) if options.part and RESULT.exists() else {}
    flops: dict[str, Any] = stored.get("flops", {})
    times: dict[str, Any] = stored.get("seconds", {})
    differences: dict[str, float] = stored.get("largest_difference_of_scores", {})
    if options.part in (None, "flops"):
        flops = {name: count_flops(name) for name in (tuple(MODELS)[:1] if options.quick else MODELS)}
    for precision in PRECISIONS[:1] if options.quick else PRECISIONS:
        if options.part in (None, precision):
            measure(precision, 2 if options.quick else options.rounds, options.quick, times, differences)
    if options.quick:
        return
    report = {
        "command": " ".join(["python", *sys.argv]),
        "commit": source_commit(),
        "version": __version__,
        "torch": torch.__version__,
        "hardware": hardware(),
        "threads": options.threads,
        "window_frames": NUM_FRAMES,
        "stride": STRIDE,
        "rounds": options.rounds,
        "flops": flops,
        "seconds": times,
        "largest_difference_of_scores": differences,
    }
    write_json(RESULT, report)
    if flops:
        write_into_page(PAGE, BEGIN, END, table(report))


def measure(precision: str, rounds: int, quick: bool, times: dict[str, Any], differences: dict[str, float]) -> None:
    """The times of one precision; in float32 the differences too, and no time of the full side network."""
    backbone = create_backbone(BASE, pretrained=False, precision=precision)
    for name in TIMED[:1] if quick else TIMED:
        model = add_side(backbone, *MODELS[name][1:])
        model.requires_grad_(requires_grad=False)
        if precision == "bf16" or name == TIMED[0]:
            context = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
            times[f"{name}, {precision}"] = measure_time(model, rounds if name == TIMED[0] else rounds // 2, context)
            print(name, precision, times[f"{name}, {precision}"], flush=True)
        if precision == "fp32":
            differences[name] = largest_difference(model)
            print(name, "largest difference", differences[name], flush=True)


def write_into_page(page: Path, begin: str, end: str, text: str) -> None:
    """Put a table between two marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
