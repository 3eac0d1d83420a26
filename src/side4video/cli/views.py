"""`--views CLIPSxCROPS`: how many looks at a video are averaged."""

from __future__ import annotations

import re
from dataclasses import dataclass

from side4video.errors import ConfigError

_FORM = re.compile(r"(\d+)x(\d+)")
_CROPS = (1, 3, 5)


@dataclass(frozen=True)
class Views:
    """`clips` choices of T frames, each in `crops` parts of the picture."""

    clips: int
    crops: int

    @property
    def count(self) -> int:
        """Views of one video."""
        return self.clips * self.crops

    def __str__(self) -> str:
        return f"{self.clips}x{self.crops}"


def parse_views(text: str) -> Views:
    """`4x3` as 4 clips x 3 crops.

    Raises:
        ConfigError: another form, no clip, or a number of crops that does not exist.
    """
    found = _FORM.fullmatch(text)
    if found is None or int(found[1]) < 1 or int(found[2]) not in _CROPS:
        raise ConfigError(
            f"--views: must be CLIPSxCROPS, at least 1 clip and 1, 3 or 5 crops, such as 4x3; got '{text}'"
        )
    return Views(int(found[1]), int(found[2]))
