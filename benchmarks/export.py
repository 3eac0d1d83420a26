"""How exact and how fast exported files are: torch in float32 and bf16, ONNX Runtime in float32 and with int8 weights.

    python benchmarks/export.py [--threads 1] [--repeats 5] [--folder FOLDER]

Two classifiers: tiny-clip with its trained weights (8 frames of 64 px), and CLIP's ViT-B/16 with random ones (8 frames
of 224 px, the paper's side network of width 320 at every block; the side network's statistics are random too). One clip
at a time, of a video that is drawn, encoded and decoded. Every variant has the same number of threads and runs in this
one process, one after the other in turns, so that a slow minute of the machine hits all of them; medians count, of the
time on the clock and of the processors' time over all threads, which other programs on the machine disturb less. With
several threads ONNX Runtime's own wait for work by spinning and take time from torch's; one is fair to both.
The difference is from torch in float32: of the scores (which sum to one), and of the logits as a part of the largest.

With `--folder` the exported files are kept there, and found again by another run. Nothing is downloaded.

Writes `benchmarks/results/export.json` and the table in `docs/export.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from side4video.backbones.create import create_backbone
from side4video.build_recognition import pixel_format
from side4video.data.decode import open_video
from side4video.data.motion_files import encode_clip
from side4video.data.motions import draw_motion, motion_classes
from side4video.data.sampling import uniform_val
from side4video.data.transforms import TestTransform
from side4video.export.onnx_files import file_bytes, open_session, write_int8
from side4video.export.parts import Sizes
from side4video.export.write import export_model
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier
from side4video.training.provenance import hardware, source_commit
from side4video.version import __version__

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "export.json"
PAGE = ROOT / "docs" / "export.md"
BEGIN, END = "<!-- export begin -->", "<!-- export end -->"
NUM_FRAMES, NUM_CLASSES = 8, 100


@dataclass(frozen=True)
class Setup:
    """A classifier to export."""

    name: str
    title: str
    backbone: str
    pretrained: bool
    width: int


SETUPS = (
    Setup("tiny-clip", "tiny-clip, side 64, 64 px", "tiny-clip", True, 64),
    Setup("b16", "ViT-B/16, side 320, 224 px, random weights", "timm:vit_base_patch16_clip_224", False, 320),
)
VARIANTS = {
    "torch-fp32": "torch, float32",
    "torch-bf16": "torch, bf16 (frozen weights and autocast)",
    "onnx-fp32": "ONNX Runtime, float32",
    "onnx-int8": "ONNX Runtime, int8 weights",
}


def build(setup: Setup, precision: str) -> VideoClassifier:
    """The same numbers in each precision."""
    torch.manual_seed(0)
    backbone = create_backbone(setup.backbone, pretrained=setup.pretrained, precision=precision)
    generator = torch.Generator().manual_seed(1)
    names = [f"class {number}" for number in range(NUM_CLASSES)]
    spec = SideSpec(width=setup.width)
    model = VideoClassifier(backbone, NUM_CLASSES, side=spec, class_names=names, generator=generator)
    for module in model.side.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def decoded_frames(model: VideoClassifier, folder: Path) -> Tensor:
    """Normalised frames of a drawn video."""
    path = folder / "drawn.mp4"
    encode_clip(draw_motion(motion_classes()[0], np.random.default_rng(0)), path)
    with open_video(path) as reader:
        frames_TCHW = reader.read(uniform_val(reader.info.num_frames, NUM_FRAMES))
    return TestTransform(pixel_format(model.backbone.preprocessing))(frames_TCHW)[0]


def export(setup: Setup, model: VideoClassifier, frames_TCHW: Tensor, folder: Path) -> dict[str, Any]:
    """Both files, where they are not there yet; how long it took."""
    exact, small = folder / f"{setup.name}.onnx", folder / f"{setup.name}-int8.onnx"
    seconds = None
    if not exact.exists():
        started = time.perf_counter()
        (done,) = export_model(model, {"num_frames": NUM_FRAMES}, exact, frames_TCHW, sizes=Sizes(1, NUM_FRAMES))
        seconds = round(time.perf_counter() - started, 1)
        assert done.kept, done
    matrices = write_int8(exact, small, {"num_frames": NUM_FRAMES})
    return {"exact": exact, "small": small, "export_seconds": seconds, "matrices": matrices}


def runners(
    setup: Setup, model: VideoClassifier, clip_BTCHW: Tensor, files: dict[str, Any], threads: int
) -> dict[str, Callable[[], Tensor]]:
    """For each variant a function that gives the logits of the clip."""
    half = build(setup, "bf16")

    def exact() -> Tensor:
        return model(clip_BTCHW)

    def bf16() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return half(clip_BTCHW).float()

    def of(path: Path) -> Callable[[], Tensor]:
        session, feed = open_session(path, threads=threads), {"clip": clip_BTCHW.numpy()}
        return lambda: torch.from_numpy(session.run(["logits"], feed)[0])

    return {"torch-fp32": exact, "torch-bf16": bf16, "onnx-fp32": of(files["exact"]), "onnx-int8": of(files["small"])}


@torch.no_grad()
def measure(setup: Setup, folder: Path, *, threads: int, repeats: int) -> dict[str, Any]:
    """Differences, times and sizes of one classifier."""
    model = build(setup, "fp32")
    frames_TCHW = decoded_frames(model, folder)
    files = export(setup, model, frames_TCHW, folder)
    runs = runners(setup, model, frames_TCHW[None], files, threads)
    logits = {name: run() for name, run in runs.items()}  # warms up too
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            run()
            seconds[name].append(time.perf_counter() - started)
            cpu_seconds[name].append(time.process_time() - cpu_started)
    exact_BK = logits["torch-fp32"]
    weight_bytes = sum(p.numel() * 4 for p in (*model.parameters(), *model.buffers()) if p.is_floating_point())
    sizes = {
        "torch-fp32": weight_bytes,
        "torch-bf16": None,
        "onnx-fp32": file_bytes(files["exact"]),
        "onnx-int8": file_bytes(files["small"]),
    }
    rows = {
        name: {
            "milliseconds": round(1e3 * statistics.median(times), 2),
            "cpu_milliseconds": round(1e3 * statistics.median(cpu_seconds[name]), 2),
            "all_milliseconds": [round(1e3 * value, 2) for value in times],
            "bytes": sizes[name],
            "logits_difference": float((logits[name] - exact_BK).abs().max() / exact_BK.abs().max().clamp(min=1)),
            "scores_difference": float((logits[name].softmax(-1) - exact_BK.softmax(-1)).abs().max()),
            "same_first": bool((logits[name].argmax(-1) == exact_BK.argmax(-1)).all()),
        }
        for name, times in seconds.items()
    }
    return {
        "title": setup.title,
        "backbone": setup.backbone,
        "pretrained": setup.pretrained,
        "side_width": setup.width,
        "image_size": list(model.backbone.preprocessing.image_size),
        "num_frames": NUM_FRAMES,
        "export_seconds": files["export_seconds"],
        "int8_matrices": list(files["matrices"]),
        "largest_logit": float(exact_BK.abs().max()),
        "variants": rows,
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines: list[str] = []
    threads = result["hardware"]["threads"]
    used = "1 thread" if threads == 1 else f"{threads} threads"
    for model in result["models"].values():
        lines += [
            f"**{model['title']}, {model['num_frames']} frames, one clip, {used}**",
            "",
            "| | ms a clip | CPU ms a clip | file, MB | scores differ by | logits differ by | same first class |",
            "|---|---:|---:|---:|---:|---:|---|",
        ]
        for name, row in model["variants"].items():
            size = "" if not name.startswith("onnx") else f"{row['bytes'] / 1e6:.1f}"
            far = ["", ""] if name == "torch-fp32" else [f"{row[k]:.1e}" for k in _DIFFERENCES]
            same = "yes" if row["same_first"] else "no"
            times = f"{row['milliseconds']:.1f} | {row['cpu_milliseconds']:.1f}"
            lines.append(f"| {VARIANTS[name]} | {times} | {size} | {far[0]} | {far[1]} | {same} |")
        lines.append("")
    machine = f"{result['hardware']['cores']} cores of {result['hardware']['processor']}"
    lines += [
        f"Medians of {result['repeats']} rounds in which the variants take turns; {machine}, load "
        f"{result['hardware']['load_average']} before. Commit {result['commit'][:7]}, `{result['command']}`.",
        "",
    ]
    return "\n".join(lines)


_DIFFERENCES = ("scores_difference", "logits_difference")


def main() -> None:
    """Measure, write the result, and put the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load_before = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        models = {
            setup.name: measure(setup, folder, threads=options.threads, repeats=options.repeats) for setup in SETUPS
        }
    result = {
        "command": f"python benchmarks/export.py --threads {options.threads} --repeats {options.repeats}",
        "commit": source_commit(),
        "side4video": __version__,
        "torch": str(torch.__version__),
        "onnxruntime": onnxruntime.__version__,
        "hardware": {**hardware(), "load_average": load_before},
        "repeats": options.repeats,
        "models": models,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    write_table(result)
    print(table(result))


def write_table(result: dict[str, Any]) -> None:
    """Between the marks of the page."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(result)}{END}{after}")


if __name__ == "__main__":
    main()
