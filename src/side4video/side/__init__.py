"""The trainable side network: one block, whose settings are the paper's variants and the released code's dialects."""

from side4video.side.network import SideNetwork, SideOutput
from side4video.side.spec import SideSpec, resolve_taps

__all__ = ["SideNetwork", "SideOutput", "SideSpec", "resolve_taps"]
