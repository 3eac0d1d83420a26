"""Memory, arithmetic and time of one training step, from running that very step on tensors without numbers.

What is counted is what PyTorch allocates for tensors on one device. Not counted: the context of the driver, the
workspaces of its libraries, and what the allocator loses to fragments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from side4video.backbones.trunk import LayerTokens
from side4video.memory.cards import Card
from side4video.memory.track import Operation, StorageTracker
from side4video.side.norms import simulated_gpu
from side4video.side.offload import TokenStore
from side4video.slices import pretended
from side4video.tasks.losses import classification_loss
from side4video.tasks.recognition import VideoClassifier

# shares of the published rates that well-written kernels reach
MATRIX_EFFICIENCY = 0.6
BANDWIDTH_EFFICIENCY = 0.8
FROZEN_TOKENS = "frozen tokens"  # passing by; what is kept of them becomes "saved tokens"
CAUSES = ("frozen weights", "side weights", "gradients", "optimiser", "pixels", "saved tokens", "saved side", "working")


@dataclass(frozen=True)
class StepEstimate:
    """One training step of one process. Bytes are of the device; `host_bytes` are frozen tokens that wait elsewhere.

    `by_cause` splits the peak, `saved_bytes` is what the forward pass left for the backward pass. FLOPs count a
    multiply-add as two. `operations` are those of the step, for its time.
    """

    peak_bytes: int
    by_cause: dict[str, int]
    saved_bytes: int
    host_bytes: int
    flops_forward: int
    flops_step: int
    trainable_parameters: int
    operations: tuple[Operation, ...]

    def seconds(self, card: Card) -> float:
        """Time of the step on a card, each operation bound by arithmetic or by memory traffic, whichever is slower."""
        rate = card.tflops * 1e12 * MATRIX_EFFICIENCY
        bandwidth = card.bandwidth * 1e9 * BANDWIDTH_EFFICIENCY
        return sum(op.count * max(op.flops / rate, op.moved_bytes / bandwidth) for op in self.operations)


class _AwayStore(TokenStore):
    """A store whose tensors leave the device, on a device that is not there; like the real one it holds a tensor until
    the next leaves, and fetches one ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.most_bytes = 0
        self._shapes: list[tuple[torch.Size, torch.dtype]] = []
        self._on_its_way: Tensor | None = None
        self._arriving: dict[int, Tensor] = {}

    def put(self, tokens: Tensor) -> int:
        self._shapes.append((tokens.shape, tokens.dtype))
        self.most_bytes += tokens.numel() * tokens.element_size()
        self._on_its_way = tokens
        return len(self._shapes) - 1

    def get(self, handle: int) -> Tensor:
        self._on_its_way = None
        tokens = self._fetch_fake(handle)
        if handle:
            self._arriving[handle - 1] = self._fetch_fake(handle - 1)
        return tokens

    def _fetch_fake(self, handle: int) -> Tensor:
        shape, dtype = self._shapes[handle]
        waiting = self._arriving.pop(handle, None)
        return torch.empty(shape, dtype=dtype) if waiting is None else waiting


def estimate_step(
    model: VideoClassifier,
    *,
    batch_size: int,
    num_frames: int,
    image_size: tuple[int, int],
    autocast: torch.dtype | None = torch.bfloat16,
) -> StepEstimate:
    """Run a training step of a model whose weights are on the meta device; they are replaced by fake ones.

    `autocast` is the precision of the side network's arithmetic, `None` for float32. The optimiser is AdamW, with two
    values a weight.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), simulated_gpu():
        _give_sizes(model.train())
        # streamed blocks are copied as they would be on a card
        model.backbone.keep_blocks(copies=True)
        stores: list[_AwayStore] = []

        def make_store() -> TokenStore:
            stores.append(_AwayStore())
            return stores[-1]

        model.side.make_store = make_store
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        clip_BTCHW = torch.empty(batch_size, num_frames, 3, *image_size)
        labels_B = torch.zeros(batch_size, dtype=torch.int64)
        tracker = StorageTracker()

        def pack(tensor: Tensor) -> Tensor:
            tracker.rename(tensor, {"": "saved side", FROZEN_TOKENS: "saved tokens"})
            return tensor

        with tracker, pretended(tracker):
            tracker.adopt(model.backbone.resident(), "frozen weights")
            tracker.adopt([*trained, *(b for part in (model.side, model.head) for b in part.buffers())], "side weights")
            tracker.adopt([clip_BTCHW, labels_B], "pixels")
            moments = [torch.empty_like(parameter) for parameter in trained for _ in range(2)]
            tracker.adopt(moments, "optimiser")
            start = tracker.now
            with (
                torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
                torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None),
            ):
                layers = _named(
                    model.backbone.stream(clip_BTCHW, model.side.taps, frame_slice=model.video.frame_slice), tracker
                )
                logits_BK = model.head(model.side(clip_BTCHW, layers).frames_BTS.mean(1))
                loss = classification_loss(logits_BK, labels_B, smoothing=0.1)
                del layers, logits_BK
            forward = tracker.now
            loss.backward()
            tracker.adopt((p.grad for p in trained if p.grad is not None), "gradients")
            end = tracker.now
        peak_bytes, moment = tracker.peak()
    found = tracker.by_cause(moment)
    left = tracker.by_cause(forward)
    found["working"] = found.get("working", 0) + found.pop(FROZEN_TOKENS, 0)
    operations = tracker.operations[start:end]
    return StepEstimate(
        peak_bytes=peak_bytes,
        by_cause={cause: found.get(cause, 0) for cause in CAUSES},
        saved_bytes=left.get("saved tokens", 0) + left.get("saved side", 0),
        host_bytes=sum(store.most_bytes for store in stores),
        flops_forward=sum(op.flops * op.count for op in tracker.operations[start:forward]),
        flops_step=sum(op.flops * op.count for op in operations),
        trainable_parameters=sum(parameter.numel() for parameter in trained),
        operations=tuple(operations),
    )


def _give_sizes(model: nn.Module) -> None:
    """Put a fake tensor, which knows its device and storage, in the place of each weight on the meta device."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype)
            setattr(module, name, nn.Parameter(fake, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _named(layers: Iterator[LayerTokens], tracker: StorageTracker) -> Iterator[LayerTokens]:
    for layer in layers:
        tracker.adopt([layer.tokens_BTAD], FROZEN_TOKENS)
        yield layer
