"""The classifiers of the page: loaded once, sharing backbones, run together on each video.

A video is looked at as `side4video predict` does, with its default views, so both give the same scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from side4video.app.limits import Limits
from side4video.backbones.base import FrozenBackbone
from side4video.build import load_run, pixel_format
from side4video.config.load import load_settings
from side4video.config.schema import RunSettings
from side4video.data.decode import VideoReader
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import TestTransform
from side4video.errors import CheckpointError
from side4video.streaming.scorers import ClassScorer, MiddleCrop, Transform
from side4video.streaming.together import ClipJob, score_together
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel
from side4video.training.checkpoint import BACKBONE, CONFIG
from side4video.training.files import read_json
from side4video.training.runtime import Runtime, start

NUM_CLIPS = 4
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class LoadedRun:
    """A run with its model; `name` is what the page calls it."""

    name: str
    path: Path
    settings: RunSettings
    model: VideoClassifier | VideoTextModel


class Backbones:
    """Frozen image models by what identifies them; each is loaded once."""

    def __init__(self) -> None:
        self._known: dict[str, FrozenBackbone] = {}

    def load(self, path: Path, settings: RunSettings, device: torch.device) -> VideoClassifier | VideoTextModel:
        """The model of a run, on a backbone that is there already if it is the same.

        Raises:
            CheckpointError, BackboneError: the run is damaged, or its backbone cannot be had.
        """
        identity = f"{settings.backbone.precision} {read_json(path / BACKBONE)}"
        model = load_run(path, device=device, backbone=self._known.get(identity))
        assert isinstance(model, VideoClassifier | VideoTextModel)
        self._known.setdefault(identity, model.backbone)
        return model


def load_runs(
    paths: Sequence[Path], overrides: Mapping[str, Any], backbones: Backbones
) -> tuple[list[LoadedRun], Runtime]:
    """The models of some runs, and the device and precision that they run in.

    Raises:
        CheckpointError, BackboneError: a run is damaged, or its backbone cannot be had.
        ConfigError: settings that are not allowed, or a device that is not there.
    """
    stored = [load_settings(path / CONFIG, overrides) for path in paths]
    runtime = start(stored[0].train.model_copy(update={"devices": 1}))
    names = _short_names(paths)
    runs = [
        LoadedRun(name, path, settings, backbones.load(path, settings, runtime.device))
        for name, path, settings in zip(names, paths, stored, strict=True)
    ]
    return runs, runtime


@dataclass(frozen=True)
class Looks:
    """How clips are made of a video: runs with equal looks and backbone share a pass."""

    sampler: FrameSampler
    transform: MiddleCrop

    def read(self, reader: VideoReader, progress: Callable[[float], None]) -> tuple[Tensor, Tensor]:
        """`frames_FCHW`, every frame that a view wants once, and `places_VT`, where those of each view are in them."""
        clips = self.sampler.test(reader.info.num_frames, NUM_CLIPS)
        needed = sorted({index for clip in clips for index in clip})
        parts: list[Tensor] = []
        for part_TCHW in self.in_parts(reader, needed):
            parts.append(self.transform(part_TCHW))
            progress(sum(map(len, parts)) / len(needed))
        place = {index: number for number, index in enumerate(needed)}
        return torch.cat(parts), torch.tensor([[place[index] for index in clip] for clip in clips])

    def in_parts(self, reader: VideoReader, numbers: Sequence[int]) -> Iterator[Tensor]:
        """uint8 frames of full size, TCHW, a few at a time: those of a large video would fill the memory."""
        step = max(1, _CHUNK_BYTES // (3 * reader.info.width * reader.info.height))
        return (reader.read(numbers[first : first + step]) for first in range(0, len(numbers), step))


class Recognisers:
    """The classifiers among the runs, ready to name what a video shows."""

    def __init__(self, runs: Sequence[LoadedRun], runtime: Runtime, limits: Limits) -> None:
        self.runs = [run for run in runs if isinstance(run.model, VideoClassifier)]
        self.runtime, self._limits = runtime, limits
        self._groups: dict[tuple[int, Looks], list[LoadedRun]] = {}
        for run in self.runs:
            self._groups.setdefault((id(run.model.backbone), looks_of(run)), []).append(run)

    def predict(self, path: Path, progress: Callable[[float], None]) -> dict[str, Tensor]:
        """`scores_K` of every run by its name, summing to one.

        Raises:
            VideoError: the video cannot be read.
            CheckpointError: scores that are no numbers.
        """
        found: dict[str, Tensor] = {}
        limits = self._limits
        with VideoReader(path, max_side=limits.max_side, max_pixels=limits.max_pixels) as reader:
            for (_, looks), runs in self._groups.items():

                def tell(share: float, before: int = len(found), more: int = len(runs)) -> None:
                    progress((before + 0.5 * share * more) / len(self.runs))

                frames_FCHW, places_VT = looks.read(reader, tell)
                jobs = [ClipJob(scorer_of(run, looks.transform), places_VT) for run in runs]
                with self.runtime.autocast():
                    scored = score_together(jobs, frames_FCHW, frame_slice=runs[0].settings.backbone.frame_slice)
                for run, scores_VK in zip(runs, scored, strict=True):
                    scores_K = scores_VK.double().mean(0)
                    if not bool(torch.isfinite(scores_K).all()):
                        raise CheckpointError(f"the run {run.name} gives scores that are no numbers: it is damaged")
                    found[run.name] = scores_K
                progress(len(found) / len(self.runs))
        return found


def scorer_of(run: LoadedRun, transform: Transform) -> ClassScorer:
    """A classifier as something that scores windows."""
    assert isinstance(run.model, VideoClassifier)
    return ClassScorer(run.name, run.model, run.settings.data.num_frames, transform)


def looks_of(run: LoadedRun) -> Looks:
    """How a run looks at a video."""
    data = run.settings.data
    middle = MiddleCrop(TestTransform(pixel_format(run.model.backbone.preprocessing), data.resize, 1))
    return Looks(FrameSampler(data.sampling, data.num_frames), middle)


def class_names(model: VideoClassifier) -> tuple[str, ...]:
    """Names of the classes; numbers where the run has none."""
    return model.class_names or tuple(str(number) for number in range(model.head.out_features))


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Folder names, with their parents' where two are equal."""
    names = [path.absolute().name for path in paths]
    if len(set(names)) == len(names):
        return names
    longer = ["/".join(path.absolute().parts[-2:]) for path in paths]
    return longer if len(set(longer)) == len(longer) else [str(path.absolute()) for path in paths]
