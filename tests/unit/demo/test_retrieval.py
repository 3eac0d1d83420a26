"""What the demo of retrieval measures, on similarities that are known."""

from __future__ import annotations

import pytest
import torch

from side4video.demo.captions import MOTIONS, CaptionedMotion
from side4video.demo.retrieval import measure

SCENES = 3
CLIPS = [CaptionedMotion("", "", scene, motion) for scene in range(SCENES) for motion in MOTIONS]
NUM = len(CLIPS)


def by(same_scene: float, same_motion: float) -> torch.Tensor:
    """What a model sees that knows scene and motion this well."""
    scenes = torch.tensor([clip.scene for clip in CLIPS])
    motions = torch.tensor([MOTIONS.index(clip.motion) for clip in CLIPS])
    return same_scene * (scenes[:, None] == scenes) + same_motion * (motions[:, None] == motions).float()


def test_who_knows_both_finds_every_clip() -> None:
    found = measure(by(0.5, 0.3), CLIPS)
    assert (found.r1, found.r5, found.scene, found.motion, found.direction) == (1, 1, 1, 1, 1)


def test_who_knows_the_scene_alone_finds_nothing_for_sure() -> None:
    # ties count against the right clip
    found = measure(by(0.5, 0.0), CLIPS)
    assert (found.r1, found.scene, found.motion, found.direction) == (0, 1, 0, 0)
    # and broken at random they are the one of eight that the gallery was made for
    noise = torch.rand(200, NUM, NUM, generator=torch.Generator().manual_seed(0)) * 1e-3
    shares = [measure(by(0.5, 0.0) + one, CLIPS) for one in noise]
    assert sum(one.r1 for one in shares) / 200 == pytest.approx(1 / len(MOTIONS), abs=0.02)
    assert sum(one.direction for one in shares) / 200 == pytest.approx(0.5, abs=0.03)


def test_who_knows_the_motion_alone() -> None:
    found = measure(by(0.0, 0.5) + 1e-3 * by(1.0, 0.0) * torch.tensor([-1.0]), CLIPS)
    assert (found.r1, found.r5, found.scene, found.motion, found.direction) == (0, 1, 0, 1, 1)


def test_a_model_without_order_takes_opposites_for_one() -> None:
    pairs = torch.tensor([MOTIONS.index(clip.motion) // 2 for clip in CLIPS])
    noise = torch.rand(200, NUM, NUM, generator=torch.Generator().manual_seed(1)) * 1e-3
    seen = by(0.5, 0.0) + 0.3 * (pairs[:, None] == pairs)
    shares = [measure(seen + one, CLIPS).r1 for one in noise]
    assert sum(shares) / 200 == pytest.approx(0.5, abs=0.03)
