"""The side network as a whole: every variant runs, learns, and is free in batch, time and frame size."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from side4video.errors import ConfigError
from side4video.side.network import SideNetwork, Stem, resample_positions
from side4video.side.spec import SideSpec

B, T, Y, X, D, PATCH = 2, 5, 3, 4, 24, 6
WIDTH, DEPTH = 16, 4
BASE = SideSpec(width=WIDTH, num_heads=2)

VARIANTS = [
    replace(
        BASE,
        temporal=temporal,
        representation=representation,
        norm_order=order,
        norm=norm,
        shift=shift,
        stem=stem,
        projection_norm="input" if order == "pre" else "output",
        final_norm=order == "pre",
        taps=taps,
        position_on_class=shift,
    )
    for (temporal, representation, order), (norm, shift, stem, taps) in itertools.product(
        itertools.product(["conv", "attention", "none"], ["gap", "class", "extra"], ["pre", "post"]),
        [("batch", True, True, "all"), ("layer", False, False, "every_second")],
    )
]


def make_network(spec: SideSpec, seed: int = 0) -> SideNetwork:
    generator = torch.Generator().manual_seed(seed)
    return SideNetwork(
        spec, backbone_width=D, depth=DEPTH, grid_YX=(Y, X), patch_size=(PATCH, PATCH), generator=generator
    )


def variant_name(spec: SideSpec) -> str:
    return f"{spec.temporal}-{spec.representation}-{spec.norm_order}-{spec.norm}"


@pytest.mark.parametrize("spec", VARIANTS, ids=variant_name)
def test_every_variant_gives_features_and_gradients(spec: SideSpec, make_inputs) -> None:
    network = make_network(spec).train()
    clip_BTCHW, layers = make_inputs(len(network.taps))
    output = network(clip_BTCHW, layers)
    assert output.frames_BTS.shape == (B, T, WIDTH)
    assert output.patches_BTNS.shape == (B, T, Y * X, WIDTH)
    (output.frames_BTS * torch.randn(B, T, WIDTH)).sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    # the last block's patches reach the frame vector only through averaging
    assert not without, f"no gradient reaches {without}"


@pytest.mark.parametrize("spec", VARIANTS, ids=variant_name)
def test_batch_time_and_size_are_free(spec: SideSpec, make_inputs) -> None:
    network = make_network(spec).eval()
    for num_frames, grid, batch in [(1, (Y, X), 3), (7, (Y, X), 2), (4, (5, 2), 2)]:
        clip_BTCHW, layers = make_inputs(len(network.taps), num_frames=num_frames, grid=grid, batch=batch)
        output = network(clip_BTCHW, layers)
        assert output.patches_BTNS.shape == (batch, num_frames, grid[0] * grid[1], WIDTH)


@pytest.mark.parametrize("spec", VARIANTS, ids=variant_name)
def test_clips_do_not_mix_in_eval_mode(spec: SideSpec, make_inputs) -> None:
    network = make_network(spec).eval()
    clip_BTCHW, layers = make_inputs(len(network.taps), batch=3)
    whole = network(clip_BTCHW, layers).frames_BTS
    alone_layers = [replace(layer, tokens_BTAD=layer.tokens_BTAD[1:2]) for layer in layers]
    alone = network(clip_BTCHW[1:2], alone_layers).frames_BTS
    torch.testing.assert_close(whole[1:2], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("temporal", ["conv", "attention", "none"])
def test_an_identity_block_is_the_identity(order: str, temporal: str) -> None:
    spec = replace(BASE, norm_order=order, temporal=temporal, init="identity")
    network = make_network(spec).train()
    side_BTMS = torch.randn(B, T, Y * X, WIDTH)
    out = network.blocks[0](side_BTMS, torch.randn(B, T, WIDTH), torch.randn(1 + Y * X, WIDTH))
    assert torch.equal(out, side_BTMS)


def test_registers_are_not_patches(make_inputs) -> None:
    network = make_network(BASE).eval()
    clip_BTCHW, layers = make_inputs(DEPTH, num_prefix=4)
    without = [
        replace(t, tokens_BTAD=torch.cat([t.tokens_BTAD[:, :, :1], t.tokens_BTAD[:, :, 4:]], 2), num_prefix=1)
        for t in layers
    ]
    torch.testing.assert_close(
        network(clip_BTCHW, layers).patches_BTNS, network(clip_BTCHW, without).patches_BTNS, atol=1e-6, rtol=0
    )


def test_a_backbone_without_class_token_lends_its_mean_patch(make_inputs) -> None:
    network = make_network(BASE).eval()
    clip_BTCHW, layers = make_inputs(DEPTH, num_prefix=0, has_class_token=False)
    with_mean = [
        replace(
            t,
            tokens_BTAD=torch.cat([t.tokens_BTAD.mean(2, keepdim=True), t.tokens_BTAD], 2),
            num_prefix=1,
            has_class_token=True,
        )
        for t in layers
    ]
    torch.testing.assert_close(
        network(clip_BTCHW, layers).patches_BTNS, network(clip_BTCHW, with_mean).patches_BTNS, atol=1e-6, rtol=0
    )


def test_layers_are_consumed_as_they_come(make_inputs) -> None:
    network = make_network(BASE).eval()
    clip_BTCHW, layers = make_inputs(DEPTH)
    events: list[str] = []

    def source():
        for index, layer in enumerate(layers):
            events.append(f"frozen {index}")
            yield layer

    for index, _ in enumerate(network.stream(clip_BTCHW, source())):
        events.append(f"side {index}")
    assert events == [f"{part} {index}" for index in range(DEPTH) for part in ("frozen", "side")]


@pytest.mark.parametrize("count", [DEPTH - 1, DEPTH + 1])
def test_another_number_of_layers_is_refused(count: int, make_inputs) -> None:
    clip_BTCHW, layers = make_inputs(count)
    with pytest.raises(ValueError, match=f"the side network has {DEPTH} taps"):
        make_network(BASE)(clip_BTCHW, layers)


def test_a_stem_that_does_not_fit_is_refused(make_inputs) -> None:
    clip_BTCHW, layers = make_inputs(DEPTH)
    with pytest.raises(ValueError, match=r"side\.stem=false"):
        make_network(BASE)(clip_BTCHW[..., : 2 * PATCH], layers)


def test_taps_outside_the_backbone_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"0\.\.3"):
        make_network(replace(BASE, taps=(1, 4)))


def test_stem_equals_the_3d_convolution() -> None:
    stem = Stem(BASE, (PATCH, PATCH + 1)).double().train()
    clip_BTCHW = torch.randn(2, 5, 3, 3 * PATCH, 4 * (PATCH + 1), dtype=torch.float64)
    reference = F.conv3d(
        clip_BTCHW.transpose(1, 2), stem.weight, stem.bias, stride=(1, PATCH, PATCH + 1), padding=(1, 0, 0)
    )
    reference = F.batch_norm(reference, None, None, training=True).flatten(3).permute(0, 2, 3, 1)
    torch.testing.assert_close(stem(clip_BTCHW), reference, atol=1e-10, rtol=0)


def test_positions_are_resampled_per_place() -> None:
    rows = torch.arange(3.0)[:, None, None].expand(3, 4, 2).reshape(12, 2)
    resampled = resample_positions(rows, (3, 4), (6, 5)).view(6, 5, 2)
    assert torch.allclose(resampled, resampled[:, :1, :1])
    assert (resampled[1:, 0, 0] > resampled[:-1, 0, 0]).all()


def test_the_generator_decides_every_weight() -> None:
    def weights(global_seed: int, seed: int) -> list[torch.Tensor]:
        torch.manual_seed(global_seed)
        return list(make_network(replace(BASE, representation="extra"), seed).state_dict().values())

    first, again, other = weights(1, 5), weights(2, 5), weights(1, 6)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
