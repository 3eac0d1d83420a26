"""Class-token shift, projections and fusion."""

from __future__ import annotations

import torch

from side4video.side.fusion import Projection, fuse, shift_class_tokens


def test_shift_takes_neighbours_and_never_the_own_frame() -> None:
    class_BTS = torch.arange(2 * 4 * 6, dtype=torch.float32).view(2, 4, 6) + 1
    shifted_BTS = shift_class_tokens(class_BTS)
    for t in range(4):
        following = class_BTS[:, t + 1, :3] if t < 3 else torch.zeros(2, 3)
        previous = class_BTS[:, t - 1, 3:] if t > 0 else torch.zeros(2, 3)
        assert torch.equal(shifted_BTS[:, t], torch.cat([following, previous], -1))


def test_shift_of_one_frame_is_zero() -> None:
    assert not shift_class_tokens(torch.ones(2, 1, 6)).any()


def test_projection_order() -> None:
    tokens_BTAD = torch.randn(2, 3, 5, 8) * 7 + 3
    before, after = Projection(8, 4, norm_at="input"), Projection(8, 4, norm_at="output")
    torch.testing.assert_close(before(tokens_BTAD), before.linear(torch.layer_norm(tokens_BTAD, (8,), eps=1e-5)))
    torch.testing.assert_close(after(tokens_BTAD), torch.layer_norm(after.linear(tokens_BTAD), (4,), eps=1e-5))


def test_projection_with_the_norms_weights_in_the_matrix_has_the_gradients_of_norm_then_map() -> None:
    projection = Projection(8, 4, norm_at="input").double()
    with torch.no_grad():
        for parameter in projection.parameters():
            parameter.add_(torch.randn_like(parameter))
    tokens_BTAD, grad_BTAS = torch.randn(2, 3, 5, 8).double() * 7 + 3, torch.randn(2, 3, 5, 4).double()
    plain_BTAS = projection.linear(projection.norm(tokens_BTAD))
    torch.testing.assert_close(projection(tokens_BTAD), plain_BTAS, atol=1e-12, rtol=0)
    parameters = list(projection.parameters())
    expected = torch.autograd.grad(plain_BTAS, parameters, grad_BTAS)
    found = torch.autograd.grad(projection(tokens_BTAD), parameters, grad_BTAS)
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=0)


def test_projection_takes_tokens_of_the_backbones_precision() -> None:
    tokens_BTAD = torch.randn(2, 3, 5, 8, dtype=torch.bfloat16)
    projection = Projection(8, 4, norm_at="input")
    torch.testing.assert_close(projection(tokens_BTAD), projection(tokens_BTAD.float()), atol=0, rtol=0)


def test_fusion_is_the_mean_and_starts_from_the_tokens_alone() -> None:
    side, projected = torch.randn(2, 2, 3, 4, 5)
    torch.testing.assert_close(fuse(side, projected), (side + projected) / 2)
    assert fuse(None, projected) is projected
