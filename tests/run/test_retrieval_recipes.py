"""Shipped recipes of retrieval on drawn data sets in the published layout: only `data.root` and sizes overridden."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import av
import pytest

from run.small_runs import CLASSES, TINY, draw_clip
from side4video.cli.main import main

SMALL = (*TINY, "data.num_frames=5", "data.workers=0", "data.batch_size=4", "train.accelerator=cpu")
SHORT = ("optim.epochs=1", "retrieval.chunk_size=3")
WORDS = ("grows", "moves to the left", "moves to the right")


def draw(path: Path, number: int) -> str:
    """A clip, and what it shows."""
    draw_clip(path, CLASSES[number % 3], seed=number, num_frames=7)
    return f"a square {WORDS[number % 3]}"


def draw_msrvtt(root: Path) -> None:
    """Videos in two folders, three captions of a training video, one of a test video; `video9` of the list is gone."""
    names = [f"video{number}" for number in range(3)] + [f"video{7020 + number}" for number in range(3)]
    texts = {name: draw(root / "TrainVal" / f"{name}.mp4", number) for number, name in enumerate(names[:3])}
    texts |= {name: draw(root / "Test" / f"{name}.mp4", number) for number, name in enumerate(names[3:])}
    sentences = [
        {"caption": f"{texts[name]} {number}", "video_id": name, "sen_id": number}
        for name in texts
        for number in range(3)
    ]
    sentences.append({"caption": "gone", "video_id": "video9", "sen_id": 9})
    folder = root / "msrvtt_data"
    folder.mkdir()
    content = {"info": {}, "videos": [{"video_id": name} for name in texts], "sentences": sentences}
    (folder / "MSRVTT_data.json").write_text(json.dumps(content))
    (folder / "MSRVTT_train.9k.csv").write_text("video_id\n" + "".join(f"{name}\n" for name in [*names[:3], "video9"]))
    rows = [f"ret{k},msr{name},{name},{texts[name]}\n" for k, name in enumerate(names[3:])]
    (folder / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\n" + "".join(rows))


def draw_msvd(root: Path) -> None:
    """Videos by their mapped names, a pickle of word lists, several captions a test video."""
    captions: dict[str, list[list[str]]] = {}
    mapping: list[str] = []
    folder = root / "msvd_data"
    folder.mkdir(parents=True)
    for split, count, first in (("train", 5, 0), ("val", 2, 5), ("test", 3, 7)):
        names = [f"yt-{number}_{number}_{number + 9}" for number in range(first, first + count)]
        for number, name in enumerate(names, start=first):
            text = draw(root / "YouTubeClips" / f"vid{number}.avi", number).split()
            captions[name] = [text, ["there", *text]][: 1 + number % 2]
            mapping.append(f"{name} vid{number}")
        (folder / f"{split}_list.txt").write_text("\n".join(names) + "\n")
    (folder / "raw-captions.pkl").write_bytes(pickle.dumps(captions, protocol=2))
    (folder / "youtube_mapping.txt").write_text("\n".join(mapping) + "\n")


def draw_vatex(root: Path) -> None:
    """Folders of frames, captions of all splits in one file, lists that tell them apart."""
    folder = root / "vatex_data"
    folder.mkdir(parents=True)
    content: dict[str, Any] = {}
    for split, count, first in (("train", 2, 0), ("val", 2, 5), ("test", 3, 7)):
        names = [f"id{number}_000000_000010" for number in range(first, first + count)]
        for number, name in enumerate(names, start=first):
            frames = root / "VATEX_Frames" / f"{split}_video" / name
            frames.mkdir(parents=True)
            text = draw(root / "v.mp4", number)
            with av.open(str(root / "v.mp4")) as container:
                for place, frame in enumerate(container.decode(video=0), start=1):
                    frame.to_image().save(frames / f"img_{place:05d}.jpg")
            content[name] = {"videoID": name, "enCap": [f"{text} {k}" for k in range(2)], "chCap": ["x"]}
        (folder / f"{split}_list.txt").write_text("\n".join(names) + "\n")
    (folder / "vatex_data.json").write_text(json.dumps(content))
    (root / "v.mp4").unlink()


@pytest.mark.parametrize(
    ("recipe", "draw_all", "more", "steps", "num_test", "num_captions"),
    [
        # 3 videos of 3 captions, 4 a batch
        ("msrvtt-b32", draw_msrvtt, ["retrieval.missing=leave_out"], 2, 3, 3),
        # 5 videos of one or two captions
        ("msvd-e14", draw_msvd, [], 1, 3, 5),
        ("vatex-l14", draw_vatex, [], 1, 3, 6),
    ],
)
def test_a_recipe_needs_only_the_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recipe: str,
    draw_all: Any,
    more: list[str],
    steps: int,
    num_test: int,
    num_captions: int,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    root, out = tmp_path / "disk", tmp_path / "run"
    draw_all(root)
    words = ["train", recipe, "--out", str(out), f"data.root={root}", *SMALL, *SHORT]
    if more:
        # what is missing stops it, unless it may be left out
        assert main(words) == 2
        assert "1 of 4 videos are not in" in capsys.readouterr().err
    assert main([*words, *more, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["epochs"], done["steps"], done["broken"]) == (1, steps, 0)
    assert (
        f"train: {root / 'msrvtt_data'}".replace("msrvtt", recipe.partition("-")[0])
        in (out / "config.yaml").read_text()
    )
    if more:
        assert json.loads((out / "missing.json").read_text()) == {"train": ["video9"], "val": []}
    else:
        assert not (out / "missing.json").exists()
    # where it ran is not where it is evaluated, and training videos are not needed
    monkeypatch.chdir(tmp_path)
    test = [] if recipe.startswith("msrvtt") else ["retrieval.val_split=test"]
    assert main(["evaluate", str(out), "retrieval.missing=error", *test, "data.workers=0", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["num_videos"], result["num_captions"]) == (num_test, num_captions)
    assert (result["broken"], result["missing"], result["interaction"]) == (0, 0, "wti")
    assert 0 <= result["t2v_r1"] <= result["raw"]["caption_to_video"]["r5"] == 1
    assert main(["evaluate", str(out), *test, "data.workers=0"]) == 0
    split = "test-1k-a" if recipe.startswith("msrvtt") else "test"
    assert f"_data, split {split}; wti" in capsys.readouterr().out.replace("\n", " ")


def test_without_a_folder_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "vatex-b16", "--out", "run"]) == 2
    assert "data.train: no such file or folder: vatex_data; data.root=FOLDER says where" in capsys.readouterr().err
