"""How captions and videos are compared: weighted token-wise interaction (WTI), and mean pooling.

Both take unnormalised vectors, one a caption token and one a frame, with masks, and give `sim_MV`.

- WTI: each token looks for its nearest frame and each frame for its nearest token; a small network weighs tokens and
  frames. Masked pairs count as a cosine of 0: a padded token offers every frame a 0. Cosines are not scaled; training
  multiplies by `exp(logit_scale)`.
- Mean pooling: cosine between the sentence vector (the last real token) and the mean of the frames, times
  `exp(logit_scale)` in training and evaluation.

Source: Side4Video, arXiv:2311.15769, text-video retrieval, and the released code; WTI is Disentangled Representation
Learning for Text-Video Retrieval, arXiv:2203.07111. The released code with CLIP ignores the video mask, with EVA it
uses it for WTI; for mean pooling it ignores it. That is a setting here; new models use the mask.

Shapes: M, captions; Q, tokens; V, videos; T, frames; E, joint width; R, hidden width of the weighing networks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenWeights(nn.Module):
    """One weight a token or frame: Linear, ReLU, Linear to 1, then a softmax over the real ones."""

    def __init__(self, embed_dim: int, hidden: int | None = None) -> None:
        super().__init__()
        self.hidden = nn.Linear(embed_dim, hidden or embed_dim)
        self.out = nn.Linear(hidden or embed_dim, 1)

    def forward(self, x_MQE: Tensor, mask_MQ: Tensor) -> Tensor:
        """`weights_MQ`, summing to one over the real tokens and 0 elsewhere."""
        scores_MQ = self.out(F.relu(self.hidden(x_MQE))).squeeze(-1)
        return scores_MQ.float().masked_fill(~mask_MQ, float("-inf")).softmax(-1)


class WeightedTokenInteraction(nn.Module):
    """WTI with its two weighing networks, `hidden` wide (default: E; the released EVA model fixes 1024).

    `ignore_video_mask` treats every frame as real, as the released code with CLIP does.
    """

    def __init__(self, embed_dim: int, *, hidden: int | None = None, ignore_video_mask: bool = False) -> None:
        super().__init__()
        self.text_weights = TokenWeights(embed_dim, hidden)
        self.video_weights = TokenWeights(embed_dim, hidden)
        self.ignore_video_mask = ignore_video_mask

    def forward(self, tokens_MQE: Tensor, mask_MQ: Tensor, frames_VTE: Tensor, mask_VT: Tensor) -> Tensor:
        """Unscaled `sim_MV`, float32.

        Raises:
            ValueError: shapes that do not belong together, or a caption or video without a real token or frame.
        """
        return self.compare(tokens_MQE, *check_masks(tokens_MQE, mask_MQ, frames_VTE, mask_VT), frames_VTE)

    def compare(self, tokens_MQE: Tensor, mask_MQ: Tensor, mask_VT: Tensor, frames_VTE: Tensor) -> Tensor:
        """As `forward`, with boolean masks that are known to be good."""
        if self.ignore_video_mask:
            mask_VT = torch.ones_like(mask_VT)
        weight_MQ = self.text_weights(tokens_MQE, mask_MQ)
        weight_VT = self.video_weights(frames_VTE, mask_VT)
        tokens_MQE = F.normalize(tokens_MQE.float(), dim=-1) * mask_MQ.unsqueeze(-1)
        frames_VTE = F.normalize(frames_VTE.float(), dim=-1) * mask_VT.unsqueeze(-1)
        cosine_MVQT = torch.einsum("mqe,vte->mvqt", tokens_MQE, frames_VTE)
        by_token_MV = torch.einsum("mvq,mq->mv", cosine_MVQT.amax(3), weight_MQ)
        by_frame_MV = torch.einsum("mvt,vt->mv", cosine_MVQT.amax(2), weight_VT)
        return (by_token_MV + by_frame_MV) / 2


class MeanPooling(nn.Module):
    """Cosine of the sentence vector and the mean of the unnormalised frames, unscaled."""

    def __init__(self, *, ignore_video_mask: bool = False) -> None:
        super().__init__()
        self.ignore_video_mask = ignore_video_mask

    def forward(self, tokens_MQE: Tensor, mask_MQ: Tensor, frames_VTE: Tensor, mask_VT: Tensor) -> Tensor:
        """Unscaled `sim_MV`, float32.

        Raises:
            ValueError: as `WeightedTokenInteraction.forward`.
        """
        return self.compare(tokens_MQE, *check_masks(tokens_MQE, mask_MQ, frames_VTE, mask_VT), frames_VTE)

    def compare(self, tokens_MQE: Tensor, mask_MQ: Tensor, mask_VT: Tensor, frames_VTE: Tensor) -> Tensor:
        """As `forward`, with boolean masks that are known to be good."""
        if self.ignore_video_mask:
            mask_VT = torch.ones_like(mask_VT)
        sentence_ME = sentence_vectors(tokens_MQE, mask_MQ)
        video_VE = mean_frames(frames_VTE, mask_VT)
        return F.normalize(sentence_ME.float(), dim=-1) @ F.normalize(video_VE.float(), dim=-1).T


def sentence_vectors(tokens_MQE: Tensor, mask_MQ: Tensor) -> Tensor:
    """`sentence_ME`: the last real token of each caption, which is its end token (or the position a tower pools)."""
    positions_Q = torch.arange(mask_MQ.shape[1], device=mask_MQ.device)
    last_M = (mask_MQ.bool() * positions_Q).argmax(1)
    return tokens_MQE[torch.arange(len(tokens_MQE), device=tokens_MQE.device), last_M]


def mean_frames(frames_VTE: Tensor, mask_VT: Tensor) -> Tensor:
    """`video_VE`: the mean of a video's real frames, not normalised."""
    weight_VT1 = mask_VT.to(frames_VTE.dtype).unsqueeze(-1)
    return (frames_VTE * weight_VT1).sum(1) / weight_VT1.sum(1)


def check_masks(tokens_MQE: Tensor, mask_MQ: Tensor, frames_VTE: Tensor, mask_VT: Tensor) -> tuple[Tensor, Tensor]:
    """Both masks as booleans.

    Raises:
        ValueError: shapes that do not belong together, or a caption or video without a real token or frame.
    """
    mask_MQ, mask_VT = mask_MQ.bool(), mask_VT.bool()
    for what, x, mask in (("tokens_MQE", tokens_MQE, mask_MQ), ("frames_VTE", frames_VTE, mask_VT)):
        if x.dim() != 3 or mask.shape != x.shape[:2]:
            raise ValueError(f"{what} of shape {tuple(x.shape)} does not fit a mask of shape {tuple(mask.shape)}")
        if not mask.any(1).all():
            raise ValueError(f"{what}: row {int((~mask.any(1)).nonzero()[0])} has no real entry (its mask is all zero)")
    if tokens_MQE.shape[2] != frames_VTE.shape[2]:
        raise ValueError(
            f"captions have width {tokens_MQE.shape[2]} and videos {frames_VTE.shape[2]}: they live in different spaces"
        )
    return mask_MQ, mask_VT
