"""Which places and moments of a clip made the side network say what it says.

What enters the side network (the frozen tokens of each tap, and the pixels of the stem) is moved in a straight line
from a baseline, in which no place and no moment differs from any other, to the clip. The gradient of the score, taken
at a few points of that line and multiplied by the distance, says what each token adds: all contributions together are
the score of the clip less that of the baseline, up to the error of the sum over few points (`missing` says how much).
Only the side network is differentiated. The frozen blocks run once, without gradients.

The score is the log-odds of the class against all others, which no constant added to all logits changes; of a caption,
its similarity.

Source: integrated gradients, arXiv:1703.01365. We differ in the baseline (means over the clip, not zeros: the side
network has never seen zeros) and in starting from tokens in place of pixels.
Shapes: L, what enters the side network: the stem's pixels, when there is a stem, then the taps. A, all tokens of a
frame.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from side4video.backbones.trunk import LayerTokens
from side4video.errors import nearest_names
from side4video.side.network import SideNetwork
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel

STEPS = 16
PIXELS = "pixels"
Score = Callable[[Tensor], Tensor]
"""frames_BTS to a scalar."""


@dataclass(frozen=True)
class Explanation:
    """What made a model say `label` of one clip; tensors are float32 on the CPU.

    `score` is the probability of class number `target`, or a caption's similarity (`target` is None then).

    `maps_TYX` are places, `frames_T` moments and `taps_L` the parts of the side network's input (`tap_names`): each
    holds shares of what speaks for the label, none below 0, that sum to 1 (or are all 0 when nothing speaks for it).

    `contributions_LT` has signs and a unit: how much each part and moment, its class token included, adds to the
    `evidence` (log-odds of the class, or similarity) beyond that of a clip without places and moments, `baseline`. Its
    sum and `missing` together are `evidence - baseline`.
    """

    label: str
    target: int | None
    score: float
    maps_TYX: Tensor
    frames_T: Tensor
    taps_L: Tensor
    tap_names: tuple[str, ...]
    contributions_LT: Tensor
    evidence: float
    baseline: float

    @property
    def missing(self) -> float:
        """What the contributions lack of `evidence - baseline`, because the line was walked in few steps."""
        return self.evidence - self.baseline - float(self.contributions_LT.double().sum())


def explain_clip(
    model: VideoClassifier, clip_BTCHW: Tensor, target: int | str | None = None, *, steps: int = STEPS
) -> Explanation:
    """Which places and moments of one normalised clip (B = 1) speak for a class; default: the likeliest one.

    More `steps` bring the sum of the contributions nearer to what it stands for, and cost as much more.

    Raises:
        ValueError: not one clip, a model in training mode, an unknown class, one class only, or steps below 1.
    """
    _check(model, clip_BTCHW, steps)
    if model.head.out_features < 2:
        raise ValueError("a model with one class cannot be explained: there is nothing that it chose between")
    chosen = None if target is None else _class_number(model, target)
    with _own_gradients():
        clip_BTCHW = clip_BTCHW.to(model.backbone.device).clone()
        layers = _tokens(model.backbone.stream(clip_BTCHW, model.side.taps, frame_slice=model.video.frame_slice))
        scores_K = _logits(model, model.side(clip_BTCHW, layers).frames_BTS)
        number = int(scores_K.argmax()) if chosen is None else chosen

        def score(frames_BTS: Tensor) -> Tensor:
            return log_odds(_logits(model, frames_BTS), number)

        parts = _integrate(model.side, clip_BTCHW, layers, score, steps)
        probability = float(scores_K.softmax(0)[number])
    label = str(number) if model.class_names is None else model.class_names[number]
    return _explanation(model.side, parts, label=label, target=number, score=probability)


def explain_text(
    model: VideoTextModel, clip_BTCHW: Tensor, ids_MQ: Tensor, mask_MQ: Tensor, text: str, *, steps: int = STEPS
) -> Explanation:
    """Which places and moments of one normalised clip (B = 1) make it similar to one caption (M = 1), called `text`.

    The frozen class token of the last block, to which the side network adds, has no place and stays as it is.

    Raises:
        ValueError: not one clip or one caption, a model in training mode, or steps below 1.
    """
    _check(model, clip_BTCHW, steps)
    if len(ids_MQ) != 1:
        raise ValueError(f"one caption is explained at a time; got {len(ids_MQ)}")
    with _own_gradients():
        clip_BTCHW = clip_BTCHW.to(model.backbone.device).clone()
        taps = sorted({*model.side.taps, model.backbone.depth - 1})
        layers = _tokens(model.backbone.stream(clip_BTCHW, taps, frame_slice=model.video.frame_slice))
        last = layers[-1]
        tokens_MQE = model.encode_text(ids_MQ.to(clip_BTCHW.device).clone())
        mask_MQ = mask_MQ.to(clip_BTCHW.device)
        mask_VT = torch.ones(clip_BTCHW.shape[:2], dtype=torch.bool, device=clip_BTCHW.device)

        def score(frames_BTS: Tensor) -> Tensor:
            frames_VTE = model.frame_head(model.backbone, last, frames_BTS @ model.side_proj)
            return model.similarity(tokens_MQE, mask_MQ, frames_VTE, mask_VT)[0, 0]

        tapped = [layer for layer in layers if layer.layer in model.side.taps]
        parts = _integrate(model.side, clip_BTCHW, tapped, score, steps)
    return _explanation(model.side, parts, label=text, target=None, score=parts.evidence)


def log_odds(scores_K: Tensor, target: int) -> Tensor:
    """The logarithm of the odds of a class against all others, from logits."""
    others = torch.cat([scores_K[:target], scores_K[target + 1 :]])
    return scores_K[target] - others.logsumexp(0)


@dataclass(frozen=True)
class _Parts:
    """Signed contributions of patches and, of the taps, of class tokens; and the score at both ends of the line."""

    patches_LTYX: Tensor
    prefix_LT: Tensor
    evidence: float
    baseline: float


def _integrate(side: SideNetwork, clip_BTCHW: Tensor, layers: list[LayerTokens], score: Score, steps: int) -> _Parts:
    clip_BTCHW = clip_BTCHW.float()
    pixels = [] if side.stem is None else [(clip_BTCHW, clip_BTCHW.mean((1, 3, 4), keepdim=True))]
    line = [*pixels, *((layer.tokens_BTAD, _mean_tokens(layer)) for layer in layers)]

    def at(share: float) -> list[Tensor]:
        return [start + share * (end - start) for end, start in line]

    def score_at(inputs: list[Tensor]) -> Tensor:
        tokens = inputs[len(pixels) :]
        replaced = [replace(layer, tokens_BTAD=x) for layer, x in zip(layers, tokens, strict=True)]
        return score(side(inputs[0] if pixels else clip_BTCHW, replaced).frames_BTS)

    sums = [torch.zeros_like(end) for end, _ in line]
    with torch.enable_grad():
        for step in range(steps):
            # midpoints: near the means the layer norms make the gradient rough, where a Gauss rule has most points
            inputs = [x.requires_grad_() for x in at((step + 0.5) / steps)]
            gradients = torch.autograd.grad(score_at(inputs), inputs)
            for place, gradient in enumerate(gradients):
                sums[place] += gradient / steps
    evidence, baseline = float(score_at(at(1.0))), float(score_at(at(0.0)))
    added = [(end - start) * total for (end, start), total in zip(line, sums, strict=True)]
    return _Parts(*_by_place(side, added, layers), evidence, baseline)


def _by_place(side: SideNetwork, added: list[Tensor], layers: list[LayerTokens]) -> tuple[Tensor, Tensor]:
    """Contributions of single numbers, summed to those of patches (LTYX) and of prefix tokens (LT)."""
    (rows, columns), prefix = layers[0].grid_YX, layers[0].num_prefix
    tokens_LTA = torch.stack([part.sum(-1)[0] for part in added[-len(layers) :]])
    patches_LTYX = tokens_LTA[:, :, prefix:].unflatten(2, (rows, columns))
    prefix_LT = tokens_LTA[:, :, :prefix].sum(2)
    if side.stem is not None:
        # the stem's patches start at the top left; what is left at the right and at the bottom belongs to none
        places_TYX = F.avg_pool2d(added[0][0].sum(1), side.stem.patch_size, divisor_override=1)
        patches_LTYX = torch.cat([places_TYX[None], patches_LTYX])
        prefix_LT = F.pad(prefix_LT, (0, 0, 1, 0))
    return patches_LTYX.cpu(), prefix_LT.cpu()


def _explanation(side: SideNetwork, parts: _Parts, *, label: str, target: int | None, score: float) -> Explanation:
    maps_TYX = parts.patches_LTYX.sum(0).clamp(min=0)
    maps_TYX = maps_TYX / maps_TYX.sum().clamp(min=torch.finfo(torch.float32).tiny)
    taps_L = parts.patches_LTYX.clamp(min=0).sum((1, 2, 3))
    return Explanation(
        label=label,
        target=target,
        score=score,
        maps_TYX=maps_TYX,
        frames_T=maps_TYX.sum((1, 2)),
        taps_L=taps_L / taps_L.sum().clamp(min=torch.finfo(torch.float32).tiny),
        tap_names=(*([PIXELS] if side.stem is not None else []), *(f"block {tap}" for tap in side.taps)),
        contributions_LT=parts.patches_LTYX.sum((2, 3)) + parts.prefix_LT,
        evidence=parts.evidence,
        baseline=parts.baseline,
    )


def _mean_tokens(layer: LayerTokens) -> Tensor:
    """The layer with each prefix token averaged over the frames, and the patches over frames and places: B1AD."""
    prefix_B1PD = layer.tokens_BTAD[:, :, : layer.num_prefix].mean(1, keepdim=True)
    patches_BTND = layer.patches_BTND
    mean_B11D = patches_BTND.mean((1, 2), keepdim=True)
    return torch.cat([prefix_B1PD, mean_B11D.expand(-1, -1, patches_BTND.shape[2], -1)], dim=2)


def _tokens(layers: Iterable[LayerTokens]) -> list[LayerTokens]:
    """In float32: a sum over a line needs more digits than the frozen model's precision may have."""
    return [replace(layer, tokens_BTAD=layer.tokens_BTAD.float()) for layer in layers]


def _logits(model: VideoClassifier, frames_BTS: Tensor) -> Tensor:
    return model.head(frames_BTS.mean(1))[0].float()


def _class_number(model: VideoClassifier, target: int | str) -> int:
    names = model.class_names or tuple(str(number) for number in range(model.head.out_features))
    if isinstance(target, str):
        if target not in names:
            raise ValueError(f"target: {target!r} is no class of this model{nearest_names(target, names)}")
        return names.index(target)
    if not 0 <= target < len(names):
        raise ValueError(f"target: must be a class number from 0 to {len(names) - 1}; got {target}")
    return target


@contextmanager
def _own_gradients() -> Generator[None]:
    """Gradients only where they are asked for below, whatever mode the caller is in."""
    with torch.inference_mode(mode=False), torch.no_grad():
        yield


def _check(model: VideoClassifier | VideoTextModel, clip_BTCHW: Tensor, steps: int) -> None:
    if clip_BTCHW.dim() != 5 or clip_BTCHW.shape[0] != 1 or clip_BTCHW.shape[2] != 3:
        raise ValueError(
            f"one clip is explained at a time, as BTCHW with B = 1 and C = 3; got {tuple(clip_BTCHW.shape)}"
        )
    if model.training:
        raise ValueError("a model is explained in eval mode; call model.eval() first")
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
