"""Search in 100,000 windows of footage: building the store, its size, latency, and how much of the truth it finds.

    python benchmarks/search.py [--videos 2000] [--queries 100] [--folder DIR]
    python benchmarks/search.py --docs      write the table of docs/stores.md from the stored result

Drawn vectors, no model, two cores. The default store (embedded Qdrant) takes 2,000 videos of 50 windows, 12 frames of
width 512 each. Half of a window's frames are also the next one's, as in real libraries. A search is what `side4video
search` does: candidates by the mean, the best of them by the frames (MaxSim), then exact WTI on those. Recall@10 is the
share of the ten windows with the highest exact WTI score among all that the search gives in its first ten. "cpu" is
processor time, which other processes on the machine do not count into.

How vectors are drawn. In a rotated space whose axes have variances that fall as `(1 + axis)^-0.6`, a frame is a common
offset, plus one of 500 topics (their popularity falls as 1/rank^0.5), plus the video, plus a scene of 20 to 90 frames,
plus a slow drift (correlation 0.9 from frame to frame); its length is lognormal. A caption has 12 tokens: six
lie near one frame each of one window, with noise twice as long as what they have in common with it; six are noise. All
have another offset than frames have (the gap between captions and pictures). WTI's weighing networks are random, with
softmax weights between about 0.02 and 0.2.

Writes `benchmarks/results/search.json`: command, commit, hardware, and the table that it prints.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from side4video.search.store import (
    FoundWindow,
    SearchEffort,
    StoreIdentity,
    VectorQuery,
    Window,
    WindowFilter,
    WindowPoint,
)
from side4video.search.stores import open_store
from side4video.tasks.similarity import WeightedTokenInteraction
from side4video.training.files import read_tensors, write_tensors
from side4video.training.provenance import hardware, source_commit

RESULT = Path(__file__).parent / "results" / "search.json"
PAGE = Path(__file__).parents[1] / "docs" / "stores.md"
BEGIN, END = "<!-- search begin -->", "<!-- search end -->"
CORES = 2
E, T, Q, STEP, WINDOWS = 512, 12, 12, 6, 50
TOPICS, FOLDERS = 500, 10
NOISE, CONTENT = 2.0, 6
TOP = 10
CANDIDATES = 100
"""Windows that are scored exactly."""


@dataclass(frozen=True)
class Drawn:
    """Frames of all videos (`frames_VFE`, F frames a video), and captions with the window that each was drawn from."""

    frames_VFE: Tensor
    tokens_MQE: Tensor
    source_M: Tensor


def draw(num_videos: int, num_queries: int, seed: int = 0) -> Drawn:
    """The vectors, as the module's docstring says."""
    g = torch.Generator().manual_seed(seed)
    spread_E = (1 + torch.arange(E)).float() ** -0.3
    spread_E /= spread_E.norm()
    basis_EE = torch.linalg.qr(torch.randn(E, E, generator=g)).Q

    def normal(*shape: int) -> Tensor:
        """Vectors of length about 1."""
        return torch.randn(*shape, E, generator=g) * spread_E

    topics = normal(TOPICS)
    popularity = (1 + torch.arange(TOPICS)).float() ** -0.5
    video_VE = topics[torch.multinomial(popularity, num_videos, replacement=True, generator=g)]
    video_VE = video_VE + 0.7 * normal(num_videos)
    picture_offset, caption_offset = normal(1), normal(1)
    num_frames = STEP * (WINDOWS - 1) + T
    frames_VFE = torch.empty(num_videos, num_frames, E)
    left_V = torch.zeros(num_videos, dtype=torch.long)
    scene_VE, drift_VE = torch.zeros_like(video_VE), torch.zeros_like(video_VE)
    for number in range(num_frames):
        cut_V = left_V == 0
        cuts = int(cut_V.sum())
        scene_VE[cut_V] = 0.7 * normal(cuts)
        drift_VE[cut_V] = 0.5 * normal(cuts)
        left_V[cut_V] = torch.randint(20, 90, (cuts,), generator=g)
        left_V -= 1
        drift_VE = 0.9 * drift_VE + 0.5 * (1 - 0.9**2) ** 0.5 * normal(num_videos)
        frames_VFE[:, number] = video_VE + scene_VE + drift_VE
    source_M = torch.randint(num_videos * WINDOWS, (num_queries,), generator=g)
    frame_MQ = torch.randint(T, (num_queries, CONTENT), generator=g)
    near_MQE = torch.zeros(num_queries, Q, E)
    for query, source in enumerate(source_M.tolist()):
        video, window = divmod(source, WINDOWS)
        near_MQE[query, :CONTENT] = frames_VFE[video, window * STEP + frame_MQ[query]]
    tokens_MQE = (near_MQE + NOISE * normal(num_queries, Q) + caption_offset) @ basis_EE
    tokens_MQE = 8 * _lognormal(F.normalize(tokens_MQE, dim=-1), g)
    for video in range(num_videos):
        frames_FE = (frames_VFE[video] + picture_offset) @ basis_EE
        frames_VFE[video] = 10 * _lognormal(F.normalize(frames_FE, dim=-1), g)
    return Drawn(frames_VFE, tokens_MQE, source_M)


def _lognormal(directions: Tensor, g: torch.Generator) -> Tensor:
    return directions * torch.exp(0.15 * torch.randn(directions.shape[:-1], generator=g)).unsqueeze(-1)


def make_wti() -> WeightedTokenInteraction:
    """WTI with weights as uneven as trained ones."""
    torch.manual_seed(1)
    wti = WeightedTokenInteraction(E).eval()
    for weights in (wti.text_weights, wti.video_weights):
        torch.nn.init.normal_(weights.out.weight, std=0.15)
    return wti.requires_grad_(requires_grad=False)


def windows_of(frames_FE: Tensor) -> Tensor:
    """`frames_WTE` of a video's windows."""
    return frames_FE.unfold(0, T, STEP).transpose(1, 2)


def window_of(number: int) -> Window:
    """Window `number` of all: 50 a video, a tenth of the videos in each folder."""
    video, place = divmod(number, WINDOWS)
    start = 4.0 * place
    return Window(
        f"folder{video % FOLDERS}/video{video:04d}.mp4", f"hash{video}", place, WINDOWS, start, start + 8, 25.0
    )


def exact_scores(drawn: Drawn, wti: WeightedTokenInteraction) -> Tensor:
    """`sim_MV`: the exact WTI score of every caption with every window."""
    mask_MQ = torch.ones(drawn.tokens_MQE.shape[:2])
    mask_VT = torch.ones(WINDOWS, T)
    return torch.cat([wti(drawn.tokens_MQE, mask_MQ, windows_of(v), mask_VT) for v in drawn.frames_VFE], 1)


def build(folder: Path, drawn: Drawn) -> dict[str, float]:
    """Index everything, four videos an upsert, then optimise."""
    begin = time.perf_counter()
    store = open_store(folder, identity=StoreIdentity(E))
    points: list[WindowPoint] = []
    num_videos = len(drawn.frames_VFE)
    for video, frames_FE in enumerate(drawn.frames_VFE):
        points += [WindowPoint(window_of(video * WINDOWS + n), x) for n, x in enumerate(windows_of(frames_FE))]
        if len(points) >= 4 * WINDOWS or video == num_videos - 1:
            store.upsert(points)
            points = []
            if video % 200 < 4:
                print(f"  {video} videos, {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    upserted = time.perf_counter()
    store.optimise()
    optimised = time.perf_counter()
    count = store.count()
    store.close()
    if count != num_videos * WINDOWS:
        raise AssertionError(f"{count} windows stored")
    return {"windows": count, "upsert_seconds": upserted - begin, "optimise_seconds": optimised - upserted}


def measure(folder: Path, inputs: Path) -> dict[str, Any]:
    """Latency, recall and memory of searches, in a process that does nothing else."""
    torch.set_num_threads(CORES)
    before = _resident()
    tensors = read_tensors(inputs)
    tokens_MQE, sim_MV = tensors["tokens"], tensors["exact"]
    wti = make_wti()
    begin = time.perf_counter()
    store = open_store(folder)
    opened = time.perf_counter() - begin
    num_videos = sim_MV.shape[1] // WINDOWS
    numbers = {window_of(n).id: n for n in range(sim_MV.shape[1])}

    def query(tokens_QE: Tensor) -> VectorQuery:
        weight_1Q = wti.text_weights(tokens_QE[None], torch.ones(1, Q, dtype=torch.bool))
        weighted_QE = F.normalize(tokens_QE, dim=-1) * weight_1Q[0, :, None]
        return VectorQuery(weighted_QE.sum(0), weighted_QE)

    def rank(tokens_QE: Tensor, found: list[FoundWindow]) -> list[FoundWindow]:
        frames_VTE = torch.stack([f.frames_TE for f in found if f.frames_TE is not None])
        score_V = wti(tokens_QE[None], torch.ones(1, Q), frames_VTE, torch.ones(frames_VTE.shape[:2]))[0]
        return [found[i] for i in score_V.topk(min(TOP, len(found))).indices.tolist()]

    def search(
        candidates: int, where: WindowFilter | None = None, **effort: int
    ) -> Callable[[Tensor], list[FoundWindow]]:
        def run(tokens_QE: Tensor) -> list[FoundWindow]:
            how = SearchEffort(**effort)
            found = store.search(query(tokens_QE), limit=candidates, where=where, with_frames=True, effort=how)
            return rank(tokens_QE, found)

        return run

    def measured(run: Callable[[Tensor], list[FoundWindow]], where: WindowFilter | None = None) -> dict[str, float]:
        allowed_V = torch.tensor([where is None or where.meets(window_of(n)) for n in range(sim_MV.shape[1])])
        best_MK = sim_MV.masked_fill(~allowed_V, -2).topk(TOP).indices
        seconds: list[float] = []
        cpu_seconds: list[float] = []
        hits = 0
        for tokens_QE, best_K in zip(tokens_MQE, best_MK, strict=True):
            begin, cpu_begin = time.perf_counter(), time.process_time()
            found = run(tokens_QE)
            seconds.append(time.perf_counter() - begin)
            cpu_seconds.append(time.process_time() - cpu_begin)
            hits += len({numbers[f.window.id] for f in found} & set(best_K.tolist()))
        return {
            **{f"p{percent}_ms": _percentile(seconds, percent) for percent in (50, 95, 99)},
            "cpu_p50_ms": _percentile(cpu_seconds, 50),
            "recall_at_10": hits / (TOP * len(seconds)),
            "matching_windows": int(allowed_V.sum()),
        }

    default = search(CANDIDATES)
    cold = measured(default)
    some = [f"folder{video % FOLDERS}/video{video:04d}.mp4" for video in range(0, num_videos, max(1, num_videos // 20))]
    filters = {
        "in one folder of ten": WindowFilter(folders=["folder3"]),
        "in 20 videos": WindowFilter(paths=some),
        "in the first 30 seconds": WindowFilter(before_seconds=30.0),
    }
    rows = {"the default, the first time": cold, "the default": measured(default)}
    memory = _resident()
    for name, where in filters.items():
        rows[f"the default, {name}"] = measured(search(CANDIDATES, where), where)
    for candidates, prefetch, ef in ((50, 200, 256), (200, 800, 1024)):
        name = f"{candidates} scored exactly, prefetch {prefetch}, ef {ef}"
        rows[name] = measured(search(candidates, prefetch=prefetch, ef=ef))
    rows["without exact scores: MaxSim alone"] = measured(lambda x: store.search(query(x), limit=TOP))
    rows["mean vectors alone"] = measured(lambda x: store.search(VectorQuery(query(x).mean_E), limit=TOP))
    store.close()
    return {"open_seconds": opened, "resident_mb_before": before, "resident_mb": memory, "rows": rows}


def _percentile(seconds: list[float], percent: int) -> float:
    """In milliseconds."""
    return 1000 * torch.tensor(seconds, dtype=torch.float64).quantile(percent / 100).item()


def _resident() -> float:
    """MB of memory of this process, files that it maps included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def disk_mb(folder: Path) -> float:
    """MB that the folder's files take, holes not counted."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 1e6


def table(result: dict[str, Any]) -> str:
    """What a reader wants to see."""
    lines = [
        f"{result['windows']:,} windows of {T} x {E}: upserts {result['upsert_seconds']:.0f} s, optimise "
        f"{result['optimise_seconds']:.0f} s, {result['disk_mb']:,.0f} MB on disk, opens in "
        f"{result['open_seconds']:.1f} s, {result['resident_mb']:,.0f} MB resident while searching",
        f"{'milliseconds':58}{'p50':>8}{'p95':>8}{'p99':>8}{'cpu p50':>9}  recall@10",
    ]
    for name, row in result["rows"].items():
        times = "".join(f"{row[key]:8.1f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
        lines.append(f"{name:58}{times}{row['cpu_p50_ms']:9.1f}{row['recall_at_10']:11.3f}")
    return "\n".join(lines)


def page_table(result: dict[str, Any]) -> str:
    """The table of the docs page, and where it comes from."""
    lines = [
        f"| {result['windows']:,} windows of {T} frames, {E} wide | p50 ms | p95 ms | p99 ms | recall@10 |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in result["rows"].items():
        times = " | ".join(f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
        lines.append(f"| {name} | {times} | {row['recall_at_10']:.3f} |")
    hardware = result["hardware"]
    lines += [
        "",
        f"Upserts {result['upsert_seconds']:.0f} s, `optimise` {result['optimise_seconds']:.0f} s, "
        f"{result['disk_mb']:,.0f} MB on disk, {result['resident_mb']:,.0f} MB resident while searching (of them "
        f"{result['resident_mb_before']:,.0f} before the library was opened). {hardware['cores']} cores of "
        f"{hardware['processor']}; `{result['command']}`, commit `{result['commit'][:12]}`.",
    ]
    return "\n".join(lines)


def write_page(result: dict[str, Any]) -> None:
    """Put the table between the page's markers."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{page_table(result)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Draw, build, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="where to build (default: a temporary folder)")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--docs", action="store_true", help="measure nothing; write the page's table")
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.docs:
        write_page(json.loads(args.out.read_text(encoding="utf-8")))
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    torch.set_num_threads(CORES)
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        begin = time.perf_counter()
        drawn = draw(args.videos, args.queries)
        sim_MV = exact_scores(drawn, make_wti())
        source_rank = (sim_MV > sim_MV.gather(1, drawn.source_M[:, None])).sum(1).float().median().item()
        write_tensors(base / "inputs.safetensors", {"tokens": drawn.tokens_MQE, "exact": sim_MV})
        print(f"  drawn, exact scores in {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        result: dict[str, Any] = {
            # where it was built is nobody's business
            "command": f"python benchmarks/search.py --videos {args.videos} --queries {args.queries}",
            "commit": source_commit(),
            "hardware": {**hardware(), "load_average": round(os.getloadavg()[0], 1)},
            "versions": {name: version(name) for name in ("torch", "qdrant-edge-py")},
            "what": f"{args.queries} captions; candidates, their frames and exact WTI; recall against exact WTI",
            "median_rank_of_the_source_window": source_rank + 1,
            **build(base / "store", drawn),
            "disk_mb": disk_mb(base / "store"),
        }
        del drawn
        command = [sys.executable, __file__, "--measure", str(base / "store"), str(base / "inputs.safetensors")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result.update(json.loads(done.stdout))
        print(table(result))
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
