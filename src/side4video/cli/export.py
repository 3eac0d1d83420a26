"""`side4video export`: a run as a file that is checked against the run before it stays, or to the hub with its page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side4video.cli.console import fail, note, say, show_table
from side4video.cli.main import DONE, WRONG_DATA, Outcome
from side4video.cli.video_paths import check_run
from side4video.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from side4video.cli.parser import CommandParser
    from side4video.export.write import Exported

USAGE = "RUN OUT.onnx|OUT.pt2|hf:ORG/NAME|FOLDER/ [options]"
EXAMPLES = """  side4video export runs/mine mine.onnx
  side4video export runs/mine mine.onnx --frames 8 --batch 1 --verify clip.mp4
  side4video export runs/mine mine-int8.onnx --int8
  side4video export runs/mine side.onnx --what side
  side4video export runs/mine mine.pt2
  side4video export runs/mine shared/          what would go to the hub, to look at
  side4video export runs/mine hf:me/my-run --private --license mit"""

SUFFIXES = (".onnx", ".pt2")


def add_arguments(parser: CommandParser) -> None:
    """The options of this command."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or hf:ORG/NAME")
    parser.add_argument(
        "out",
        metavar="OUT",
        help="the file to write: .onnx (extra onnx) or .pt2 (torch.export); or hf:ORG/NAME (@BRANCH), to share what "
        "was trained with a page about it; or a new folder for the same files, with a / at its end",
    )
    parser.add_option(
        "--what",
        default="full",
        metavar="PART",
        help="full: pixels in, scores out; of a retrieval run video tower, text tower and similarity, a file each. "
        "side: without the frozen blocks, whose tokens go in (tokens_0, tokens_1, ...). Default: full.",
    )
    parser.add_option(
        "--frames", default="dynamic", metavar="T", help="frames of a clip, or dynamic. Default: dynamic."
    )
    parser.add_option("--batch", default="dynamic", metavar="B", help="clips at once, or dynamic. Default: dynamic.")
    parser.add_switch(
        "--int8", help="store the weight matrices in eight bits (ONNX Runtime only): smaller, approximate"
    )
    parser.add_option(
        "--verify", metavar="VIDEO", help="a video to compare file and run on. Default: a clip that is drawn for it."
    )
    parser.add_option(
        "--tolerance",
        type=float,
        metavar="DIFFERENCE",
        help="the largest difference of scores or outputs with which a file is kept. Default: 1e-4; int8: 0.05.",
    )
    parser.add_switch("--private", help="hf: a new repository is for you alone")
    parser.add_option("--license", metavar="NAME", help="hf and folder: licence of what you trained, such as mit")
    parser.add_common()


def run(options: argparse.Namespace) -> Outcome:
    """Export, compare, and say how far the file is from the run; or share.

    Raises:
        ConfigError: an option has a value that is not allowed, RUN is no run, or OUT is in use.
        CheckpointError: the run is damaged.
        MissingExtraError: ONNX, and its extra is not installed.
        VideoError: the video to compare on cannot be read.
    """
    folder, out = _local(options.run), Path(options.out)
    check_run(folder)
    if options.out.startswith("hf:") or options.out.endswith(("/", "\\")):
        return _share(folder, options)
    if options.private or options.license is not None:
        raise ConfigError(f"--private and --license are for hf:ORG/NAME or a FOLDER/; got '{out}'")
    if options.what not in ("full", "side"):
        raise ConfigError(f"--what: must be full or side; got '{options.what}'")
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"OUT must end in {' or '.join(SUFFIXES)}, or be hf:ORG/NAME or FOLDER/; got '{out}'")
    if options.int8 and out.suffix.lower() != ".onnx":
        raise ConfigError(f"--int8 is for .onnx files; got '{out}'")
    if options.tolerance is not None and not options.tolerance > 0:
        raise ConfigError(f"--tolerance: must be above 0; got {options.tolerance}")
    frames, batch = _size("--frames", options.frames), _size("--batch", options.batch)
    verify = None if options.verify is None else Path(options.verify)
    if verify is not None and not verify.exists():
        raise ConfigError(f"--verify: no such file: '{verify}'")

    # torch comes in here: everything above is checked without it
    from side4video.cli.exporting import export_run
    from side4video.export.parts import Sizes

    done = export_run(
        folder,
        out,
        what=options.what,
        sizes=Sizes(batch, frames),
        int8=options.int8,
        verify=verify,
        tolerance=options.tolerance,
        progress=note,
    )
    if not options.json:
        _show(done)
    refused = [exported for exported in done if exported.difference.largest > exported.tolerance]
    for exported in refused:
        fail(
            f"{exported.path}: not kept: it differs from the run by {exported.difference.largest:.2g}, more than the "
            f"allowed {exported.tolerance:g}"
        )
    return Outcome(WRONG_DATA if refused else DONE, [_as_json(exported) for exported in done])


def _local(word: str) -> Path:
    if not word.startswith("hf:"):
        return Path(word)
    from side4video.hub.download import local_run

    return local_run(word)


def _share(folder: Path, options: argparse.Namespace) -> Outcome:
    """To the hub, or to a folder.

    Raises:
        ConfigError: options of files, or OUT in use.
        CheckpointError: the run is damaged, or the hub cannot be reached or refuses.
    """
    from side4video.hub.names import parse_hub_name

    chosen = {
        "--what": options.what != "full",
        "--frames": options.frames != "dynamic",
        "--batch": options.batch != "dynamic",
        "--int8": options.int8,
        "--verify": options.verify is not None,
        "--tolerance": options.tolerance is not None,
    }
    wrong = [name for name, given in chosen.items() if given]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)}: for .onnx and .pt2 files; got OUT '{options.out}'")
    if options.out.startswith("hf:"):
        parse_hub_name(options.out)

        from side4video.build_hub import push_to_hub

        url = push_to_hub(folder, options.out, private=options.private, license=options.license)
        if not options.json:
            say(url)
        note(f"next: side4video predict {options.out} video.mp4")
        return Outcome(value={"repository": options.out, "url": url})
    if options.private:
        raise ConfigError("--private is for hf:ORG/NAME")

    from side4video.build_hub import save_for_hub

    out = save_for_hub(folder, options.out, license=options.license)
    files = sorted(path.name for path in out.iterdir())
    if not options.json:
        say(f"{out}: {', '.join(files)}")
    return Outcome(value={"folder": str(out), "files": files})


def _size(name: str, text: str) -> Any:
    if text == "dynamic":
        return text
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise ConfigError(f"{name}: must be dynamic or a number from 1; got '{text}'")


def _show(done: Sequence[Exported]) -> None:
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    table.add_column("file", overflow="fold")
    table.add_column("part")
    table.add_column("weights")
    for heading in ("size", "largest difference", "allowed", "clips compared"):
        table.add_column(heading, justify="right")
    for exported in done:
        weights = exported.precision
        if exported.matrices is not None:
            weights += f" ({exported.matrices[0]} of {exported.matrices[1]} matrices)"
        table.add_row(
            str(exported.path) if exported.kept else f"{exported.path} (not kept)",
            exported.part,
            weights,
            f"{exported.num_bytes / 1e6:.1f} MB",
            f"{exported.difference.largest:.1e}",
            f"{exported.tolerance:g}",
            str(exported.difference.clips),
        )
    show_table(table)
    for exported in done:
        if exported.precision != "float32" and exported.part in ("full", "side"):
            say(f"the same first answer as the run on {100 * exported.difference.same_best:.0f} % of them")


def _as_json(exported: Exported) -> dict[str, Any]:
    found = exported.difference
    finite = {name: value if value < float("inf") else None for name, value in found.by_output.items()}
    return {
        "path": str(exported.path),
        "part": exported.part,
        "precision": exported.precision,
        "bytes": exported.num_bytes,
        "difference": found.largest if found.largest < float("inf") else None,
        "by_output": finite,
        "tolerance": exported.tolerance,
        "clips_compared": found.clips,
        "same_best": found.same_best,
        "kept": exported.kept,
        "matrices": None if exported.matrices is None else list(exported.matrices),
    }
