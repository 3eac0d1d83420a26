"""What every frozen image model promises, and the records that it speaks in.

A family of image models is one adapter: a module that keeps the promises of `ImageTrunk`.

Shapes: A = P + N, all tokens of a frame, prefix tokens first, patches row by row. E is the width that `finish` gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from side4video.errors import BackboneError


@dataclass(frozen=True)
class Preprocessing:
    """The pixels that a backbone was trained on, from its library's own record.

    `mean` and `std` are per RGB channel for pixels in 0..1, `image_size` is height, width, `interpolation` is
    ``"bicubic"``, ``"bilinear"`` or ``"nearest"``.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: tuple[int, int]
    interpolation: str


@dataclass(frozen=True)
class LayerTokens:
    """The full output of one frozen block: its residual stream, without the final norm, in the backbone's precision.

    `layer` is the 0-based index of the block. Prefix tokens (class token, registers) come first, then the patches row
    by row. With `has_class_token`, token 0 is the class token.
    """

    layer: int
    tokens_BTAD: Tensor
    num_prefix: int
    has_class_token: bool
    grid_YX: tuple[int, int]

    @property
    def patches_BTND(self) -> Tensor:
        """The patch tokens, a view."""
        return self.tokens_BTAD[:, :, self.num_prefix :]

    @property
    def class_BTD(self) -> Tensor:
        """The class token (a view), or the mean of the frame's patches when the backbone has none."""
        return self.tokens_BTAD[:, :, 0] if self.has_class_token else self.patches_BTND.mean(dim=2)


@runtime_checkable
class ImageTrunk(Protocol):
    """What an adapter promises; it is also an `nn.Module`.

    `post_norm` is true for post-norm EVA trunks, which have their own dialect of side network.
    """

    width: int
    depth: int
    num_prefix: int
    has_class_token: bool
    patch_size: tuple[int, int]
    post_norm: bool
    preprocessing: Preprocessing

    def embed(self, images_ICHW: Tensor) -> tuple[Tensor, Any]:
        """Tokens before the first block, shape IAD, and whatever the blocks need besides.

        That context depends on the size of the images only, not on what is in them or how many there are: a slice of
        the images may be run with the context of another slice.
        """
        ...

    def run_block(self, index: int, tokens_IAD: Tensor, context: Any) -> Tensor:
        """The output of one block, a new tensor; the input is left as it was."""
        ...

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches for images of this height and width.

        Raises:
            BackboneError: when the model cannot take images of that size.
        """
        ...

    def finish(self, tokens_IAD: Tensor) -> Tensor:
        """The image embedding, shape IE, from the last block's tokens, as the library pools, norms and projects it.

        Raises:
            BackboneError: when the library's model has none.
        """
        ...


def patch_grid(image_size: tuple[int, int], patch_size: tuple[int, int], *, native: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of whole patches in an image; the size a model was made for always fits.

    Raises:
        BackboneError: when a side is not a multiple of the patch size.
    """
    (height, width), (rows, columns) = image_size, patch_size
    fits = height % rows == 0 and width % columns == 0 and height > 0 and width > 0
    if not fits and image_size != native:
        raise BackboneError(
            f"image size: got {height}x{width}, allowed are multiples of the patch size {rows}x{columns} "
            f"and the model's own {native[0]}x{native[1]}"
        )
    return height // rows, width // columns
