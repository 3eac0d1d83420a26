"""What one visitor, and all of them together, may ask of the page."""

from __future__ import annotations

from dataclasses import dataclass

from side4video.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """Bounds of uploads, of the queue and of the disk.

    Raises:
        ConfigError: a bound that lets nothing through.
    """

    max_upload_bytes: int = 200 * 10**6
    max_seconds: float = 600.0
    """Length of a video."""
    max_waiting: int = 32
    """Videos of everybody that are uploaded or wait for their first result."""
    max_disk_bytes: int = 4 * 10**9
    """All uploads and what is made of them."""
    max_waiting_each: int = 8
    """As `max_waiting`, of one visitor."""
    max_videos_each: int = 24
    """Videos that one visitor may have on the page."""
    keep_seconds: float = 3600.0
    """A video that nobody has looked at for so long is deleted."""
    max_side: int = 4096
    max_pixels: int = 4096 * 2304
    max_fps: float = 250.0
    max_work_seconds: float = 1800.0
    """A stage of the work on one video that takes longer is given up."""
    idle_seconds: float = 30.0
    """An upload that sends nothing for so long has ended."""

    def __post_init__(self) -> None:
        for name, value in (("--max-upload", self.max_upload_bytes), ("--max-seconds", self.max_seconds)):
            if not value > 0:
                raise ConfigError(f"{name}: must be more than 0; got {value:g}")
        if self.max_waiting < 1:
            raise ConfigError(f"--queue: must be at least 1; got {self.max_waiting}")
        if self.max_disk_bytes < 2 * self.max_upload_bytes:
            raise ConfigError(
                f"--max-disk: must be at least twice --max-upload ({in_bytes(2 * self.max_upload_bytes)}), since a "
                f"video may have to be written anew for the browser; got {in_bytes(self.max_disk_bytes)}"
            )


def in_bytes(count: float) -> str:
    """A size for people.

    >>> in_bytes(999), in_bytes(12_345_678), in_bytes(200_000_000)
    ('999 B', '12.3 MB', '200 MB')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def in_time(seconds: float) -> str:
    """A length for people.

    >>> in_time(45), in_time(600), in_time(605.4)
    ('45 s', '10 min', '10 min 5 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{rest} s" if not minutes else f"{minutes} min {rest} s" if rest else f"{minutes} min"
