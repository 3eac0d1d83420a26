"""WTI and mean pooling: masks, scale, what an empty row gets, and invariances that a swapped axis would break."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from side4video.tasks.similarity import MeanPooling, WeightedTokenInteraction, sentence_vectors

M, Q, V, T, E = 3, 6, 5, 4, 8


def make_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens_MQE = torch.randn(M, Q, E, generator=generator)
    frames_VTE = torch.randn(V, T, E, generator=generator)
    mask_MQ = torch.arange(Q)[None] < torch.tensor([6, 3, 4])[:, None]
    mask_VT = torch.arange(T)[None] < torch.tensor([4, 2, 4, 1, 3])[:, None]
    return tokens_MQE, mask_MQ, frames_VTE, mask_VT


def make_wti(**settings: bool) -> WeightedTokenInteraction:
    torch.manual_seed(1)
    return WeightedTokenInteraction(E, hidden=7, **settings)


@pytest.mark.parametrize("ignore", [False, True])
def test_what_is_masked_has_no_influence(ignore: bool) -> None:
    tokens_MQE, mask_MQ, frames_VTE, mask_VT = make_inputs()
    noisy_MQE = torch.where(mask_MQ[..., None], tokens_MQE, torch.full_like(tokens_MQE, 3.0))
    noisy_VTE = torch.where(mask_VT[..., None], frames_VTE, torch.full_like(frames_VTE, -2.0))
    for compare in (make_wti(ignore_video_mask=ignore), MeanPooling(ignore_video_mask=ignore)):
        sim_MV = compare(tokens_MQE, mask_MQ, frames_VTE, mask_VT)
        assert sim_MV.shape == (M, V)
        torch.testing.assert_close(compare(noisy_MQE, mask_MQ, frames_VTE, mask_VT), sim_MV)
        other_MV = compare(tokens_MQE, mask_MQ, noisy_VTE, mask_VT)
        assert torch.allclose(other_MV, sim_MV) is not ignore


def test_a_padded_token_offers_every_frame_a_zero() -> None:
    wti = make_wti()
    tokens_MQE = torch.ones(1, 2, E)
    frames_VTE = -torch.ones(1, 3, E)
    frames_mask = torch.ones(1, 3)
    # every real cosine is -1; with padding the frames' best token is the padded one, at 0
    assert wti(tokens_MQE, torch.ones(1, 2), frames_VTE, frames_mask).item() == pytest.approx(-1)
    assert wti(tokens_MQE, torch.tensor([[1, 0]]), frames_VTE, frames_mask).item() == pytest.approx(-0.5)


def test_wti_of_parallel_vectors_is_one_and_length_does_not_matter() -> None:
    tokens_MQE, mask_MQ, _, mask_VT = make_inputs()
    direction_E = torch.arange(1.0, E + 1)
    same_MQE, same_VTE = direction_E.expand(M, Q, E) * 3, direction_E.expand(V, T, E) * 0.1
    ones_MV = torch.ones(M, V)
    torch.testing.assert_close(make_wti()(same_MQE, mask_MQ, same_VTE, torch.ones_like(mask_VT)), ones_MV)
    torch.testing.assert_close(MeanPooling()(same_MQE, mask_MQ, same_VTE, mask_VT), ones_MV)


def test_mean_pooling_is_a_cosine_of_the_mean() -> None:
    tokens_MQE, mask_MQ, frames_VTE, mask_VT = make_inputs()
    sim_MV = MeanPooling()(tokens_MQE, mask_MQ, frames_VTE, mask_VT)
    expected = F.cosine_similarity(tokens_MQE[1, 2], frames_VTE[4, :3].mean(0), dim=0)
    assert sim_MV[1, 4].item() == pytest.approx(float(expected), abs=1e-6)
    assert torch.equal(sentence_vectors(tokens_MQE, mask_MQ), tokens_MQE[torch.arange(M), torch.tensor([5, 2, 3])])


def test_inputs_that_do_not_fit_are_refused() -> None:
    tokens_MQE, mask_MQ, frames_VTE, mask_VT = make_inputs()
    for compare in (make_wti(), MeanPooling()):
        with pytest.raises(ValueError, match=r"tokens_MQE of shape \(3, 6, 8\) does not fit a mask of shape \(3, 5\)"):
            compare(tokens_MQE, mask_MQ[:, 1:], frames_VTE, mask_VT)
        empty_VT = mask_VT.clone()
        empty_VT[2] = False
        with pytest.raises(ValueError, match="frames_VTE: row 2 has no real entry"):
            compare(tokens_MQE, mask_MQ, frames_VTE, empty_VT)
        with pytest.raises(ValueError, match="captions have width 8 and videos 7"):
            compare(tokens_MQE, mask_MQ, frames_VTE[..., :7], mask_VT)
