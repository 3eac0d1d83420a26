"""Adapter for timm's vision transformers and their relatives, alone or as the image tower of an open_clip model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from timm.models.eva import EvaBlockPostNorm
from torch import Tensor, nn

from side4video.backbones.timm_families import Family, family_of
from side4video.backbones.trunk import Preprocessing, patch_grid
from side4video.errors import BackboneError

WHAT_WORKS = (
    "what works: models that keep one list of blocks over patch tokens on one grid (ViT, DeiT, BEiT, EVA, CLIP, "
    "SigLIP, DINOv2/v3, MAE, PE), such as timm:vit_small_patch14_dinov2.lvd142m, open_clip:ViT-B-16/openai "
    "or tiny-clip; `side4video backbones` lists them"
)


class TimmViT(nn.Module):
    """A model of timm as an `ImageTrunk`.

    `image_size` is the size to prepare images in, where it is not the model's own; the model must be able to take it.
    `projection` and `preprocessing` are those of an open_clip tower around the model.

    Raises:
        BackboneError: when the model has no patch tokens on one grid, or cannot take `image_size`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        image_size: tuple[int, int] | None = None,
        projection: nn.Module | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        model = _encoder(model)
        self.model: Any = model
        self.projection = projection
        self.family = require_family(model)
        self.depth = len(self.model.blocks)
        self.width = int(self.model.embed_dim)
        self.num_prefix = int(getattr(model, "num_prefix_tokens", 0)) if self.family.in_blocks else 0
        self.has_class_token = self.num_prefix > 0 and _has_class_token(self.model)
        self.patch_size = _patch_size(self.model)
        self.post_norm = isinstance(self.model.blocks[0], EvaBlockPostNorm)
        self.native_size = _native_size(self.model)
        own = timm_preprocessing(self.model, self.native_size)
        if preprocessing is not None:
            own = replace(preprocessing, image_size=self.native_size)
        if image_size is not None:
            self.grid(image_size)
            own = replace(own, image_size=image_size)
        self.preprocessing = own

    def embed(self, images_ICHW: Tensor) -> tuple[Tensor, Any]:
        """Prefix tokens and patches with their positions; the context is rotary angles, bias tables or a grid."""
        tokens_IAD, context = self.family.embed(self.model, images_ICHW)
        return tokens_IAD, _like(context, tokens_IAD)

    def run_block(self, index: int, tokens_IAD: Tensor, context: Any) -> Tensor:
        """The output of one block."""
        return self.family.block(self.model, index, tokens_IAD, context)

    def block(self, index: int) -> nn.Module:
        """The module of one block."""
        return self.model.blocks[index]

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches.

        Raises:
            BackboneError: when the model is fixed to another size, or a side is not a multiple of the patch size.
        """
        if image_size != self.native_size and not (
            self.family.any_size or getattr(self.model, "dynamic_img_size", False)
        ):
            raise BackboneError(
                f"image size: got {image_size[0]}x{image_size[1]}, but this {type(self.model).__name__} takes "
                f"{self.native_size[0]}x{self.native_size[1]} only; another size may be asked for when it is created "
                "by name (image_size=)"
            )
        return patch_grid(image_size, self.patch_size, native=self.native_size)

    def finish(self, tokens_IAD: Tensor) -> Tensor:
        """What timm's classifier (or open_clip's projection) would get: final norm and pooling.

        Raises:
            BackboneError: when the model ends in tokens, without pooling.
        """
        kind = type(self.model).__name__
        if self.family.finish is None:
            raise BackboneError(f"{kind} has no pooled image embedding")
        tokens_IAD = self.family.finish(self.model, tokens_IAD)
        if self.projection is not None:
            return self.projection(self.model.forward_head(tokens_IAD))
        pooled_IE = self.model.forward_head(tokens_IAD, pre_logits=True)
        if pooled_IE.ndim != 2:
            raise BackboneError(f"{kind} was made without pooling (global_pool=''), so it has no image embedding")
        return pooled_IE


def require_family(model: nn.Module) -> Family:
    """The family of a model.

    Raises:
        BackboneError: when it has none; the message says what works.
    """
    model = _encoder(model)
    family = family_of(model)
    if family is None:
        raise BackboneError(f"{type(model).__name__} has no list of blocks over patch tokens on one grid; {WHAT_WORKS}")
    return family


def timm_preprocessing(model: Any, image_size: tuple[int, int]) -> Preprocessing:
    """timm's record of the pixels a model was trained on; ImageNet's values where there is none."""
    record: dict[str, Any] = dict(getattr(model, "pretrained_cfg", None) or {})
    mean = record.get("mean") or (0.485, 0.456, 0.406)
    std = record.get("std") or (0.229, 0.224, 0.225)
    interpolation = str(record.get("interpolation") or "bicubic")
    return Preprocessing(
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        image_size=image_size,
        interpolation=interpolation if interpolation in ("bicubic", "bilinear", "nearest") else "bicubic",
    )


def _encoder(model: nn.Module) -> nn.Module:
    """Without the head that wraps the image encoder of a vision-language model (Qwen3, Gemma4, DeepSeek)."""
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, nn.Module) and hasattr(encoder, "blocks") and not hasattr(model, "blocks"):
        return encoder
    return model


def _embedder(model: Any) -> Any:
    for name in ("patch_embed", "embeds", "stem"):
        if hasattr(model, name):
            return getattr(model, name)
    raise BackboneError(f"{type(model).__name__} has no patch embedding; {WHAT_WORKS}")


def _has_class_token(model: Any) -> bool:
    if hasattr(model, "cls_token"):
        return model.cls_token is not None
    return getattr(getattr(model, "embeds", None), "cls_token", None) is not None


def _patch_size(model: Any) -> tuple[int, int]:
    embedder = _embedder(model)
    size = embedder.feat_ratio(as_scalar=False) if hasattr(embedder, "feat_ratio") else embedder.patch_size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _native_size(model: Any) -> tuple[int, int]:
    size = getattr(_embedder(model), "img_size", None)
    if size is None:
        record: dict[str, Any] = dict(getattr(model, "pretrained_cfg", None) or {})
        size = tuple(record.get("input_size") or (3, 224, 224))[1:]
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _like(context: Any, tokens_IAD: Tensor) -> Any:
    """Rotary tables are computed in float32; the blocks get them in the tokens' type."""
    if isinstance(context, Tensor):
        return context.to(tokens_IAD.dtype)
    if isinstance(context, list | tuple):
        return type(context)(_like(part, tokens_IAD) for part in context)
    return context
