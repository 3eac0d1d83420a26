"""The end of an image tower, as a trainable copy: from the last block's tokens to the joint text-image space.

Retrieval adds something to each frame before it is projected. Where the tower takes the class token through a norm and
a linear map (CLIP, EVA02-CLIP), the side feature joins the class token and copies of both train. Where it pools
otherwise (SigLIP's attention pool, averages), the frozen embedding is finished as it is and the side feature joins it
in the joint space. Either way, adding zero gives the frozen model's own embedding. Copies start from the weights as the
backbone holds them: in bf16 they have lost bits that the checkpoint may have had.

Shapes: E, joint width; W, width of what is added: D for a class token, E in the joint space.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from open_clip.transformer import VisionTransformer as OpenClipVisionTransformer
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.open_clip_vit import OpenClipViT
from side4video.backbones.timm_vit import TimmViT
from side4video.backbones.trunk import LayerTokens
from side4video.errors import BackboneError


class ClassTokenHead(nn.Module):
    """`projection(norm(class + added))`: float32 copies of the tower's own, trainable."""

    def __init__(self, norm: nn.Module, projection: nn.Module, *, added_width: int, embed_dim: int) -> None:
        super().__init__()
        self.norm = norm
        self.projection = projection
        self.added_width = added_width
        self.embed_dim = embed_dim

    def forward(self, backbone: FrozenBackbone, last: LayerTokens, added_BTW: Tensor) -> Tensor:  # noqa: ARG002
        """`frames_BTE` from the last block's tokens and what is added to its class token."""
        return self.projection(self.norm(last.class_BTD.to(added_BTW.dtype) + added_BTW))


class JointSpaceHead(nn.Module):
    """`frozen embedding + added`, without parameters of its own."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.added_width = embed_dim
        self.embed_dim = embed_dim

    def forward(self, backbone: FrozenBackbone, last: LayerTokens, added_BTW: Tensor) -> Tensor:
        """`frames_BTE` from the last block's tokens, finished by the frozen tower, and what is added to them."""
        frozen_IE = backbone.finish(last.tokens_BTAD.flatten(0, 1))
        return frozen_IE.unflatten(0, added_BTW.shape[:2]).to(added_BTW.dtype) + added_BTW


FrameHead = ClassTokenHead | JointSpaceHead


class MatrixProjection(nn.Module):
    """CLIP's projection: a matrix of shape DE, without bias."""

    def __init__(self, matrix_DE: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix_DE.detach().clone().float())

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD @ self.matrix


def make_frame_head(backbone: FrozenBackbone) -> FrameHead:
    """The head that fits the tower; its weights are copies, the backbone's stay frozen.

    Raises:
        BackboneError: when the library's model has no image embedding at all.
    """
    rows, columns = backbone.grid(backbone.preprocessing.image_size)
    width = backbone.width
    tokens_IAD = torch.zeros(1, backbone.num_prefix + rows * columns, width, device=backbone.device)
    embed_dim = backbone.finish(tokens_IAD.to(backbone.precision)).shape[-1]
    parts = _class_token_parts(backbone.trunk)
    if parts is None:
        return JointSpaceHead(embed_dim)
    norm, projection = (part.float().requires_grad_(requires_grad=True) for part in parts)
    return ClassTokenHead(norm, projection, added_width=width, embed_dim=embed_dim)


def _class_token_parts(trunk: Any) -> tuple[nn.Module, nn.Module] | None:
    """Copies of norm and projection, when the embedding is made of the class token alone."""
    if isinstance(trunk, OpenClipViT):
        visual: OpenClipVisionTransformer = trunk.visual
        if visual.attn_pool is not None or visual.pool_type != "tok":
            return None
        projection = nn.Identity() if visual.proj is None else MatrixProjection(visual.proj)
        return copy.deepcopy(visual.ln_post), projection
    if isinstance(trunk, TimmViT) and trunk.projection is not None:
        model = trunk.model
        known = type(model).forward_head in (TimmVisionTransformer.forward_head, Eva.forward_head)
        if not known or model.global_pool != "token" or getattr(model, "attn_pool", None) is not None:
            return None
        norms = [copy.deepcopy(norm) for norm in (model.norm, model.fc_norm) if not isinstance(norm, nn.Identity)]
        maps = [copy.deepcopy(m) for m in (model.head, *_flat(trunk.projection)) if not isinstance(m, nn.Identity)]
        return _chain(norms), _chain(maps)
    return None


def _flat(module: nn.Module) -> list[nn.Module]:
    return list(module) if isinstance(module, nn.Sequential) else [module]


def _chain(modules: list[nn.Module]) -> nn.Module:
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def require_embedding(backbone: FrozenBackbone, embed_dim: int, *, what_works: str) -> FrameHead:
    """The frame head of a backbone whose embeddings live in a text tower's space of `embed_dim`.

    Raises:
        BackboneError: when the backbone has no image embedding, or one of another width.
    """
    try:
        head = make_frame_head(backbone)
    except BackboneError as error:
        raise BackboneError(f"backbone {backbone.name!r} has no text tower: {error}; {what_works}") from error
    if head.embed_dim != embed_dim:
        raise BackboneError(
            f"backbone {backbone.name!r} embeds frames in {head.embed_dim} dimensions and the text tower captions in "
            f"{embed_dim}: they do not belong together; {what_works}"
        )
    return head
