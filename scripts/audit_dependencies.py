"""Checks the dependencies, and writes the table of them in docs/dependencies.md.

    python scripts/audit_dependencies.py            checks; exit code 1 when something is wrong
    python scripts/audit_dependencies.py --write    writes the table, too
    python scripts/audit_dependencies.py --advisories   asks the database of known vulnerabilities, with pip-audit

Checked without a network: every installed dependency of ours is pinned in constraints.txt and has the pinned version;
its licence, as its own metadata say, is one that an MIT-licensed project can depend on; it is not marked inactive and
is none of those that we found abandoned. Packages that NVIDIA publishes for CUDA have a licence of their own and come
with PyTorch.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE, CONSTRAINTS = ROOT / "docs" / "dependencies.md", ROOT / "constraints.txt"
BEGIN, END = "<!-- audit: begin (scripts/audit_dependencies.py --write) -->", "<!-- audit: end -->"
PROJECT = "side4video"
CORE = "core"
# what licences are called in metadata, and what we call them; the first that is found counts
LICENCES = (
    (r"apache", "Apache-2.0"),
    (r"bsd|BSD-3", "BSD"),
    (r"\bmit\b|mit license|expat", "MIT"),
    (r"\bisc\b", "ISC"),
    (r"mozilla|mpl", "MPL-2.0"),
    (r"python software|psf", "PSF-2.0"),
    (r"lgpl|lesser", "LGPL"),
    (r"hpnd|historical permission", "HPND"),
    (r"unlicense|public domain|cc0", "public domain"),
    (r"nvidia|cuda", "NVIDIA"),
    (r"\bzlib\b", "Zlib"),
)
# strong copyleft in a package that we import would be a problem; tools that we only run are not part of the program
REFUSED = r"\bagpl|affero|\bgpl"
ABANDONED = frozenset({"decord", "pytorchvideo", "mmcv", "mmaction2", "fairscale", "apex", "nose"})
# what metadata do not say
NOTES = {
    "av": "its wheel brings FFmpeg, which calls itself LGPL-3.0-or-later, and beside it libx264 and libx265, which are "
    "GPL-2.0-or-later; that matters to whoever passes the wheel on, not to who installs it",
}
# known, looked at, and kept
ACCEPTED = {
    "codespell": "GPL-2.0-only, and a tool of ours that is run and never imported or shipped",
    "mkdocs-material": "marked inactive: it gets fixes only, and builds the documentation, nothing that users run",
}


@dataclass(frozen=True)
class Row:
    """One installed dependency."""

    name: str
    version: str
    licence: str
    needed_by: str
    problems: tuple[str, ...]


def pins() -> dict[str, str]:
    """The versions in constraints.txt."""
    lines = [line.split("#")[0].strip() for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines()]
    pairs = [line.split("==") for line in lines if "==" in line]
    return {canonicalize_name(name.strip()): version.split(";")[0].strip() for name, version in pairs}


def needed() -> dict[str, set[str]]:
    """Every package that ours needs, directly or not, and the extras that bring it (`core`: always)."""
    found: dict[str, set[str]] = {}
    extras = [CORE, *sorted(_own()["optional-dependencies"])]
    for extra in extras:
        pending = [(PROJECT, frozenset({"" if extra == CORE else extra}))]
        seen: set[tuple[str, frozenset[str]]] = set()
        while pending:
            name, wanted = pending.pop()
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            for requirement in _requirements(name, wanted):
                inner = canonicalize_name(requirement.name)
                found.setdefault(inner, set()).add(extra)
                pending.append((inner, frozenset({"", *requirement.extras})))
    return found


def _own() -> dict[str, Any]:
    # what is installed from a checkout may have older metadata
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@functools.cache
def _requirements(name: str, extras: frozenset[str]) -> tuple[Requirement, ...]:
    return tuple(_read_requirements(name, extras))


def _read_requirements(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    if name == PROJECT:
        own = _own()
        texts = [
            *own["dependencies"],
            *(text for extra in extras - {""} for text in own["optional-dependencies"][extra]),
        ]
        yield from map(Requirement, texts)
        return
    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    environment = {key: str(value) for key, value in default_environment().items()}
    for requirement in map(Requirement, texts):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in extras):
            yield requirement


def licence_of(name: str) -> str:
    """The licence that a package's metadata say; a question mark when they say none that we know."""
    about = metadata.metadata(name)
    classifiers = [c.rpartition("::")[2].strip() for c in about.get_all("Classifier") or [] if c.startswith("License")]
    said = [about.get("License-Expression") or "", *classifiers, (about.get("License") or "")[:200]]
    text = " ".join([*(part for part in said if part), *([name] if name.startswith(("cuda-", "nvidia-")) else [])])
    if re.search(REFUSED, text, re.IGNORECASE) and not re.search(r"lgpl|lesser", text, re.IGNORECASE):
        return f"REFUSED: {text[:60]}"
    for pattern, called in LICENCES:
        if re.search(pattern, text, re.IGNORECASE):
            return called
    return "?"


def rows() -> list[Row]:
    """All installed dependencies with what is wrong with them."""
    pinned, found = pins(), list[Row]()
    for name, extras in sorted(needed().items()):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        licence = licence_of(name)
        classifiers = metadata.metadata(name).get_all("Classifier") or []
        problems = [
            *(["not in constraints.txt"] if name not in pinned else []),
            *([f"constraints.txt says {pinned[name]}"] if name in pinned and not _same(pinned[name], version) else []),
            *(["no licence in its metadata"] if licence == "?" else []),
            *([licence] if licence.startswith("REFUSED") else []),
            *(["marked inactive"] if any("7 - Inactive" in c for c in classifiers) else []),
            *(["abandoned"] if name in ABANDONED else []),
        ]
        users = extras - {"dev", "docs", "bench"}
        by = CORE if CORE in extras else ", ".join(sorted(users or extras))
        licence = licence.removeprefix("REFUSED: ")
        found.append(Row(name, version, licence, by, () if name in ACCEPTED else tuple(problems)))
    return found


def _same(pinned: str, installed: str) -> bool:
    # a local build (`+cpu`) is of the same version
    return pinned.partition("+")[0] == installed.partition("+")[0]


def table(found: list[Row]) -> str:
    """The page's table: what a user gets with the core, and with each extra."""
    lines = ["| package | version | licence | comes with |", "|---|---|---|---|"]
    shown = [row for row in found if row.needed_by == CORE or set(row.needed_by.split(", ")) - {"dev", "docs", "bench"}]
    lines += [f"| {row.name} | {row.version} | {row.licence} | {row.needed_by} |" for row in shown]
    others = len(found) - len(shown)
    more = f"{others} more come with `dev`, `docs` and `bench` alone, and were checked alike."
    notes = [f"- {name}: {why}." for name, why in sorted({**NOTES, **ACCEPTED}.items())]
    return "\n".join([*lines, "", f"{more} Known, and kept:", "", *notes])


def write_page(found: list[Row]) -> None:
    """Put the table between its markers."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{after}", encoding="utf-8")


def ask_database() -> tuple[int, int, list[str]]:
    """With pip-audit: packages that were looked up, packages that could not be, and known vulnerabilities."""
    words = [sys.executable, "-m", "pip_audit", "-r", str(CONSTRAINTS), "--no-deps", "--disable-pip", "-f", "json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=280)
    try:
        answers = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return 0, len(pins()), []
    asked = [answer for answer in answers if "skip_reason" not in answer]
    known = [f"{a['name']} {a['version']}: {v['id']}" for a in asked for v in a.get("vulns", [])]
    return len(asked), len(answers) - len(asked), known


def main() -> int:
    """Check, say, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--advisories", action="store_true")
    args = parser.parse_args()
    found = rows()
    wrong = [row for row in found if row.problems]
    for row in wrong:
        print(f"{row.name} {row.version}: {'; '.join(row.problems)}")
    print(f"{len(found)} dependencies: {len(found) - len(wrong)} pinned, with a licence that fits, none abandoned")
    if args.write:
        write_page(found)
    if args.advisories:
        asked, unanswered, known = ask_database()
        if not asked:
            print(f"known vulnerabilities: NOT CHECKED, the database did not answer for any of {unanswered} packages")
            return 3
        print(f"known vulnerabilities: {len(known)} in {asked} packages; {unanswered} are not in the database")
        print("\n".join(known))
        return 1 if known or wrong else 0
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
