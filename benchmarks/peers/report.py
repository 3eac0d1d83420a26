"""Tables for the documentation, made from the result file alone and put between the page's markers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers.catalog import (
    CHECKPOINTED,
    FRAMES,
    MODES,
    OFFLOADED,
    ONE_CLIP,
    OURS,
    OURS_LIGHT,
    PEERS,
    PLAIN,
    PROBES,
    RELEASED,
    SIZES,
    SLICES,
    Size,
    cells,
)
from peers.predictions import LARGE, PREDICTIONS, SMALL
from peers.results import Results, Row

TABLES, FLOOR = "tables", "floor"
SHORT = FRAMES[0]
GIB = 2**30


def write_docs(results: Results, page: Path) -> None:
    """Put the tables where they belong on a page.

    Raises:
        ValueError: a page without the markers.
    """
    put_between(page, TABLES, tables(results))


def put_between(page: Path, name: str, text: str) -> None:
    """Replace what stands between two markers of a page.

    Raises:
        ValueError: a page without them.
    """
    begin, end = markers(name)
    old = page.read_text(encoding="utf-8")
    if old.count(begin) != 1 or old.count(end) != 1:
        raise ValueError(f"{page} must have one line {begin!r} and one line {end!r}")
    page.write_text(f"{old.split(begin)[0]}{begin}\n\n{text}\n\n{end}{old.split(end)[1]}", encoding="utf-8")


def markers(name: str) -> tuple[str, str]:
    """The comments that a generated part of a page stands between."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def tables(results: Results) -> str:
    """All tables, as Markdown."""
    parts = _missing(results)
    for size in SIZES:
        batch_size = size.batch_sizes[-1]
        parts += [
            f"### {size.label}, batch {batch_size}, {SHORT} frames",
            _methods(results, size),
            _front(results, size),
        ]
    parts += ["### Our memory modes", _modes(results)]
    parts += ["### More frames", "Peak in GiB of the largest batch above.", _frames(results)]
    parts += [f"### ViT-E/14 at smaller batches, {SHORT} frames", "Peak in GiB.", _batches(results, SIZES[-1])]
    parts += ["### Against what was predicted", _predicted(results)]
    parts += ["### Measured on a CPU", _cpu(results)]
    parts += ["### Measured on a graphics card", _gpu(results)]
    parts += ["### Where the numbers come from", _sources(results)]
    return "\n\n".join(parts)


def _missing(results: Results) -> list[str]:
    """A line where rows are lacking."""
    wanted = {(size.label, batch, frames, entry.method, entry.way) for size, batch, frames, entry in cells()}
    there = len(wanted & results.rows["simulated"].keys())
    if there == len(wanted):
        return []
    return [
        f"{there} of {len(wanted)} simulated rows are there; where a cell is empty though the method has it, it has "
        "not been run yet. `python benchmarks/peers.py --missing` adds the rest."
    ]


def floor_table(stored: dict[str, Any]) -> str:
    """What `floor.py` found, a table for each device."""
    parts: list[str] = []
    for found in stored.values():
        hardware = found["hardware"]
        device = ", ".join(hardware["gpus"]) or f"{hardware['cores']} cores of {hardware['processor']}"
        rates = ", ".join(
            f"{rate / 1e12:.2f} TFLOP/s in {name}" for name, rate in sorted(found["matrix_rates"].items())
        )
        first = found["rows"][0]
        clips = f"batch {first['batch_size']}, " if len({row["batch_size"] for row in found["rows"]}) == 1 else ""
        parts.append(
            f"{device}: matrix products at {rates}; side network in {found['side_precision']}; {clips}"
            f"{first['num_frames']} frames of {first['image_size'][0]} px. "
            f"Commit {(found['commit'] or 'unknown')[:7]}, `{found['command']}`."
        )
        rows = [("model", "frozen weights", "mode", "floor, s", "step, s", "step / floor")]
        for row in found["rows"]:
            name = f"{row['size']}, side {row['width']}"
            rows.append(
                (name, row["precision"], row["memory"], f"{row['floor_seconds']:.3f}", f"{row['seconds']:.3f}",
                 f"{row['times_floor']:.2f} x")
            )  # fmt: skip
        parts.append(_table(rows))
    return "\n\n".join(parts) or "Not measured yet."


def _methods(results: Results, size: Size) -> str:
    rows = [
        ("method", "trained, M", "kept, GiB", "plain, GiB", "checkpointed, GiB", "and offloaded", "clip by clip, GiB",
         "step, plain", "checkpointed"),
    ]  # fmt: skip
    for method in (*PEERS, *PROBES):
        ways = {row["way"]: row for row in _at(results, size, method)}
        lean = ways.get(SLICES) or ways.get(CHECKPOINTED)
        plain, mark = ways.get(PLAIN), "*" if SLICES in ways else ""
        rows.append(
            (method, _trained(plain), _gib(plain, "saved_bytes"), _gib(plain), _gib(lean) + mark,
             _gib(ways.get(OFFLOADED)), _gib(ways.get(ONE_CLIP)), _times(plain), _times(lean))
        )  # fmt: skip
    for row in _at(results, size, RELEASED):
        name = RELEASED if row["way"] == PLAIN else f"the same, {row['way']}"
        rows.append((name, _trained(row), _gib(row, "saved_bytes"), _gib(row), "", "", "", _times(row), ""))
    for method in (OURS, OURS_LIGHT):
        for row in _at(results, size, method):
            name = f"{method}, {row['way']}"
            kept = _gib(row, "saved_bytes")
            # plain; what each block keeps; and that offloaded
            peak = ["", "", ""]
            peak[min(MODES.index(row["way"]), 2)] = _gib(row)
            steps = (_times(row), "") if row["way"] == MODES[0] else ("", _times(row))
            rows.append((name, _trained(row), kept, *peak, "", *steps))
        for row in _at(results, size, f"{method}, layer norms"):
            rows.append((row["method"], _trained(row), "", "", "", "", _gib(row), "", _times(row)))
    return _table(rows)


def _front(results: Results, size: Size) -> str:
    """Which rows no other row beats in both memory and arithmetic."""
    rows = [row for row in results.find("simulated", size=size.label, num_frames=SHORT) if row["peak_bytes"]]
    rows = [row for row in rows if row["batch_size"] == size.batch_sizes[-1]]
    adapting = [row for row in rows if row["method"] not in PROBES]
    whole = [row for row in adapting if row["way"] != ONE_CLIP]
    return (
        "Of the methods that adapt the features, no other needs both less memory and less arithmetic than these. "
        f"Seeing the batch at once: {_listed(_pareto(whole))}. With clip by clip allowed: {_listed(_pareto(adapting))}."
    )


def _pareto(rows: Sequence[Row]) -> list[Row]:
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["flops_step"], row["peak_bytes"])):
        if not best or row["peak_bytes"] < best[-1]["peak_bytes"]:
            best.append(row)
    return best


def _listed(rows: Sequence[Row]) -> str:
    return "; ".join(f"{row['method']}, {row['way']} ({_gib(row)} GiB, {_times(row)})" for row in rows) or "none"


def _modes(results: Results) -> str:
    rows = [("model", "mode", "peak, GiB", "kept on the card, GiB", "in host memory, GiB", "step", "over `fast`")]
    for size in SIZES:
        for method in (OURS, OURS_LIGHT):
            found = _at(results, size, method)
            for row in found:
                more = row["flops_step"] / found[0]["flops_step"] - 1
                width = "light" if method == OURS_LIGHT else "full"
                name = f"{size.label} {width}, batch {row['batch_size']}"
                rows.append(
                    (name, row["way"], _gib(row), _gib(row, "saved_bytes"), _gib(row, "host_bytes"), _times(row),
                     f"+{100 * more:.1f} %")
                )  # fmt: skip
    return _table(rows)


def _frames(results: Results) -> str:
    columns = [(size, frames) for size in SIZES for frames in FRAMES]
    heads = [f"{size.label} x {frames}" for size, frames in columns]
    rows: list[tuple[str, ...]] = [("method", "way", *heads)]
    for method, way in _ways(results):
        cells = [_one(results, size, size.batch_sizes[-1], frames, method, way) for size, frames in columns]
        rows.append((method, way, *(_gib(cell) for cell in cells)))
    return _table(rows)


def _batches(results: Results, size: Size) -> str:
    rows: list[tuple[str, ...]] = [("method", "way", *(f"batch {batch}" for batch in size.batch_sizes))]
    for method, way in _ways(results):
        cells = [_one(results, size, batch, SHORT, method, way) for batch in size.batch_sizes]
        if way != ONE_CLIP and any(cells):
            rows.append((method, way, *(_gib(cell) for cell in cells)))
    return _table(rows)


def _predicted(results: Results) -> str:
    rows = [("method", "way", "ViT-B/16", "now", "", "ViT-L/14", "now", "", "step, ViT-B/16", "now")]
    for old in PREDICTIONS:
        small, large = (_one(results, *at, old.method, old.way) for at in (SMALL, LARGE))
        flops = "" if old.flops_b is None else f"{old.flops_b} x"
        rows.append(
            (old.method, old.way, _plain(old.gib_b), _gib(small), _change(old.gib_b, small), _plain(old.gib_l),
             _gib(large), _change(old.gib_l, large), flops, _times(small))
        )  # fmt: skip
    return _table(rows)


def _cpu(results: Results) -> str:
    found = results.find("cpu")
    if not found:
        return "Not measured yet."
    first = found[0]
    reference = next(row for row in found if row["method"] == RELEASED)
    rows = [("method", "way", "seconds a step", "slowest of the steps", "x released layout")]
    for row in found:
        share = row["seconds"] / reference["seconds"]
        rows.append((row["method"], row["way"], f"{row['seconds']:.2f}", f"{row['seconds_max']:.2f}", f"{share:.2f} x"))
    machine = results.runs[first["run"]]["hardware"]
    height, width = first["image_size"]
    text = (
        f"{first['size']} at {height}x{width} px, {first['num_frames']} frames, batch {first['batch_size']}, float32, "
        f"{machine['cores']} cores of {machine['processor']}: median of the steps of one run; compare the ratios, not "
        "the seconds. On a CPU nothing waits elsewhere, so `lean` is `balanced`."
    )
    return f"{text}\n\n{_table(rows)}"


def _gpu(results: Results) -> str:
    found = results.find("gpu")
    if not found:
        return (
            "Not measured: no graphics card has been at hand. `python benchmarks/peers.py --gpu` measures every row of "
            f"{SHORT} frames where one is, in under ten minutes, and sets the measured peaks beside the simulated ones."
        )
    rows = [("model", "method", "way", "measured, GiB", "simulated, GiB", "clips a second")]
    for row in found:
        simulated = _one(results, *(row[name] for name in ("size", "batch_size", "num_frames", "method", "way")))
        speed = "does not fit" if row["seconds"] is None else f"{row['clips_per_second']:.2f}"
        rows.append((row["size"], row["method"], row["way"], _gib(row), _gib(simulated), speed))
    return f"{', '.join(results.runs[found[0]['run']]['hardware']['gpus'])}.\n\n{_table(rows)}"


def _sources(results: Results) -> str:
    rows = [("command", "commit", "date", "torch", "timm", "peft", "processor", "rows")]
    for number, run in enumerate(results.runs):
        count = sum(row["run"] == number for section in results.rows.values() for row in section.values())
        commit = run["commit"] or "unknown"
        rows.append(
            (f"`{run['command']}`", commit[:7] + ("-dirty" if commit.endswith("-dirty") else ""), run["date"],
             run["torch"], run["timm"], run["peft"], run["hardware"]["processor"], str(count))
        )  # fmt: skip
    return _table(rows)


def _at(results: Results, size: Size, method: str) -> list[Row]:
    batch_size = size.batch_sizes[-1]
    return results.find("simulated", size=size.label, batch_size=batch_size, num_frames=SHORT, method=method)


def _one(results: Results, size: Size | str, batch_size: int, frames: int, method: str, way: str) -> Row | None:
    label = size if isinstance(size, str) else size.label
    return results.rows["simulated"].get((label, batch_size, frames, method, way))


def _ways(results: Results) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["method"], row["way"]) for row in results.find("simulated")))


def _gib(row: Row | None, name: str = "peak_bytes") -> str:
    return "" if row is None or row[name] is None else _plain(row[name] / GIB)


def _plain(gib: float | None) -> str:
    return "" if gib is None else f"{gib:.1f}" if gib >= 9.95 else f"{gib:.2f}"


def _times(row: Row | None) -> str:
    return "" if row is None else f"{row['flops_step'] / row['frozen_flops']:.2f} x"


def _trained(row: Row | None) -> str:
    return "" if row is None else f"{row['trainable_parameters'] / 1e6:.1f}"


def _change(old: float | None, row: Row | None) -> str:
    return "" if old is None or row is None else f"{100 * (row['peak_bytes'] / GIB / old - 1):+.0f} %"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * 1}{'---:|' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rest)])
