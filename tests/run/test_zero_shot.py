"""`evaluate --zero-shot`, and heads that start from class names, on drawn clips."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from run.small_runs import TINY
from side4video.cli.main import main
from side4video.data.drawing import COLOURS

COLOUR_NAMES = ("red", "green", "blue")
FRAMES = ("data.num_frames=3", "data.workers=0", "train.accelerator=cpu")


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of a coloured square that moves, in folders named after the colour."""
    folder = tmp_path_factory.mktemp("coloured")
    generator = np.random.default_rng(5)
    for name in COLOUR_NAMES:
        (folder / name).mkdir()
        for number in range(4):
            with av.open(str(folder / name / f"{number}.mp4"), "w") as container:
                stream = container.add_stream("mpeg4", rate=10)
                stream.width, stream.height, stream.pix_fmt = 72, 64, "yuv420p"
                top, shade = int(generator.integers(10, 30)), int(generator.integers(180, 220))
                for step in range(5):
                    frame_HWC = np.full((64, 72, 3), shade, np.uint8)
                    frame_HWC[top : top + 22, 10 + 5 * step : 32 + 5 * step] = COLOURS[name]
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
                container.mux(stream.encode())
    return folder


def test_clips_are_named_without_training(coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--zero-shot", "tiny-clip", str(coloured), "--views", "2x3", *FRAMES]
    scores, report = tmp_path / "scores.csv", tmp_path / "new" / "report.html"
    more = ["--scores", str(scores), "--report", str(report), "--json"]
    assert main([*words, "head.templates=['a {} square', 'a large {} square in the middle']", *more]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["num_videos"], result["zero_shot"], result["broken"]) == (12, "tiny-clip", 0)
    assert result["top1"] > 0.8, "a guess is 0.33"
    assert len(scores.read_text().splitlines()) == 13
    assert "not trained, tiny-clip" in report.read_text()
    # names that lie about the colours are as wrong as they were right
    names = tmp_path / "names"
    for name, other in zip(COLOUR_NAMES, (*COLOUR_NAMES[1:], COLOUR_NAMES[0]), strict=True):
        (names / other).parent.mkdir(exist_ok=True)
        (names / other).symlink_to(coloured / name)
    assert (
        main(["evaluate", "--zero-shot", "tiny-clip", str(names), *FRAMES, "head.templates=a {} square", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["top1"] < 0.2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--zero-shot", "timm:vit_tiny_patch16_224", "backbone.pretrained=false"], "has no text tower"),
        (["--zero-shot", "tiny-clip", "--split", "train"], "--split: has no meaning with --zero-shot"),
        (["--zero-shot", "tiny-clip", "head.templates=a square"], "each must have {} where the class name goes"),
        (["--zero-shot", "tini-clip"], "did you mean 'tiny-clip'"),
        (["head.templates={} here"], "head.templates: belongs to --zero-shot"),
    ],
)
def test_what_cannot_be_is_said(
    coloured: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(coloured), *words, *FRAMES]) == 2
    assert message in capsys.readouterr().err


def test_a_head_starts_from_the_names(coloured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heads = {}
    words = ["train", str(coloured), *TINY, *FRAMES, "data.batch_size=4", "optim.epochs=1", "optim.lr=1e-30"]
    for init, seed in (("text", 3), ("text", 4), ("random", 3)):
        out = tmp_path / f"{init}{seed}"
        extra = ["backbone.pretrained=true", f"head.init={init}", f"train.seed={seed}", "data.shots=2"]
        assert main([*words, *extra, "--out", str(out)]) == 0
        assert "training clips: 6 of 9 (data.shots=2), 2 of each of 3 classes" in capsys.readouterr().err
        from safetensors.torch import load_file

        heads[init, seed] = load_file(out / "side.safetensors")
        assert json.loads((out / "run.json").read_text())["train_videos"] == 6
    weight_KS = heads["text", 3]["head.weight"]
    # a step at this rate moves nothing that can be seen
    assert heads["text", 3]["head.bias"].abs().max() < 1e-20
    gram, other = (w @ w.T for w in (weight_KS, heads["text", 4]["head.weight"]))
    torch.testing.assert_close(gram / gram[0, 0], other / other[0, 0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(weight_KS, heads["text", 4]["head.weight"]), "a rotation of its own for each seed"
    plain = heads["random", 3]["head.weight"]
    assert not torch.allclose(gram / gram[0, 0], (plain @ plain.T) / (plain @ plain.T)[0, 0], atol=0.05)
    assert torch.equal(heads["random", 3]["side.position"], heads["text", 3]["side.position"])
    # the report says how much it was trained on
    assert main(["evaluate", str(tmp_path / "text3"), "--data", str(coloured)]) == 0
    assert "trained on 6 clips (2 of each class), beside" in (tmp_path / "text3/evaluation/report.html").read_text()
    assert (
        main([*words, "--out", str(tmp_path / "no"), "backbone.name=timm:vit_tiny_patch16_224", "head.init=text"]) == 2
    )
    assert "head.init=text: backbone" in capsys.readouterr().err
