"""The run folder: what a training leaves behind, and how it is read again.

    side.safetensors    all that trains; the best by validation top-1 or R@1 (its EMA when that is on)
    last.safetensors    the same after the last epoch
    config.yaml         every setting, resolved
    classes.json        class names in order of their numbers; a retrieval run has none
    backbone.json       name, content hash and shape of the frozen model the weights belong to
    backbone.safetensors    that model's weights, where a converted checkpoint keeps them; then they are used
    text.json           the same of a frozen text tower
    preprocessing.json  the pixels it wants
    metrics.json        the history: one entry an epoch, and the best
    broken.json         videos that could not be read
    run.json            versions, seed, commit, command, times
    logs/               curves
    state/step-N/       everything that a resumed run needs; gone on with, never needed to use the model

Each file is replaced whole, and a state appears only once it is complete; the previous one is deleted after that.
Nothing is pickled.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from side4video.backbones.base import FrozenBackbone
from side4video.config.load import dump_settings, known_settings, load_settings
from side4video.config.schema import RunSettings
from side4video.errors import CheckpointError, ConfigError, TrainingError
from side4video.training.files import (
    read_json,
    read_tensors,
    write_bytes,
    write_folder,
    write_json,
    write_tensors,
)

WEIGHTS = "side.safetensors"
LAST_WEIGHTS = "last.safetensors"
CONFIG = "config.yaml"
CLASSES = "classes.json"
BACKBONE = "backbone.json"
OWN_BACKBONE = "backbone.safetensors"
TEXT = "text.json"
PREPROCESSING = "preprocessing.json"
METRICS = "metrics.json"
BROKEN = "broken.json"
RUN = "run.json"
STATE_FOLDER = "state"

# settings that change how a run runs and not what it computes
CHANGEABLE = frozenset(
    {
        "memory",
        "backbone.shard",
        "train.loggers",
        "train.save_every_steps",
        "train.early_stop",
        "train.evaluate_every",
        "train.devices",
        "data.workers",
        "data.broken_tolerance",
    }
)


@dataclass(frozen=True)
class SavedState:
    """A resume state as read from the disk: named tensors by file, and the JSON beside them."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    values: dict[str, Any]


class RunFolder:
    """A run folder by its path; reading checks, writing is atomic."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def holds_run(self) -> bool:
        """Whether a run has been started here."""
        return (self.path / CONFIG).exists()

    def begin(
        self,
        settings: RunSettings,
        backbone: FrozenBackbone,
        class_names: Sequence[str] | None,
        *,
        text: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the folder and write what is known before the first step. The settings come last: they make it a run.

        A retrieval run has no class names, and `text`, the identity of its text tower, when that is frozen.

        Raises:
            TrainingError: the folder cannot be written.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if class_names is not None:
                write_json(self.path / CLASSES, list(class_names))
            if text is not None:
                write_json(self.path / TEXT, dict(text))
            write_json(self.path / BACKBONE, backbone.identity())
            write_json(self.path / PREPROCESSING, asdict(backbone.preprocessing))
            write_bytes(self.path / CONFIG, dump_settings(settings).encode())

    def settings(self) -> RunSettings:
        """The resolved settings.

        Raises:
            CheckpointError: not a run folder, or damaged settings.
        """
        path = self.path / CONFIG
        if not path.is_file():
            raise CheckpointError(f"{self.path}: not a run folder: it has no {CONFIG}")
        try:
            settings = load_settings(path)
        except ConfigError as error:
            raise CheckpointError(f"{path}: damaged: {error}") from error
        own = self.path / OWN_BACKBONE
        if not own.is_file():
            return settings
        # where the folder lies now, not where it was written
        return settings.model_copy(update={"backbone": settings.backbone.model_copy(update={"weights": str(own)})})

    def class_names(self) -> list[str]:
        """Class names in order of their numbers.

        Raises:
            CheckpointError: missing or damaged.
        """
        names = read_json(self.path / CLASSES)
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"{self.path / CLASSES}: damaged: must be a list of class names")
        return names

    def weights(self) -> dict[str, Tensor]:
        """The tensors of side network and head.

        Raises:
            CheckpointError: missing or damaged.
        """
        return read_tensors(self.path / WEIGHTS)

    def check_backbone(self, backbone: FrozenBackbone) -> None:
        """Refuse a frozen model other than the one that the weights were trained beside.

        Raises:
            CheckpointError: another model, or a damaged record.
        """
        self._check_identity(BACKBONE, "backbone", backbone.identity())

    def check_text(self, text: Mapping[str, Any]) -> None:
        """Refuse a frozen text tower, given by its identity, other than the one that was trained beside.

        Raises:
            CheckpointError: another tower, or a damaged record.
        """
        self._check_identity(TEXT, "text tower", text)

    def save_state(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any]) -> Path:
        """Write the resume state of `step`; the previous one goes once this one is complete.

        Raises:
            TrainingError: the disk is full or cannot be written; the previous state is intact.
        """
        older = self._states()
        # one step can be saved twice: before and after its epoch's validation
        number = int(older[-1].name.rpartition("-")[2]) + 1 if older else 1
        folder = self.path / STATE_FOLDER / f"step-{step:09d}-{number:06d}"
        with writing(self.path, kept=older[-1] if older else None):
            write_folder(folder, {**{f"{k}.safetensors": v for k, v in tensors.items()}, "state.json": values})
        for path in (*older, *folder.parent.glob("*.partial")):
            shutil.rmtree(path, ignore_errors=True)
        return folder

    def load_state(self) -> SavedState | None:
        """The newest complete resume state, or nothing when none was ever saved.

        Raises:
            CheckpointError: it is damaged.
        """
        newest = self.newest_state()
        if newest is None:
            return None
        tensors = {path.stem: read_tensors(path) for path in sorted(newest.glob("*.safetensors"))}
        values = read_json(newest / "state.json")
        if not isinstance(values, dict):
            raise CheckpointError(f"{newest / 'state.json'}: damaged: must be a mapping")
        return SavedState(newest, tensors, cast(dict[str, Any], values))

    def save_weights(self, state: Mapping[str, Tensor], name: str = WEIGHTS) -> None:
        """Write the tensors of side network and head.

        Raises:
            TrainingError: the disk is full or cannot be written; the previous file is intact.
        """
        with writing(self.path):
            write_tensors(self.path / name, state)

    def save_json(self, name: str, value: Any) -> None:
        """Write one of the JSON files.

        Raises:
            TrainingError: the disk is full or cannot be written; the previous file is intact.
        """
        with writing(self.path):
            write_json(self.path / name, value)

    def newest_state(self) -> Path | None:
        """Where the newest complete resume state is."""
        states = self._states()
        return states[-1] if states else None

    def _check_identity(self, file: str, what: str, given: Mapping[str, Any]) -> None:
        saved = read_json(self.path / file)
        if not isinstance(saved, dict) or not {"name", "hash"} <= saved.keys():
            raise CheckpointError(f"{self.path / file}: damaged: must hold the {what}'s name and hash")
        if saved["hash"] != given["hash"]:
            raise CheckpointError(
                f"{self.path} was trained on the {what} {saved['name']!r} (content {saved['hash'][:12]}); "
                f"got {given['name']!r} (content {given['hash'][:12]}), whose weights differ"
            )

    def _states(self) -> list[Path]:
        folder = self.path / STATE_FOLDER
        return sorted(path for path in folder.glob("step-*") if path.is_dir() and not path.suffix)


@contextmanager
def writing(folder: Path, kept: Path | None = None) -> Generator[None]:
    """Turn a failed write below `folder` into an error that says what is still there.

    Raises:
        TrainingError: from any OSError inside.
    """
    try:
        yield
    except OSError as error:
        still = f"; the state in {kept} is intact" if kept is not None else ""
        raise TrainingError(f"cannot write to {folder}: {error.strerror or error}{still}") from error


def check_same_settings(saved: RunSettings, given: RunSettings, *, but: Collection[str] = ()) -> None:
    """Refuse to resume a run under settings that would make it another run; `but` names some that may differ.

    Raises:
        ConfigError: naming every setting that differs and may not.
    """
    differing = [
        f"{key}={_value(given, key)!r} (the run has {_value(saved, key)!r})"
        for key in known_settings()
        if key not in CHANGEABLE and key not in but and _value(saved, key) != _value(given, key)
    ]
    if differing:
        allowed = ", ".join(sorted(CHANGEABLE))
        raise ConfigError(
            f"cannot resume with other settings: {'; '.join(differing)}. Only these may change: {allowed}"
        )


def _value(settings: RunSettings, key: str) -> Any:
    value: Any = settings.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value
