"""`side4video demo --task retrieval`: captions look for their clips, then one search in a library of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from side4video.cli.console import say, show_table
from side4video.cli.main import Outcome
from side4video.cli.search_model import load_embedder, make_text_query, run_settings
from side4video.demo.captions import GALLERY
from side4video.demo.retrieval import Found, RetrievalDemoResult, run_retrieval_demo
from side4video.search.embedding import WindowSettings
from side4video.search.indexing import index_footage
from side4video.search.library import LibraryIdentity, make_library
from side4video.search.moments import Moment
from side4video.search.query import find_moments
from side4video.search.run_identity import run_identity
from side4video.training.progress import ProgressView

LIBRARY, SHOWN = "library", 5
FRAMES_PER_SECOND = 1.0
"""So few that each of these clips, of four seconds at most, is one window."""


def run_and_show(
    folder: Path,
    *,
    seed: int,
    tell: Callable[[str], None],
    progress: ProgressView,
    started: float,
    kept: bool,
    json: bool,
) -> Outcome:
    """Do the job in `folder`, and print what was measured unless `json` wants it in the outcome alone."""
    result = run_retrieval_demo(folder, seed=seed, tell=tell, progress=progress)
    tell(f"indexing the {result.num_gallery} clips of the gallery, and searching")
    text = result.example.caption
    moments = _search(result.run, result.clips / GALLERY, folder / LIBRARY, text)
    seconds = time.monotonic() - started
    rank = 1 + [Path(moment.path).name for moment in moments].index(Path(result.example.video).name)
    if not json:
        _show(result, moments, text, seconds, library=folder / LIBRARY if kept else None)
    return Outcome(value=result.as_json(seconds) | {"search_rank": rank})


def _search(run: Path, footage: Path, library: Path, text: str) -> list[Moment]:
    """All clips, the best first, as `side4video index` and `side4video search` find them."""
    videos = sorted(footage.glob("*.mp4"))
    settings = run_settings(run, {})
    windows = WindowSettings.for_model(settings.data.num_frames, fps=FRAMES_PER_SECOND)
    embedder = load_embedder(run, settings, windows)
    identity = LibraryIdentity(run_identity(run), windows)
    with make_library(library, identity, run=run, embed_dim=embedder.width, kind="flat") as opened:
        index_footage(opened, embedder, videos)
        return find_moments(opened, make_text_query(embedder, settings, text), top=len(videos))


def _show(
    result: RetrievalDemoResult, moments: list[Moment], text: str, seconds: float, *, library: Path | None
) -> None:
    from rich.table import Table

    motions = result.num_gallery // result.num_scenes
    table = Table(
        title=f"{result.num_gallery} captions look for their clips: {result.num_scenes} new scenes, each with "
        f"{motions} motions",
        title_justify="left",
    )
    table.add_column("")
    for name in ("R@1", "R@5", "right scene", "right motion", "right direction"):
        table.add_column(name, justify="right")
    rows = (
        ("side network", result.side),
        ("side network, frames shuffled", result.shuffled),
        ("frozen image-text model, mean of the frames", result.frozen),
        ("frozen, words by frames (WTI), untrained", result.frozen_wti),
        ("chance", result.chance),
    )
    for name, found in rows:
        table.add_row(name, *_shares(found))
    say()
    show_table(table)
    say("right motion: among the clips of its own scene; right direction: before its opposite")
    say()
    say(f'search: "{text}"')
    for rank, moment in enumerate(moments[:SHOWN], 1):
        say(f"  {rank}  {moment.score:.3f}  {Path(moment.path).name}")
    say(
        f"trained {result.trained_parameters:,} parameters beside {result.frozen_parameters:,} frozen ones, "
        f"on {result.num_train} clips; {seconds:.0f} s in all"
    )
    say()
    say("next:")
    if library is None:
        say("  side4video demo --task retrieval --out demo    the same, and clips, run and library are kept")
    else:
        say(f'  side4video search "{text}" --in {library}')
        say(f"  side4video evaluate {result.run}")
    say("  side4video train --task retrieval captions.jsonl --out runs/mine    your own videos")


def _shares(found: Found) -> list[str]:
    return [f"{100 * share:.1f} %" for share in (found.r1, found.r5, found.scene, found.motion, found.direction)]
