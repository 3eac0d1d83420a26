"""The estimate against real tensors of the same step, and against what must hold between modes."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor

from side4video.backbones import FrozenBackbone, create_backbone
from side4video.errors import InputError
from side4video.memory.cards import CARDS, find_card
from side4video.memory.estimate import StepEstimate, estimate_step
from side4video.side.network import MemoryMode
from side4video.side.spec import SideSpec
from side4video.tasks.losses import classification_loss
from side4video.tasks.recognition import VideoClassifier

B, T, SIZE, PATCH, D, CLASSES = 3, 5, 24, 8, 32, 7
SPEC = SideSpec(width=16, taps=(0, 2))
MODES: list[MemoryMode] = ["fast", "balanced", "lean", "smallest"]


def make_model(mode: MemoryMode, *, depth: int = 3) -> VideoClassifier:
    tower = VisionTransformer(
        image_size=SIZE, patch_size=PATCH, width=D, layers=depth, heads=4, mlp_ratio=2.0, output_dim=12
    )
    backbone = create_backbone(tower, precision="fp32")
    assert isinstance(backbone, FrozenBackbone)
    return VideoClassifier(backbone, CLASSES, side=SPEC, memory=mode)


def estimate(
    mode: MemoryMode, *, batch_size: int = B, depth: int = 3, autocast: torch.dtype | None = None
) -> StepEstimate:
    with torch.device("meta"):
        model = make_model(mode, depth=depth)
    return estimate_step(model, batch_size=batch_size, num_frames=T, image_size=(SIZE, SIZE), autocast=autocast)


def really_saved(mode: MemoryMode) -> int:
    """Bytes that autograd keeps in a real step, beside weights and pixels, in blocks as the estimate counts them."""
    model = make_model(mode).train()
    clip_BTCHW = torch.randn(B, T, 3, SIZE, SIZE)
    labels_B = torch.zeros(B, dtype=torch.int64)
    given = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), clip_BTCHW, labels_B)}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = classification_loss(model(clip_BTCHW), labels_B, smoothing=0.1)
    assert loss.requires_grad
    sizes = [t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in given]
    return sum(-(-size // 512) * 512 for size in sizes)


@pytest.mark.parametrize("mode", ["fast", "balanced"])
def test_saved_bytes_are_those_of_a_real_step(mode: MemoryMode) -> None:
    assert estimate(mode).saved_bytes == really_saved(mode) > 0


def test_causes_add_up_to_the_peak() -> None:
    for mode in MODES:
        found = estimate(mode)
        assert sum(found.by_cause.values()) == found.peak_bytes
        assert all(value >= 0 for value in found.by_cause.values())


def test_each_mode_needs_less_memory_and_no_less_arithmetic() -> None:
    found = [estimate(mode, batch_size=16) for mode in MODES]
    peaks = [one.peak_bytes for one in found]
    assert peaks[0] > peaks[1] > peaks[2] >= peaks[3]
    flops = [one.flops_step for one in found]
    assert flops[0] < flops[1] == flops[2] < flops[3]
    assert len({one.flops_forward for one in found}) == 1
    assert found[0].host_bytes == found[1].host_bytes == 0 < found[2].host_bytes == found[3].host_bytes


def test_untapped_depth_costs_arithmetic_only_up_to_the_last_tap() -> None:
    shallow, deep = estimate("balanced", depth=3), estimate("balanced", depth=9)
    assert shallow.flops_step == deep.flops_step
    weights = deep.by_cause["frozen weights"] - shallow.by_cause["frozen weights"]
    assert deep.peak_bytes - shallow.peak_bytes == weights > 0


def test_what_is_left_out_as_alike_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    short = estimate("smallest", batch_size=40, depth=5)
    monkeypatch.setattr("side4video.memory.estimate.pretended", lambda _: nullcontext())
    whole = estimate("smallest", batch_size=40, depth=5)
    assert len(short.operations) < len(whole.operations)
    assert short.flops_step == whole.flops_step
    assert short.flops_forward == whole.flops_forward
    assert short.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.02)


def test_streamed_weights_leave_the_device() -> None:
    def peak(*, stream: bool) -> StepEstimate:
        with torch.device("meta"):
            model = make_model("smallest", depth=9)
            model.backbone.stream_weights = stream
        return estimate_step(model, batch_size=B, num_frames=T, image_size=(SIZE, SIZE), autocast=None)

    resident, streamed = peak(stream=False), peak(stream=True)
    assert streamed.by_cause["frozen weights"] < 0.4 * resident.by_cause["frozen weights"]
    assert streamed.flops_step == resident.flops_step


def test_trained_parameters_and_optimiser() -> None:
    found = estimate("balanced")
    model = make_model("balanced")
    trained = sum(p.numel() for part in (model.side, model.head) for p in part.parameters())
    assert found.trainable_parameters == trained
    assert found.by_cause["optimiser"] >= 2 * 4 * trained


def test_half_precision_arithmetic_keeps_less() -> None:
    full, half = estimate("fast", batch_size=16), estimate("fast", batch_size=16, autocast=torch.bfloat16)
    assert half.by_cause["saved side"] < 0.7 * full.by_cause["saved side"]


def test_time_follows_the_card() -> None:
    found = estimate("balanced")
    slow, fast = found.seconds(find_card("t4")), found.seconds(find_card("H100"))
    assert slow > 2 * fast > 0


@pytest.mark.parametrize("name", ["RTX 4090", "rtx4090", "rtx-4090"])
def test_cards_are_found_however_they_are_spelt(name: str) -> None:
    assert find_card(name).name == "rtx-4090"


def test_an_unknown_card_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'rtx-4090'"):
        find_card("rtx-4091")


def test_cards_are_plausible() -> None:
    assert len({card.name for card in CARDS}) == len(CARDS)
    assert all(1 < card.memory_gib < 300 and 20 < card.tflops < 3000 and 200 < card.bandwidth < 9000 for card in CARDS)
