"""Adapter for the vision transformer that open_clip wrote itself: OpenAI's CLIP, LAION's, DataComp's, CoCa's.

The tower is kept as the library built it; only its first lines are repeated here, so that positions can be resampled
for another image size. Towers that open_clip borrows from timm are in `timm_vit`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from side4video.backbones.trunk import Preprocessing, patch_grid


class OpenClipViT(nn.Module):
    """open_clip's `VisionTransformer` as an `ImageTrunk`: one class token, then the patches.

    `image_size` is the size to prepare images in, where it is not the model's own.

    Raises:
        BackboneError: when `image_size` does not fit the patches.
    """

    num_prefix = 1
    has_class_token = True
    post_norm = False

    def __init__(self, visual: VisionTransformer, *, image_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.visual = visual
        self.width: int = visual.conv1.out_channels
        self.depth = len(visual.transformer.resblocks)
        self.patch_size: tuple[int, int] = _pair(visual.conv1.kernel_size)
        self.native_size: tuple[int, int] = _pair(visual.image_size)
        self.preprocessing = open_clip_preprocessing(visual)
        if image_size is not None:
            self.grid(image_size)
            self.preprocessing = replace(self.preprocessing, image_size=image_size)

    def embed(self, images_ICHW: Tensor) -> tuple[Tensor, None]:
        """Class token and patches with their positions, normed where the model norms them."""
        visual = self.visual
        patches_IDYX = visual.conv1(images_ICHW)
        positions_AD = self._positions_AD(_pair(patches_IDYX.shape[-2:]))
        class_I1D = visual.class_embedding.expand(patches_IDYX.shape[0], 1, -1)
        tokens_IAD = torch.cat([class_I1D, patches_IDYX.flatten(2).transpose(1, 2)], dim=1)
        return visual.ln_pre(tokens_IAD + positions_AD), None

    def run_block(self, index: int, tokens_IAD: Tensor, context: Any) -> Tensor:  # noqa: ARG002
        """The output of one residual block."""
        return self.visual.transformer.resblocks[index](tokens_IAD)

    def block(self, index: int) -> nn.Module:
        """The module of one block."""
        return self.visual.transformer.resblocks[index]

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches.

        Raises:
            BackboneError: when a side is not a multiple of the patch size.
        """
        return patch_grid(image_size, self.patch_size, native=self.native_size)

    def finish(self, tokens_IAD: Tensor) -> Tensor:
        """CLIP's image embedding, before it is normalised."""
        pooled, _ = self.visual._pool(tokens_IAD)  # pyright: ignore[reportPrivateUsage] - no public half of forward
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    def _positions_AD(self, grid_YX: tuple[int, int]) -> Tensor:
        positions_AD = self.visual.positional_embedding
        native_YX = _pair(self.visual.grid_size)
        if grid_YX == native_YX:
            return positions_AD
        # as open_clip.model.resize_pos_embed; there is no bicubic resampling in half precision everywhere
        table_1DYX = positions_AD[1:].float().unflatten(0, native_YX).permute(2, 0, 1)[None]
        table_1DYX = F.interpolate(table_1DYX, size=grid_YX, mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([positions_AD[:1], table_1DYX[0].flatten(1).T.to(positions_AD.dtype)])


def open_clip_preprocessing(visual: nn.Module) -> Preprocessing:
    """The record that open_clip's factory leaves on a tower; CLIP's own values for a tower built by hand."""
    record: dict[str, Any] = getattr(visual, "preprocess_cfg", None) or {}
    mean = record.get("mean") or OPENAI_DATASET_MEAN
    std = record.get("std") or OPENAI_DATASET_STD
    return Preprocessing(
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        image_size=_pair(visual.image_size),
        interpolation=str(record.get("interpolation", "bicubic")),
    )


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)
