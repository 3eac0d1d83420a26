"""Exit codes, messages, and what reaches standard output."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from side4video.cli import main as cli
from side4video.cli.console import results_kept_apart
from side4video.cli.main import Command, Outcome, main
from side4video.errors import DataError, MissingExtraError, TrainingError, VideoError

Install = Callable[[Callable[[argparse.Namespace], Outcome]], None]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make `side4video try` run a function."""

    def install(work: Callable[[argparse.Namespace], Outcome]) -> None:
        module = types.ModuleType("side4video_test_command")
        vars(module).update(
            USAGE="[options]", EXAMPLES="  side4video try", add_arguments=lambda parser: parser.add_common(), run=work
        )
        monkeypatch.setitem(sys.modules, "side4video_test_command", module)
        monkeypatch.setattr(cli, "COMMANDS", (Command("try", "a test", "side4video_test_command"),))

    return install


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("clips: no such folder"), "clips: no such folder"),
        (VideoError("a.mp4", "no video stream"), "a.mp4: no video stream"),
        (TrainingError("the loss became NaN"), "the loss became NaN"),
        (MissingExtraError("pyarrow", "parquet"), "pip install 'side4video[parquet]'"),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/a"), "/runs/a: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/runs/a"), "/runs/a: no permission"),
        (OSError(errno.EROFS, "Read-only file system", "/runs/a"), "/runs/a: the file system is read-only"),
        (OSError(errno.EIO, "Input/output error", "/runs/a"), "/runs/a: Input/output error"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory on the accelerator"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
@pytest.mark.parametrize("debug", [False, True])
def test_bad_input_is_one_message_and_exit_code_2(
    command: Install, capsys: pytest.CaptureFixture[str], error: BaseException, message: str, debug: bool
) -> None:
    def fail(_: argparse.Namespace) -> Outcome:
        raise error

    command(fail)
    assert main(["try", *(["--debug"] if debug else [])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "side4video: error: " in err
    assert message in err
    assert ("Traceback" in err) == debug


def test_ctrl_c_says_how_to_go_on(command: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(_: argparse.Namespace) -> Outcome:
        raise KeyboardInterrupt("saved; --resume goes on")

    command(stop)
    assert main(["try"]) == 130
    assert capsys.readouterr().err == "saved; --resume goes on\n"


def test_our_own_mistakes_are_not_hidden(command: Install) -> None:
    def fail(_: argparse.Namespace) -> Outcome:
        raise RuntimeError("a mistake of ours")

    command(fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        main(["try"])


@pytest.mark.parametrize("code", [0, 1, 2])
def test_json_is_the_only_thing_on_standard_output(
    command: Install, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    def work(options: argparse.Namespace) -> Outcome:
        print("a library is chatty")
        return Outcome(code, {"top1": 0.5, "name": "é"})

    command(work)
    assert main(["try", "--json"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out) == {"top1": 0.5, "name": "é"}
    assert "chatty" in err


def test_json_stays_clean_whatever_writes_to_the_descriptor() -> None:
    script = (
        "import os, subprocess, sys\n"
        "from side4video.cli.console import print_json, results_kept_apart\n"
        "with results_kept_apart():\n"
        "    os.write(1, b'from C\\n')\n"
        "    subprocess.run([sys.executable, '-c', 'print(\"from a child\")'], check=True)\n"
        "    print('from Python')\n"
        "print_json([1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [1]
    assert sorted(done.stderr.split("\n")) == ["", "from C", "from Python", "from a child"]


def test_standard_output_is_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="no"), results_kept_apart():
        raise DataError("no")
    os.write(1, b"back\n")
    assert capfd.readouterr().out == "back\n"


def test_only_the_first_of_several_processes_prints_json(
    command: Install, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command(lambda _: Outcome(0, [1]))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["try", "--json"]) == 0
    assert capsys.readouterr().out == ""


def test_not_a_number_is_no_json(command: Install) -> None:
    command(lambda _: Outcome(0, float("nan")))
    with pytest.raises(ValueError, match="JSON"):
        main(["try", "--json"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainn"], "unknown command 'trainn'; did you mean 'train'?"),
        (["zzz"], "unknown command 'zzz'; commands: demo, train"),
        (["--jsn"], "unknown option '--jsn'"),
    ],
)
def test_unknown_commands_suggest_known_ones(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_warnings_of_libraries_stay_away_and_ours_are_shown() -> None:
    script = (
        "import logging, warnings\n"
        "from side4video.cli.console import quiet_messages\n"
        "with quiet_messages(debug=False):\n"
        "    warnings.warn('not ours')\n"
        "    warnings.warn_explicit('ours', UserWarning, __import__('side4video').__file__, 1)\n"
        "    logging.getLogger('timm').warning('not ours either')\n"
        "    logging.getLogger('side4video.data').warning('ours too')\n"
        "    logging.getLogger('side4video.data').info('a remark')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "side4video: warning: ours\nside4video: warning: ours too\na remark\n"
    assert done.stdout == ""


def test_a_command_leaves_logging_as_it_was(command: Install) -> None:
    def state() -> list[object]:
        ours, root = logging.getLogger("side4video"), logging.getLogger()
        return [ours.handlers, ours.level, ours.propagate, root.level, warnings.showwarning]

    before = state()
    command(lambda _: Outcome(0, [1]))
    assert main(["try"]) == 0
    assert state() == before


def test_the_value_of_no_command_is_forgotten(command: Install, capsys: pytest.CaptureFixture[str]) -> None:
    value: Any = {"a": 1}
    command(lambda _: Outcome(0, value))
    assert main(["try"]) == 0
    assert capsys.readouterr().out == ""
