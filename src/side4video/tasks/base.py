"""What every task's model has in common, for code that trains, saves and shows any of them."""

from __future__ import annotations

from typing import TypeAlias

from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel

TrainedModel: TypeAlias = VideoClassifier | VideoTextModel
"""Both have `backbone`, `side`, `trainable_state` and `load_trainable_state`."""
