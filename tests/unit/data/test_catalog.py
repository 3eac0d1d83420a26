"""Known data sets, label pairs of a mirror, and class names that a mirror exchanges."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from side4video.data.catalog import KNOWN_DATASETS, SOMETHING_FLIP_PAIRS, flip_labels, known_dataset
from side4video.data.class_names import find_mirror_pairs, find_mirror_words
from side4video.errors import ConfigError, DataError, InputError

NAMES = ("hop", "go left", "go right", "spin")


def test_known_data_sets() -> None:
    assert list(KNOWN_DATASETS) == ["ssv1", "ssv2", "k400", "msrvtt", "msvd", "vatex"]
    assert [d.num_classes for d in KNOWN_DATASETS.values()] == [174, 174, 400, None, None, None]
    for name in ("ssv1", "ssv2"):
        known = known_dataset(name)
        assert (known.resize, known.sampling, known.flip) == ("squash", "segment", "swap")
        assert known.flip_pairs == ((86, 87), (93, 94), (166, 167))
    assert [known_dataset(n).frame_pattern for n in ("ssv1", "ssv2", "k400")] == [
        "{:05d}.jpg",
        "{:06d}.jpg",
        "img_{:05d}.jpg",
    ]


def test_something_counts_add_up() -> None:
    """The papers give 108,499 and 220,847 videos in all."""
    for name, total in (("ssv1", 108_499), ("ssv2", 220_847)):
        known = known_dataset(name)
        assert sum(n or 0 for n in (known.train_videos, known.val_videos, known.test_videos)) == total


def test_unknown_data_set() -> None:
    with pytest.raises(InputError, match=r"unknown data set 'sssv2'; known are .* did you mean 'ssv2'"):
        known_dataset("sssv2")


def test_listing_imports_no_torch() -> None:
    code = "import sys, side4video.data.catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_flip_labels_go_both_ways(tmp_path: Path) -> None:
    assert flip_labels([("go left", "go right")], NAMES) == {1: 2, 2: 1}
    file = tmp_path / "pairs.txt"
    file.write_text("go right | go left\n\n")
    assert flip_labels(str(file), NAMES) == {1: 2, 2: 1}


def test_flip_labels_of_something() -> None:
    labels = flip_labels("something", [str(i) for i in range(174)])
    assert labels == {a: b for pair in SOMETHING_FLIP_PAIRS for a, b in (pair, pair[::-1])}
    with pytest.raises(ConfigError, match="numbers Something-Something's 174 classes; this data set has 4"):
        flip_labels("something", NAMES)


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        ([("go left", "go rihgt")], "unknown class 'go rihgt'; did you mean 'go right'"),
        ([("go left", "go right"), ("go left", "hop")], "class 'go left' must be in one pair"),
        ([("hop", "hop")], "class 'hop' must be in one pair"),
        ([], "names no pair"),
    ],
)
def test_bad_flip_pairs(pairs: list[tuple[str, str]], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        flip_labels(pairs, NAMES)


def test_bad_flip_pair_files(tmp_path: Path) -> None:
    file = tmp_path / "pairs.txt"
    file.write_text("go left,go right\nhop\n")
    with pytest.raises(DataError, match="line 2: must be two class names"):
        flip_labels(str(file), NAMES)
    with pytest.raises(DataError, match="no such file"):
        flip_labels("nowhere.txt", NAMES)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("left", "right"),
        ("Pulling something from left to right", "Pulling something from right to left"),
        ("Turning the camera left while filming something", "Turning the camera right while filming something"),
        ("move_left", "move_right"),
        ("swipeLeft", "swipeRight"),
        ("turn-clockwise", "turn-anticlockwise"),
        ("turn clockwise", "turn counter-clockwise"),
        ("rotate_cw", "rotate_ccw"),
        ("drift leftwards", "Drift rightwards"),
    ],
)
def test_mirror_pairs(first: str, second: str) -> None:
    assert find_mirror_pairs([first, "hop", second]) == [(first, second)]
    assert find_mirror_words([first, "hop", second]) == [first, second]


def test_no_mirror_pairs() -> None:
    assert find_mirror_pairs(["up", "down", "bright", "leftover soup", "copyright", "walk left"]) == []
    assert find_mirror_words(["up", "bright", "leftover soup", "walk left"]) == ["walk left"]
    assert find_mirror_pairs([]) == []
