"""Text-video retrieval from words to a run folder and its numbers, stopped and gone on with; what bad input gets."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import side4video
from side4video.cli.main import main
from side4video.data.motion_files import write_motion_clips
from side4video.tasks.retrieval import VideoTextModel
from side4video.training.retrieval_task import RetrievalTask

NUM_TRAIN, NUM_VAL = 32, 16
SMALL = (
    *("--backbone", "tiny-clip", "backbone.pretrained=false", "backbone.precision=fp32", "side.width=24"),
    *("data.workers=0", "data.num_frames=5", "data.batch_size=8", "train.accelerator=cpu", "optim.lr=1e-3"),
)


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train.jsonl` and `val.csv`; the first video of each has a second caption."""
    folder = tmp_path_factory.mktemp("motion")
    drawn = write_motion_clips(folder, seed=0, train_per_class=2, val_per_class=1, processes=1)
    pairs = {split: [(clip.video, clip.caption) for clip in drawn if clip.split == split] for split in ("train", "val")}
    for found in pairs.values():
        found.append((found[0][0], "something moves"))
    lines = [json.dumps({"video": video, "caption": caption}) for video, caption in pairs["train"]]
    (folder / "train.jsonl").write_text("\n".join(lines))
    with (folder / "val.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("video", "caption"), *pairs["val"]])
    return folder


def words(captions: Path, out: Path, *more: str) -> list[str]:
    data = [str(captions / "train.jsonl"), "--val", str(captions / "val.csv")]
    return ["train", "--task", "retrieval", *data, "--out", str(out), *SMALL, *more]


@pytest.fixture(scope="module")
def trained(captions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs. Copy it before changing it."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    assert main([*words(captions, out), "--epochs", "2"]) == 0
    return out


def evaluate(capsys: pytest.CaptureFixture[str], *given: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", *given, "--json", "data.workers=0"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_run_folder(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "side.safetensors", "last.safetensors", "config.yaml", "backbone.json", "preprocessing.json", "metrics.json",
        "broken.json", "run.json", "logs", "state",
    }  # fmt: skip
    parts = {name.partition(".")[0] for name in safetensors.torch.load_file(trained / "side.safetensors")}
    assert parts == {"side", "side_proj", "frame_head", "wti", "logit_scale", "text"}
    stored = (trained / "config.yaml").read_text()
    for line in ("task: retrieval", "weight_decay: 0.2", "clip_grad_norm: 1.0", "position_on_class: true"):
        assert line in stored
    metrics = json.loads((trained / "metrics.json").read_text())
    # 33 captions make four batches of eight
    assert [row["step"] for row in metrics["history"]] == [4, 8]
    assert metrics["history"][0].keys() == {
        "epoch", "step", "lr", "train_loss", "clips_per_second", "val_loss", "val_t2v_r1", "val_t2v_r5", "val_t2v_r10",
        "val_t2v_median_rank", "val_v2t_r1",
    }  # fmt: skip
    with (trained / "logs" / "steps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "epoch", "loss", "lr", "clips_per_second"]
    # a linear rise over a tenth of all steps, from 0; then the cosine
    assert float(rows[0]["lr"]) == 0
    assert float(rows[1]["lr"]) > float(rows[7]["lr"]) > 0


def test_evaluate_agrees_with_training_and_tells_both_directions(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = evaluate(capsys, str(trained))
    best = json.loads((trained / "metrics.json").read_text())["best"]
    assert value["t2v_r1"] == best["val_t2v_r1"]
    assert (value["num_videos"], value["num_captions"]) == (NUM_VAL, NUM_VAL + 1)
    assert (value["broken"], value["missing"], value["interaction"]) == (0, 0, "wti")
    for kind in ("raw", "dsl"):
        assert value[kind].keys() == {"caption_to_video", "video_to_caption_groups", "video_to_any_caption"}
        for row in value[kind].values():
            assert 0 <= row["r1"] <= row["r5"] <= row["r10"] <= 1
            assert row["median_rank"] >= 1
    assert value["raw"]["caption_to_video"]["num_queries"] == NUM_VAL + 1
    assert value["v2t_r1"] == value["raw"]["video_to_caption_groups"]["r1"]
    assert main(["evaluate", str(trained), "data.workers=0"]) == 0
    shown = capsys.readouterr().out
    assert "text to video" in shown
    assert "video to any caption" in shown
    assert shown.count("dual softmax") == 4, "three rows and a word of caution"


def test_other_captions_with_a_broken_video(
    trained: Path, captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(captions, tmp_path / "data"))
    broken = (data / "val.csv").read_text().splitlines()[1].partition(",")[0]
    (data / broken).write_text("no video")
    value = evaluate(capsys, str(trained), "--data", str(data / "val.csv"), code=1)
    assert (value["broken"], value["num_videos"], value["num_captions"]) == (1, NUM_VAL - 1, NUM_VAL - 1)
    assert value["broken_videos"][0]["path"].endswith(broken)
    (data / broken).unlink()
    assert main(["evaluate", str(trained), "--data", str(data / "val.csv"), "data.workers=0"]) == 2
    assert "1 of 16 videos are not in" in capsys.readouterr().err
    value = evaluate(capsys, str(trained), "--data", str(data / "val.csv"), "retrieval.missing=leave_out")
    assert (value["missing"], value["num_videos"]) == (1, NUM_VAL - 1)
    shuffled = evaluate(capsys, str(trained), "--shuffle-frames")
    assert shuffled["shuffled_frames"] is True
    assert shuffled["loss"] != evaluate(capsys, str(trained))["loss"]


def test_load_gives_the_text_model_and_classifier_commands_refuse_it(
    trained: Path, captions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = side4video.load(trained)
    assert isinstance(model, VideoTextModel)
    assert not model.training
    saved = safetensors.torch.load_file(trained / "side.safetensors")
    held = model.trainable_state()
    assert held.keys() == saved.keys()
    assert all(torch.equal(held[name], saved[name]) for name in saved)
    video = next((captions / "val").rglob("*.mp4"))
    assert main(["predict", str(trained), str(video)]) == 2
    assert "retrieval run" in capsys.readouterr().err
    for option in (["--views", "2x1"], ["--scores", "s.csv"], ["--report", "r.html"]):
        assert main(["evaluate", str(trained), *option]) == 2
        assert f"{option[0]}: '{trained}' is a retrieval run" in capsys.readouterr().err


def test_stopped_inside_an_epoch_and_resumed_ends_at_the_same_bytes(
    captions: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped, steps = tmp_path / "stopped", []
    real = RetrievalTask.after_step

    def counted(self: RetrievalTask) -> None:
        real(self)
        steps.append(1)
        if len(steps) == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RetrievalTask, "after_step", counted)
    assert main([*words(captions, stopped), "--epochs", "2"]) == 130
    assert "stopped after 5 steps, in epoch 2 of 2" in capsys.readouterr().err
    assert main([*words(captions, stopped), "--epochs", "2", "--resume"]) == 0
    assert len(steps) == 8
    for name in ("side.safetensors", "last.safetensors"):
        assert (stopped / name).read_bytes() == (trained / name).read_bytes()
    (state,), (twin,) = (list((run / "state").iterdir()) for run in (stopped, trained))
    assert (state / "optimizer.safetensors").read_bytes() == (twin / "optimizer.safetensors").read_bytes()


def test_chunks_and_a_frozen_text_tower(captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses: dict[str, float] = {}
    # a layer norm does not tie clips together: chunks are exact then
    frozen = ["side.norm=layer", "retrieval.train_text=false", "retrieval.interaction=mean", "--epochs", "1"]
    for name, more in (("whole", []), ("chunks", ["retrieval.chunk_size=3"])):
        assert main([*words(captions, tmp_path / name, *frozen, *more), "--json"]) == 0
        assert json.loads(capsys.readouterr().out).keys() >= {"t2v_r1", "steps", "broken"}
        row = json.loads((tmp_path / name / "metrics.json").read_text())["history"][0]
        losses[name] = row["train_loss"]
    assert losses["chunks"] == pytest.approx(losses["whole"], rel=1e-5)
    out = tmp_path / "chunks"
    assert not [name for name in safetensors.torch.load_file(out / "side.safetensors") if name.startswith("text.")]
    assert json.loads((out / "text.json").read_text())["name"] == "tiny-clip"
    assert isinstance(side4video.load(out), VideoTextModel)
    text = json.loads((out / "text.json").read_text())
    (out / "text.json").write_text(json.dumps({**text, "hash": "0" * 64}))
    assert main(["evaluate", str(out), "data.workers=0"]) == 2
    assert "text tower 'tiny-clip'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--backbone", "timm:vit_tiny_patch16_224"], "text tower"),
        (["data.batch_size=99"], "do not fill one batch of 99"),
        (
            ["retrieval.together=3"],
            "data.batch_size must be a multiple of retrieval.together, which is at least 1; got 8",
        ),
        (["retrieval.interaction=max"], "retrieval.interaction: must be wti or mean"),
        (["retrieval.format=msvd"], "train_list.txt"),
    ],
)
def test_bad_settings(
    captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    given = words(captions, tmp_path / "run", *more)
    if "retrieval.format=msvd" in more:
        given[3] = str(captions)
    assert main(given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err, err
    assert "Traceback" not in err


def test_bad_captions(tmp_path: Path, captions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--task", "retrieval", "--out", str(tmp_path / "run")]) == 2
    assert "name a CSV or JSONL file with video,caption" in capsys.readouterr().err
    empty = captions / "empty.jsonl"
    video = next((captions / "val").rglob("*.mp4")).relative_to(captions)
    empty.write_text(json.dumps({"video": str(video), "caption": "  "}))
    assert main(["train", "--task", "retrieval", str(empty), "--out", str(tmp_path / "run"), *SMALL]) == 2
    assert "line 1: caption must be a text that is not empty" in capsys.readouterr().err


def test_settings_without_effect_are_named(
    captions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("side4video.build.fit", lambda *_, **__: pytest.fail("far enough"))
    with pytest.raises(pytest.fail.Exception, match="far enough"):
        main(words(captions, tmp_path / "run", "data.mixup=0.5", "optim.schedule=constant"))
    assert "without effect in retrieval: data.mixup, optim.schedule" in capsys.readouterr().err
