"""What of a model can become a file of its own: modules with tensors in and out, and what those tensors are called.

A part's module takes its tensors in order and gives its outputs in order; whoever runs the file sees the names. Axes
are named (`batch`, `frames`, ...) where their size is free in the file, and numbers where it is not.

Shapes: A, all tokens of a frame; E, joint width of retrieval; Q, tokens of a caption.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from side4video.backbones.trunk import LayerTokens
from side4video.errors import ConfigError
from side4video.tasks.base import TrainedModel
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel

What = Literal["full", "side"]
Free = Literal["dynamic"]
CLIP = "clip"
MAX_SIZE = 1 << 16
# torch takes one caption, word or video for another program, so a .pt2 file wants two; in ONNX one is like many
LEAST = 2


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a file: its name, its shape (a word for a free size), its type."""

    name: str
    shape: tuple[str | int, ...]
    dtype: Literal["float32", "int64", "bool"] = "float32"


@dataclass(frozen=True)
class Part:
    """Something to write: `name` goes into the file, `suffix` into its name when a model has several parts.

    `feed` makes the part's inputs from a normalised clip, to check the file with. `limits` are the least and the most
    that a free size may be, where that is not 1 and any.
    """

    name: str
    suffix: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    feed: Callable[[Tensor], tuple[Tensor, ...]]
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])


@dataclass(frozen=True)
class Sizes:
    """The sizes of the clips that a file takes: numbers, or `dynamic` for any."""

    batch: int | Free = "dynamic"
    frames: int | Free = "dynamic"

    def axis(self, name: Literal["batch", "frames"], word: str | None = None) -> str | int:
        """As part of a shape."""
        size: int | Free = getattr(self, name)
        return (word or name) if size == "dynamic" else size


class PixelsToScores(nn.Module):
    """Backbone, side network and head: a clip to logits and to scores that sum to one."""

    def __init__(self, model: VideoClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, clip_BTCHW: Tensor) -> tuple[Tensor, Tensor]:
        """`logits_BK`, `scores_BK`."""
        logits_BK = self.model(clip_BTCHW)
        return logits_BK, logits_BK.softmax(-1)


class TokensToScores(nn.Module):
    """Side network and head: tapped tokens (and the clip for the stem) to logits and scores."""

    def __init__(self, model: VideoClassifier) -> None:
        super().__init__()
        self.side, self.head = model.side, model.head
        self.layers = _LayersOf(model, model.side.taps)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """`logits_BK`, `scores_BK`."""
        clip_BTCHW, layers = self.layers(tensors)
        logits_BK = self.head(self.side(clip_BTCHW, layers).frames_BTS.mean(1))
        return logits_BK, logits_BK.softmax(-1)


class PixelsToFrames(nn.Module):
    """The video tower of a retrieval model."""

    def __init__(self, model: VideoTextModel) -> None:
        super().__init__()
        self.video, self.frame_head, self.side_proj = model.video, model.frame_head, model.side_proj

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """`frames_BTE`, not normalised."""
        output, last = self.video.forward_with_last(clip_BTCHW)
        return self.frame_head(self.video.backbone, last, output.frames_BTS @ self.side_proj)


class TokensToFrames(nn.Module):
    """The video tower of a retrieval model without its frozen blocks."""

    def __init__(self, model: VideoTextModel) -> None:
        super().__init__()
        self.video, self.frame_head, self.side_proj = model.video, model.frame_head, model.side_proj
        self.layers = _LayersOf(model, _taps_with_last(model))

    def forward(self, *tensors: Tensor) -> Tensor:
        """`frames_BTE`, not normalised."""
        clip_BTCHW, layers = self.layers(tensors)
        side = self.video.side
        output = side(clip_BTCHW, (layer for layer in layers if layer.layer in side.taps))
        return self.frame_head(self.video.backbone, layers[-1], output.frames_BTS @ self.side_proj)


class IdsToTokens(nn.Module):
    """The text tower of a retrieval model."""

    def __init__(self, model: VideoTextModel) -> None:
        super().__init__()
        self.text = model.text

    def forward(self, ids_MQ: Tensor) -> Tensor:
        """`tokens_MQE`, not normalised."""
        return self.text(ids_MQ)


class Similarity(nn.Module):
    """How a retrieval model ranks: captions and videos to `sim_MV`."""

    def __init__(self, model: VideoTextModel) -> None:
        super().__init__()
        self.compare = model.mean_pooling if model.wti is None else model.wti
        self.logit_scale = model.logit_scale if model.interaction == "mean" else None

    def forward(self, tokens_MQE: Tensor, mask_MQ: Tensor, frames_VTE: Tensor, mask_VT: Tensor) -> Tensor:
        """`sim_MV`."""
        sim_MV = self.compare.compare(tokens_MQE, mask_MQ, mask_VT, frames_VTE)
        return sim_MV if self.logit_scale is None else sim_MV * self.logit_scale.exp()


class _LayersOf(nn.Module):
    """A file's inputs as frozen layers: the clip first when there is a stem, then a tensor for each layer."""

    def __init__(self, model: TrainedModel, taps: Sequence[int]) -> None:
        super().__init__()
        backbone = model.backbone
        self.taps = tuple(taps)
        self.has_stem = model.side.stem is not None
        self.num_prefix, self.has_class_token = backbone.num_prefix, backbone.has_class_token
        self.grid_YX = backbone.grid(backbone.preprocessing.image_size)

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, list[LayerTokens]]:
        """The pixels (without a stem nobody looks at them: the first tokens stand in), and the layers."""
        tokens = tensors[1:] if self.has_stem else tensors
        layers = [
            LayerTokens(tap, tokens_BTAD, self.num_prefix, self.has_class_token, self.grid_YX)
            for tap, tokens_BTAD in zip(self.taps, tokens, strict=True)
        ]
        return tensors[0], layers


@contextmanager
def exportable(model: TrainedModel) -> Generator[None]:
    """Inside, the model is in eval mode and runs whole: slices of a batch would become part of a file.

    Raises:
        ConfigError: frozen weights that are not plain float32.
    """
    backbone, side, video = model.backbone, model.side, model.video
    if backbone.precision != torch.float32 or backbone.quantise != "none" or backbone.stream_weights:
        raise ConfigError(
            f"export takes frozen weights in float32, all in memory; got {backbone.precision}, "
            f"quantise={backbone.quantise}, stream_weights={backbone.stream_weights}"
        )
    before = model.training, side.memory, video.frame_slice
    model.eval()
    side.memory, video.frame_slice = "fast", None
    try:
        yield
    finally:
        training, side.memory, video.frame_slice = before
        model.train(training)


def parts_of(model: TrainedModel, what: What, sizes: Sizes) -> list[Part]:
    """The files that a model becomes: one, or for whole retrieval models video tower, text tower and similarity."""
    if isinstance(model, VideoClassifier):
        outputs = tuple(TensorSpec(name, (sizes.axis("batch"), model.head.out_features)) for name in _SCORES)
        return [_video_part(model, what, sizes, outputs)]
    axes = sizes.axis("batch"), sizes.axis("frames")
    video = _video_part(model, what, sizes, (TensorSpec("frames", (*axes, model.embed_dim)),))
    return [video] if what == "side" else [video, _text_part(model), _similarity_part(model, sizes)]


_SCORES = ("logits", "scores")


def _video_part(model: TrainedModel, what: What, sizes: Sizes, outputs: tuple[TensorSpec, ...]) -> Part:
    backbone = model.backbone
    axes = sizes.axis("batch"), sizes.axis("frames")
    size = backbone.preprocessing.image_size
    clip = TensorSpec(CLIP, (*axes, 3, *size))
    if what == "full":
        module = PixelsToScores(model) if isinstance(model, VideoClassifier) else PixelsToFrames(model)
        return Part("full", "", module, (clip,), outputs, lambda clip_BTCHW: (clip_BTCHW,))
    taps = model.side.taps if isinstance(model, VideoClassifier) else _taps_with_last(model)
    module = TokensToScores(model) if isinstance(model, VideoClassifier) else TokensToFrames(model)
    rows, columns = backbone.grid(size)
    shape = (*axes, backbone.num_prefix + rows * columns, backbone.width)
    tokens = [TensorSpec(f"tokens_{tap}", shape) for tap in taps]
    has_stem = model.side.stem is not None

    def feed(clip_BTCHW: Tensor) -> tuple[Tensor, ...]:
        layers = [layer.tokens_BTAD for layer in backbone.stream(clip_BTCHW, taps)]
        return (clip_BTCHW, *layers) if has_stem else tuple(layers)

    return Part("side", "", module, (clip, *tokens) if has_stem else tuple(tokens), outputs, feed)


def _text_part(model: VideoTextModel) -> Part:
    tower = model.text_tower
    words = tower.context_length if tower.fixed_length else "words"
    inputs = (TensorSpec("ids", ("captions", words), "int64"),)
    outputs = (TensorSpec("tokens", ("captions", words, model.embed_dim)),)
    limits = {"captions": (LEAST, MAX_SIZE), "words": (LEAST, tower.context_length)}
    return Part(
        "text", "text", IdsToTokens(model), inputs, outputs, lambda clip: (_some_ids(model, len(clip)),), limits
    )


def _similarity_part(model: VideoTextModel, sizes: Sizes) -> Part:
    videos = "videos", sizes.axis("frames")
    inputs = (
        TensorSpec("tokens", ("captions", "words", model.embed_dim)),
        TensorSpec("mask", ("captions", "words"), "bool"),
        TensorSpec("frames", (*videos, model.embed_dim)),
        TensorSpec("frames_mask", videos, "bool"),
    )

    def feed(clip_BTCHW: Tensor) -> tuple[Tensor, ...]:
        ids_MQ = _some_ids(model, len(clip_BTCHW) + 1)
        mask_MQ = torch.ones(ids_MQ.shape, dtype=torch.bool)
        mask_MQ[0, 3:] = False
        mask_VT = torch.ones(clip_BTCHW.shape[:2], dtype=torch.bool)
        mask_VT[-1, 1:] = False
        return model.encode_text(ids_MQ), mask_MQ, model.encode_video(clip_BTCHW), mask_VT

    outputs = (TensorSpec("similarity", ("captions", "videos")),)
    limits: dict[str, tuple[int, int]] = dict.fromkeys(("captions", "words", "videos", "frames"), (LEAST, MAX_SIZE))
    return Part("similarity", "similarity", Similarity(model), inputs, outputs, feed, limits)


def _some_ids(model: VideoTextModel, captions: int) -> Tensor:
    tower = model.text_tower
    words = tower.context_length if tower.fixed_length else min(tower.context_length, 7 + captions)
    return torch.randint(tower.vocab_size, (captions, words), generator=torch.Generator().manual_seed(captions))


def _taps_with_last(model: VideoTextModel) -> tuple[int, ...]:
    return tuple(sorted({*model.side.taps, model.backbone.depth - 1}))
