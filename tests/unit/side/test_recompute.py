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

D, PATCH, WIDTH, DEPTH, T = 24, 6, 16, 5, 5
# three clips, two a slice: a whole slice and a part of one
BATCH, SLICE = 3, 2 * T
BASE = SideSpec(width=WIDTH, num_heads=2)
DIALECTS = {
    f"{dialect}-{task}": replace(
        SideSpec.for_dialect(dialect, retrieval=task == "retrieval"),  # type: ignore[arg-type]
        width=WIDTH,
        num_heads=2,
        taps=(1, 3, 4),
    )
    for dialect in ("clip", "eva")
    for task in ("recognition", "retrieval")
}
VARIANTS = {
    f"{temporal}-{representation}-{order}": replace(
        BASE,
        temporal=temporal,
        representation=representation,
        norm_order=order,
        projection_norm="input" if order == "pre" else "output",
        final_norm=order == "pre",
    )
    for temporal in ("conv", "attention", "none")
    for representation in ("gap", "class", "extra")
    for order in ("pre", "post")
}
SPECS = {
    **DIALECTS,
    **VARIANTS,
    "layer": replace(BASE, norm="layer", shift=False),
    "no-stem": replace(BASE, stem=False, norm_order="post", position_on_class=True),
}
MODES = ["balanced", "lean", "smallest"]


def make_network(spec: SideSpec, memory: str) -> SideNetwork:
    network = SideNetwork(
        spec,
        backbone_width=D,
        depth=DEPTH,
        grid_YX=(3, 4),
        patch_size=(PATCH, PATCH),
        memory=memory,  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(0),
    )
    network.slice_frames = SLICE
    return network


def rolled(make_inputs, places: int):
    """The same clips, each `places` further: the same sums of gradients, rounded otherwise."""

    def make(*args, **kwargs):
        clip_BTCHW, layers = make_inputs(*args, **kwargs)
        return clip_BTCHW.roll(places, 0), [
            replace(layer, tokens_BTAD=layer.tokens_BTAD.roll(places, 0)) for layer in layers
        ]

    return make


def run(
    network: SideNetwork,
    make_inputs,
    *,
    autocast: bool = False,
    dtype: torch.dtype = torch.float32,
    has_class_token: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients of a step on clips in `dtype`."""
    clip_BTCHW, layers = make_inputs(
        len(network.taps), batch=BATCH, has_class_token=has_class_token, num_prefix=int(has_class_token)
    )
    clip_BTCHW = clip_BTCHW.to(dtype)
    layers = [replace(layer, tokens_BTAD=layer.tokens_BTAD.to(dtype)) for layer in layers]
    weights_TS = torch.randn(clip_BTCHW.shape[1], WIDTH, generator=torch.Generator().manual_seed(8))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        frames_BTS = network(clip_BTCHW, iter(layers)).frames_BTS
    (frames_BTS.to(dtype) * weights_TS.to(dtype)).sum().backward()
    return frames_BTS.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def worst(found: dict[str, Tensor], expected: dict[str, Tensor], zero: frozenset[str] = frozenset()) -> float:
    """Largest difference of a gradient, by the largest value of it, or of all of them where it is zero in theory."""
    assert found.keys() == expected.keys()
    sizes = {name: float(value.abs().max()) for name, value in expected.items()}
    sizes |= dict.fromkeys(zero, max(sizes.values()))
    return max(float((found[name] - value).abs().max()) / sizes[name] for name, value in expected.items())


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Length of the difference of all gradients by the length of all."""
    assert found.keys() == expected.keys()
    squares = sum(float((found[name] - value).square().sum()) for name, value in expected.items())
    return (squares / sum(float(value.square().sum()) for value in expected.values())) ** 0.5


def zero_in_theory(gradients: dict[str, Tensor]) -> frozenset[str]:
    """Gradients, in float64, that are rounding alone: of what a batch norm takes away again."""
    largest = max(float(value.abs().max()) for value in gradients.values())
    return frozenset(name for name, value in gradients.items() if float(value.abs().max()) < 1e-12 * largest)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_every_mode_equals_fast(spec: SideSpec, mode: str, make_inputs) -> None:
    torch.set_num_threads(1)
    exact: dict[str, Tensor] = {}
    # in float64 nothing but the same formula can come so near; float32 is what is trained in
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        plain, lean = (make_network(spec, memory).to(dtype).train() for memory in ("fast", mode))
        out, gradients = run(plain, make_inputs, dtype=dtype)
        lean_out, lean_gradients = run(lean, make_inputs, dtype=dtype)
        assert float((out - lean_out).abs().max()) <= tolerance * float(out.abs().max())
        assert gradients.keys() == dict(plain.named_parameters()).keys()
        if dtype == torch.float64:
            exact = gradients
            assert all(name.endswith("bias") for name in zero_in_theory(exact))
        if dtype == torch.float64 or spec in DIALECTS.values():
            assert worst(lean_gradients, gradients, zero_in_theory(exact)) < tolerance
        # some variants amplify the rounding of float32: they may be as far from the truth as the plain run is, which is
        # asked with the same clips in every order, because one rounding is a matter of luck
        own_errors = [
            distance(run(make_network(spec, "fast").to(dtype).train(), rolled(make_inputs, n), dtype=dtype)[1], exact)
            for n in range(BATCH)
        ]
        assert distance(lean_gradients, exact) < max(0.2 * tolerance, 2 * max(own_errors))
        for name, buffer in plain.named_buffers():
            torch.testing.assert_close(lean.get_buffer(name), buffer, atol=tolerance, rtol=tolerance, msg=name)
        assert all(int(b) == 1 for n, b in lean.named_buffers() if n.endswith("num_batches_tracked"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spec", DIALECTS.values(), ids=DIALECTS.keys())
def test_half_precision_arithmetic_is_no_worse(spec: SideSpec, mode: str, make_inputs) -> None:
    torch.set_num_threads(1)
    _, exact = run(make_network(spec, "fast").double().train(), make_inputs, dtype=torch.float64)
    exact = {name: value.float() for name, value in exact.items()}
    out, plain = run(make_network(spec, "fast").train(), make_inputs, autocast=True)
    lean_out, lean = run(make_network(spec, mode).train(), make_inputs, autocast=True)
    assert float((out - lean_out).abs().max()) < 0.02 * float(out.abs().max())
    # of all gradients together: the worst entry of one small tensor is a matter of luck
    assert 1e-4 < distance(lean, exact) < 1.1 * distance(plain, exact)


@pytest.mark.parametrize("mode", MODES)
def test_a_backbone_without_class_token(mode: str, make_inputs) -> None:
    (out, gradients), (lean_out, lean_gradients) = (
        run(make_network(BASE, memory).double().train(), make_inputs, dtype=torch.float64, has_class_token=False)
        for memory in ("fast", mode)
    )
    torch.testing.assert_close(lean_out, out, atol=1e-12, rtol=1e-12)
    assert worst(lean_gradients, gradients, zero_in_theory(gradients)) < 1e-12


@pytest.mark.parametrize("mode", MODES)
def test_eval_mode_statistics_are_used_and_stay(mode: str, make_inputs) -> None:
    plain, lean = make_network(BASE, "fast").double().eval(), make_network(BASE, mode).double().eval()
    out, gradients = run(plain, make_inputs, dtype=torch.float64)
    lean_out, lean_gradients = run(lean, make_inputs, dtype=torch.float64)
    torch.testing.assert_close(lean_out, out, atol=1e-12, rtol=1e-12)
    assert worst(lean_gradients, gradients) < 1e-12
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
    stream_bytes = 2 * T * 12 * WIDTH * 4
    assert kept["fast"] > 3.5 * kept["balanced"]
    # what enters the stem's norm, each of the five blocks and the last norm; class tokens and positions
    assert kept["balanced"] < 7.6 * stream_bytes
    # on the device only what the last norm needs, class tokens and positions: the rest is in the store
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
