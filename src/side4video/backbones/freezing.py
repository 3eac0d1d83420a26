"""What makes a module frozen: its content's hash, one precision for its weights, and arithmetic without gradients."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Generator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

_DIGEST_VALUES = 2**18


class ContentDigest:
    """sha256 over the names, shapes and values of tensors, floats as float32.

    Values pass through one small buffer: a whole float32 copy for each tensor, made and freed again between what stays,
    would leave holes in the process's memory.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._buffer = torch.empty(_DIGEST_VALUES)

    def add(self, name: str, tensor: Tensor) -> None:
        """Count one tensor in."""
        self._sha256.update(f"{name}{tuple(tensor.shape)}".encode())
        for part in tensor.detach().reshape(-1).split(_DIGEST_VALUES):
            exact = self._buffer[: len(part)].copy_(part) if part.is_floating_point() else part.cpu()
            self._sha256.update(exact.view(torch.uint8).numpy().data)

    def hexdigest(self) -> str:
        """What has been counted, in hexadecimal."""
        return self._sha256.hexdigest()


def content_hash(module: nn.Module) -> str:
    """The `ContentDigest` of a module's state, in order of the names."""
    digest = ContentDigest()
    for key, value in sorted(module.state_dict().items()):
        digest.add(key, value)
    return digest.hexdigest()


def cast(trunk: nn.Module, precision: torch.dtype, *, but: Collection[nn.Module] = ()) -> None:
    """Keep the weights in this precision from now on, those of the parts `but` left as they are."""
    left = {id(module) for part in but for module in part.modules()}
    for module in trunk.modules():
        if id(module) in left:
            continue
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        # computed tables (rotary angles) lose too much in half precision: adapters cast what comes of them
        is_table = not any(True for _ in module.parameters()) and not module.state_dict()
        for tensor in own:
            if tensor.is_floating_point() and not is_table:
                tensor.data = tensor.data.to(precision)


@contextmanager
def frozen_arithmetic(like: Tensor) -> Generator[None]:
    """No gradients, the weights' own precision, and off the CPU one attention: scaled_dot_product_attention.

    torch's fused path for `nn.MultiheadAttention` would be another one, which holds all attention weights at once on
    some devices. On a CPU it stays: for small pictures it takes less than half the time.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    # meta tensors carry no numbers, and autocast does not know their device
    own = nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False)
    torch.backends.mha.set_fastpath_enabled(value=fused and like.device.type == "cpu")
    try:
        with torch.no_grad(), own:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(value=fused)
