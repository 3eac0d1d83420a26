"""Writes `docs/results.md`: every file in `benchmarks/results/`, how it was made, and where its numbers stand.

    python scripts/write_results_page.py

A test compares the page with what this script would write, so that no result is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
PAGE = DOCS / "results.md"
# a file's first word -> what is measured, and the page that has its numbers
ABOUT = {
    "app": ("the web page under load", "app.md"),
    "bitstream": ("flipped bits in videos", "trust.md"),
    "campaigns": ("kills and full disks", "trust.md"),
    "camera": ("motion of a camera over real photographs, beside DINOv2", "smoke.md"),
    "decode": ("reading 8 of 300 frames, beside other decoders", "results.md#decoding"),
    "demo": ("the demo over three seeds", "results.md#the-demo"),
    "explain": ("taking away what a map calls important", "explain.md"),
    "export": ("exported models: parity and speed", "export.md"),
    "floor": ("distance from the arithmetic that cannot be left out", "benchmarks.md"),
    "fuzz": ("mutated videos and lists", "trust.md"),
    "giant": ("EVA02-CLIP-E/14 at its real size: loading, and a frozen pass or a training step", "clusters.md"),
    "index": ("`kill -9` while indexing", "search.md"),
    "many": ("three classifiers on one pass", "many-models.md"),
    "memory": ("peak of a training step by mode", "memory.md"),
    "peers": ("memory and arithmetic beside other methods", "benchmarks.md"),
    "plan": ("what a plan itself takes", "memory.md"),
    "quantised": ("error of quantised frozen weights in the gradients", "memory.md"),
    "search": ("latency and recall of search", "stores.md"),
    "sweep": ("several side networks over one frozen pass", "sweep.md"),
    "timeline": ("dense windows over a long video", "timeline.md"),
    "train": ("time of a training step", "benchmarks.md"),
}

HEAD = """# All numbers

<!-- written by scripts/write_results_page.py -->

Every number in these pages was measured by a script in `benchmarks/`, which writes a file in `benchmarks/results/` with
the commit and the machine. Tables between markers are written from these files, and tests keep them equal.

| file | what was measured | command | machine |
|---|---|---|---|
{rows}

## The demo

{demo}

## Decoding

{decode}
"""
DEMO = ("<!-- demo begin -->", "<!-- demo end -->")


def page() -> str:
    """The whole page."""
    reports = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    rows = "\n".join(row(name, report) for name, report in reports.items())
    demo = (ROOT / "README.md").read_text(encoding="utf-8").split(DEMO[0])[1].split(DEMO[1])[0].strip()
    return HEAD.format(rows=rows, demo=demo, decode=decode_table(reports["decode.json"]))


def row(name: str, report: dict[str, Any]) -> str:
    """A line of the table; the page is linked once it is there."""
    what, where = about(name)
    linked = f"[{what}]({where})" if (DOCS / where.partition("#")[0]).is_file() or where.startswith("results") else what
    command = report.get("command", "")
    if not command.startswith("python "):  # the command that the script ran
        command = f"python benchmarks/{Path(name).stem}.py"
    return f"| `{name}` | {linked} | `{command}` | {machine(report.get('hardware', {}))} |"


def about(name: str) -> tuple[str, str]:
    """What a result file is about; a new kind of file says so in its name at least."""
    stem = Path(name).stem
    known = ABOUT.get(stem.split("_")[0])
    return known or (stem.replace("_", " "), "")


def machine(hardware: dict[str, Any]) -> str:
    """Processor, cores and cards."""
    if not hardware:
        return "none: simulated"
    words = f"{hardware.get('cores', '?')} cores of {hardware.get('processor') or hardware.get('cpu', 'unknown')}"
    cards = ", ".join(str(card) for card in hardware.get("gpus", []))
    return f"{words}, {cards}" if cards else words


def decode_table(report: dict[str, Any]) -> str:
    """Clips a second of each reader, by distance of the key frames."""
    results: dict[str, Any] = report["results"]
    readers = list(next(iter(results.values()))["readers"])
    head = "".join(f" {gop}: clips/s | CPU ms a clip |" for gop in results)
    lines = [f"| reader |{head}", "|---|" + "---:|" * (2 * len(results))]
    for reader in readers:
        cells = ""
        for gop in results.values():
            one = gop["readers"].get(reader)
            cells += f" {one['clips_per_second']:.1f} | {one['cpu_ms_per_clip']:.0f} |" if one else " | |"
        lines.append(f"| {reader} |{cells}")
    lines += ["", f"{report['what']}. `{report['command']}`, commit `{report['commit'][:12]}`, "]
    lines[-1] += f"{machine(report['hardware'])}, load {report['hardware']['load_average']}; the readers took turns."
    return "\n".join(lines)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
