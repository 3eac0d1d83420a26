"""`train --cache`: equal weights without running the backbone again, asking first, refusing, dying and going on."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from run.small_runs import settings
from side4video.backbones.open_clip_vit import OpenClipViT
from side4video.cache import store
from side4video.cache.loader import TokenLayout
from side4video.cli.main import main
from side4video.data.motion_files import write_motion_clips

EPOCHS, TRAIN, VAL, BLOCKS = 2, 15, 6, 6
SHORT = ("--epochs", str(EPOCHS), "train.loggers=[csv]", "optim.warmup_epochs=0")


class Counted:
    """How often a frozen block ran."""

    def __init__(self) -> None:
        self.blocks = 0


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    counted, run_block = Counted(), OpenClipViT.run_block

    def counting(self: OpenClipViT, index: int, tokens_IAD: Tensor, context: object) -> Tensor:
        counted.blocks += 1
        return run_block(self, index, tokens_IAD, context)

    monkeypatch.setattr(OpenClipViT, "run_block", counting)
    yield counted


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four clips of 7.4 MB or so in a shard."""
    monkeypatch.setattr(store, "SHARD_BYTES", 4 * 1_300_000)


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
    clips: Path, tmp_path: Path, ran: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ("--cache", str(tmp_path / "cache"), "--yes", "optim.label_smoothing=0")
    assert main(words(clips, tmp_path / "cached", *cache)) == 0
    made = ran.blocks
    # at most eight clips at once: two passes for training, one for validation, each in slices of at most 32 frames
    assert made == BLOCKS * 3 * 2
    monkeypatch.setattr(TokenLayout, "stored", lambda self, items: None)
    assert main(words(clips, tmp_path / "plain", *cache)) == 0
    assert ran.blocks > made
    assert weights(tmp_path / "plain") == weights(tmp_path / "cached")


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
        (("side.taps=[1,3]",), None),
        (("data.sampling=uniform",), 'sampling is "segment, val" there and "uniform, val" here'),
        (("cache.precision=int8",), 'cache_precision is "own" there and "int8" here'),
        (("backbone.precision=bf16",), 'tokens_precision is "float32" there and "bfloat16" here'),
        (("train.seed=9",), None),
        (("--seed", "1", "cache.views=3"), "views is 0 there and 3 here"),
        (("backbone.image_size=72",), "image_size is [64, 64] there and [72, 72] here"),
        (("data.mixup=0.2",), "cache.dir does not go with data.mixup=0.2"),
        (("data.cutmix=1",), "cache.dir does not go with data.cutmix=1"),
        (("data.repeated_augmentation=2",), "does not go with cache.views=fixed"),
    ],
)
def test_a_cache_is_used_for_nothing_that_it_was_not_made_for(
    clips: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str], ran: Counted,
    more: tuple[str, ...], message: str | None,
) -> None:  # fmt: skip
    cache = tmp_path_factory.getbasetemp() / "one-cache"
    given = ("--cache", str(cache), "--epochs", "1")
    if not cache.exists():
        assert main(words(clips, tmp_path_factory.mktemp("first") / "run", *given, "--yes")) == 0
    ran.blocks = 0
    code = main(words(clips, tmp_path_factory.mktemp("run") / "run", *given, *more, "--yes"))
    error = capsys.readouterr().err
    if message is None:
        assert code == 0
    else:
        assert code == 2
        assert message in error
    assert ran.blocks == 0


def test_another_backbone_and_another_video_are_named(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "clips"
    for path in clips.rglob("*.mp4"):
        to = own / path.relative_to(clips)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())
    given = ("--cache", str(tmp_path / "cache"), "--epochs", "1", "--yes")
    assert main(words(own, tmp_path / "run", *given)) == 0
    # random weights come from the seed
    assert main(words(own, tmp_path / "other", *given, "--seed", "7")) == 2
    assert "backbone_hash is" in capsys.readouterr().err
    replaced = own / "train" / "grow" / "0.mp4"
    replaced.write_bytes(replaced.read_bytes() + b"\0")
    assert main(words(own, tmp_path / "third", *given)) == 2
    assert f"{replaced} has" in capsys.readouterr().err
    replaced.unlink()
    assert main(words(own, tmp_path / "fourth", *given)) == 2
    assert "data is" in capsys.readouterr().err


@pytest.mark.usefixtures("small_shards")
def test_a_killed_fill_goes_on_where_it_was(clips: Path, tmp_path: Path, ran: Counted) -> None:
    cache = ("--cache", str(tmp_path / "cache"), "--yes")
    assert main(words(clips, tmp_path / "whole", "--cache", str(tmp_path / "other"), "--yes")) == 0
    whole = ran.blocks
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
    ran.blocks = 0
    assert main(words(clips, tmp_path / "after", *cache)) == 0
    assert 0 < ran.blocks < whole
    assert weights(tmp_path / "after") == weights(tmp_path / "whole")
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
    assert main(words(clips, tmp_path / "run", "--cache", str(cache), "--yes")) == 0


def test_damage_in_a_complete_cache_stops_the_run_by_name(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--cache", str(tmp_path / "cache"), "--epochs", "1", "--yes")
    assert main(words(clips, tmp_path / "run", *given)) == 0
    shard = tmp_path / "cache" / "train" / "00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1000] ^= 1
    shard.write_bytes(content)
    assert main(words(clips, tmp_path / "second", *given)) == 2
    assert "00000.safetensors: damaged: the clips of" in capsys.readouterr().err
    shard.unlink()
    assert main(words(clips, tmp_path / "third", *given)) == 0


def test_retrieval_reads_its_class_tokens_from_the_cache(
    tmp_path: Path, ran: Counted, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = write_motion_clips(tmp_path, seed=0, train_per_class=1, val_per_class=1, processes=1)
    for split in ("train", "val"):
        rows = [f"{clip.video},{caption}" for clip in drawn if clip.split == split for caption in (clip.caption, "so")]
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
    # the class token of block 5 beside the taps: 65 tokens of two blocks and one more, of 128 channels
    ran.blocks = 0
    more = ("retrieval.captions=all", "retrieval.chunk_size=4")
    assert main(["train", *small, "--out", str(all_captions), *cache, *more]) == 0
    assert ran.blocks == 0
    assert "clips of" not in capsys.readouterr().err.partition("part ")[2]
