"""One record of a manifest becomes clips: open the video once, choose frames, decode each once, transform.

What a record gives depends on `(seed, epoch, index, repeat)` and on nothing else: not on the number of workers, not on
the records before it. A video that cannot be read becomes a `BrokenClip`; any other error is a mistake and is raised.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from side4video.batch import BrokenClip, Clip
from side4video.data.decode import open_video
from side4video.data.records import ClipRecord, Manifest
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import TestTransform, TrainTransform
from side4video.errors import InputError, VideoError

Mode = Literal["train", "val", "test"]
EpochIndex = tuple[int, int]
"""(epoch, index of the record): what `ResumableSampler` asks for, so that long-lived workers know the epoch."""


class ClipDataset(Dataset[list[Clip] | BrokenClip]):
    """Map-style data set over a manifest; an item is a list of clips of one record, or the record as broken.

    - `train`: `repeats` clips, frames and pixels drawn anew for each; `view` counts them.
    - `val`: one clip of fixed frames, in as many crops as the transform makes.
    - `test`: `num_clips` clips of fixed frames in each crop; all clips of one crop come before the next crop.

    Index it with `(epoch, index)`, or with `index` alone for the epoch of `set_epoch`, which workers that live on do
    not see. `shuffle_frames` puts the T frames in a random order that depends on `(seed, index)` only: what is still
    recognised then was not motion.

    Raises: InputError for an unknown mode, a transform that does not belong to it, or counts below 1.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        sampler: FrameSampler,
        transform: TrainTransform | TestTransform,
        mode: Mode = "train",
        seed: int = 0,
        num_clips: int = 1,
        repeats: int = 1,
        shuffle_frames: bool = False,
    ) -> None:
        if mode not in ("train", "val", "test"):
            raise InputError(f"mode must be train, val or test; got {mode!r}")
        if isinstance(transform, TrainTransform) != (mode == "train"):
            raise InputError(f"mode {mode!r} does not go with a {type(transform).__name__}")
        for name, value, where in (("num_clips", num_clips, "test"), ("repeats", repeats, "train")):
            if value < 1 or (value != 1 and mode != where):
                raise InputError(f"{name} must be at least 1, and 1 unless mode is {where!r}; got {value} in {mode!r}")
        self.manifest = manifest
        self.sampler = sampler
        self.transform = transform
        self.mode: Mode = mode
        self.seed = seed
        self.num_clips = num_clips
        self.repeats = repeats
        self.shuffle_frames = shuffle_frames
        self._epoch = 0

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def views(self) -> int:
        """Clips that a readable record gives."""
        if isinstance(self.transform, TrainTransform):
            return self.repeats
        return self.num_clips * self.transform.num_crops

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """T, C, H, W of every clip."""
        return self.sampler.num_frames, 3, *self.transform.pixels.size

    def set_epoch(self, epoch: int) -> None:
        """The epoch of items that are asked for by index alone."""
        self._epoch = epoch

    def __getitem__(self, index: int | EpochIndex) -> list[Clip] | BrokenClip:
        epoch, number = (self._epoch, index) if isinstance(index, int) else index
        if not 0 <= number < len(self.manifest):
            raise IndexError(f"record {number} of {len(self.manifest)}")
        record = self.manifest.records[number]
        try:
            return self._clips(record, epoch, number)
        except VideoError as error:
            return BrokenClip(number, record.path, error.reason)

    def _clips(self, record: ClipRecord, epoch: int, number: int) -> list[Clip]:
        generators = [_generator(self.seed, epoch, number, repeat) for repeat in range(self.repeats)]
        frames_UCHW, clips = self._decode(record, generators)
        if self.shuffle_frames:
            order = torch.randperm(self.sampler.num_frames, generator=_generator(self.seed, 0, number, 0, "shuffle"))
            clips = [[slots[i] for i in order.tolist()] for slots in clips]
        made: list[tuple[Tensor, int]]
        if isinstance(self.transform, TrainTransform):
            made = [
                self.transform(frames_UCHW[slots], record.label, generator)
                for slots, generator in zip(clips, generators, strict=True)
            ]
        else:
            made = [(crop_UCHW[slots], record.label) for crop_UCHW in self.transform(frames_UCHW) for slots in clips]
        return [Clip(frames_TCHW, label, number, record.path, view) for view, (frames_TCHW, label) in enumerate(made)]

    def _decode(self, record: ClipRecord, generators: list[torch.Generator]) -> tuple[Tensor, list[list[int]]]:
        """The frames that any clip needs, each once (U of them), and for each clip its T places among them."""
        with open_video(record.path, frame_pattern=record.frame_pattern) as reader:
            try:
                span = reader.frame_range(record.start_seconds, record.end_seconds)
            except VideoError:
                raise
            except InputError as error:
                # the list asks for a part that this video does not have
                raise VideoError(record.path, f"part not in the video: {error}") from error
            span = _listed(record, span)
            if self.mode == "train":
                clips = [self.sampler.train(len(span), generator) for generator in generators]
            elif self.mode == "val":
                clips = [self.sampler.val(len(span))]
            else:
                clips = self.sampler.test(len(span), self.num_clips)
            needed = sorted({index for clip in clips for index in clip})
            places = {index: place for place, index in enumerate(needed)}
            frames_UCHW = reader.read([span[index] for index in needed])
        return frames_UCHW, [[places[index] for index in clip] for clip in clips]


def _listed(record: ClipRecord, span: range) -> range:
    """The first frames of a frame folder, as many as its list says; a list that promises more than there are is wrong.

    Raises: VideoError when the folder has fewer frames than listed.
    """
    if record.num_frames is None or record.start_seconds is not None or record.end_seconds is not None:
        return span
    if record.frame_pattern is None:
        return span
    if record.num_frames > len(span):
        raise VideoError(record.path, f"listed with {record.num_frames} frames, has {len(span)}")
    return span[: record.num_frames]


def _generator(seed: int, epoch: int, index: int, repeat: int, purpose: str = "clip") -> torch.Generator:
    """A generator of its own for every clip, unrelated to its neighbours'."""
    text = f"{purpose} {seed} {epoch} {index} {repeat}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
