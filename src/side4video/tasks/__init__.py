"""What is learned: from a batch of clips to losses, outputs and metrics."""

from side4video.tasks.recognition import VideoClassifier

__all__ = ["VideoClassifier"]
