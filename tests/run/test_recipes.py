"""Shipped recipes on drawn data sets in the published layout: trained with only `data.root` and sizes overridden."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest

from run.small_runs import TINY, draw_clip
from side4video.cli.main import main

SMALL = (*TINY, "data.num_frames=6", "data.workers=0", "data.batch_size=3", "train.accelerator=cpu")
SHORT = ("optim.epochs=1", "optim.warmup_epochs=0", "optim.schedule_every=step")


def draw_frames(folder: Path, pattern: str, class_name: str, *, seed: int, num_frames: int) -> None:
    """A clip as a folder of pictures, numbered from 1."""
    video = draw_clip(folder.with_suffix(".mp4"), class_name, seed=seed, num_frames=num_frames)
    folder.mkdir(parents=True)
    with av.open(str(video)) as container:
        for number, frame in enumerate(container.decode(video=0), start=1):
            frame.to_image().save(folder / pattern.format(number))
    video.unlink()


def draw_something(root: Path, pattern: str) -> None:
    """Lists of `folder frames label`, and frame folders: labels that a mirror swaps, and the last of 174."""
    classes = {86: "slide-left", 87: "slide-right", 173: "grow"}
    for split, copies in (("train", 3), ("val", 1)):
        lines: list[str] = []
        for label, name in classes.items():
            for copy in range(copies):
                folder = f"frames/{split}{label}{copy}"
                draw_frames(root / folder, pattern, name, seed=label + copy, num_frames=11)
                lines.append(f"{folder} 11 {label}")
        if split == "train":
            lines.append("frames/short 7 86")  # fewer than 8 frames: dropped, never opened
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")


def draw_kinetics(root: Path) -> None:
    """Lists of `file.mp4 label`, and 400 classes by name."""
    for split, copies in (("train", 3), ("val", 1)):
        lines: list[str] = []
        for label, name in ((0, "slide-left"), (211, "slide-right"), (399, "grow")):
            for copy in range(copies):
                file = f"videos/{split}{label}{copy}.mp4"
                draw_clip(root / file, name, seed=label + copy)
                lines.append(f"{file} {label}")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (root / "labels.csv").write_text("id,name\n" + "".join(f"{number},action {number}\n" for number in range(400)))


@pytest.mark.parametrize(
    ("recipe", "views", "num_classes"), [("ssv1-e14", "2x3", 174), ("ssv2-b16", "2x3", 174), ("k400-b16", "4x3", 400)]
)
def test_a_recipe_needs_only_the_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recipe: str,
    views: str,
    num_classes: int,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    root, out = tmp_path / "disk", tmp_path / "run"
    more: list[str] = []
    if recipe.startswith("k400"):
        draw_kinetics(root)
        more = ["data.classes=labels.csv"]
    else:
        draw_something(root, {"ssv1": "{:05d}.jpg", "ssv2": "{:06d}.jpg"}[recipe[:4]])
    words = [recipe, "--out", str(out), f"data.root={root}", *SMALL, *SHORT, *more]
    assert main(["train", *words, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["epochs"], done["steps"], done["broken"]) == (1, 3, 0)
    stored = (out / "config.yaml").read_text()
    assert f"train: {root / 'train.txt'}" in stored
    assert f"root: {root}" in stored
    names = json.loads((out / "classes.json").read_text())
    assert len(names) == num_classes
    assert names[-1] == ("action 399" if more else "173")
    # where it ran is not where it is evaluated
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(out), "--views", views, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 <= result["top1"] <= 1
    video = draw_clip(tmp_path / "new.mp4", "grow", seed=500)
    assert main(["predict", str(out), str(video), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["predictions"][0]["label"] in names


def test_without_a_folder_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "ssv2-b16", "--out", "run"]) == 2
    assert "data.train: no such file or folder: train.txt; data.root=FOLDER says where" in capsys.readouterr().err
