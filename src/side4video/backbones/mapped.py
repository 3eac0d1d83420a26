"""Weights that come into memory one tensor at a time, so that a model and its file are never both there whole.

A model is built without values (`without_values`), its parameters are then views of the mapped file, and
`own_weights` brings them over one by one: hashed, cast, copied, and the file's pages given back. At the peak there is
one copy of the weights in the wanted precision and one tensor.
"""

from __future__ import annotations

import ctypes
import mmap
from bisect import bisect_right
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from side4video.backbones.freezing import ContentDigest

_MAPS = Path("/proc/self/maps")
_DONT_NEED = 4  # MADV_DONTNEED: clean pages of a file come back from the file when they are read again


@contextmanager
def without_values() -> Generator[None]:
    """Inside, modules are built with parameters on the meta device; buffers, which may be computed, are real.

    For one thread: modules that others build meanwhile would have no values either.
    """
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


class FileMemory:
    """Which addresses of this process belong to files, as it is now. Empty where the system does not tell."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        if not _MAPS.exists():
            return
        for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
            addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
            if inode != "0":
                first, _, last = addresses.partition("-")
                self._ranges.append((int(first, 16), int(last, 16)))
        self._ranges.sort()

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor's values lie in a mapped file."""
        if tensor.device.type != "cpu" or not tensor.numel():
            return False
        first, last = _extent(tensor)
        place = bisect_right(self._ranges, (first, 2**64)) - 1
        return place >= 0 and last <= self._ranges[place][1]

    def give_back(self, tensor: Tensor) -> None:
        """Let the system take the pages of a tensor that `holds`; reading it again reads the file.

        What was written to such a tensor is lost.
        """
        page = mmap.PAGESIZE
        first, last = _extent(tensor)
        first, last = -(-first // page) * page, last // page * page
        if last > first:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONT_NEED)


def own_weights(
    trunk: nn.Module,
    precision: torch.dtype | None = None,
    *,
    but: Collection[nn.Module] = (),
    hashed: bool = True,
) -> str | None:
    """Bring a trunk's mapped weights into memory of their own, floats in `precision`; its hash from before the cast.

    The parameters of the parts `but` are hashed and stay mapped. `None`, and nothing has changed, when nothing is
    mapped. The hash is that of `content_hash`; whoever does not need it saves its time with `hashed` off, and gets "".
    """
    files = FileMemory()
    state: Mapping[str, Tensor] = trunk.state_dict(keep_vars=True)
    if not any(files.holds(value) for value in state.values()):
        return None
    left = {id(parameter) for part in but for parameter in part.parameters()}
    digest = ContentDigest()
    for key, value in sorted(state.items()):
        source = value.detach()
        if hashed:
            digest.add(key, source)
        if id(value) in left:
            if files.holds(source):
                files.give_back(source)
            continue
        target = precision if precision is not None and source.is_floating_point() else source.dtype
        if files.holds(source):
            value.data = source.to(target, copy=True)
            files.give_back(source)
        elif source.dtype != target:
            value.data = source.to(target)
    if precision is not None:
        _cast_buffers(trunk, precision)
    return digest.hexdigest() if hashed else ""


def fits_exactly(tensor: Tensor, precision: torch.dtype, files: FileMemory) -> bool:
    """Whether a cast would change no value; a mapped tensor's pages are given back."""
    fits = bool(torch.equal(tensor.to(precision).to(tensor.dtype), tensor))
    if files.holds(tensor):
        files.give_back(tensor)
    return fits


def load_mapped(path: Path) -> Any:
    """What a weights file holds, its tensors mapped from the disk where the format allows.

    Raises:
        OSError, ValueError, RuntimeError and what pickle raises: a file that cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        # the format of torch before 1.6
        return torch.load(path, map_location="cpu", weights_only=True)


def _cast_buffers(trunk: nn.Module, precision: torch.dtype) -> None:
    """What belongs to weights without being saved with them, such as a bias of zeros; computed tables stay exact."""
    for module in trunk.modules():
        is_table = not any(True for _ in module.parameters()) and not module.state_dict()
        for buffer in module.buffers(recurse=False):
            if buffer.is_floating_point() and not is_table:
                buffer.data = buffer.data.to(precision)


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The addresses of a tensor's first byte and behind its last one."""
    last = sum((size - 1) * abs(stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    first = tensor.data_ptr()
    return first, first + (last + 1) * tensor.element_size()
