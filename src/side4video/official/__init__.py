"""The authors' released checkpoints: their names, and models built from nothing but their keys."""

from side4video.official.load import from_official

__all__ = ["from_official"]
