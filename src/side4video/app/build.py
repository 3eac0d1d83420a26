"""Run folders and libraries to everything that the page works with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from side4video.app.footage import Footage
from side4video.app.limits import Limits
from side4video.app.recognise import Backbones, Recognisers, load_runs
from side4video.app.stages import Analysis
from side4video.app.text_search import TextFinder, make_embedder
from side4video.app.workspace import Workspace
from side4video.config.load import load_settings
from side4video.search.embedding import WindowSettings
from side4video.search.library import open_library
from side4video.tasks.recognition import VideoClassifier
from side4video.training.checkpoint import CONFIG
from side4video.training.runtime import start


def build_analysis(
    runs: Sequence[Path],
    libraries: Sequence[str],
    *,
    overrides: Mapping[str, Any],
    limits: Limits,
    temp: Path | None = None,
) -> Analysis:
    """Load every model once; runs and libraries with the same backbone share it.

    Raises:
        CheckpointError, BackboneError: a run is damaged, or its backbone cannot be had.
        StoreError: a library that is none, is damaged, is in use, or whose run is another one now.
        ConfigError: settings that are not allowed, a device that is not there, or no place for uploads.
    """
    backbones = Backbones()
    loaded, runtime = load_runs(runs, overrides, backbones) if runs else ([], None)
    if runtime is None:
        with open_library(libraries[0]) as library:
            settings = load_settings(library.run / CONFIG, overrides)
        runtime = start(settings.train.model_copy(update={"devices": 1}))
    footage = [
        Footage(number, where, list(runs), dict(overrides), backbones, runtime)
        for number, where in enumerate(libraries)
    ]
    finder: TextFinder | None = None
    for run in (run for run in loaded if not isinstance(run.model, VideoClassifier)):
        windows = WindowSettings.for_model(run.settings.data.num_frames)
        embedder = make_embedder(run.model, run.settings, windows, runtime.autocast)
        finder = finder or TextFinder(run.name, embedder, run.settings)
    for library in (library for library in footage if library.knows_text):
        finder = finder or TextFinder(library.name, library.embedder, library.settings)
    recognisers = Recognisers(loaded, runtime, limits) if loaded else None
    workspace = Workspace(limits.max_disk_bytes, temp)
    return Analysis(recognisers, limits, workspace, finder=finder, footage=footage)
