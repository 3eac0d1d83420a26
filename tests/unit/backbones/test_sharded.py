"""Blocks spread over processes: what is refused, and what a plan makes of them. The gathering itself is in run/."""

from __future__ import annotations

import pytest
import torch

from side4video.backbones.create import create_backbone
from side4video.backbones.run_blocks import blocks_of
from side4video.build import build_backbone, estimate_run
from side4video.build_plan import saving_changes
from side4video.config.load import load_settings
from side4video.errors import BackboneError, ConfigError

NAME = "open_clip:ViT-B-32"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["backbone.quantise=int8"], "shard does not go with quantise; got shard=True, quantise=int8"),
        (["backbone.stream_weights=true"], "shard does not go with stream_weights"),
        (["backbone.compile=true"], "shard does not go with compile"),
        (["cache.dir=/data"], "backbone.shard does not go with cache.dir"),
        (["task=retrieval", "retrieval.chunk_size=4"], "chunk_size=4: .* Set retrieval.chunk_size=null"),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(None, ["backbone.shard=true", *words])


def test_the_number_of_processes_must_be_that_of_the_group() -> None:
    with pytest.raises(BackboneError, match="shard: got 3 processes, but there are 1 in the group"):
        create_backbone("tiny-clip", pretrained=False, shard=3)
    with pytest.raises(BackboneError, match="shard does not go with quantise or stream_weights"):
        create_backbone("tiny-clip", pretrained=False, shard=3, quantise="int8")


def test_one_process_has_all_of_them() -> None:
    words = ["backbone.name=tiny-clip", "backbone.pretrained=false", "backbone.precision=fp32"]
    spread = build_backbone(load_settings(None, [*words, "backbone.shard=true", "memory=smallest"]))
    plain = build_backbone(load_settings(None, words))
    assert (spread.shard, spread.stream_weights) == (1, False)
    clip_BTCHW = torch.randn(2, 3, 3, 64, 64)
    for ours, theirs in zip(spread.stream(clip_BTCHW, [1, 3]), plain.stream(clip_BTCHW, [1, 3]), strict=True):
        assert torch.equal(ours.tokens_BTAD, theirs.tokens_BTAD)


def test_the_plan_counts_a_part_of_each_block_and_two_whole_ones() -> None:
    words = [f"backbone.name={NAME}", "data.num_frames=2", "side.width=64", "side.taps=[11]"]
    whole = load_settings(None, [*words, "train.devices=4"])
    spread = load_settings(None, [*words, "train.devices=4", "backbone.shard=true"])
    plain, parts = (estimate_run(settings, 5)("fast", 1) for settings in (whole, spread))
    backbone = create_backbone(NAME, device="meta")
    blocks = sum(p.numel() for block in blocks_of(backbone.trunk) for p in block.parameters()) * 2
    saved = plain.by_cause["frozen weights"] - parts.by_cause["frozen weights"]
    # parts of a buffer begin at multiples of 256 bytes
    assert saved == pytest.approx(blocks * 3 / 4, rel=1e-3)
    gathered = parts.by_cause["working"] - plain.by_cause["working"]
    assert gathered == pytest.approx(blocks / 6, rel=0.02)
    assert plain.flops_step == parts.flops_step
    assert {"backbone.shard": True} in [change.settings for change in saving_changes(whole)]
    assert not any("backbone" in key for change in saving_changes(spread) for key in change.settings)
