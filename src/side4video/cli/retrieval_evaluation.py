"""The work of `side4video evaluate` on a retrieval run: ranks in both directions, raw and with dual softmax."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from side4video.build import load_text_model, pixel_format
from side4video.build_retrieval import build_caption_split, build_tokenizer, eval_captions_loader, read_caption_set
from side4video.cli.console import progress_bar, say, show_table
from side4video.config.schema import RunSettings
from side4video.errors import InputError
from side4video.tasks.retrieval_metrics import RetrievalRow
from side4video.training.evaluate_retrieval import RetrievalResult, evaluate_retrieval
from side4video.training.runtime import start

ROWS = {
    "caption_to_video": "text to video",
    "video_to_caption_groups": "video to text",
    "video_to_any_caption": "video to any caption",
}


@dataclass(frozen=True)
class RetrievalEvaluation:
    """Ranks over the videos of `where`; `missing` names listed videos that are not there and were left out."""

    result: RetrievalResult
    where: str
    missing: tuple[str, ...]
    interaction: str
    shuffle_frames: bool


def evaluate_retrieval_run(
    folder: Path, settings: RunSettings, *, source: str | None, split: str, shuffle_frames: bool
) -> RetrievalEvaluation | None:
    """Rank the captions and videos of `source`, or of a split of the run; None in all processes but the first.

    Raises:
        CheckpointError: the run is damaged or belongs to another backbone.
        DataError: captions that cannot be used, or no video that can be read.
        TrainingError: similarities that are NaN.
    """
    runtime = start(settings.train)
    try:
        if source is not None:
            captions, where = read_caption_set(settings, source, split=settings.retrieval.val_split), source
        else:
            captions, where = build_caption_split(settings, split)
        model = load_text_model(folder, device=runtime.device)
        loader = eval_captions_loader(
            settings,
            captions,
            build_tokenizer(settings, model.backbone),
            pixel_format(model.backbone.preprocessing),
            rank=runtime.rank,
            world_size=runtime.world_size,
            shuffle_frames=shuffle_frames,
        )
        with progress_bar() as bar:
            task = bar.add_task("evaluating", total=-(-len(captions) // runtime.world_size))
            result = evaluate_retrieval(
                model, loader, runtime=runtime, on_batch=lambda videos: bar.advance(task, videos)
            )
    except InputError as error:
        if runtime.is_main:
            raise
        raise SystemExit(0) from error  # every process has found the same, and one is enough to say so
    finally:
        runtime.close()
    if not runtime.is_main:
        return None
    return RetrievalEvaluation(result, where, captions.missing, model.interaction, shuffle_frames)


def as_json(found: RetrievalEvaluation) -> dict[str, Any]:
    """The value that `--json` prints."""
    result = found.result
    return {
        **result.as_dict(),
        "loss": result.loss,
        "interaction": found.interaction,
        "shuffled_frames": found.shuffle_frames,
        "missing": len(found.missing),
        "broken_videos": [{"path": clip.path, "reason": clip.reason} for clip in result.broken],
        "missing_videos": list(found.missing),
    }


def show(found: RetrievalEvaluation) -> None:
    """Print the table."""
    from rich.table import Table

    report = found.result.report
    control = ", frames shuffled" if found.shuffle_frames else ""
    say(f"{report.num_videos} videos, {report.num_captions} captions of {found.where}; {found.interaction}{control}")
    if found.missing:
        say(f"missing     {len(found.missing)}   (left out)")
    if found.result.broken:
        say(f"broken      {len(found.result.broken)}   (not in the numbers, nor are their captions)")
    several = report.num_captions > report.num_videos
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("direction")
    table.add_column("similarities")
    for name in ("R@1", "R@5", "R@10", "median rank", "mean rank"):
        table.add_column(name, justify="right")
    for protocol, words in ROWS.items():
        if protocol == "video_to_any_caption" and not several:
            continue  # the same as the row above
        for kind, rows in (("raw", report.raw), ("dual softmax", report.dsl)):
            table.add_row(words, kind, *_numbers(rows[protocol]))  # pyright: ignore[reportArgumentType]
    say()
    show_table(table)
    say("dual softmax looks at all queries at once, which no search can do")


def _numbers(row: RetrievalRow) -> list[str]:
    shares = [f"{100 * share:.1f} %" for share in (row.r1, row.r5, row.r10)]
    return [*shares, f"{row.median_rank:g}", f"{row.mean_rank:.1f}"]
