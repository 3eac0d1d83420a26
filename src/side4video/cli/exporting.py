"""A run to exported files: the model in float32 on the CPU, and frames of a video to compare the files on."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import Tensor

from side4video.build import build_backbone, load_run, pixel_format
from side4video.config.schema import RunSettings
from side4video.data.caption_dataset import CenterCrop
from side4video.data.decode import open_video
from side4video.data.motion_files import encode_clip
from side4video.data.motions import draw_motion, motion_classes
from side4video.data.sampling import uniform_val
from side4video.data.transforms import TestTransform
from side4video.errors import ConfigError
from side4video.export.onnx_files import require_onnx
from side4video.export.parts import Sizes, What
from side4video.export.record import make_record
from side4video.export.write import Exported, Progress, export_model, file_format, planned_paths
from side4video.search.run_identity import run_identity
from side4video.tasks.base import TrainedModel
from side4video.training.checkpoint import RunFolder

MORE_FRAMES = 6


def export_run(
    run: Path,
    out: Path,
    *,
    what: What,
    sizes: Sizes,
    int8: bool,
    verify: Path | None,
    tolerance: float | None,
    progress: Progress,
) -> list[Exported]:
    """Write the files of a run that `export_model` describes.

    Raises:
        ConfigError: a file is there already, or as `export_model`.
        CheckpointError, BackboneError: the run, or its backbone, cannot be had.
        VideoError: the video to compare on cannot be read.
    """
    if file_format(out) == "onnx":
        require_onnx()
    settings = RunFolder(run).settings()
    for path in planned_paths(out, task=settings.task, what=what):
        if path.exists():
            raise ConfigError(f"OUT {path}: is there already, and nothing is overwritten; choose another")
    out.parent.mkdir(parents=True, exist_ok=True)
    model = load_exact(run, settings)
    record = make_record(model, settings, weights_hash=run_identity(run)["weights_hash"])
    frames_TCHW = frames_to_compare(model, settings, verify)
    return export_model(
        model,
        record,
        out,
        frames_TCHW,
        what=what,
        sizes=sizes,
        int8=int8,
        tolerance=tolerance,
        progress=progress,
    )


def load_exact(run: Path, settings: RunSettings) -> TrainedModel:
    """The model of a run on the CPU with its frozen weights in float32, whatever it was trained with.

    Raises:
        CheckpointError, BackboneError: as `load_run`.
    """
    plain = {
        "precision": "fp32",
        "quantise": "none",
        "stream_weights": False,
        "compile": False,
        "frame_slice": None,
        "shard": False,
    }
    exact = settings.model_copy(update={"backbone": settings.backbone.model_copy(update=plain)})
    return load_run(run, device="cpu", backbone=build_backbone(exact, device="cpu"))


def frames_to_compare(model: TrainedModel, settings: RunSettings, video: Path | None) -> Tensor:
    """Normalised frames of a video, as the run prepares them; without one, of a clip that is drawn and encoded.

    Raises:
        VideoError: the video cannot be read.
    """
    if video is None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "drawn.mp4"
            encode_clip(draw_motion(motion_classes()[0], np.random.default_rng(0)), path)
            return frames_to_compare(model, settings, path)
    with open_video(video) as reader:
        total = reader.info.num_frames
        places = uniform_val(total, min(total, settings.data.num_frames + MORE_FRAMES))
        frames_TCHW = reader.read(places)
    pixels = pixel_format(model.backbone.preprocessing)
    if settings.task == "retrieval":
        return CenterCrop(pixels)(frames_TCHW)
    return TestTransform(pixels, settings.data.resize)(frames_TCHW)[0]
