"""What is frozen and what trains, as numbers and as a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from side4video.tasks.base import TrainedModel
from side4video.tasks.recognition import VideoClassifier


@dataclass(frozen=True)
class PartReport:
    """One part of a model. `parameters` and `buffers` count values, `bytes` holds both, as far as they are in this
    process."""

    name: str
    trains: bool
    tensors: int
    parameters: int
    buffers: int
    bytes: int


def part_reports(model: TrainedModel) -> list[PartReport]:
    """The frozen backbone, the side network by its parts, and what follows it, in the order in which a clip meets them.

    The parameters of a part are its own; the lines add up to the whole model.
    """
    parts: list[tuple[str, nn.Module]] = [(f"backbone {model.backbone.name}", model.backbone)]
    side = dict(model.side.named_children())
    loose = list(model.side.named_parameters(recurse=False))
    reports = [_report(name, module.parameters(), module.buffers()) for name, module in parts]
    if loose:
        names = ", ".join(name for name, _ in loose)
        reports.append(_report(f"side: {names}", (value for _, value in loose), ()))
    for name, module in side.items():
        count = f" x {len(module)}" if isinstance(module, nn.ModuleList) else ""
        reports.append(_report(f"side.{name}{count}", module.parameters(), module.buffers()))
    if isinstance(model, VideoClassifier):
        reports.append(_report("head", model.head.parameters(), model.head.buffers()))
        return reports
    reports.append(_report("side_proj, logit_scale", (model.side_proj, model.logit_scale), ()))
    reports.append(_report("frame_head", model.frame_head.parameters(), model.frame_head.buffers()))
    if model.wti is not None:
        reports.append(_report("wti", model.wti.parameters(), ()))
    reports.append(_report(f"text tower {model.text_tower.name}", model.text.parameters(), model.text.buffers()))
    return reports


def part_table(reports: Iterable[PartReport]) -> Table:
    """The reports as a table for a terminal, with the totals of what trains and of what is frozen."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("part", ""):
        table.add_column(heading)
    for heading in ("tensors", "parameters", "buffers", "memory"):
        table.add_column(heading, justify="right")
    listed = list(reports)
    for part in listed:
        table.add_row(
            part.name, "trains" if part.trains else "frozen", *_numbers([part]), style=None if part.trains else "dim"
        )
    table.add_section()
    for trains, name in ((False, "frozen in all"), (True, "trained in all")):
        table.add_row(name, "", *_numbers([part for part in listed if part.trains is trains]), style="bold")
    return table


def format_bytes(count: float) -> str:
    """A size for people: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _numbers(parts: list[PartReport]) -> tuple[str, str, str, str]:
    tensors = sum(part.tensors for part in parts)
    parameters, buffers = sum(part.parameters for part in parts), sum(part.buffers for part in parts)
    return f"{tensors:,}", f"{parameters:,}", f"{buffers:,}", format_bytes(sum(part.bytes for part in parts))


def _report(name: str, parameters: Iterable[Tensor], buffers: Iterable[Tensor]) -> PartReport:
    owned, kept = list(parameters), list(buffers)
    return PartReport(
        name=name,
        trains=any(parameter.requires_grad for parameter in owned),
        tensors=len(owned) + len(kept),
        parameters=sum(parameter.numel() for parameter in owned),
        buffers=sum(buffer.numel() for buffer in kept),
        bytes=sum(_own_bytes(tensor) for tensor in (*owned, *kept)),
    )


def _own_bytes(tensor: Tensor) -> int:
    """What this process has of a tensor, which may be spread over several."""
    here = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return here.numel() * here.element_size()
