"""The hash of a module's content: the bytes of its values as float32, however they are read."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from side4video.backbones import freezing
from side4video.backbones.freezing import content_hash


def test_the_hash_is_of_all_bytes_in_float32_whatever_the_buffer_holds() -> None:
    module = nn.Module()
    generator = torch.Generator().manual_seed(2)
    module.register_buffer("wide", torch.randn(3, freezing._DIGEST_VALUES // 2 + 5, generator=generator).half())
    module.register_buffer("turned", torch.randn(7, 4, generator=generator).T)
    module.register_buffer("numbers", torch.arange(11))
    module.register_buffer("one", torch.tensor(5.5))
    plain = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        plain.update(f"{name}{tuple(value.shape)}".encode())
        plain.update((value.float() if value.is_floating_point() else value).contiguous().numpy().tobytes())
    assert content_hash(module) == plain.hexdigest()
    module.wide[2, -1] += 1
    assert content_hash(module) != plain.hexdigest()
