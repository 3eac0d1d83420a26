"""README and docs are tried out: their commands run in a folder that holds what they name, tiny; so does their Python.

Every command that the docs name is in `RUN` (its lines are run, exit code 0) or in `NOT_RUN` with the reason; that all
lines are at least understood is checked in `tests/api/test_docs_commands.py`. Of the lines with the same command and
the same options one is run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from api.docs_blocks import Block, Typed, blocks, side4video_words, typed
from run.retrieval_runs import write_retrieval_run
from run.small_runs import CLASSES, draw_clip
from side4video.cli.main import COMMANDS, main

pytestmark = pytest.mark.xdist_group("docs")

RUN = {"backbones", "doctor", "embed", "evaluate", "explain", "index", "predict", "recipes", "search"}
NOT_RUN = {
    "demo": "takes minutes; tests/run/test_demo.py runs it small",
    "train": "images models that must be downloaded; tests/run/test_cli_train.py trains tiny ones",
    "sweep": "as train; tests/run/test_cli_sweep.py",
    "plan": "half a minute for a model of real size; tests/run/test_plan.py plans them",
    "prepare": "published data sets; tests/run/test_cli_prepare.py draws small ones",
    "convert": "the authors' checkpoints; tests/run/test_cli_convert.py makes some",
    "app": "a server that does not end; tests/run/test_cli_app.py starts it",
    "watch": "a source that does not end; tests/run/test_cli_watch.py reads short ones",
    "export": "half a minute for a file; tests/run/test_cli_export.py writes small ones",
}
# lines of commands that do run, each with the reason why this one does not
LINES_NOT_RUN = {
    "runs/search": "trained on captions that are not here",
    "frames.txt": "a list of frame folders; tests/run/test_cli_doctor.py has one",
    "open_clip:": "weights that must be downloaded",
    "http": "a server",
    "hf:": "the hub; tests/run/test_hub.py has one on this machine",
    "runs/e14": "trained on a published data set, on eight GPUs",
    "runs/ssv2": "trained on a published data set",
    "runs/msrvtt": "trained on a published data set",
    "runs/msvd": "trained on a published data set",
}
# doctor says with 1 that it has found something, and the tiny data set is not clean
CODES = {"doctor": {0, 1}}
# what the docs name and a test cannot have -> what stands in for it
STAND_INS = {
    " clips/train": " data/train",  # clips/ has class folders here, so it cannot have splits
    " clips/val": " data/val",
    "--target jump": "--target grow",
    'target="jump"': 'target="grow"',
    'side4video.push_to_hub("runs/mine", "me/my-run", license="mit")': "",
    'side4video.load("hf:me/my-run")': 'side4video.load("runs/mine")',
    '"me/my-run", revision="main"': '"runs/mine"',
    '"timm:vit_small_patch14_dinov2", weights="dinov2_s.safetensors"': '"tiny-clip"',
    'side4video.from_official("k400_vitb16_8f.pt")': 'side4video.from_official("mine.pt", num_heads=4)',
}


@pytest.fixture(scope="module")
def desk(trained: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which a reader of the docs sits, and the working folder while these tests run."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copytree(clips, desk / "data")
    shutil.copytree(clips / "val", desk / "clips")
    for name in ("mine", "other", "actions", "sports"):
        shutil.copytree(trained, desk / "runs" / name)
    for name in ("text", "retrieval"):
        write_retrieval_run(desk / "runs" / name)
    (desk / "demo").mkdir()
    shutil.copytree(trained, desk / "demo" / "run")
    shutil.copytree(clips / "val", desk / "demo" / "clips" / "val")
    shutil.copy(clips / "val" / "grow" / "0.mp4", desk / "demo" / "clips" / "val" / "grow" / "0000.mp4")
    for number, name in enumerate(["video.mp4", "long.mp4", "more/a.mp4", "more/b/c.mkv", "footage/holidays/d.mp4"]):
        draw_clip(desk / name, CLASSES[number % 3], seed=number, num_frames=30)
    draw_clip(desk / "other.mp4", "slide-left", seed=9, num_frames=730)
    rows = [f"clips/{name}/{number}.mp4,{name}" for name in CLASSES for number in range(2)]
    for name in ("train.csv", "val.csv", "test.csv"):
        (desk / name).write_text("path,label\n" + "\n".join(rows) + "\n")
    captions = [{"video": f"clips/{name}/0.mp4", "caption": f"a square, {name}"} for name in CLASSES]
    (desk / "captions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in captions))
    annotations = [{"file": "video.mp4", "action": "grow", "from": 0.0, "to": 1.5}]
    (desk / "annotations.json").write_text(json.dumps(annotations))
    Image.new("RGB", (70, 66), (200, 40, 90)).save(desk / "door.jpg")
    before = Path.cwd()
    os.chdir(desk)
    try:
        assert main(["convert", "runs/mine", "mine.pt", "--to", "official"]) == 0
        assert main(["index", "runs/text", "footage/", "--into", "lib"]) == 0
        yield desk
    finally:
        os.chdir(before)


def shape(words: tuple[str, ...]) -> str:
    """A command and its options, without what they are about."""
    return " ".join([words[0], *sorted(word.partition("=")[0] for word in words if word.startswith("--"))])


def lines_to_run() -> list[Typed]:
    """One of each shape, of the commands that are run."""
    chosen: dict[str, Typed] = {}
    for command in typed():
        words = side4video_words(command)
        # the page of commands has the parsers' own examples, of which the other pages show what matters
        if words is None or words[0] not in RUN or "--help" in words or command.page == "docs/commands.md":
            continue
        if any(part in word for part in LINES_NOT_RUN for word in words):
            continue
        chosen.setdefault(shape(words), command)
    return list(chosen.values())


def test_every_command_is_run_or_there_is_a_reason() -> None:
    names = {command.name for command in COMMANDS}
    assert names <= RUN | NOT_RUN.keys(), (
        f"say in RUN or NOT_RUN what becomes of {sorted(names - RUN - NOT_RUN.keys())}"
    )
    told = {words[0] for command in typed() if (words := side4video_words(command)) is not None}
    assert names <= told, f"no page shows {sorted(names - told)}"


@pytest.mark.parametrize("command", lines_to_run(), ids=str)
def test_commands_of_the_docs_run(command: Typed, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = side4video_words(command)
    assert words is not None
    code = main(shlex.split(stood_in(shlex.join(words))))
    said = capsys.readouterr()
    assert code in CODES.get(words[0], {0}), f"{command} ended with {code}:\n{said.err}"


def stood_in(text: str) -> str:
    """A command or a program with what a test cannot have replaced."""
    for name, stand_in in STAND_INS.items():
        text = text.replace(name, stand_in)
    return text


def python_blocks() -> list[Block]:
    """Those of pages; docstrings have tests of their own."""
    return [block for block in blocks() if block.language == "python"]


@pytest.mark.parametrize("block", python_blocks(), ids=lambda block: f"{block.page}:{block.line}")
def test_python_of_the_docs_runs(block: Block, desk: Path) -> None:
    exec(compile(stood_in(block.text), f"{block.page}:{block.line}", "exec"), given(block))


def given(block: Block) -> dict[str, Any]:
    """What a page assumes its reader to have: tensors of the shapes that their names say, and a model where it does."""
    import side4video

    generator = torch.Generator().manual_seed(0)
    names: dict[str, Any] = {
        "__name__": "docs",
        "clip_BTCHW": torch.randn(1, 6, 3, 64, 64, generator=generator),
        "frames_THWC": torch.randint(0, 256, (6, 90, 120, 3), generator=generator, dtype=torch.uint8).numpy(),
        "chunks": [torch.randn(5, 3, 64, 64, generator=generator) for _ in range(3)],
        "mean_E": torch.nn.functional.normalize(torch.randn(512, generator=generator), dim=0),
        "tokens_QE": torch.nn.functional.normalize(torch.randn(4, 512, generator=generator), dim=1),
    }
    if re.search(r"\bmodel\b", block.text) and not re.search(r"^model = ", block.text, re.MULTILINE):
        names["model"] = side4video.load("runs/mine")
    return names
