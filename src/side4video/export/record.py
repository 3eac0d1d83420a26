"""What an exported file says about itself: all that someone needs to feed it and to read its answer, as JSON values."""

from __future__ import annotations

from typing import Any

from side4video.backbones.trunk import Preprocessing
from side4video.config.schema import RunSettings
from side4video.export.parts import Part, TensorSpec
from side4video.tasks.base import TrainedModel
from side4video.tasks.recognition import VideoClassifier
from side4video.version import __version__

PRECISIONS = ("float32", "int8")


def make_record(model: TrainedModel, settings: RunSettings, *, weights_hash: str) -> dict[str, Any]:
    """What all files of a model have in common.

    `resize` is how a picture gets its size before the middle is cut out: `short` (the aspect ratio stays, the picture
    covers 8/7 of the input), `squash` (8/7 of the input's height and 10/7 of its width) or `cover` (the aspect ratio
    stays, the picture covers the input).
    """
    recognition = isinstance(model, VideoClassifier)
    pixels: Preprocessing = model.backbone.preprocessing
    record: dict[str, Any] = {
        "side4video": __version__,
        "task": settings.task,
        "num_frames": settings.data.num_frames,
        "sampling": settings.data.sampling if recognition else settings.retrieval.test_frames,
        "resize": settings.data.resize if recognition else "cover",
        "image_size": list(pixels.image_size),
        "interpolation": pixels.interpolation,
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "backbone": {"name": model.backbone.name, "hash": model.backbone.content_hash()},
        "weights_hash": weights_hash,
        "taps": list(model.side.taps),
    }
    if isinstance(model, VideoClassifier):
        return record | {"class_names": list(model.class_names or map(str, range(model.head.out_features)))}
    tower = model.text_tower
    return record | {
        "interaction": model.interaction,
        "text": {"name": tower.name, "context_length": tower.context_length, "vocab_size": tower.vocab_size},
    }


def part_record(record: dict[str, Any], part: Part, *, precision: str = "float32") -> dict[str, Any]:
    """The record of one file."""
    return record | {
        "part": part.name,
        "precision": precision,
        "inputs": [_tensor(spec) for spec in part.inputs],
        "outputs": [_tensor(spec) for spec in part.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}
