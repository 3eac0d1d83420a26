"""`side4video COMMAND ...`: find the command, run it, turn what went wrong into a message and an exit code.

A command is a module with

    USAGE: str         what follows the command's name
    EXAMPLES: str      shown under its help
    add_arguments(parser: CommandParser) -> None
    run(options: argparse.Namespace) -> Outcome

imported when it is called: help and wrong settings cost no import of torch. Exit codes: 0 done; 1 done, and something
is wrong with the data or the result; 2 bad input; 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from side4video.cli.console import fail, is_first_process, note, print_json, quiet_messages, results_kept_apart
from side4video.errors import Side4VideoError, nearest_names
from side4video.version import __version__

if TYPE_CHECKING:
    from side4video.cli.parser import CommandParser

DONE, WRONG_DATA, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Command:
    """One command: its name, what it does in one line, and its module."""

    name: str
    summary: str
    module: str


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, and the value that `--json` prints (None: no value to print)."""

    code: int = DONE
    value: Any = None


COMMANDS = (
    Command("demo", "the whole job on clips it draws itself: train, evaluate, predict", "side4video.cli.demo"),
    Command("train", "train a side network on your clips, beside a frozen image model", "side4video.cli.train"),
    Command("sweep", "train several side networks over one frozen pass and compare them", "side4video.cli.sweep"),
    Command("evaluate", "accuracy, confusion, a report page and the scores of every clip", "side4video.cli.evaluate"),
    Command("predict", "name the action in video files", "side4video.cli.predict"),
    Command("watch", "say what is seen in a camera, a stream or a pipe, as it comes", "side4video.cli.watch"),
    Command("explain", "show which places and moments of a video mattered", "side4video.cli.explain"),
    Command("embed", "write the vectors of videos, frame by frame and window by window", "side4video.cli.embed"),
    Command("index", "make your footage searchable; again, only what has changed", "side4video.cli.index"),
    Command("search", "find moments in indexed footage by a sentence or an example", "side4video.cli.search"),
    Command("app", "a web page to drop videos on, and to search a library", "side4video.cli.app"),
    Command("plan", "will it fit, how long will it take, what to change; before any download", "side4video.cli.plan"),
    Command("doctor", "find what is wrong with a data set before training does", "side4video.cli.doctor"),
    Command("prepare", "check, resize and list a published data set or a folder of clips", "side4video.cli.prepare"),
    Command("convert", "the authors' checkpoints to run folders, and back", "side4video.cli.convert"),
    Command("export", "a run as an ONNX or torch.export file that is checked, or to the hub", "side4video.cli.export"),
    Command("recipes", "list the paper's settings that are shipped, by name", "side4video.cli.recipes"),
    Command("backbones", "list the image models that can be used", "side4video.cli.backbones"),
)

# commands whose words may be hf:ORG/NAME
_TAKE_RUNS = frozenset({"evaluate", "predict", "watch", "explain", "embed", "index", "search", "app"})

_OS_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "no such file or folder",
    errno.EISDIR: "is a folder, not a file",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "exists already",
    errno.EMFILE: "too many open files; `ulimit -n 4096` raises the limit",
    errno.ENAMETOOLONG: "the name is too long",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` defaults to the process's own words."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever reads us (`| head`) has enough: end quietly, also when Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return code


def top_help() -> str:
    """The page of `side4video --help`."""
    width = max(len(command.name) for command in COMMANDS)
    lines = "\n".join(f"  {command.name.ljust(width)}  {command.summary}" for command in COMMANDS)
    return f"""usage: side4video COMMAND ...

Turn a frozen image model into a video model: a small side network is trained beside it.

commands:
{lines}

  side4video COMMAND --help   options and examples of a command
  side4video --version        the version

Start with `side4video demo`, or with your own clips in one folder per class:
  side4video train clips/ --out runs/mine
  side4video predict runs/mine video.mp4"""


def _dispatch(words: list[str]) -> int:
    if not words:
        note(top_help())
        return BAD_INPUT
    if words[0] in {"-h", "--help", "help"}:
        print(top_help())
        return DONE
    if words[0] == "--version":
        print(f"side4video {__version__}")
        return DONE
    found = [command for command in COMMANDS if command.name == words[0]]
    if not found:
        names = [command.name for command in COMMANDS]
        kind = "option" if words[0].startswith("-") else "command"
        fail(f"unknown {kind} '{words[0]}'{nearest_names(words[0], names) or '; commands: ' + ', '.join(names)}")
        return BAD_INPUT
    return _run(found[0], words[1:])


def _run(command: Command, words: list[str]) -> int:
    debug = "--debug" in words
    try:
        with quiet_messages(debug=debug):
            return _call(command, words)
    except KeyboardInterrupt as interrupt:
        # a command that can be resumed says how in the exception's message
        note(str(interrupt) or "stopped")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except (Side4VideoError, OSError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        fail(_message(error))
        return BAD_INPUT
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        if debug:
            traceback.print_exc()
        fail(f"out of memory on the accelerator: {str(error).splitlines()[0]}")
        note("smaller: data.batch_size, data.num_frames, backbone.frame_slice=8, or a smaller backbone")
        return BAD_INPUT


def make_parser(command: Command) -> tuple[ModuleType, CommandParser]:
    """The module of a command and its parser, whose help is the command's."""
    from side4video.cli.parser import CommandParser

    module = importlib.import_module(command.module)
    parser = CommandParser(
        prog=f"side4video {command.name}",
        usage=module.USAGE,
        description=f"{command.summary[0].upper()}{command.summary[1:]}.",
        epilog=f"examples:\n{module.EXAMPLES}",
    )
    module.add_arguments(parser)
    return module, parser


def _with_local_runs(words: list[str]) -> list[str]:
    """Words that name a run on the hub, as the folder that it is downloaded to."""
    if not any(word.startswith("hf:") for word in words):
        return words
    from side4video.hub.download import local_run

    return [str(local_run(word)) if word.startswith("hf:") else word for word in words]


def _call(command: Command, words: list[str]) -> int:
    module, parser = make_parser(command)
    if {"-h", "--help"} & set(words):
        print(parser.format_help())
        return DONE
    options = parser.parse_words(_with_local_runs(words) if command.name in _TAKE_RUNS else words)
    if not options.json:
        outcome: Outcome = module.run(options)
        return outcome.code
    with results_kept_apart():
        outcome = module.run(options)
    if outcome.value is not None and is_first_process():
        print_json(outcome.value)
    return outcome.code


def _message(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory; smaller: data.batch_size, data.workers, data.num_frames"
    if isinstance(error, OSError) and not isinstance(error, Side4VideoError):
        what = _OS_ERRORS.get(error.errno or 0, error.strerror or str(error))
        where = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{where}: {what}" if where else what
    return str(error)


def _is_out_of_memory(error: RuntimeError) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


if __name__ == "__main__":
    sys.exit(main())
