"""One captioned video becomes a clip with its captions: open it once, choose frames, decode, crop the center.

What a record gives depends on `(seed, epoch, index)` and on nothing else. A video that cannot be read becomes a
`BrokenClip`; any other error is a mistake and is raised. Training does not augment pixels: a mirror would turn "left"
into "right", and half a picture may not show what its caption names.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from side4video.batch import BrokenClip, CaptionBatch, CaptionedClip
from side4video.data.captions import CaptionRecord, CaptionSet
from side4video.data.dataset import EpochIndex
from side4video.data.decode import open_video
from side4video.data.retrieval_sampling import MaskedFrames, strategy_1, strategy_2, strategy_3, strategy_4
from side4video.data.transforms import PixelFormat
from side4video.errors import InputError, VideoError

TrainFrames = Literal["strides", "seconds"]
TestFrames = Literal["every", "centers"]
Captions = Literal["all", "one"]
# captions to an object with ids_MQ and mask_MQ; its class is the backbones' business
Tokenizer = Callable[[Sequence[str]], Any]


@dataclass(frozen=True)
class CenterCrop:
    """Scale the short side to the input size, cut out the middle, normalise: what CLIP does to a picture."""

    pixels: PixelFormat

    def __call__(self, frames_TCHW: Tensor) -> Tensor:
        """uint8 frames of any size to normalised float32 of the input size."""
        height, width = frames_TCHW.shape[-2:]
        scale = max(self.pixels.size[0] / height, self.pixels.size[1] / width)
        # a side that is rounded down must still cover the input
        scaled = (
            max(self.pixels.size[0], math.floor(height * scale + 1e-6)),
            max(self.pixels.size[1], math.floor(width * scale + 1e-6)),
        )
        return self.pixels.normalise(F.center_crop(self.pixels.resize(frames_TCHW, scaled), list(self.pixels.size)))


class CaptionDataset(Dataset[CaptionedClip | BrokenClip]):
    """Map-style data set over a caption set. `mode` is `train` or `test`.

    - `train`: an item is a caption and its video. With `captions="all"` every caption of every video is one, with `one`
      every video, with a caption drawn anew each epoch. Frames are drawn anew each epoch.
    - `test`: an item is a video with all of its captions; frames are fixed.

    Index it with `(epoch, index)`, or with `index` alone for epoch 0. `shuffle_frames` puts the frames in a random
    order that depends on `(seed, record)` only: what is still found then was not motion.

    Raises: InputError for an unknown mode or kind of sampling, or fewer than one frame.
    """

    def __init__(
        self,
        captions: CaptionSet,
        *,
        pixels: PixelFormat,
        num_frames: int,
        mode: Literal["train", "test"] = "train",
        frames: TrainFrames | TestFrames = "strides",
        each: Captions = "all",
        seed: int = 0,
        shuffle_frames: bool = False,
    ) -> None:
        allowed = {"train": get_args(TrainFrames), "test": get_args(TestFrames)}.get(mode)
        if allowed is None:
            raise InputError(f"mode must be train or test; got {mode!r}")
        if frames not in allowed:
            raise InputError(f"frames must be one of {', '.join(allowed)} in mode {mode!r}; got {frames!r}")
        if each not in get_args(Captions):
            raise InputError(f"captions must be one of {', '.join(get_args(Captions))}; got {each!r}")
        if num_frames < 1:
            raise InputError(f"num_frames must be at least 1; got {num_frames}")
        self.captions = captions
        self.transform = CenterCrop(pixels)
        self.num_frames = num_frames
        self.mode = mode
        self.frames: TrainFrames | TestFrames = frames
        self.seed = seed
        self.shuffle_frames = shuffle_frames
        # None: drawn, or all of them
        self.pairs: list[tuple[int, int | None]] = (
            list(captions.pairs())
            if mode == "train" and each == "all"
            else [(record, None) for record in range(len(captions))]
        )

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def views(self) -> int:
        """Clips that a readable item gives."""
        return 1

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """T, C, H, W of every clip."""
        return self.num_frames, 3, *self.transform.pixels.size

    def __getitem__(self, index: int | EpochIndex) -> CaptionedClip | BrokenClip:
        epoch, number = (0, index) if isinstance(index, int) else index
        if not 0 <= number < len(self.pairs):
            raise IndexError(f"item {number} of {len(self.pairs)}")
        generator = _generator("clip", self.seed, epoch, number)
        place, texts = self._texts(number, generator)
        record = self.captions.records[place]
        try:
            frames_TCHW, mask_T = self._decode(record, place, generator)
        except VideoError as error:
            return BrokenClip(place, record.path, error.reason)
        return CaptionedClip(frames_TCHW, mask_T, texts, place, record.path)

    def texts(self, epoch: int, number: int) -> tuple[int, tuple[str, ...]]:
        """The record and the captions of an item, without its video."""
        return self._texts(number, _generator("clip", self.seed, epoch, number))

    def _texts(self, number: int, generator: torch.Generator) -> tuple[int, tuple[str, ...]]:
        place, chosen = self.pairs[number]
        texts = self.captions.records[place].captions
        if self.mode == "train":
            chosen = int(torch.randint(len(texts), (), generator=generator)) if chosen is None else chosen
            texts = (texts[chosen],)
        return place, texts

    def _decode(self, record: CaptionRecord, place: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        with open_video(record.path, frame_pattern=record.frame_pattern) as reader:
            try:
                span = reader.frame_range(record.start_seconds, record.end_seconds)
            except VideoError:
                raise
            except InputError as error:
                # the list asks for a part that this video does not have
                raise VideoError(record.path, f"part not in the video: {error}") from error
            slots = self._choose(len(span), reader.info.average_fps, generator)
            needed = sorted({index for index, real in zip(slots.indices, slots.mask, strict=True) if real})
            places = {index: position for position, index in enumerate(needed)}
            frames_UCHW = self.transform(reader.read([span[index] for index in needed]))
        mask_T = torch.tensor(slots.mask)
        # an empty slot shows the first frame until the mask blackens it
        frames_TCHW = frames_UCHW[[places.get(index, 0) for index in slots.indices]] * mask_T[:, None, None, None]
        if self.shuffle_frames:
            real = mask_T.nonzero().flatten()
            order = torch.randperm(len(real), generator=_generator("shuffle", self.seed, 0, place))
            frames_TCHW[real] = frames_TCHW[real[order]]
        return frames_TCHW, mask_T

    def _choose(self, num_frames: int, frames_per_second: float, generator: torch.Generator) -> MaskedFrames:
        if self.frames == "strides":
            return strategy_3(num_frames, self.num_frames, generator)
        if self.frames == "seconds":
            rate = max(1, round(frames_per_second))
            return strategy_2(num_frames, self.num_frames, generator, frames_per_second=rate)
        return (strategy_1 if self.frames == "every" else strategy_4)(num_frames, self.num_frames)


@dataclass(frozen=True)
class CaptionCollate:
    """Items of a `CaptionDataset` as one batch, their captions tokenised; picklable, so that workers can have it.

    `clip_shape` (T, C, H, W) is that of the empty tensor when all videos are broken.
    """

    tokenizer: Tokenizer
    clip_shape: tuple[int, int, int, int]

    def __call__(self, items: Sequence[CaptionedClip | BrokenClip]) -> CaptionBatch:
        """One batch.

        Raises:
            DataError: a caption without a word that the tokenizer knows.
        """
        clips = [item for item in items if isinstance(item, CaptionedClip)]
        texts = [text for clip in clips for text in clip.captions]
        rows = [row for row, clip in enumerate(clips) for _ in clip.captions]
        # without a caption, what one would look like: shapes are the same in every batch
        tokens = self.tokenizer(texts or ["nothing"])
        return CaptionBatch(
            clip_BTCHW=torch.stack([clip.frames_TCHW for clip in clips]) if clips else torch.empty(0, *self.clip_shape),
            mask_BT=torch.stack([clip.mask_T for clip in clips])
            if clips
            else torch.empty(0, self.clip_shape[0], dtype=torch.bool),
            ids_MQ=tokens.ids_MQ[: len(texts)],
            mask_MQ=tokens.mask_MQ[: len(texts)],
            rows_M=torch.tensor(rows, dtype=torch.int64),
            indices_B=torch.tensor([clip.index for clip in clips], dtype=torch.int64),
            broken=tuple(item for item in items if isinstance(item, BrokenClip)),
        )


def _generator(purpose: str, seed: int, epoch: int, index: int) -> torch.Generator:
    """A generator of its own for every item, unrelated to its neighbours'."""
    digest = hashlib.blake2b(f"caption {purpose} {seed} {epoch} {index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
