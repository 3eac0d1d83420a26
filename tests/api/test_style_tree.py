"""The tree that STYLE.md draws is the tree that is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "side4video"
TREE = (ROOT / "STYLE.md").read_text(encoding="utf-8").split("```")[1].split("benchmarks/ ")[0]


def entries() -> dict[str, list[str]]:
    """What each line of the tree begins with, and the files that it names."""
    found: dict[str, list[str]] = {}
    for line in TREE.splitlines():
        if line.startswith("  "):
            first, *rest = line.split()
            found[first.rstrip(",")] = [word for word in rest if re.fullmatch(r"[a-z_]+\.py", word)]
    return found


def test_every_name_in_the_tree_is_there() -> None:
    drawn = entries()
    assert len(drawn) > 15
    for first, files in drawn.items():
        assert (PACKAGE / first).exists(), first
        for name in files if first.endswith("/") else ():
            assert (PACKAGE / first / name).is_file(), f"{first}{name}"


def test_everything_at_the_top_is_in_the_tree() -> None:
    drawn = entries()
    for path in PACKAGE.iterdir():
        if path.name in ("__pycache__", "py.typed") or path.name.startswith("build_"):
            continue
        assert path.name + ("/" if path.is_dir() else "") in drawn, path.name
