"""A captioned video becomes a clip with captions: the right frames, masks, captions; broken videos by name."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from side4video.batch import BrokenClip, CaptionBatch, CaptionedClip
from side4video.data.caption_dataset import CaptionCollate, CaptionDataset, CenterCrop
from side4video.data.caption_loader import CaptionLoader
from side4video.data.captions import CaptionRecord, CaptionSet, split_captions
from side4video.data.retrieval_sampling import strategy_1, strategy_4
from side4video.data.transforms import PixelFormat
from side4video.errors import DataError, InputError

PIXELS = PixelFormat((40, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
T, FRAMES, FPS, Q = 4, 30, 10, 6
STEP = 8  # brightness from one frame to the next


@dataclass(frozen=True)
class Ids:
    """What a tokenizer gives."""

    ids_MQ: Tensor
    mask_MQ: Tensor


def tokenize(captions: Sequence[str]) -> Ids:
    """A token a letter of the first word, and a mask of as many."""
    lengths = torch.tensor([[len(caption.split()[0])] for caption in captions])
    ids_MQ = torch.tensor([[ord(letter) for letter in caption[:Q].ljust(Q)] for caption in captions])
    return Ids(ids_MQ, torch.arange(Q) < lengths)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("videos") / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for i in range(FRAMES):
            picture = np.full((48, 64, 3), STEP * (i + 1), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    return str(path)


@pytest.fixture
def captions(video: str, tmp_path: Path) -> CaptionSet:
    (tmp_path / "broken.mp4").write_text("no video")
    return CaptionSet(
        (
            CaptionRecord(video, ("one", "four of them"), "a"),
            CaptionRecord(str(tmp_path / "broken.mp4"), ("gone",), "b"),
            CaptionRecord(video, ("three", "five", "seven"), "c", start_seconds=1.0, end_seconds=2.5),
        )
    )


def make(captions: CaptionSet, mode: str = "train", frames: str = "strides", **more: object) -> CaptionDataset:
    options = {"pixels": PIXELS, "num_frames": T, "mode": mode, "frames": frames, **more}
    return CaptionDataset(captions, **options)  # pyright: ignore[reportArgumentType]


def clip_of(item: CaptionedClip | BrokenClip) -> CaptionedClip:
    assert isinstance(item, CaptionedClip), item
    return item


def numbers(clip: CaptionedClip) -> list[int]:
    """Which frames of the video a clip shows; -1 is a black one."""
    return [round(value * 255 / STEP) - 1 for value in clip.frames_TCHW.mean((1, 2, 3)).tolist()]


def test_training_goes_through_every_caption(captions: CaptionSet) -> None:
    data = make(captions)
    assert len(data) == 6
    items = [data[0, index] for index in range(6)]
    assert [item.captions for item in items if isinstance(item, CaptionedClip)] == [
        ("one",), ("four of them",), ("three",), ("five",), ("seven",),
    ]  # fmt: skip
    assert [item.index for item in items] == [0, 0, 1, 2, 2, 2]
    broken = items[2]
    assert isinstance(broken, BrokenClip)
    assert broken.path.endswith("broken.mp4")
    assert broken.reason


def test_one_caption_a_video_is_drawn_anew_each_epoch(captions: CaptionSet) -> None:
    data = make(captions, each="one")
    assert len(data) == 3
    drawn = {clip_of(data[epoch, 2]).captions for epoch in range(30)}
    assert drawn == {("three",), ("five",), ("seven",)}
    assert clip_of(data[3, 2]).captions == clip_of(make(captions, each="one")[3, 2]).captions


def test_training_frames_are_one_of_each_stride_and_depend_on_the_place_alone(captions: CaptionSet) -> None:
    data = make(captions)
    first = numbers(clip_of(data[0, 0]))
    assert first == numbers(clip_of(make(captions)[0, 0]))
    assert len({tuple(numbers(clip_of(data[epoch, 0]))) for epoch in range(8)}) > 4
    stride = FRAMES // T
    assert [index // stride for index in first] == [0, 1, 2, 3]
    # a part of 1.0 to 2.5 seconds
    part = numbers(clip_of(data[0, 3]))
    assert min(part) >= 10
    assert max(part) < 25


@pytest.mark.parametrize(("kind", "strategy"), [("every", strategy_1), ("centers", strategy_4)])
def test_evaluation_has_fixed_frames_and_all_captions(captions: CaptionSet, kind: str, strategy: object) -> None:
    data = make(captions, "test", kind)
    clip = clip_of(data[0])
    assert numbers(clip) == list(strategy(FRAMES, T).indices)  # type: ignore[operator]
    assert clip.captions == ("one", "four of them")
    assert clip_of(data[2]).captions == ("three", "five", "seven")
    assert clip.mask_T.all()
    assert (clip.frames_TCHW.shape, clip.frames_TCHW.dtype) == ((T, 3, 40, 32), torch.float32)


def test_a_frame_a_second_leaves_empty_slots_black(captions: CaptionSet) -> None:
    clip = clip_of(make(captions, frames="seconds")[0, 0])
    assert clip.mask_T.tolist() == [True, True, True, False]
    shown = numbers(clip)
    assert shown[3] == -1
    assert [later - earlier for earlier, later in pairwise(shown[:3])] == [FPS, FPS]


def test_shuffled_frames_are_the_same_ones_in_another_order(captions: CaptionSet) -> None:
    plain = numbers(clip_of(make(captions, "test", "every", num_frames=7)[0]))
    mixed = numbers(clip_of(make(captions, "test", "every", num_frames=7, shuffle_frames=True)[0]))
    assert mixed != plain
    assert sorted(mixed) == plain


def test_the_center_is_cut_out(video: str) -> None:
    frames_TCHW = torch.zeros(2, 3, 60, 90, dtype=torch.uint8)
    # a bar in the middle of what a 40x32 crop of a picture of 60x90 keeps: 48 columns
    frames_TCHW[..., 21:69] = 255
    cropped = CenterCrop(PIXELS)(frames_TCHW)
    assert cropped.shape == (2, 3, 40, 32)
    assert cropped[..., 1:-1].min() > 0.99
    tall = CenterCrop(PIXELS)(torch.zeros(2, 3, 91, 37, dtype=torch.uint8))
    assert tall.shape == (2, 3, 40, 32)


def test_a_batch_has_its_captions_beside_it(captions: CaptionSet) -> None:
    data = make(captions, "test", "every")
    collate = pickle.loads(pickle.dumps(CaptionCollate(tokenize, data.clip_shape)))
    batch = collate([data[0], data[1], data[2]])
    assert isinstance(batch, CaptionBatch)
    assert batch.clip_BTCHW.shape == (2, T, 3, 40, 32)
    assert batch.mask_BT.shape == (2, T)
    assert batch.rows_M.tolist() == [0, 0, 1, 1, 1]
    assert batch.indices_B.tolist() == [0, 2]
    assert batch.mask_MQ.sum(1).tolist() == [3, 4, 5, 4, 5]
    assert batch.ids_MQ[:, 0].tolist() == [ord(letter) for letter in "oftfs"]
    assert [clip.index for clip in batch.broken] == [1]
    empty = collate([data[1]])
    assert len(empty) == 0
    assert (empty.clip_BTCHW.shape, empty.ids_MQ.shape) == ((0, T, 3, 40, 32), (0, Q))
    moved = batch.to("meta")
    assert {value.device.type for value in (moved.clip_BTCHW, moved.ids_MQ, moved.rows_M)} == {"meta"}


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_goes_on_where_it_is_told(captions: CaptionSet, workers: int) -> None:
    def loader() -> CaptionLoader:
        return CaptionLoader(make(captions), tokenize, train=True, batch_size=2, seed=3, workers=workers)

    whole = loader()
    assert whole.batches_per_epoch == 3
    whole.seek(1, 0)
    batches = list(whole)
    again = loader()
    again.seek(1, 2)
    (last,) = list(again)
    assert torch.equal(last.clip_BTCHW, batches[2].clip_BTCHW)
    assert torch.equal(last.ids_MQ, batches[2].ids_MQ)
    whole.close()
    again.close()
    checked = CaptionLoader(make(captions, "test", "every"), tokenize, train=False, batch_size=2, workers=0)
    assert [batch.indices_B.tolist() for batch in checked] == [[0], [2]]


def test_wrong_arguments(captions: CaptionSet) -> None:
    with pytest.raises(InputError, match="mode must be train or test; got 'val'"):
        make(captions, "val")
    with pytest.raises(InputError, match=r"frames must be one of every, centers in mode 'test'; got 'strides'"):
        make(captions, "test")
    with pytest.raises(InputError, match="captions must be one of all, one; got 'two'"):
        make(captions, each="two")
    with pytest.raises(InputError, match="num_frames must be at least 1; got 0"):
        make(captions, num_frames=0)
    with pytest.raises(DataError, match="do not fill one batch of 9"):
        CaptionLoader(make(captions), tokenize, train=True, batch_size=9)


def test_parts_of_a_file_are_held_out_together() -> None:
    records = [CaptionRecord(f"/v/{n // 2}.mp4", (f"caption {n}",), str(n), start_seconds=n % 2) for n in range(20)]
    whole = CaptionSet(tuple(records), missing=("x",))
    train, val = split_captions(whole, 0.3, seed=1)
    assert len(train) + len(val) == 20
    assert (train.missing, val.missing) == (("x",), ("x",))
    assert len({record.path for record in val.records}) == 3
    assert not {record.path for record in train.records} & {record.path for record in val.records}
    assert split_captions(whole, 0.3, seed=1) == (train, val)
    assert split_captions(whole, 0.3, seed=2) != (train, val)
    with pytest.raises(DataError, match="need at least two videos"):
        split_captions(CaptionSet(tuple(records[:2])), 0.3, seed=1)


def test_a_fingerprint_knows_captions_and_not_where_they_lie() -> None:
    def of(base: str, caption: str = "b") -> str:
        records = (CaptionRecord(f"{base}/1.mp4", ("a",), "1"), CaptionRecord(f"{base}/2.mp4", (caption,), "2"))
        return CaptionSet(records).fingerprint()

    assert of("/here") == of("/elsewhere")
    assert of("/here") != of("/here", "c")
