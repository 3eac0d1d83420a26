"""`side4video predict` on a trained run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import side4video
from run.small_runs import CLASSES, draw_clip, settings
from side4video import load
from side4video.build import pixel_format
from side4video.cli.main import main
from side4video.data.decode import open_video
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import TestTransform


def predict(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["predict", *map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_scores_are_the_average_over_views_of_the_whole_video(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = draw_clip(tmp_path / "long.mp4", "grow", seed=3, num_frames=50)
    (entry,) = predict(capsys, trained, path, "--views", "2x3", "--top-k", "9")
    assert list(entry) == ["path", "predictions", "frames_decoded"]
    assert entry["path"] == str(path)
    scores = {item["label"]: item["score"] for item in entry["predictions"]}
    assert set(scores) == set(CLASSES)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert sum(scores.values()) == pytest.approx(1.0)

    # the slow and obvious way
    model = load(trained)
    choices = FrameSampler("segment", 6).test(50, 2)
    assert entry["frames_decoded"] == len({index for clip in choices for index in clip})
    views: list[torch.Tensor] = []
    for clip in choices:
        with open_video(path) as reader:
            frames_TCHW = reader.read(clip)
        views += TestTransform(pixel_format(model.backbone.preprocessing), "short", 3)(frames_TCHW)
    with torch.no_grad():
        expected_K = torch.stack([model(view_TCHW[None])[0].softmax(0) for view_TCHW in views]).mean(0)
    assert model.class_names == CLASSES
    for name, expected in zip(CLASSES, expected_K.tolist(), strict=True):
        # batches of one and of six round differently
        assert scores[name] == pytest.approx(expected, abs=1e-5)


def test_frames_come_from_the_whole_video(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = draw_clip(tmp_path / "short.mp4", "grow", seed=3, num_frames=4)
    long = draw_clip(tmp_path / "long.mp4", "grow", seed=3, num_frames=60)
    entries = predict(capsys, trained, short, long, "--views", "5x1")
    # five choices of six frames, none of them twice where there are enough
    assert entries[0]["frames_decoded"] <= 4
    assert entries[1]["frames_decoded"] == 30
    (more,) = predict(capsys, trained, long, "--views", "5x1", "data.num_frames=9")
    assert more["frames_decoded"] > 30


def test_folders_globs_and_broken_videos(
    trained: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(clips / "val", tmp_path / "v"))
    (folder / "grow" / "broken.mp4").write_text("no video")
    entries = predict(capsys, trained, folder, tmp_path / "v" / "grow" / "*.mp4", "--top-k", "1", code=1)
    assert [Path(entry["path"]).name for entry in entries] == ["0.mp4", "1.mp4"] * 3
    assert all(len(entry["predictions"]) == 1 for entry in entries)
    assert main(["predict", str(trained), str(folder), str(tmp_path / "gone.mp4"), "--top-k", "2"]) == 1
    out, err = capsys.readouterr()
    assert f"{folder}/grow/broken.mp4: " in err
    assert f"{tmp_path}/gone.mp4: no such file" in err
    assert "1 of 7 videos could not be read" in err
    assert out.count("%") == 6 * 2
    assert str(folder / "slide-left" / "1.mp4") in out


def test_nothing_to_predict_is_bad_input(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"")
    assert predict(capsys, trained, broken, code=2) == []
    assert main(["predict", str(trained), str(tmp_path / "*.avi")]) == 2
    assert "*.avi: matches no video" in capsys.readouterr().err
    assert main(["predict", str(trained), str(broken), "--top-k", "0"]) == 2
    assert "--top-k: must be at least 1; got 0" in capsys.readouterr().err


def test_several_runs_share_one_pass_and_say_what_each_says_alone(
    trained: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    words = ["train", str(clips / "train"), "--out", str(other), "--epochs", "1"]
    assert main([*words, *settings("side.taps=1,4", "side.width=40", "train.seed=0")]) == 0
    video = clips / "val" / "grow" / "0.mp4"
    alone = [predict(capsys, run, video)[0] for run in (trained, other)]

    from side4video.backbones.base import FrozenBackbone

    passes: list[torch.Tensor] = []
    stream = FrozenBackbone.stream

    def counted(self: FrozenBackbone, *args: Any, **kwargs: Any) -> Any:
        passes.append(args[0])
        return stream(self, *args, **kwargs)

    monkeypatch.setattr(FrozenBackbone, "stream", counted)
    together = predict(capsys, trained, other, video)
    # beside it, the plan counted shapes
    assert len([clip for clip in passes if not clip.is_meta]) == 1
    assert [entry["run"] for entry in together] == [str(trained), str(other)]
    for entry, own in zip(together, alone, strict=True):
        assert entry["frames_decoded"] == own["frames_decoded"]
        assert [item["label"] for item in entry["predictions"]] == [item["label"] for item in own["predictions"]]
        for item, expected in zip(entry["predictions"], own["predictions"], strict=True):
            assert item["score"] == pytest.approx(expected["score"], abs=1e-6)


def test_classifiers_and_retrieval_runs_together(
    trained: Path, retrieval_run: Path, clips: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from side4video.backbones.base import FrozenBackbone

    passes: list[object] = []
    stream = FrozenBackbone.stream

    def counted(self: FrozenBackbone, *args: Any, **kwargs: Any) -> Any:
        passes.append(self)
        return stream(self, *args, **kwargs)

    video, texts = clips / "val" / "grow" / "0.mp4", ["--text", "a red square", "--text", "a blue circle"]
    (own,) = predict(capsys, trained, video)
    (said,) = predict(capsys, retrieval_run, video, *texts)
    assert {item["label"] for item in said["predictions"]} == {"a red square", "a blue circle"}
    assert said["frames_decoded"] == 5
    monkeypatch.setattr(FrozenBackbone, "stream", counted)
    monkeypatch.setattr("side4video.cli.predict.plan_rows", lambda scorers: [])
    monkeypatch.setattr("side4video.cli.predict.show_plan", lambda rows: None)
    together = predict(capsys, trained, retrieval_run, video, *texts)
    assert len(passes) == 2, "their crops differ"
    assert len({id(backbone) for backbone in passes}) == 1, "the backbone is loaded once"
    for entry, alone in zip(together, (own, said), strict=True):
        for item, expected in zip(entry["predictions"], alone["predictions"], strict=True):
            assert item["label"] == expected["label"]
            assert item["score"] == pytest.approx(expected["score"], abs=1e-5)
    passes.clear()
    same = predict(capsys, trained, retrieval_run, video, *texts, "--same-pixels")
    assert len(passes) == 1
    assert same[0] == together[0]
    assert same[1]["predictions"][0]["score"] != together[1]["predictions"][0]["score"]


def test_the_plan_of_a_shared_pass(
    trained: Path, retrieval_run: Path, clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = clips / "val" / "grow" / "0.mp4"
    words = ["predict", str(trained), str(retrieval_run), str(video), "--text", "a red square"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "2 runs, 2 passes of a frozen model" in err
    assert "a red square" in out
    assert main([*words, "--same-pixels"]) == 0
    err = capsys.readouterr().err
    assert "2 runs, one pass of the frozen model" in err
    assert "the same pass" in err


def test_the_same_in_python(trained: Path, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = clips / "val" / "grow" / "0.mp4"
    (entry,) = predict(capsys, trained, video, "--top-k", "2")
    ((prediction,),) = side4video.predict([trained], [video], top_k=2).values()
    assert [{"label": label, "score": score} for label, score in prediction.top] == entry["predictions"]
    with pytest.raises(side4video.Side4VideoError, match=r"no\.mp4: no such file"):
        side4video.predict([trained], ["no.mp4"])
    with pytest.raises(side4video.Side4VideoError, match="runs, clips and top_k must be at least 1; got 0, 4 and 5"):
        side4video.predict([], [video])
