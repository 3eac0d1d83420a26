"""Text towers: captions' token ids to one vector a token, in the space that the image tower's embeddings live in.

The tower is open_clip's own text transformer, whatever checkpoint it came from (CLIP with QuickGELU, EVA02-CLIP,
SigLIP, tiny-clip). Retrieval compares words with frames, so every position goes through the final norm and the
projection, which the libraries do for one pooled position only.

Shapes: M, captions; Q, token positions of a caption; E, joint width.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from side4video.backbones.freezing import content_hash
from side4video.errors import BackboneError

WHAT_WORKS = (
    "retrieval needs a CLIP-like model with both towers, such as tiny-clip, open_clip:ViT-B-32/openai, "
    "open_clip:ViT-B-16/openai, open_clip:ViT-L-14/openai, open_clip:EVA02-E-14/laion2b_s4b_b115k or "
    "open_clip:ViT-B-16-SigLIP/webli"
)


@runtime_checkable
class TextEncoder(Protocol):
    """What retrieval asks of a text tower; it is also an `nn.Module`.

    `logit_scale_init` is the logarithm of the scale that the model multiplied its cosines with. With `fixed_length`
    every caption must have exactly `context_length` ids.
    """

    @property
    def name(self) -> str: ...
    @property
    def embed_dim(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def fixed_length(self) -> bool: ...
    @property
    def logit_scale_init(self) -> float: ...

    def forward(self, ids_MQ: Tensor) -> Tensor:
        """`tokens_MQE`: every position after the final norm and the projection."""
        ...

    def identity(self) -> dict[str, Any]:
        """What a run stores about a frozen text tower: plain JSON values."""
        ...


class TextTower(nn.Module):
    """open_clip's text transformer with an output for every token.

    `source` is an open_clip `CLIP`, or the `TextTransformer` of its other models; the parts are taken over, not copied.

    Raises:
        BackboneError: when `source` is built otherwise (a Hugging Face encoder, CoCa's class token).
    """

    def __init__(self, source: nn.Module, *, name: str, logit_scale_init: float) -> None:
        super().__init__()
        _check_kind(source, name)
        parts: Any = source
        self.name = name
        self.logit_scale_init = logit_scale_init
        self.token_embedding: nn.Embedding = parts.token_embedding
        self.positional_embedding: nn.Parameter = parts.positional_embedding
        self.transformer: nn.Module = parts.transformer
        self.ln_final: nn.Module = parts.ln_final
        self.text_projection: nn.Parameter | nn.Linear | None = parts.text_projection
        self.causal = parts.attn_mask is not None
        # where words see what comes after them they see the padding, and the tower knows one length of it only
        self.fixed_length = not self.causal

    @property
    def context_length(self) -> int:
        """The most ids a caption may have."""
        return self.positional_embedding.shape[0]

    @property
    def vocab_size(self) -> int:
        """Ids are 0 to below this."""
        return self.token_embedding.num_embeddings

    @property
    def embed_dim(self) -> int:
        """Joint width E."""
        if self.text_projection is None:
            return self.positional_embedding.shape[1]
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection.out_features
        return self.text_projection.shape[1]

    def forward(self, ids_MQ: Tensor) -> Tensor:
        """`tokens_MQE` of captions as ids, start and end tokens included; Q may be shorter than the context.

        Raises:
            ValueError: ids that are not MQ integers, longer than the context, or (SigLIP) not padded to it.
        """
        self._check_ids(ids_MQ)
        num_ids = ids_MQ.shape[1]
        positions_QD = self.positional_embedding[:num_ids]
        tokens_MQD = self.token_embedding(ids_MQ) + positions_QD
        mask_QQ = None
        if self.causal:
            mask_QQ = torch.full((num_ids, num_ids), float("-inf"), device=ids_MQ.device, dtype=tokens_MQD.dtype).triu(
                1
            )
        tokens_MQD = self.ln_final(self.transformer(tokens_MQD, attn_mask=mask_QQ))
        if self.text_projection is None:
            return tokens_MQD
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(tokens_MQD)
        return tokens_MQD @ self.text_projection

    def identity(self) -> dict[str, Any]:
        """What a run stores about a frozen text tower: plain JSON values, the sha256 of the weights among them."""
        return {
            "name": self.name,
            "hash": content_hash(self),
            "context_length": self.context_length,
            "vocab_size": self.vocab_size,
            "embed_dim": self.embed_dim,
        }

    def _check_ids(self, ids_MQ: Tensor) -> None:
        if ids_MQ.dim() != 2 or ids_MQ.is_floating_point():
            raise ValueError(f"token ids must be integers of shape MQ; got {tuple(ids_MQ.shape)}, {ids_MQ.dtype}")
        num_ids = ids_MQ.shape[1]
        if num_ids > self.context_length or (self.fixed_length and num_ids != self.context_length):
            allowed = "exactly" if self.fixed_length else "at most"
            raise ValueError(f"{self.name}: a caption must have {allowed} {self.context_length} ids; got {num_ids}")


def text_tower_of(model: nn.Module, *, name: str) -> TextTower:
    """The text tower of a whole open_clip model, in float32.

    Raises:
        BackboneError: when the model has none, or one without an output for every token.
    """
    text = getattr(model, "text", model)
    if not isinstance(text, nn.Module) or not hasattr(text, "token_embedding"):
        kind = type(text).__name__
        raise BackboneError(f"{name}: {kind} has no text tower with an output for every token; {WHAT_WORKS}")
    scale = getattr(model, "logit_scale", None)
    if not isinstance(scale, Tensor):
        raise BackboneError(f"{name}: {type(model).__name__} has no logit_scale; {WHAT_WORKS}")
    return TextTower(text, name=name, logit_scale_init=float(scale.detach())).float()


def _check_kind(source: nn.Module, name: str) -> None:
    needed = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection", "attn_mask")
    lacking = [part for part in needed if not hasattr(source, part)]
    if lacking:
        raise BackboneError(f"{name}: {type(source).__name__} lacks {lacking[0]}, so it is no text tower; {WHAT_WORKS}")
    if getattr(source, "cls_emb", None) is not None:
        raise BackboneError(f"{name}: CoCa's text tower pools a class token and has no word vectors; {WHAT_WORKS}")
