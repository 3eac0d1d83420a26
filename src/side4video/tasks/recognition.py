"""Action recognition: side features averaged over time and space, then a linear classifier.

Source: Side4Video, arXiv:2311.15769, action recognition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from side4video.backbones.base import FrozenBackbone
from side4video.batch import StoredTokens
from side4video.errors import CheckpointError
from side4video.model import Side4Video, make_side_network
from side4video.side.network import MemoryMode, SideNetwork
from side4video.side.spec import SideSpec
from side4video.windows import SeenClips

TRAINED_PARTS = ("side", "head")


class VideoClassifier(nn.Module):
    """Clips to class scores. Only `side` and `head` train; the backbone freezes itself.

    `side` is a network, its settings, or nothing for the published settings of the backbone's family. `generator`
    draws the initial weights; without one, torch's global generator does. `memory` is what training keeps (see
    `SideNetwork`, whose own setting counts when one is given).

    Raises:
        ValueError: fewer than one class, or class names that do not match the number of classes.
        ConfigError: taps that the backbone does not have.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        num_classes: int,
        *,
        side: SideNetwork | SideSpec | None = None,
        class_names: Sequence[str] | None = None,
        dropout: float = 0.0,
        memory: MemoryMode = "fast",
        frame_slice: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1; got {num_classes}")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"class_names must have num_classes={num_classes} entries; got {len(class_names)}")
        if not isinstance(side, SideNetwork):
            side = make_side_network(backbone, side, memory=memory, generator=generator)
        self.video = Side4Video(backbone, side, frame_slice=frame_slice)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(side.spec.width, num_classes)
        self.class_names = None if class_names is None else tuple(class_names)
        if generator is not None:
            bound = side.spec.width**-0.5
            nn.init.uniform_(self.head.weight, -bound, bound, generator=generator)
            nn.init.uniform_(self.head.bias, -bound, bound, generator=generator)

    @property
    def backbone(self) -> FrozenBackbone:
        """The frozen image model."""
        return self.video.backbone

    @property
    def side(self) -> SideNetwork:
        """The trainable side network."""
        return self.video.side

    def forward(self, clip_BTCHW: Tensor, stored: StoredTokens | None = None) -> Tensor:
        """`logits_BK` of normalised clips. With `stored` tokens the backbone does not run.

        Raises:
            ValueError: a tensor that is not BTCHW with three channels, or a tap that is not stored.
        """
        return self.head(self.dropout(self.features(clip_BTCHW, stored)))

    def features(self, clip_BTCHW: Tensor, stored: StoredTokens | None = None) -> Tensor:
        """`features_BS`, what the classifier sees: the mean over time of the frames' representation."""
        return self.video(clip_BTCHW, stored).frames_BTS.mean(1)

    def take_part(self) -> None:
        """For a process without clips while others have some: see `FrozenBackbone.take_part`."""
        self.backbone.take_part(self.side.taps)

    def encode_windows(self, windows: SeenClips) -> Tensor:
        """`frames_BTS` of windows whose frames have passed the backbone; their mean over time is `features_BS`."""
        return windows.run(self.side).frames_BTS

    def side_features(self, clip_BTCHW: Tensor) -> list[Tensor]:
        """BTNS patches after each side block."""
        return self.video.side_features(clip_BTCHW)

    def trainable_state(self) -> dict[str, Tensor]:
        """Parameters and buffers of side network and head, named `side.*` and `head.*`; the tensors are not copied."""
        state: dict[str, Tensor] = {}
        for part in TRAINED_PARTS:
            for name, value in getattr(self, part).state_dict().items():
                state[f"{part}.{name}"] = value
        return state

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `trainable_state` gave; every name and shape must match.

        Raises:
            CheckpointError: missing or unknown names, or other shapes; nothing has been loaded then.
        """
        own = self.trainable_state()
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise CheckpointError(
                f"the weights do not fit this model: {len(missing)} missing {missing[:3]}, "
                f"{len(unknown)} unknown {unknown[:3]}"
            )
        for name, value in own.items():
            if value.shape != state[name].shape:
                raise CheckpointError(
                    f"the weights do not fit this model: {name} is {tuple(value.shape)} here "
                    f"and {tuple(state[name].shape)} there"
                )
        for part in TRAINED_PARTS:
            prefix = f"{part}."
            part_state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            getattr(self, part).load_state_dict(part_state, strict=True)
