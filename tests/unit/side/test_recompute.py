"""Memory modes: the same outputs, gradients and statistics as the plain run, and less kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from side4video.errors import ConfigError
from side4video.side.network import SideNetwork
from side4video.side.recompute import untracked_statistics
from side4video.side.spec import SideSpec

D, PATCH, WIDTH, DEPTH = 24, 6, 16, 5
BASE = SideSpec(width=WIDTH, num_heads=2)
SPECS = {
    "clip": BASE,
    "eva": replace(BASE, norm_order="post", projection_norm="output", final_norm=False, taps=(1, 3, 4)),
    "extra": replace(BASE, representation="extra", position_on_class=True),
    "class": replace(BASE, representation="class", stem=False, temporal="attention"),
    "layer": replace(BASE, norm="layer", temporal="none", shift=False),
}
MODES = ["balanced", "lean", "smallest"]


def make_network(spec: SideSpec, memory: str) -> SideNetwork:
    return SideNetwork(
        spec,
        backbone_width=D,
        depth=DEPTH,
        grid_YX=(3, 4),
        patch_size=(PATCH, PATCH),
        memory=memory,  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(0),
    )


def run(network: SideNetwork, make_inputs, *, autocast: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    clip_BTCHW, layers = make_inputs(len(network.taps))
    weights_BTS = torch.randn(
        clip_BTCHW.shape[0], clip_BTCHW.shape[1], WIDTH, generator=torch.Generator().manual_seed(8)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        frames_BTS = network(clip_BTCHW, iter(layers)).frames_BTS
    (frames_BTS.float() * weights_BTS).sum().backward()
    return frames_BTS.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_every_mode_equals_fast(spec: SideSpec, mode: str, autocast: bool, make_inputs) -> None:
    torch.set_num_threads(1)
    plain, lean = make_network(spec, "fast").train(), make_network(spec, mode).train()
    out, gradients = run(plain, make_inputs, autocast=autocast)
    lean_out, lean_gradients = run(lean, make_inputs, autocast=autocast)
    assert torch.equal(out, lean_out)
    assert gradients.keys() == lean_gradients.keys() == dict(plain.named_parameters()).keys()
    for name, gradient in gradients.items():
        # the same products; only sums over the stages may run in another order
        torch.testing.assert_close(lean_gradients[name], gradient, atol=1e-6, rtol=1e-5, msg=name)
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, lean.get_buffer(name)), name


@pytest.mark.parametrize("mode", MODES)
def test_eval_mode_statistics_are_used_and_stay(mode: str, make_inputs) -> None:
    plain, lean = make_network(BASE, "fast").eval(), make_network(BASE, mode).eval()
    out, gradients = run(plain, make_inputs)
    lean_out, lean_gradients = run(lean, make_inputs)
    assert torch.equal(out, lean_out)
    torch.testing.assert_close(lean_gradients, gradients, atol=1e-6, rtol=1e-5)
    assert all(int(b) == 0 for n, b in lean.named_buffers() if n.endswith("num_batches_tracked"))


def saved_bytes(network: SideNetwork, make_inputs) -> int:
    """Bytes kept for the backward pass, counted once a storage, without weights, pixels and frozen tokens."""
    clip_BTCHW, layers = make_inputs(len(network.taps))
    given = [clip_BTCHW, *(layer.tokens_BTAD for layer in layers), *network.parameters(), *network.buffers()]
    known = {t.untyped_storage().data_ptr() for t in given}
    storages: dict[int, int] = {}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)  # alive, so that no address comes twice
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        network(clip_BTCHW, iter(layers))
    return sum(size for pointer, size in storages.items() if pointer not in known)


def test_each_mode_keeps_less(make_inputs) -> None:
    kept = {mode: saved_bytes(make_network(BASE, mode).train(), make_inputs) for mode in ("fast", *MODES)}
    stream_bytes = 2 * 5 * 12 * WIDTH * 4
    assert kept["fast"] > 4 * kept["balanced"]
    # five blocks: what enters each but the first (pixels), and what the last norm needs
    assert kept["balanced"] < 6.5 * stream_bytes
    # on the device only what the last norm needs: the rest is in the store
    assert kept["lean"] == kept["smallest"] < 2.5 * stream_bytes


def test_gradient_hooks_see_every_parameter_once(make_inputs) -> None:
    network = make_network(BASE, "smallest").train()
    seen: list[str] = []
    for name, parameter in network.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.append(name))
    run(network, make_inputs)
    assert sorted(seen) == sorted(name for name, _ in network.named_parameters())


def test_frozen_side_parameters_get_no_gradient(make_inputs) -> None:
    network = make_network(BASE, "balanced").train()
    network.blocks[1].requires_grad_(requires_grad=False)
    _, gradients = run(network, make_inputs)
    assert not [name for name in gradients if name.startswith("blocks.1.")]
    assert "blocks.0.mlp.fc1.weight" in gradients


def test_statistics_are_tracked_again_after_an_error() -> None:
    norm = torch.nn.BatchNorm1d(3).train()
    with pytest.raises(ValueError, match="expected 2D or 3D"), untracked_statistics([norm]):
        norm(torch.randn(4))
    with untracked_statistics([norm]):
        norm(torch.randn(4, 3))
    assert int(norm.num_batches_tracked) == 0
    norm(torch.randn(4, 3))
    assert int(norm.num_batches_tracked) == 1


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="fast, balanced, lean, smallest"):
        make_network(BASE, "tiny")


@pytest.mark.parametrize("count", [DEPTH - 1, DEPTH + 1])
def test_another_number_of_layers_is_refused(count: int, make_inputs) -> None:
    clip_BTCHW, layers = make_inputs(count)
    with pytest.raises(ValueError, match=f"the side network has {DEPTH} taps"):
        make_network(BASE, "balanced")(clip_BTCHW, iter(layers))
