"""On a graphics card: peaks against estimates, exactness of what moves weights and tokens, E/14 under a cap.

    pytest -m gpu tests/gpu

Fails, not skips, where there is no card. `benchmarks/gpu_all.py` runs this and the measurements in one call.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from memory_ladder import COLUMNS, ROWS, Column, Row, simulate
from random_weights import random_backbone
from side4video.backbones import FrozenBackbone, create_backbone
from side4video.side.network import MemoryMode
from side4video.side.spec import SideSpec
from side4video.tasks.losses import classification_loss
from side4video.tasks.recognition import VideoClassifier

pytestmark = pytest.mark.gpu
GIB = 2**30
CELLS = [
    *(("b16", column) for column in ("balanced", "int8", "lean", "smallest")),
    *(("l14", column) for column in ("balanced", "lean", "smallest")),
    ("e14-16", "smallest"),
]


@pytest.fixture(autouse=True)
def _card() -> Iterator[None]:
    assert torch.cuda.is_available(), "tests marked gpu were asked for, and there is no CUDA device"
    yield
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)


def make_model(row: Row, column: Column) -> VideoClassifier:
    """A model of real size; its frozen weights are random and there in seconds."""
    backbone = random_backbone(
        row.backbone, quantise=column.quantise, stream_weights=column.stream_weights, device="cuda"
    )
    return VideoClassifier(backbone, 174, side=row.side, memory=column.memory).cuda().train()


def step(model: VideoClassifier, batch_size: int) -> None:
    """A training step with AdamW, as training does it."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    size = model.backbone.preprocessing.image_size
    clip_BTCHW = torch.randn(batch_size, 8, 3, *size, device="cuda")
    labels_B = torch.zeros(batch_size, dtype=torch.int64, device="cuda")
    for _ in range(2):  # the optimiser's moments are there from the second step on
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = classification_loss(model(clip_BTCHW), labels_B, smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()


@pytest.mark.parametrize(("row", "column"), CELLS)
def test_the_peak_is_as_estimated(row: str, column: str) -> None:
    predicted = simulate(ROWS[row], COLUMNS[column]).peak_bytes
    model = make_model(ROWS[row], COLUMNS[column])
    step(model, ROWS[row].batch_size)
    measured = torch.cuda.max_memory_allocated()
    assert abs(measured - predicted) < 0.1 * measured, f"{measured / GIB:.2f} GiB, predicted {predicted / GIB:.2f}"


def test_the_largest_model_trains_under_four_gib() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(4 * GIB / total)
    row = ROWS["e14-16"]
    step(make_model(row, COLUMNS["smallest"]), row.batch_size)
    assert torch.cuda.max_memory_reserved() <= 4 * GIB


def small(*, stream: bool) -> FrozenBackbone:
    torch.manual_seed(0)
    return create_backbone("tiny-clip", precision="fp32", stream_weights=stream, device="cuda")


def test_streamed_blocks_compute_the_same() -> None:
    clip_BTCHW = torch.randn(5, 3, 3, 64, 64, device="cuda")
    plain, streamed = small(stream=False), small(stream=True)
    for _ in range(3):
        for expected, found in zip(
            plain.stream(clip_BTCHW, (0, 2, 5)), streamed.stream(clip_BTCHW, (0, 2, 5)), strict=True
        ):
            assert torch.equal(expected.tokens_BTAD, found.tokens_BTAD)
    assert streamed.trunk.block(1).mlp.c_fc.weight.device.type == "cpu"
    assert streamed.trunk.block(1).mlp.c_fc.weight.is_pinned()


@pytest.mark.parametrize("memory", ["balanced", "lean", "smallest"])
def test_every_mode_has_the_gradients_of_fast(memory: MemoryMode) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    clip_BTCHW = torch.randn(9, 8, 3, 64, 64, device="cuda")
    found: list[dict[str, Tensor]] = []
    for mode in ("fast", memory):
        model = VideoClassifier(
            small(stream=mode == "smallest"), 7, side=SideSpec(width=128), memory=mode,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(1),
        ).cuda().train()  # fmt: skip
        model(clip_BTCHW).square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    largest = max(float(value.abs().max()) for value in found[0].values())
    for name, value in found[0].items():
        assert float((found[1][name] - value).abs().max()) < 1e-5 * largest, name
