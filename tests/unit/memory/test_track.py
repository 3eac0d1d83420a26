"""The storage tracker against code whose memory is plain to see."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from side4video.memory.track import StorageTracker

KIB = 1024


def floats(kib: int) -> torch.Tensor:
    return torch.empty(kib * KIB // 4)


def test_the_peak_is_what_is_alive_at_once() -> None:
    with FakeTensorMode(), StorageTracker() as tracker:
        first = floats(64)
        second = floats(32)
        del first
        third = floats(16)
    peak, moment = tracker.peak()
    assert peak == 96 * KIB
    assert sum(tracker.by_cause(moment).values()) == peak
    assert second.numel() + third.numel() == 12 * KIB


def test_views_share_a_storage_and_copies_do_not() -> None:
    with FakeTensorMode(), StorageTracker() as tracker:
        base = floats(64)
        view = base.view(16, -1)[3:7].transpose(0, 1)
        assert tracker.peak()[0] == 64 * KIB
        copy = view.contiguous()
    assert tracker.peak()[0] == 64 * KIB + copy.numel() * 4


def test_small_storages_take_a_whole_block() -> None:
    with FakeTensorMode(), StorageTracker() as tracker:
        kept = [torch.empty(1) for _ in range(3)]
    assert tracker.peak()[0] == 512 * len(kept)


def test_causes_are_named_and_renamed() -> None:
    with FakeTensorMode(), StorageTracker() as tracker:
        weights, passing, other = floats(8), floats(16), floats(32)
        tracker.adopt([weights], "weights")
        tracker.adopt([passing], "passing")
        tracker.rename(passing, {"passing": "saved", "": "wrong"})
        tracker.rename(weights, {"": "wrong"})
        del other
    _, moment = tracker.peak()
    assert tracker.by_cause(moment) == {"weights": 8 * KIB, "saved": 16 * KIB, "working": 32 * KIB}


def test_operations_are_counted() -> None:
    with FakeTensorMode(), StorageTracker() as tracker:
        a, b = torch.empty(30, 50), torch.empty(50, 70)
        start = tracker.now
        product = a @ b
        product.t()
    multiply, *views = tracker.operations[start:]
    assert multiply.flops == 2 * 30 * 50 * 70
    assert multiply.moved_bytes == 4 * (30 * 50 + 50 * 70 + 30 * 70)
    assert views
    assert not any(op.flops or op.moved_bytes for op in views)


def test_attention_on_the_cpu_counts_like_attention_on_a_gpu() -> None:
    with FakeTensorMode(), StorageTracker() as tracker:
        query, key, value = (torch.empty(2, 3, 10, 16, requires_grad=True) for _ in range(3))
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        forward = sum(op.flops for op in tracker.operations)
        out.sum().backward()
    assert forward == 2 * 2 * (2 * 3 * 10 * 10 * 16)
    assert sum(op.flops for op in tracker.operations) > 2 * forward
