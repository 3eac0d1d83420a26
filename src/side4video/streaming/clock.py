"""Times of a video as people read them."""

from __future__ import annotations


def clock(seconds: float) -> str:
    """m:ss.s, or h:mm:ss.s in long videos."""
    tenths = round(10 * seconds)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    rest = f"{tenths // 10:02d}.{tenths % 10}"
    return f"{hours}:{minutes:02d}:{rest}" if hours else f"{minutes}:{rest}"


def subtitle_clock(seconds: float) -> str:
    """hh:mm:ss,mmm, as subtitle files write it."""
    thousandths = round(1000 * seconds)
    minutes, thousandths = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{thousandths // 1000:02d},{thousandths % 1000:03d}"
