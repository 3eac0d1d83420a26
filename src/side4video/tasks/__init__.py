"""What is learned: from a batch of clips to losses, outputs and metrics."""

from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel

__all__ = ["VideoClassifier", "VideoTextModel"]
