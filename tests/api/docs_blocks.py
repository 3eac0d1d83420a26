"""What README and docs tell a reader to type: fenced blocks, command by command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = {"console", "bash", "sh", "shell", "shell-session", "zsh"}
OTHER = {"python", "text", "yaml", "json", "jsonl", "csv", "toml", "html", "javascript", "mermaid", "ini"}
PROGRAMS = {
    "side4video",
    "python",
    "pip",
    "make",
    "torchrun",
    "srun",
    "git",
    "cat",
    "curl",
    "ffmpeg",
    "scancel",
    "sbatch",
}
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w+-]*)")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, its text."""

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Typed:
    """One command that a reader is told to type, as words."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def blocks() -> Iterator[Block]:
    """Every fenced block of every page."""
    for path in PAGES:
        page = str(path.relative_to(ROOT))
        lines = path.read_text(encoding="utf-8").splitlines()
        start, language, indent = None, "", ""
        for number, line in enumerate(lines):
            fence = _FENCE.match(line)
            if fence is None:
                continue
            if start is None:
                start, language, indent = number, fence["language"], fence["indent"]
            else:
                text = "\n".join(part.removeprefix(indent) for part in lines[start + 1 : number])
                yield Block(page, start + 2, language, text)
                start = None
        assert start is None, f"{page}: the block that begins in line {start} has no end"


def typed() -> list[Typed]:
    """Every line of every shell block, continued lines joined, comments left out."""
    found: list[Typed] = []
    for block in blocks():
        if block.language in SHELL or _looks_like_shell(block):
            found += list(_lines(block))
    return found


def side4video_words(command: Typed) -> tuple[str, ...] | None:
    """What follows `side4video` in a command, also behind a launcher; None for other programs."""
    words = list(command.words)
    if "|" in words:
        words = words[: words.index("|")]
    for start in ("side4video", "side4video.cli.main"):
        if start in words and words[0] in ("side4video", "srun", "torchrun", "python"):
            return tuple(words[words.index(start) + 1 :])
    return None


def _looks_like_shell(block: Block) -> bool:
    """A block without a language whose first line starts with a program."""
    words = block.text.split()
    return block.language == "" and bool(words) and words[0] in PROGRAMS


def _lines(block: Block) -> Iterator[Typed]:
    joined, first = "", block.line
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        if not joined:
            first = number
        joined += line.removeprefix("$ ")
        if joined.endswith("\\"):
            joined = joined[:-1] + " "
            continue
        words = shlex.split(joined, comments=True)
        joined = ""
        if words:
            yield Typed(block.page, first, tuple(words))
