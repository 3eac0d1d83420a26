"""`--memory 12GB`: the memory mode, and if need be the batch size, that the plan finds for a card of that size."""

from __future__ import annotations

from side4video.build_plan import plan_estimator
from side4video.cli.console import note, warn
from side4video.config.schema import RunSettings
from side4video.memory.plan import MODES, Choice, choose, parse_bytes

# any number will do: a classifier's weights are nothing beside the rest
CLASSES = 400


def choose_memory(settings: RunSettings, memory: str, *, going_on: bool) -> RunSettings:
    """The settings with the chosen memory mode and batch size; says what was chosen and why. A run that goes on keeps
    its batch size.

    Raises:
        InputError: a size that is none.
        ConfigError: nothing fits; the message names the smallest need.
    """
    budget = parse_bytes(memory, words=MODES)
    repeats = settings.data.repeated_augmentation if settings.task == "recognition" else 1
    videos = settings.data.batch_size
    note("choosing the memory mode: a training step on tensors without numbers ...")
    estimate = plan_estimator(settings, CLASSES)
    choice, tried = choose(
        lambda mode, size: estimate(mode, size * repeats),
        batch_size=videos,
        budget_bytes=budget,
        may_shrink=not going_on,
    )
    for other in tried:
        note(f"  memory={other.memory} at a batch of {other.batch_size} needs {_gib(other)} GiB: too much")
    note(f"  memory={choice.memory} at a batch of {choice.batch_size} needs {_gib(choice)} GiB: chosen")
    update: dict[str, object] = {"memory": choice.memory}
    if choice.batch_size != videos:
        what = (
            "the contrastive loss then compares with fewer videos"
            if settings.task == "retrieval"
            else "batch norm then sees fewer clips, which is another training (side.norm=layer does not tie clips)"
        )
        warn(f"data.batch_size is {choice.batch_size} instead of {videos}, since {videos} do not fit: {what}")
        update["data"] = settings.data.model_copy(update={"batch_size": choice.batch_size})
    return settings.model_copy(update=update)


def _gib(choice: Choice) -> str:
    return f"{choice.peak_bytes / 2**30:.2f}"
