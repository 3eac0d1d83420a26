"""`train --cache`: equal weights without running the backbone again, asking first, refusing, dying and going on."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from run.small_runs import settings
from side4video.backbones.open_clip_vit import OpenClipViT
from side4video.cache import store
from side4video.cache.loader import TokenLayout
from side4video.cli.main import main

EPOCHS, TRAIN, VAL, BLOCKS = 2, 15, 6, 6
SHORT = ("--epochs", str(EPOCHS), "train.loggers=[csv]", "optim.warmup_epochs=0")


class Counted:
    """How often a frozen block ran."""

    def __init__(self) -> None:
        self.blocks = 0


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted, run_block = Counted(), OpenClipViT.run_block

    def counting(self: OpenClipViT, index: int, tokens_IAD: Tensor, context: object) -> Tensor:
        counted.blocks += 1
        return run_block(self, index, tokens_IAD, context)

    monkeypatch.setattr(OpenClipViT, "run_block", counting)
    return counted


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four clips in a shard."""
    monkeypatch.setattr(store, "SHARD_BYTES", 4 * 1_300_000)


@dataclass(frozen=True)
class Made:
    """A cache of the fixed view in a folder of its own, the clips it was made of, and the run that made it."""

    clips: Path
    cache: Path
    run: Path
    told: str
    blocks: int


@pytest.fixture(scope="module")
def made(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Copy the cache, and put the clips back, before changing them."""
    folder = tmp_path_factory.mktemp("made")
    own, cache, run = folder / "clips", folder / "cache", folder / "run"
    shutil.copytree(clips, own)
    told, blocks = io.StringIO(), 0
    run_block = OpenClipViT.run_block

    def counting(self: OpenClipViT, index: int, tokens_IAD: Tensor, context: object) -> Tensor:
        nonlocal blocks
        blocks += 1
        return run_block(self, index, tokens_IAD, context)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(told):
        patch.setattr(OpenClipViT, "run_block", counting)
        assert main(words(own, run, "--cache", str(cache), "--yes")) == 0
    return Made(own, cache, run, told.getvalue(), blocks)


def words(clips: Path, out: Path, *more: str) -> list[str]:
    data = [str(clips / "train"), "--val", str(clips / "val")]
    return ["train", *data, "--out", str(out), *settings(*SHORT, *more)]


def weights(out: Path) -> bytes:
    return (out / "last.safetensors").read_bytes()


def test_as_many_views_as_epochs_end_at_the_weights_of_training_without_a_cache(
    clips: Path, tmp_path: Path, ran: Counted, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, cached, again = (tmp_path / name for name in ("plain", "cached", "again"))
    augmented = ("data.grayscale=0.5", "data.flip=on", "data.repeated_augmentation=2")
    assert main(words(clips, plain, *augmented)) == 0
    cache = (*augmented, "--cache", str(tmp_path / "cache"), "--yes", f"cache.views={EPOCHS}")
    assert main(words(clips, cached, *cache)) == 0
    assert weights(cached) == weights(plain)
    told = capsys.readouterr().err
    assert f"({2 * EPOCHS * TRAIN + VAL} clips of " in told
    assert "the backbone does not run any more" in told
    ran.blocks = 0
    assert main(words(clips, again, *cache)) == 0
    assert ran.blocks == 0
    assert weights(again) == weights(plain)
    # the scores of validation too
    assert (again / "metrics.json").read_text().count("val_top1") == EPOCHS + 1


def test_the_fixed_view_ends_at_the_weights_of_training_on_it_without_stored_tokens(
    made: Made, tmp_path: Path, ran: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    # at most eight clips at once: two passes for training, one for validation, each in slices of at most 32 frames
    assert made.blocks == BLOCKS * 3 * 2
    assert "training sees one fixed view of a clip, without augmentation" in made.told
    assert "caching train: 15 of 15 clips" in made.told
    monkeypatch.setattr(TokenLayout, "stored", lambda self, items: None)
    assert main(words(made.clips, tmp_path / "plain", "--cache", str(made.cache))) == 0
    assert ran.blocks > made.blocks
    assert weights(tmp_path / "plain") == weights(made.run)


def test_int8_says_that_it_is_approximate_and_by_how_much(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--cache", str(tmp_path / "cache"), "--yes", "cache.precision=int8", "--epochs", "1")
    assert main(words(clips, tmp_path / "run", *given)) == 0
    told = capsys.readouterr().err
    assert "tokens in int8, approximate" in told
    percent = float(told.partition("tokens are ")[2].partition(" %")[0])
    assert 0.1 < percent < 5


def test_without_a_terminal_it_asks_for_yes_and_writes_nothing(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    assert main(words(clips, tmp_path / "run", "--cache", str(cache))) == 2
    error = capsys.readouterr().err
    assert "error: the feature cache takes 26." in error
    assert "--yes writes it without asking" in error
    assert not cache.exists()
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: "n\n", raising=False)
    assert main(words(clips, tmp_path / "run", "--cache", str(cache))) == 2
    assert "was not written" in capsys.readouterr().err
    assert not cache.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("data.num_frames=7",), "num_frames is 6 there and 7 here"),
        (("side.taps=[1,3]", "--epochs", "1"), None),
        (("data.sampling=uniform",), 'sampling is "segment, val" there and "uniform, val" here'),
        (("data.resize=squash",), "transform is "),
        (("cache.precision=int8",), 'cache_precision is "own" there and "int8" here'),
        (("backbone.precision=bf16",), 'tokens_precision is "float32" there and "bfloat16" here'),
        # random weights come from the seed
        (("train.seed=9",), "backbone_hash is "),
        (("cache.views=3",), "views is 0 there and 3 here"),
        (("backbone.image_size=72",), "image_size is [64, 64] there and [72, 72] here"),
        (("data.mixup=0.2",), "cache.dir does not go with data.mixup=0.2"),
        (("data.cutmix=1",), "cache.dir does not go with data.cutmix=1"),
        (("data.repeated_augmentation=2",), "does not go with cache.views=fixed"),
        (("cache.views=0",), "must be fixed or a whole number from 1; got 0"),
    ],
)
def test_a_cache_is_used_for_nothing_that_it_was_not_made_for(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], ran: Counted,
    more: tuple[str, ...], message: str | None,
) -> None:  # fmt: skip
    code = main(words(made.clips, tmp_path / "run", "--cache", str(made.cache), *more, "--yes"))
    assert code == (0 if message is None else 2)
    assert (message or "the backbone does not run any more") in capsys.readouterr().err
    assert ran.blocks == 0


def test_videos_that_were_replaced_or_are_gone_are_noticed(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = made.clips / "train" / "grow" / "0.mp4"
    content = video.read_bytes()
    try:
        video.write_bytes(content + b"0")
        assert main(words(made.clips, tmp_path / "run", "--cache", str(made.cache))) == 2
        assert f"{video} has {len(content) + 1} bytes and had {len(content)}" in capsys.readouterr().err
        video.unlink()
        assert main(words(made.clips, tmp_path / "run", "--cache", str(made.cache))) == 2
        assert "data is " in capsys.readouterr().err
    finally:
        video.write_bytes(content)


@pytest.mark.usefixtures("small_shards")
def test_a_killed_fill_goes_on_where_it_was(made: Made, tmp_path: Path, ran: Counted) -> None:
    clips, cache = made.clips, ("--cache", str(tmp_path / "cache"), "--yes")
    child = os.fork()
    if child == 0:
        written, write = 0, store.write_bytes

        def dying(path: Path, content: bytes) -> None:
            nonlocal written
            written += 1
            if written == 3:
                path.with_name(f"{path.name}.partial").write_bytes(content[: len(content) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, content)

        store.write_bytes = dying
        main(words(clips, tmp_path / "killed", *cache))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    kept = sorted(path.name for path in (tmp_path / "cache" / "train").iterdir())
    assert kept == [
        "00000.json", "00000.safetensors", "00001.json", "00001.safetensors", "00002.safetensors.partial", "cache.json"
    ]  # fmt: skip
    # one of the shards that stayed is damaged meanwhile
    first = tmp_path / "cache" / "train" / "00000.safetensors"
    first.write_bytes(first.read_bytes()[:-1] + b"\x55")
    assert main(words(clips, tmp_path / "after", *cache)) == 0
    # the second shard was there: four clips less pass the backbone
    assert ran.blocks < made.blocks
    assert weights(tmp_path / "after") == weights(made.run)
    assert not list((tmp_path / "cache").rglob("*.partial"))


@pytest.mark.usefixtures("small_shards")
def test_a_full_disk_leaves_whole_shards_only(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, written, write = tmp_path / "cache", 0, store.write_bytes

    def full(path: Path, content: bytes) -> None:
        nonlocal written
        written += 1
        if written == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_bytes", full)
        assert main(words(clips, tmp_path / "run", "--cache", str(cache), "--yes")) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert sorted(path.name for path in (cache / "train").iterdir()) == [
        "00000.json", "00000.safetensors", "cache.json"
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("side4video.build_cache.free_bytes", lambda path: 1_000_000)
        assert main(words(clips, tmp_path / "run", "--cache", str(cache), "--yes")) == 2
    assert "its disk has 1.0 MB free" in capsys.readouterr().err
    (cache / "val").rename(tmp_path / "elsewhere")
    (cache / "val").mkdir()
    (cache / "val" / "notes.txt").touch()
    assert main(words(clips, tmp_path / "run", "--cache", str(cache), "--yes")) == 2
    assert "exists and is no cache" in capsys.readouterr().err


def test_damage_in_a_complete_cache_stops_the_run_by_name(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = Path(shutil.copytree(made.cache, tmp_path / "cache"))
    shard = cache / "train" / "00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1000] ^= 1
    shard.write_bytes(content)
    assert main(words(made.clips, tmp_path / "second", "--cache", str(cache))) == 2
    assert "00000.safetensors: damaged: the clips of" in capsys.readouterr().err
    shard.write_bytes(content[:-1])
    assert main(words(made.clips, tmp_path / "third", "--cache", str(cache))) == 2
    assert "MB still missing" in capsys.readouterr().err


def test_retrieval_reads_its_class_tokens_from_the_cache(
    made: Made, tmp_path: Path, ran: Counted, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        videos = sorted((made.clips / split).rglob("*.mp4"))
        rows = [f"{video},{text} {video.parent.name}" for video in videos for text in ("a square", "see it")]
        (tmp_path / f"{split}.csv").write_text("\n".join(["video,caption", *rows]))
    small = (
        *("--task", "retrieval", str(tmp_path / "train.csv"), "--val", str(tmp_path / "val.csv"), "--epochs", "2"),
        *("--backbone", "tiny-clip", "backbone.pretrained=false", "side.width=24", "side.taps=[0,3]"),
        *("data.workers=0", "data.num_frames=5", "data.batch_size=6", "train.accelerator=cpu", "optim.lr=1e-3"),
        *("retrieval.train_text=false", "retrieval.captions=one", "train.loggers=[csv]"),
    )
    plain, cached, all_captions = (tmp_path / name for name in ("plain", "cached", "all"))
    assert main(["train", *small, "--out", str(plain)]) == 0
    cache = ("--cache", str(tmp_path / "cache"), "cache.views=2", "--yes")
    assert main(["train", *small, "--out", str(cached), *cache]) == 0
    assert weights(cached) == weights(plain)
    # 65 tokens of two taps and the class token of the last block, 128 channels in 16 bits, and 8-bit pixels
    clip_bytes = 5 * ((2 * 65 + 1) * 128 * 2 + 3 * 64 * 64)
    assert f" clips of {clip_bytes // 1000} kB" in capsys.readouterr().err
    ran.blocks = 0
    more = ("retrieval.captions=all", "retrieval.chunk_size=4", "optim.epochs=1")
    assert main(["train", *small, "--out", str(all_captions), *cache, *more]) == 0
    assert ran.blocks == 0
