"""The contrastive loss: symmetric, the same gradient from two processes as from one, and in chunks as in one piece."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import nn

from side4video.backbones import create_backbone
from side4video.backbones.text import text_tower_of
from side4video.side.spec import SideSpec
from side4video.tasks.contrastive import (
    average_gradients,
    chunked_contrastive_backward,
    contrastive_loss,
    gather_with_gradient,
    symmetric_loss,
)
from side4video.tasks.retrieval import VideoTextModel

B, T, SIZE, PATCH, E, Q, VOCAB = 5, 3, 16, 8, 12, 6, 30
Grads = dict[str, torch.Tensor]


def make_model(norm: str = "layer", **settings: Any) -> VideoTextModel:
    torch.manual_seed(0)
    vision = CLIPVisionCfg(image_size=SIZE, patch_size=PATCH, width=32, layers=2, head_width=16)
    clip = CLIP(E, vision, CLIPTextCfg(context_length=Q, vocab_size=VOCAB, width=24, heads=2, layers=1))
    spec = SideSpec(width=8, taps=(0, 1), norm=norm)  # type: ignore[arg-type]
    model = VideoTextModel(
        create_backbone(clip, precision="fp32"), text_tower_of(clip, name="small"), side=spec, **settings
    )
    nn.init.normal_(model.side_proj, std=0.3)
    return model.train()


def make_batch(num: int = B) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    clip_BTCHW = torch.randn(num, T, 3, SIZE, SIZE, generator=generator)
    ids_BQ = torch.randint(1, VOCAB - 1, (num, Q), generator=generator)
    mask_BQ = torch.arange(Q)[None] < torch.randint(2, Q + 1, (num,), generator=generator)[:, None]
    mask_BT = torch.ones(num, T, dtype=torch.bool)
    mask_BT[1, -1] = False
    return clip_BTCHW, ids_BQ, mask_BQ, mask_BT


def grads_of(model: VideoTextModel) -> Grads:
    return {name: p.grad.clone() for name, p in model.named_trained_parameters() if p.grad is not None}


def whole_batch(model: VideoTextModel, num: int = B) -> tuple[float, Grads]:
    clip_BTCHW, ids_BQ, mask_BQ, mask_BT = make_batch(num)
    loss = contrastive_loss(model, *model(clip_BTCHW, ids_BQ), mask_BQ, mask_BT)
    loss.backward()
    return float(loss.detach()), grads_of(model)


def assert_same(ours: Grads, expected: Grads, *, factor: float = 1.0, only: str = "") -> None:
    assert ours.keys() == expected.keys()
    assert len(ours) > 40
    for name in expected:
        if name.startswith(only):
            torch.testing.assert_close(ours[name] * factor, expected[name], atol=2e-6, rtol=1e-4, msg=name)


def test_symmetric_loss_counts_both_directions() -> None:
    sim_MV = torch.randn(4, 4, generator=torch.Generator().manual_seed(2))
    rows = -sum(float(sim_MV[i].log_softmax(0)[i]) for i in range(4)) / 4
    columns = -sum(float(sim_MV[:, i].log_softmax(0)[i]) for i in range(4)) / 4
    assert rows != pytest.approx(columns)
    assert float(symmetric_loss(sim_MV)) == pytest.approx((rows + columns) / 2, abs=1e-6)
    with pytest.raises(ValueError, match=r"as many captions as videos; got \(4, 3\)"):
        symmetric_loss(sim_MV[:, :3])
    with pytest.raises(ValueError, match="as many captions"):
        symmetric_loss(sim_MV[:0, :0])


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("norm", ["layer", "batch in eval mode"])
def test_chunks_give_the_gradient_of_the_whole_batch(chunk_size: int, norm: str) -> None:
    def make() -> VideoTextModel:
        return make_model("layer") if norm == "layer" else make_model("batch").eval()

    loss, expected = whole_batch(make())
    model = make()
    clip_BTCHW, ids_BQ, mask_BQ, mask_BT = make_batch()
    ours = chunked_contrastive_backward(model, clip_BTCHW, ids_BQ, mask_BQ, mask_BT, chunk_size=chunk_size)
    assert float(ours) == pytest.approx(loss, abs=1e-6)
    assert_same(grads_of(model), expected)


def test_with_batch_norm_chunks_are_exact_for_the_model_that_sees_chunks() -> None:
    clip_BTCHW, ids_BQ, mask_BQ, mask_BT = make_batch()
    plain = make_model("batch")
    parts = [plain(clip, ids) for clip, ids in zip(clip_BTCHW.split(2), ids_BQ.split(2), strict=True)]
    frames_BTE, tokens_BQE = (torch.cat(part) for part in zip(*parts, strict=True))
    contrastive_loss(plain, frames_BTE, tokens_BQE, mask_BQ, mask_BT).backward()

    model = make_model("batch")
    chunked_contrastive_backward(model, clip_BTCHW, ids_BQ, mask_BQ, mask_BT, chunk_size=2)
    assert_same(grads_of(model), grads_of(plain))
    # running statistics move once per chunk, although every chunk runs twice
    for name, value in model.side.state_dict().items():
        assert torch.equal(value, plain.side.state_dict()[name]), name
        if name.endswith("num_batches_tracked"):
            assert int(value) == 3
    # and it is another gradient than the whole batch's
    _, whole = whole_batch(make_model("batch"))
    key = "side.projections.0.linear.weight"
    assert not torch.allclose(grads_of(model)[key], whole[key], rtol=0.01)


def test_a_frozen_text_tower_and_mean_pooling_run_in_chunks_too() -> None:
    _, expected = whole_batch(make_model(train_text=False, interaction="mean"))
    model = make_model(train_text=False, interaction="mean")
    clip_BTCHW, ids_BQ, mask_BQ, mask_BT = make_batch()
    chunked_contrastive_backward(model, clip_BTCHW, ids_BQ, mask_BQ, mask_BT, chunk_size=2)
    for name, grad in grads_of(model).items():
        torch.testing.assert_close(grad, expected[name], atol=2e-6, rtol=1e-4, msg=name)
    assert "side_proj" in expected
    assert not any(name.startswith("text.") for name in expected)


def test_a_scaled_loss_scales_every_gradient_once() -> None:
    _, expected = whole_batch(make_model())
    model = make_model()
    clip_BTCHW, ids_BQ, mask_BQ, mask_BT = make_batch()
    chunked_contrastive_backward(
        model, clip_BTCHW, ids_BQ, mask_BQ, mask_BT, chunk_size=2, backward=lambda loss: (loss * 64).backward()
    )
    assert_same(grads_of(model), expected, factor=1 / 64)
    with pytest.raises(ValueError, match="chunk_size must be at least 1 clip; got 0"):
        chunked_contrastive_backward(model, clip_BTCHW, ids_BQ, mask_BQ, chunk_size=0)


class _Saved:
    """One saved tensor; while it lives its storage counts."""

    def __init__(self, tensor: torch.Tensor, live: dict[int, list[int]]) -> None:
        self.tensor, self.live = tensor, live
        self.key = tensor.untyped_storage().data_ptr()
        entry = live.setdefault(self.key, [0, tensor.untyped_storage().nbytes()])
        entry[0] += 1

    def __del__(self) -> None:
        self.live[self.key][0] -= 1
        if not self.live[self.key][0]:
            del self.live[self.key]


def peak_saved_bytes(num: int, chunk_size: int | None) -> int:
    model = make_model()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    clip_BTCHW, ids_BQ, mask_BQ, mask_BT = make_batch(num)
    given = {clip_BTCHW.untyped_storage().data_ptr(), ids_BQ.untyped_storage().data_ptr()}
    live: dict[int, list[int]] = {}
    peak = 0

    def pack(tensor: torch.Tensor) -> Any:
        nonlocal peak
        if tensor.untyped_storage().data_ptr() in own | given:
            return tensor
        saved = _Saved(tensor, live)
        peak = max(peak, sum(size for _, size in live.values()))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda s: s.tensor if isinstance(s, _Saved) else s):
        if chunk_size is None:
            contrastive_loss(model, *model(clip_BTCHW, ids_BQ), mask_BQ, mask_BT).backward()
        else:
            chunked_contrastive_backward(model, clip_BTCHW, ids_BQ, mask_BQ, mask_BT, chunk_size=chunk_size)
    gc.collect()
    return peak


def test_the_peak_of_saved_bytes_grows_by_the_embeddings_only() -> None:
    small, large = peak_saved_bytes(8, 4), peak_saved_bytes(16, 4)
    # the loss keeps M x V x Q x T cosines beside the embeddings; activations of clips do not accumulate
    whole_small, whole_large = peak_saved_bytes(8, None), peak_saved_bytes(16, None)
    assert whole_large > 1.8 * whole_small
    assert large == small
    assert small < whole_small


def two_processes(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    rows = slice(0, 3) if rank == 0 else slice(3, B)  # three pairs here, two there
    clip_BTCHW, ids_BQ, mask_BQ, mask_BT = (part[rows] for part in make_batch())
    results: dict[str, Any] = {}
    for name, model, gradient in (
        ("exact", make_model(), "exact"),
        ("released", make_model(), "released"),
        ("eval", make_model("batch").eval(), "exact"),
    ):
        loss = contrastive_loss(model, *model(clip_BTCHW, ids_BQ), mask_BQ, mask_BT, gradient=gradient)
        loss.backward()
        average_gradients(p for _, p in model.named_trained_parameters())
        results[name] = (float(loss.detach()), grads_of(model))
    model = make_model()
    loss = chunked_contrastive_backward(model, clip_BTCHW, ids_BQ, mask_BQ, mask_BT, chunk_size=2)
    average_gradients(p for _, p in model.named_trained_parameters())
    results["chunked"] = (float(loss), grads_of(model))
    try:
        gather_with_gradient(torch.zeros(2, 3 + rank))
    except ValueError as error:
        results["error"] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(two_processes, args=(str(tmp_path),), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    loss, expected = whole_batch(make_model())
    eval_loss, eval_expected = whole_batch(make_model("batch").eval())
    heads = ("wti.", "logit_scale")
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name in ("exact", "chunked", "released"):
            assert results[name][0] == pytest.approx(loss, abs=1e-6)
        assert_same(results["exact"][1], expected)
        assert_same(results["chunked"][1], expected)
        assert results["eval"][0] == pytest.approx(eval_loss, abs=1e-6)
        assert_same(results["eval"][1], eval_expected)
        # the released gathering halves what is below the embeddings, and not what compares them
        for name, grad in results["released"][1].items():
            factor = 1.0 if name.startswith(heads) else 0.5
            torch.testing.assert_close(grad, expected[name] * factor, atol=2e-6, rtol=1e-4, msg=name)
        assert "rows of one shape" in results["error"]


def test_one_process_gathers_nothing() -> None:
    part = torch.zeros(2, 3)
    assert gather_with_gradient(part)[0] is part
    with pytest.raises(ValueError, match="gradient must be exact or released; got 'half'"):
        gather_with_gradient(part, gradient="half")  # type: ignore[arg-type]
