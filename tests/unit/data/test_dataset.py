"""A record becomes clips: the right frames, decoded once, the same whatever came before; broken videos by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from side4video.batch import BrokenClip, Clip
from side4video.data import dataset as dataset_module
from side4video.data.dataset import ClipDataset
from side4video.data.decode import open_video
from side4video.data.manifest import ClipRecord, Manifest
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import PixelFormat, TestTransform, TrainTransform
from side4video.errors import InputError, VideoError

PIXELS = PixelFormat((40, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
T = 4
STEP = 5  # brightness from one frame to the next


def write_video(path: Path, num_frames: int = 40, fps: int = 20) -> Path:
    """A lossless video whose frame i has brightness `STEP * i`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for i in range(num_frames):
            picture = np.full((48, 64, 3), STEP * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    return path


def frame_numbers(frames_TCHW: Tensor) -> list[int]:
    """Which frames of `write_video` a normalised clip shows."""
    return [round(value * 255 / STEP) for value in frames_TCHW.mean((1, 2, 3)).tolist()]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "v.mkv")


def _manifest(*records: ClipRecord) -> Manifest:
    return Manifest(records, ("a", "b", "c"))


def _test_set(video: Path, **changes: object) -> ClipDataset:
    arguments: dict[str, object] = {
        "sampler": FrameSampler("segment", T),
        "transform": TestTransform(PIXELS),
        "mode": "test",
    }
    return ClipDataset(_manifest(ClipRecord(str(video), 2)), **(arguments | changes))  # pyright: ignore[reportArgumentType]


def _train_set(video: Path, **changes: object) -> ClipDataset:
    transform = TrainTransform(PIXELS, flip="on")
    return _test_set(video, **({"transform": transform, "mode": "train"} | changes))


def _clips(item: list[Clip] | BrokenClip) -> list[Clip]:
    assert isinstance(item, list), item
    return item


def test_validation_clip_is_the_samplers(video: Path) -> None:
    data = _test_set(video, mode="val")
    (clip,) = _clips(data[0])
    assert frame_numbers(clip.frames_TCHW) == FrameSampler("segment", T).val(40)
    assert (clip.label, clip.index, clip.path, clip.view) == (2, 0, str(video), 0)
    assert (clip.frames_TCHW.shape, clip.frames_TCHW.dtype) == ((T, 3, 40, 32), torch.float32)
    assert data.clip_shape == (T, 3, 40, 32)


def test_all_clips_of_one_crop_come_before_the_next_crop(video: Path) -> None:
    data = _test_set(video, transform=TestTransform(PIXELS, num_crops=3), num_clips=2)
    clips = _clips(data[0])
    assert data.views == len(clips) == 6
    assert [clip.view for clip in clips] == [0, 1, 2, 3, 4, 5]
    first, second = FrameSampler("segment", T).test(40, 2)
    assert [frame_numbers(clip.frames_TCHW) for clip in clips] == [first, second] * 3


def test_crops_are_left_right_center(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (40, 120, 3))
    (tmp_path / "f").mkdir()
    for number in (1, 2):
        Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "f" / f"{number:03d}.png")
    data = _test_set(tmp_path / "f", transform=TestTransform(PIXELS, num_crops=3))
    left, right, center = (float(clip.frames_TCHW.mean()) for clip in _clips(data[0]))
    assert left < center < right


class _Counting:
    """Opens videos and notes what is read."""

    def __init__(self) -> None:
        self.reads: list[list[int]] = []

    def __call__(self, path: str, *, frame_pattern: str | None = None) -> object:
        reader = open_video(path, frame_pattern=frame_pattern)
        read: Callable[[Sequence[int]], Tensor] = reader.read

        def noted(indices: Sequence[int]) -> Tensor:
            self.reads.append(list(indices))
            return read(indices)

        reader.read = noted  # pyright: ignore[reportAttributeAccessIssue]
        return reader


@pytest.mark.parametrize("mode", ["train", "test"])
def test_every_needed_frame_is_decoded_once(video: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    opened = _Counting()
    monkeypatch.setattr(dataset_module, "open_video", opened)
    if mode == "train":
        data = _train_set(video, repeats=7, transform=TrainTransform(PIXELS))
    else:
        data = _test_set(
            video, sampler=FrameSampler("dense", T), num_clips=5, transform=TestTransform(PIXELS, num_crops=3)
        )
    clips = _clips(data[0])
    (read,) = opened.reads
    assert read == sorted(set(read))
    assert set(read) == {number for clip in clips for number in frame_numbers(clip.frames_TCHW)}
    assert len(read) < len(clips) * T


def test_repeats_are_drawn_apart(video: Path) -> None:
    data = _train_set(video, repeats=3)
    clips = _clips(data[0])
    assert [clip.view for clip in clips] == [0, 1, 2]
    assert len({tuple(frame_numbers(clip.frames_TCHW)) for clip in clips}) == 3


def test_a_clip_depends_on_seed_epoch_index_and_repeat_only(video: Path) -> None:
    record = ClipRecord(str(video), 1)
    manifest = _manifest(*[record] * 3)

    def draw(seed: int, epoch: int, index: int, *, repeats: int = 1) -> list[Tensor]:
        data = ClipDataset(
            manifest, sampler=FrameSampler("segment", T), transform=TrainTransform(PIXELS), seed=seed, repeats=repeats
        )
        return [clip.frames_TCHW for clip in _clips(data[epoch, index])]

    (base,) = draw(1, 2, 0)
    torch.manual_seed(5)
    assert torch.equal(base, draw(1, 2, 0)[0])
    assert torch.equal(base, draw(1, 2, 0, repeats=3)[0])
    for other in (draw(2, 2, 0), draw(1, 3, 0), draw(1, 2, 1), draw(1, 2, 0, repeats=2)[1:]):
        assert not torch.equal(base, other[0])


def test_set_epoch_is_the_epoch_of_plain_indices(video: Path) -> None:
    data = _train_set(video)
    by_pair = _clips(data[7, 0])[0].frames_TCHW
    assert not torch.equal(_clips(data[0])[0].frames_TCHW, by_pair)
    data.set_epoch(7)
    assert torch.equal(_clips(data[0])[0].frames_TCHW, by_pair)


def test_mirrored_clips_carry_the_mirrored_label(video: Path) -> None:
    transform = TrainTransform(PIXELS, flip="swap", flip_labels={2: 0, 0: 2})
    data = _train_set(video, transform=transform, repeats=30)
    assert {clip.label for clip in _clips(data[0])} == {0, 2}


# windows


def test_start_and_end_bound_the_frames(video: Path) -> None:
    """Half a second to one and a half of a 20 fps video: frames 10 to 29."""
    record = ClipRecord(str(video), 0, start_seconds=0.5, end_seconds=1.5)
    data = _test_set(video, mode="val")
    data.manifest = _manifest(record)
    (clip,) = _clips(data[0])
    assert frame_numbers(clip.frames_TCHW) == [10 + i for i in FrameSampler("segment", T).val(20)]
    train = _train_set(video, repeats=40)
    train.manifest = data.manifest
    shown = {number for clip in _clips(train[0]) for number in frame_numbers(clip.frames_TCHW)}
    assert (min(shown), max(shown)) == (10, 29)


def test_a_part_after_the_end_is_broken(video: Path) -> None:
    data = _test_set(video, mode="val")
    data.manifest = _manifest(ClipRecord(str(video), 0, start_seconds=60.0))
    item = data[0]
    assert isinstance(item, BrokenClip)
    assert "part not in the video" in item.reason
    assert (item.index, item.path) == (0, str(video))


def test_frame_folder_with_a_listed_count(tmp_path: Path) -> None:
    for number in range(1, 10):
        Image.new("RGB", (64, 48), (STEP * (number - 1),) * 3).save(tmp_path / f"im_{number:03d}.png")
    data = _test_set(tmp_path, mode="val")
    record = ClipRecord(str(tmp_path), 1, num_frames=8, frame_pattern="im_{:03d}.png")
    data.manifest = _manifest(record, replace(record, num_frames=10), replace(record, num_frames=None))
    (clip,) = _clips(data[0])
    assert frame_numbers(clip.frames_TCHW) == FrameSampler("segment", T).val(8)
    assert data[1] == BrokenClip(1, str(tmp_path), "listed with 10 frames, has 9")
    (clip,) = _clips(data[2])
    assert frame_numbers(clip.frames_TCHW) == FrameSampler("segment", T).val(9)


# broken videos and mistakes


def test_unreadable_videos_are_broken_by_name(video: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    records = [ClipRecord(str(p), 0) for p in (tmp_path / "text.mp4", tmp_path / "empty.mp4", tmp_path / "none.mp4")]
    data = _test_set(video)
    data.manifest = _manifest(*records, ClipRecord("nul\0byte.mp4", 0), ClipRecord(str(video), 0))
    items = [data[i] for i in range(5)]
    assert [type(item).__name__ for item in items] == ["BrokenClip"] * 4 + ["list"]
    assert [item.path for item in items[:3] if isinstance(item, BrokenClip)] == [record.path for record in records]
    assert all(item.reason for item in items if isinstance(item, BrokenClip))


def test_other_errors_are_not_swallowed(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, **_: object) -> object:
        raise ValueError("a mistake of ours")

    monkeypatch.setattr(dataset_module, "open_video", fail)
    with pytest.raises(ValueError, match="a mistake of ours"):
        _test_set(video)[0]

    def broken(path: str, **_: object) -> object:
        raise VideoError(path, "rotten")

    monkeypatch.setattr(dataset_module, "open_video", broken)
    assert _test_set(video)[0] == BrokenClip(0, str(video), "rotten")


def test_index_beyond_the_end(video: Path) -> None:
    with pytest.raises(IndexError, match="record 1 of 1"):
        _test_set(video)[1]


# shuffled frames


def test_shuffled_frames_are_the_same_frames_in_an_order_of_their_own(video: Path) -> None:
    records = [ClipRecord(str(video), 0)] * 20
    plain, shuffled, again, other = (
        _test_set(video, mode="val", sampler=FrameSampler("segment", 8), shuffle_frames=shuffle, seed=seed)
        for shuffle, seed in ((False, 1), (True, 1), (True, 1), (True, 2))
    )
    orders = []
    for data in (plain, shuffled, again, other):
        data.manifest = _manifest(*records)
        orders.append([frame_numbers(_clips(data[3, i])[0].frames_TCHW) for i in range(20)])
    assert all(order == sorted(order) for order in orders[0])
    assert [sorted(order) for order in orders[1]] == orders[0]
    assert orders[1] == orders[2] != orders[3]
    assert len({tuple(order) for order in orders[1]}) > 15


# settings


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"mode": "fit"}, "mode must be train, val or test; got 'fit'"),
        ({"mode": "train"}, "mode 'train' does not go with a TestTransform"),
        ({"num_clips": 0}, "num_clips must be at least 1"),
        ({"mode": "val", "num_clips": 2}, "1 unless mode is 'test'; got 2 in 'val'"),
        ({"repeats": 2}, "1 unless mode is 'train'; got 2 in 'test'"),
    ],
)
def test_bad_settings(video: Path, changes: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        _test_set(video, **changes)
