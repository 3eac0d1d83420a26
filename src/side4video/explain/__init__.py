"""Which places, moments and taps made a model say what it says."""

from side4video.explain.attribution import Explanation, explain_clip, explain_text
from side4video.explain.painting import overlay

__all__ = ["Explanation", "explain_clip", "explain_text", "overlay"]
