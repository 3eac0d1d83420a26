"""Is a written file the model? Both get the same decoded frames, in clips of several sizes; outputs are compared.

Scores (which sum to one) are compared as they are; logits, embeddings and similarities as parts of their own largest
value where that is above one, since float32 rounds in proportion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from side4video.errors import DataError
from side4video.export.parts import Part, Sizes

TOLERANCE = 1e-4
INT8_TOLERANCE = 0.05
Runner = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Difference:
    """`largest` of all outputs and clips, `by_output` the same for each; `clips` counts what was compared.

    `same_best` is the share of clips whose largest entry of the first output is the same one.
    """

    largest: float
    by_output: dict[str, float]
    clips: int
    same_best: float


def clips_of(frames_TCHW: Tensor, num_frames: int, sizes: Sizes) -> list[Tensor]:
    """Clips of the sizes that a file takes, cut from the frames of a video.

    A free number of frames is tried with a run's own, more, and one; a free batch with one clip and with several.

    Raises:
        DataError: no frames.
    """
    if not len(frames_TCHW):
        raise DataError("there is no frame to compare on")
    batches = [1, 3] if sizes.batch == "dynamic" else [sizes.batch]
    lengths = [num_frames, num_frames + 3, 1] if sizes.frames == "dynamic" else [sizes.frames]
    shapes = [(batches[place % len(batches)], length) for place, length in enumerate(lengths)]
    if len(batches) > len(shapes):
        shapes.append((batches[-1], lengths[0]))
    clips: list[Tensor] = []
    for batch, length in shapes:
        places = [[(3 * row + step) % len(frames_TCHW) for step in range(length)] for row in range(batch)]
        clips.append(torch.stack([frames_TCHW[place] for place in places]))
    return clips


@torch.no_grad()
def compare(
    part: Part, run: Runner, clips: Sequence[Tensor], *, limits: Mapping[str, tuple[int, int]] | None = None
) -> Difference:
    """How far a file's outputs are from the model's; not a number counts as infinitely far.

    What is outside `limits`, the least and the most that a free size may be, is left out.
    """
    by_output = {spec.name: 0.0 for spec in part.outputs}
    same, rows, compared = 0, 0, 0
    for clip_BTCHW in clips:
        tensors = part.feed(clip_BTCHW)
        if not _within(limits or {}, part, tensors):
            continue
        wanted = part.module(*tensors)
        wanted = list(wanted) if isinstance(wanted, tuple) else [wanted]
        found = run(tensors)
        for spec, mine, theirs in zip(part.outputs, found, wanted, strict=True):
            far = _far(mine, theirs, scaled=spec.name != "scores")
            by_output[spec.name] = max(by_output[spec.name], far)
        best = found[0].argmax(-1) == wanted[0].argmax(-1)
        same, rows = same + int(best.sum()), rows + best.numel()
        compared += len(clip_BTCHW)
    assert compared, "no clip was within the limits"
    return Difference(max(by_output.values()), by_output, compared, same / rows)


def _within(limits: Mapping[str, tuple[int, int]], part: Part, tensors: Sequence[Tensor]) -> bool:
    sizes = [
        (word, size)
        for spec, tensor in zip(part.inputs, tensors, strict=True)
        for word, size in zip(spec.shape, tensor.shape, strict=True)
    ]
    return all(
        limits[word][0] <= size <= limits[word][1] for word, size in sizes if isinstance(word, str) and word in limits
    )


def _far(mine: Tensor, theirs: Tensor, *, scaled: bool) -> float:
    if mine.shape != theirs.shape:
        return float("inf")
    difference = (mine.double() - theirs.double()).abs().max()
    if not bool(torch.isfinite(difference)):
        return float("inf")
    scale = max(1.0, float(theirs.abs().max())) if scaled else 1.0
    return float(difference) / scale
