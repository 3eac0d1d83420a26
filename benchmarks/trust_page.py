"""Writes the numbers of docs/trust.md from the result files of the campaigns; a test compares them.

python benchmarks/trust_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, RESULTS = ROOT / "docs" / "trust.md", Path(__file__).parent / "results"
PARTS = ("fuzz", "bitstream_damage", "campaigns")
CODECS = {
    "h264.mp4": "H.264",
    "hevc.mp4": "H.265",
    "vp9.webm": "VP9",
    "av1.mp4": "AV1",
    "mpeg4.mp4": "MPEG-4",
    "vp8.webm": "VP8",
    "mpeg2.ts": "MPEG-2 in TS",
    "mjpeg.avi": "motion JPEG",
}


def markers(part: str) -> tuple[str, str]:
    """The lines around a part's numbers."""
    return f"<!-- {part}: begin (benchmarks/trust_page.py) -->", f"<!-- {part}: end -->"


def fuzz_table(report: dict[str, Any]) -> str:
    """Outcomes by family."""
    allowed, failed = ("equal", "read", "error"), ("crash", "hang", "memory", "silent", "unnamed")
    lines = [f"| inputs | of them | {' | '.join(allowed)} | failed |", f"|---|{'---:|' * (2 + len(allowed))}"]
    for family, counts in report["families"].items():
        cells = [*(counts.get(name, 0) for name in allowed), sum(counts.get(name, 0) for name in failed)]
        lines.append(f"| {family} | {sum(counts.values())} | {' | '.join(map(str, cells))} |")
    outcomes = report["outcomes"]
    cells = [*(outcomes[name] for name in allowed), sum(outcomes[name] for name in failed)]
    lines.append(f"| **all** | **{report['inputs']}** | {' | '.join(f'**{cell}**' for cell in cells)} |")
    lines += ["", f"Failed: {', '.join(f'{name} {outcomes[name]}' for name in failed)}."]
    limits = report["limits"]
    frames = report["frames"]
    return "\n".join(
        [
            *lines,
            "",
            f"Most processor time of one input: {report['most_cpu_seconds']} s (limit {limits['cpu_seconds']}). Most "
            f"memory: {report['most_resident_mib']} MiB (limit {limits['resident_mib']}). Of {frames['frames_read']} "
            f"frames that were read by number from damaged videos, {frames['exact']} were equal to the drawn frame to "
            f"the last bit; {frames.get('altered', 0)} showed the right number and were not; "
            f"{frames.get('other_number_as_plain', 0)} showed another number than before the damage (packets gone, "
            "files spliced, times exchanged), and so does FFmpeg alone; "
            f"{frames.get('unreadable', 0)} were too damaged to show one. "
            f"{frames['frames_refused']} more were refused.",
            "",
            *_first_pass(report),
            _source(report),
        ]
    )


def _first_pass(report: dict[str, Any]) -> list[str]:
    """What failed when all inputs ran for the first time."""
    first = report.get("first_pass")
    if first is None:
        return []
    failed = ", ".join(f"{f['seed']} ({f['family']}: {f['outcome']})" for f in first["failures"])
    again = sum(count for commit, count in report["commits"].items() if commit != first["commit"])
    return [
        f"All inputs ran at commit `{first['commit'][:7]}` first, where {len(first['failures'])} failed: {failed}. Two "
        "of these were mistakes in the package; of the other three, a writer of files in FFmpeg ended the process that "
        "made the input, and twice the judge was wrong. After the corrections these and the "
        f"{again - len(first['failures'])} inputs that had taken the most memory ran again.",
        "",
    ]


def bitstream_damage_table(report: dict[str, Any]) -> str:
    """Damaged pictures that were shown without a word, in percent, for each setting of the decoder."""
    settings = list(next(iter(report["codecs"].values())))
    head = ["codec", "frames", "refused", *(f"damaged, {setting}" for setting in settings), "another frame", "logged"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for name, found in report["codecs"].items():
        shipped = found["shipped"]
        shown = [f"{100 * _damaged(found[setting]) / found[setting]['frames']:.1f} %" for setting in settings]
        refused = f"{100 * shipped.get('refused', 0) / shipped['frames']:.1f} %"
        others = f"{100 * shipped.get('other_number', 0) / shipped['frames']:.1f} %"
        cells = [CODECS[name], str(shipped["frames"]), refused, *shown, others, str(shipped.get("logged", 0))]
        lines.append(f"| {' | '.join(cells)} |")
    files = f"{report['files']} files a codec, {report['bits']} bits of their compressed pictures flipped in each."
    return "\n".join([*lines, "", f"{files} {_source(report)}"])


def _damaged(found: dict[str, int]) -> int:
    return sum(found.get(kind, 0) for kind in ("slight", "visible", "other_number"))


def campaigns_table(report: dict[str, Any]) -> str:
    """Kills and full disks by command."""
    head = [
        "command",
        "killed",
        "the same afterwards",
        "disk full",
        "exit code 2, clear message",
        "the same afterwards",
    ]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for name, kills in report["summary"]["kills"].items():
        full, rounds = report["summary"]["full"][name], report["full"][name]
        refused = [r for r in rounds if r["code"] != 0]
        lines.append(
            f"| {name} | {kills['killed']} | {kills['equal']} of {kills['rounds']} | {len(refused)} | {full['clear']} "
            f"| {full['equal']} of {full['rounds']} |"
        )
    return "\n".join([*lines, "", f"The disk: {report['disk']}. {_source(report)}"])


def _source(report: dict[str, Any]) -> str:
    hardware = report["hardware"]
    commits = report.get("commits") or {report["commit"]: 0}
    counted = {(commit or "?")[:7]: f" ({count})" if len(commits) > 1 else "" for commit, count in commits.items()}
    named = ", ".join(f"`{commit}`{count}" for commit, count in counted.items())
    return f"`{report['command']}`, commit {named}, {hardware['processor']}, {hardware['cores']} cores."


TABLES = {"fuzz": fuzz_table, "bitstream_damage": bitstream_damage_table, "campaigns": campaigns_table}


def expected(part: str) -> str:
    """What the page must say of a part."""
    return TABLES[part](json.loads((RESULTS / f"{part}.json").read_text(encoding="utf-8")))


def main() -> None:
    """Put every table between its markers."""
    page = PAGE.read_text(encoding="utf-8")
    for part in PARTS:
        begin, end = markers(part)
        page = f"{page.split(begin)[0]}{begin}\n{expected(part)}\n{end}{page.split(end)[1]}"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
