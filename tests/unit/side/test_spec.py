"""Settings of a side network: dialects, taps, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from side4video.errors import ConfigError
from side4video.side.spec import SideSpec, resolve_taps


@pytest.mark.parametrize(
    ("taps", "depth", "expected"),
    [
        ("all", 4, (0, 1, 2, 3)),
        ("every_second", 6, (1, 3, 5)),
        ("every_second", 5, (1, 3)),
        ("every_second", 1, (0,)),
        ("top:2", 6, (4, 5)),
        ("top:6", 6, (0, 1, 2, 3, 4, 5)),
        ([3, 0], 5, (0, 3)),
        ([-1, 0], 5, (0, 4)),
    ],
)
def test_taps(taps: str | list[int], depth: int, expected: tuple[int, ...]) -> None:
    assert resolve_taps(taps, depth) == expected


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ("some", "all, every_second, top:N"),
        ("top:x", "all, every_second, top:N"),
        ("top:7", r"N in 1\.\.6"),
        ("top:0", r"N in 1\.\.6"),
        ([], "at least one"),
        ([6], r"0\.\.5"),
        ([-7], r"0\.\.5"),
        ([2, 2], "not repeat"),
        ([5, -1], "not repeat"),
    ],
)
def test_bad_taps_are_refused(taps: str | list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_taps(taps, 6)


@pytest.mark.parametrize(("width", "heads"), [(64, 1), (160, 2), (320, 5), (576, 9), (48, 1)])
def test_heads_follow_the_width(width: int, heads: int) -> None:
    assert SideSpec(width=width).heads == heads


def test_dialects_differ_as_released() -> None:
    clip, eva = SideSpec.for_dialect("clip"), SideSpec.for_dialect("eva")
    assert (clip.norm_order, clip.projection_norm, clip.final_norm, clip.taps, clip.width) == (
        "pre",
        "input",
        True,
        "all",
        320,
    )
    assert (eva.norm_order, eva.projection_norm, eva.final_norm, eva.taps, eva.width) == (
        "post",
        "output",
        False,
        "every_second",
        576,
    )
    assert SideSpec.for_dialect("clip", retrieval=True).position_on_class
    assert SideSpec.for_dialect("eva", retrieval=True).final_norm


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "at least 1"),
        ({"width": 100, "num_heads": 3}, "must divide width 100"),
        ({"width": 200}, "must divide width 200"),
        ({"temporal_kernel": 4}, "must be odd"),
        ({"temporal": "lstm"}, "conv, attention, none"),
        ({"representation": "max"}, "gap, class, extra"),
        ({"norm": "group"}, "batch, layer"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SideSpec(), **change)


def test_unknown_dialect_is_refused() -> None:
    with pytest.raises(ConfigError, match="clip or eva"):
        SideSpec.for_dialect("vit")  # type: ignore[arg-type]
