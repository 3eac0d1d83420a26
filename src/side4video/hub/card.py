"""The page of a shared run (README.md), written from the run: data, metrics, memory, backbone and its licence, use.

Everything that comes from the run is escaped: a class name is text, whatever stands in it. Paths of the machine that
trained it stay there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import yaml

from side4video.config.schema import RunSettings
from side4video.hub.names import PREFIX
from side4video.version import __version__

SHOWN_CLASSES = 40
METHOD = "https://arxiv.org/abs/2311.15769"


@dataclass(frozen=True)
class CardFacts:
    """What a card says. `metrics` is the run's metrics.json, `provenance` its run.json; both may be empty.

    `peak_bytes` is what a training step takes on a graphics card, as `side4video plan` predicts it.
    """

    repository: str
    settings: RunSettings
    backbone: Mapping[str, Any]
    backbone_licence: str | None
    trained_parameters: int
    weight_bytes: int
    class_names: Sequence[str] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict[str, Any])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    peak_bytes: int | None = None
    licence: str | None = None
    own_weights: bool = False


def model_card(facts: CardFacts) -> str:
    """The page, with the front matter that the hub reads."""
    name = facts.repository.rpartition("/")[2]
    parts = [
        _front_matter(facts),
        f"# {_text(name)}",
        _summary(facts),
        _use(facts),
        _numbers(facts),
        _training(facts),
        _backbone(facts),
        _limits(facts),
        _classes(facts),
        f"Made with side4video {__version__}. The method: [Side4Video]({METHOD}).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(facts: CardFacts) -> str:
    recognition = facts.settings.task == "recognition"
    values: dict[str, Any] = {"library_name": "side4video"}
    if recognition:
        values["pipeline_tag"] = "video-classification"
    if facts.licence is not None:
        values["license"] = facts.licence
    values["tags"] = ["side4video", "video", "action-recognition" if recognition else "text-video-retrieval"]
    metric = best_metric(facts.metrics)
    if metric is not None:
        values["model-index"] = [
            {
                "name": facts.repository.rpartition("/")[2],
                "results": [
                    {
                        "task": {"type": "video-classification" if recognition else "text-video-retrieval"},
                        "dataset": {"name": _data_name(facts.settings), "type": "own"},
                        "metrics": [{"type": metric[0], "value": round(metric[1], 6)}],
                    }
                ],
            }
        ]
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


def best_metric(metrics: Mapping[str, Any]) -> tuple[str, float] | None:
    """The validation metric that the weights were chosen by, and its best value."""
    best = metrics.get("best")
    if not isinstance(best, Mapping):
        return None
    found = [(str(key), value) for key, value in best.items() if str(key).startswith("val_")]  # pyright: ignore[reportUnknownArgumentType]
    return next(((key, float(value)) for key, value in found if isinstance(value, int | float)), None)


def _summary(facts: CardFacts) -> str:
    what = (
        f"A classifier of {len(facts.class_names)} actions in video"
        if facts.settings.task == "recognition"
        else "A model that finds videos by a sentence"
    )
    return (
        f"{what}: a side network of width {facts.settings.side.width} beside the frozen image model "
        f"`{_code(facts.backbone['name'])}`. This repository holds what was trained "
        f"({facts.trained_parameters / 1e6:.2f} million parameters, {facts.weight_bytes / 1e6:.1f} MB); the image "
        "model is not part of it and comes from its own publisher."
    )


def _use(facts: CardFacts) -> str:
    name = f"{PREFIX}{facts.repository}"
    if facts.settings.task == "recognition":
        command = f"side4video predict {name} video.mp4"
        more = (
            "logits_BK = model(clip_BTCHW)  # normalised frames, shape (clips, frames, 3, height, width)\n"
            "names = model.class_names"
        )
    else:
        command = f'side4video index {name} footage/ --out lib\nside4video search "a dog jumps into water" --in lib'
        more = "frames_BTE = model.encode_video(clip_BTCHW)  # shape (clips, frames, 3, height, width)"
    return (
        "## Use\n\n```\npip install side4video\n"
        f"{command}\n```\n\n```python\nimport side4video\n\n"
        f'model = side4video.load("{name}")\n{more}\n```'
    )


def _numbers(facts: CardFacts) -> str:
    rows: list[tuple[str, str]] = []
    metric = best_metric(facts.metrics)
    if metric is not None:
        rows.append((f"best {_text(metric[0])}", f"{metric[1]:.4f}"))
    rows += [
        ("trained parameters", f"{facts.trained_parameters:,}"),
        ("size of side.safetensors", f"{facts.weight_bytes / 1e6:.1f} MB"),
        ("frames of a clip", str(facts.settings.data.num_frames)),
    ]
    if facts.peak_bytes is not None:
        step = f"batch {facts.settings.data.batch_size}, memory={facts.settings.memory}"
        rows.append((f"memory of a training step ({step}; predicted)", f"{facts.peak_bytes / 2**30:.2f} GiB"))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    note = "" if metric is not None else "\n\nNo validation result is recorded in this run."
    return f"## Numbers\n\n| | |\n|---|---|\n{table}{note}"


def _training(facts: CardFacts) -> str:
    settings, at = facts.settings, facts.provenance
    rows: list[tuple[str, Any]] = [
        ("data", _data_name(settings)),
        ("training videos", at.get("train_videos")),
        ("epochs", at.get("epochs")),
        ("batch", settings.data.batch_size),
        ("learning rate", settings.optim.lr),
        ("seed", settings.train.seed),
        ("precision", at.get("precision")),
        ("time, seconds", at.get("seconds")),
        ("hardware", _hardware(at)),
        ("side4video", at.get("side4video")),
    ]
    lines = "\n".join(f"| {name} | {_text(value)} |" for name, value in rows if value not in (None, ""))
    return f"## Training\n\n| | |\n|---|---|\n{lines}\n\nAll settings stand in `config.yaml`."


def _backbone(facts: CardFacts) -> str:
    licence = facts.backbone_licence or "not known to side4video: look at its publisher's page"
    own = (
        "\n\nThe run was trained on weights from a local file. They are needed to use it: another file of that model "
        "is refused by its hash."
        if facts.own_weights
        else ""
    )
    return (
        "## Backbone and licences\n\n"
        f"Frozen image model: `{_code(facts.backbone['name'])}`, content hash "
        f"`{_code(str(facts.backbone['hash'])[:16])}`, checked when the run is loaded. Licence of its weights, as its "
        f"library or publisher states it: {_text(licence)}. Licence of what was trained: "
        f"{_text(facts.licence or 'not stated')}.{own}"
    )


def _limits(facts: CardFacts) -> str:
    lines = [
        "The image model's biases, and those of the videos it was trained on, are in the results.",
        "The numbers above are of the validation set that the weights were chosen by; they are no test of other data.",
    ]
    if facts.settings.task == "recognition":
        lines.insert(0, "It knows the classes below and no other: a video of something else gets one of them too.")
    return "## Limitations\n\n" + "\n".join(f"- {line}" for line in lines)


def _classes(facts: CardFacts) -> str:
    if not facts.class_names:
        return ""
    shown = ", ".join(_text(name) for name in facts.class_names[:SHOWN_CLASSES])
    more = len(facts.class_names) - SHOWN_CLASSES
    rest = f", and {more} more in `classes.json`" if more > 0 else ""
    return f"## Classes\n\n{shown}{rest}"


def _data_name(settings: RunSettings) -> str:
    """The name of the training data's folder or list, without the place where it lies."""
    return "not stated" if settings.data.train is None else PurePath(settings.data.train).name


def _hardware(provenance: Mapping[str, Any]) -> str | None:
    hardware = provenance.get("hardware")
    if not isinstance(hardware, Mapping):
        return None
    gpus: Any = hardware.get("gpus")  # pyright: ignore[reportUnknownMemberType]
    processor: Any = hardware.get("processor")  # pyright: ignore[reportUnknownMemberType]
    return ", ".join(map(str, gpus)) if gpus else str(processor)


def _text(value: Any) -> str:
    """A value as Markdown that shows it as it is, on one line."""
    line = " ".join(str(value).split())
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>()#+!|~$&" else letter for letter in line)


def _code(value: Any) -> str:
    return " ".join(str(value).split()).replace("`", "'")


def as_json(value: Any) -> bytes:
    """A JSON file of a run."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
