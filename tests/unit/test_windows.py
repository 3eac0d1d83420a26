"""Sliding windows: the same numbers as one window at a time, every frame through the backbone once, bounded memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.create import create_backbone
from side4video.backbones.create_text import create_text_tower
from side4video.side.spec import Dialect, SideSpec
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel
from side4video.windows import WindowPlan, WindowStream, taps_of
from unit.backbones.toy import ToyTrunk

NUM_FRAMES, HEIGHT, WIDTH = 23, 12, 14
SPEC = SideSpec(width=10, num_heads=2, taps=(0, 2))


@pytest.fixture
def backbone() -> FrozenBackbone:
    torch.manual_seed(0)
    return FrozenBackbone(ToyTrunk(), name="toy")


def frames(count: int = NUM_FRAMES) -> Tensor:
    return torch.randn(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))


def classifier(backbone: FrozenBackbone, *, seed: int = 5, taps: tuple[int, ...] = (0, 2)) -> VideoClassifier:
    generator = torch.Generator().manual_seed(seed)
    return VideoClassifier(backbone, 7, side=replace(SPEC, taps=taps), generator=generator).eval()


def expected_spans(num_frames: int, plan: WindowPlan) -> list[tuple[int, int]]:
    """First and past-the-last frame of every window, from the rule in words."""
    spans = [(s, s + plan.size) for s in range(0, num_frames, plan.stride) if s + plan.size <= num_frames]
    if not spans or spans[-1][1] < num_frames:
        spans.append((max(0, num_frames - plan.size), num_frames))
    return spans


@pytest.mark.parametrize(("size", "stride"), [(8, 4), (5, 1), (6, 6), (4, 9), (23, 2), (40, 3), (1, 1)])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "tokens"])
@pytest.mark.parametrize("pieces", [[23], [1] * 23, [9, 0, 14], [2, 20, 1]], ids=["whole", "single", "two", "odd"])
@torch.no_grad()
def test_windows_equal_each_window_on_its_own(
    backbone: FrozenBackbone, size: int, stride: int, pieces: list[int], shared: bool
) -> None:
    model, plan, video = classifier(backbone), WindowPlan(size, stride), frames()
    sides, taps = ([model.side], ()) if shared else ([], taps_of([model.side]))
    stream = WindowStream(backbone, [plan], sides=sides, taps=taps, frame_slice=7, max_windows=3)
    found: dict[tuple[int, int], Tensor] = {}
    for windows in stream.run(video.split(pieces)):
        assert windows.plan == 0
        assert len(windows.starts) <= 3
        for start, frames_TS in zip(windows.starts, model.encode_windows(windows), strict=True):
            found[start, start + windows.num_frames] = frames_TS
    assert list(found) == expected_spans(NUM_FRAMES, plan)
    for (start, stop), frames_TS in found.items():
        alone_TS = model.video(video[None, start:stop]).frames_BTS[0]
        torch.testing.assert_close(frames_TS, alone_TS, atol=1e-5, rtol=0)


def test_each_frame_passes_the_backbone_once(backbone: FrozenBackbone) -> None:
    trunk = backbone.trunk
    assert isinstance(trunk, ToyTrunk)
    model = classifier(backbone)
    stream = WindowStream(backbone, [WindowPlan(8, 1)], sides=[model.side], frame_slice=5)
    count = sum(len(windows.starts) for windows in stream.run(frames().split(6)))
    assert count == NUM_FRAMES - 8 + 1
    assert sum(trunk.embedded) == NUM_FRAMES
    assert max(trunk.embedded) <= 5
    # blocks 0, 1 and 2, up to the last tap, see every frame once; the rest never run
    assert {block for block, _ in trunk.calls} == {0, 1, 2}
    for block in range(3):
        assert sum(images for index, images in trunk.calls if index == block) == NUM_FRAMES


def test_memory_is_bounded_by_the_longest_window(backbone: FrozenBackbone) -> None:
    side = classifier(backbone).side
    plans = [WindowPlan(3, 2), WindowPlan(6, 2)]
    stream = WindowStream(backbone, plans, taps=(1, 3), sides=[side], frame_slice=4)
    for number in range(200):
        for windows in stream.push(frames(3)):
            tokens = windows.layer(3).tokens_BTAD
            assert tokens.untyped_storage().nbytes() <= (6 + 4) * 4 * tokens[0, 0].numel() * len(windows.starts)
        assert stream.frames_held == min(6, 3 * (number + 1))
    assert stream.frames_seen == 600
    held = [layer.tokens_BTAD for layer in stream._held]
    assert [tokens.shape[1] for tokens in held] == [6, 6]
    shared = stream._shared[side]
    assert shared._stem_BTNR is not None
    held += [shared._stem_BTNR, *(layer.patches_BTNS for layer in shared._layers.values())]
    assert len(held) == 2 + 1 + 2
    assert [tokens.shape[1] for tokens in held] == [6] * 5
    assert all(tokens.untyped_storage().nbytes() == 4 * tokens.numel() for tokens in held), "no view of more"


@torch.no_grad()
def test_several_side_networks_and_plans_share_a_pass(backbone: FrozenBackbone) -> None:
    trunk, video = backbone.trunk, frames()
    assert isinstance(trunk, ToyTrunk)
    models = [classifier(backbone), classifier(backbone, seed=6, taps=(1, 2, 4))]
    plans = [WindowPlan(8, 5), WindowPlan(4, 3)]
    assert taps_of([model.side for model in models]) == (0, 1, 2, 4)
    found: list[tuple[int, int, Tensor]] = []
    for windows in WindowStream(backbone, plans, sides=[model.side for model in models]).run([video]):
        model = models[windows.plan]
        features = model.encode_windows(windows).mean(1)
        found += [(windows.plan, start, feature) for start, feature in zip(windows.starts, features, strict=True)]
    assert sum(trunk.embedded) == NUM_FRAMES
    assert {plan for plan, _, _ in found} == {0, 1}
    for plan, start, feature_S in found:
        alone_S = models[plan].features(video[None, start : start + plans[plan].size])[0]
        torch.testing.assert_close(feature_S, alone_S, atol=1e-5, rtol=0)


@torch.no_grad()
def test_retrieval_windows_equal_encode_video() -> None:
    own = create_backbone("tiny-clip", pretrained=False, precision="fp32")
    generator = torch.Generator().manual_seed(1)
    model = VideoTextModel(
        own, create_text_tower("tiny-clip", pretrained=False), side=SideSpec(width=24), generator=generator
    ).eval()
    model.side_proj.normal_(std=0.2, generator=generator)
    video = torch.randn(9, 3, 64, 64, generator=generator)
    stream = WindowStream(own, [WindowPlan(4, 3)], sides=[model.side], taps=[own.depth - 1])
    found = [
        pair
        for windows in stream.run([video])
        for pair in zip(windows.starts, model.encode_windows(windows), strict=True)
    ]
    assert [start for start, _ in found] == [0, 3, 5]
    for start, frames_TE in found:
        torch.testing.assert_close(frames_TE, model.encode_video(video[None, start : start + 4])[0], atol=1e-5, rtol=0)


def test_a_stream_begins_anew_after_finish(backbone: FrozenBackbone) -> None:
    stream = WindowStream(backbone, [WindowPlan(4, 2)], taps=(0,))
    for _ in range(2):
        starts = [start for windows in stream.run([frames(7)]) for start in windows.starts]
        assert starts == [0, 2, 3]
        assert (stream.frames_seen, stream.frames_held) == (0, 0)
    assert list(stream.finish()) == [], "no frame, no window"


@pytest.mark.parametrize("size_and_stride", [(0, 1), (3, 0)])
def test_plans_below_one(size_and_stride: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1; got"):
        WindowPlan(*size_and_stride)


def test_what_a_stream_refuses(backbone: FrozenBackbone) -> None:
    with pytest.raises(ValueError, match="at least one plan"):
        WindowStream(backbone, [], taps=(0,))
    with pytest.raises(ValueError, match="frame_slice and max_windows"):
        WindowStream(backbone, [WindowPlan(2, 1)], taps=(0,), frame_slice=0)
    with pytest.raises(ValueError, match="needs side networks or taps; got neither"):
        WindowStream(backbone, [WindowPlan(2, 1)])
    stream = WindowStream(backbone, [WindowPlan(2, 1)], taps=(0, 1))
    with pytest.raises(ValueError, match="TCHW"):
        list(stream.push(frames()[None]))
    (windows, *_) = stream.push(frames(3))
    with pytest.raises(ValueError, match=r"taps no block \[4\]; it taps \[0, 1\]"):
        windows.layers((1, 4))


@pytest.mark.parametrize("dialect", ["clip", "eva"])
@pytest.mark.parametrize("changes", [{}, {"stem": False}, {"representation": "extra"}, {"norm": "layer"}], ids=str)
@torch.no_grad()
def test_every_kind_of_side_network_shares(backbone: FrozenBackbone, dialect: Dialect, changes: dict[str, Any]) -> None:
    side = replace(SideSpec.for_dialect(dialect), width=10, num_heads=2, taps=(0, 1, 3), **changes)
    model = VideoClassifier(backbone, 7, side=side, generator=torch.Generator().manual_seed(5)).eval()
    video = frames(14)
    stream = WindowStream(backbone, [WindowPlan(5, 2)], sides=[model.side], frame_slice=6)
    for windows in stream.run([video]):
        for start, frames_TS in zip(windows.starts, model.encode_windows(windows), strict=True):
            alone_TS = model.video(video[None, start : start + 5]).frames_BTS[0]
            torch.testing.assert_close(frames_TS, alone_TS, atol=1e-5, rtol=0)


def test_a_side_network_that_the_stream_does_not_know(backbone: FrozenBackbone) -> None:
    (windows, *_) = WindowStream(backbone, [WindowPlan(2, 1)], taps=(0, 1)).push(frames(3))
    with pytest.raises(ValueError, match=r"taps no block \[2\]; it taps \[0, 1\]"):
        windows.run(classifier(backbone).side)
