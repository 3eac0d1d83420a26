"""The table of what is frozen and what trains adds up to the model."""

from __future__ import annotations

import io
from types import ModuleType

from rich.console import Console

from side4video.training.report import format_bytes, part_reports, part_table


def test_parts_add_up_to_the_model(small: ModuleType) -> None:
    model = small.small_model()
    reports = part_reports(model)
    assert sum(part.parameters for part in reports) == sum(p.numel() for p in model.parameters())
    assert sum(part.buffers for part in reports) == sum(b.numel() for b in model.buffers())
    tensors = [*model.parameters(), *model.buffers()]
    assert sum(part.tensors for part in reports) == len(tensors)
    assert sum(part.bytes for part in reports) == sum(t.numel() * t.element_size() for t in tensors)
    assert [part.name for part in reports if not part.trains] == ["backbone small"]
    assert "side.blocks x 3" in [part.name for part in reports]


def test_table_shows_names_counts_and_bytes(small: ModuleType) -> None:
    stream = io.StringIO()
    reports = part_reports(small.small_model())
    Console(file=stream, width=100).print(part_table(reports))
    lines = {line.split("  ")[0]: line for line in stream.getvalue().splitlines()}
    assert "frozen" in lines["backbone small"]
    assert "trains" in lines["head"]
    trained = sum(part.parameters for part in reports if part.trains)
    assert f"{trained:,}" in lines["trained in all"]


def test_bytes_for_people() -> None:
    assert [format_bytes(n) for n in (7, 1023, 1024, 1536 * 1024, 5 * 1024**4)] == [
        "7 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 TiB"
    ]  # fmt: skip
