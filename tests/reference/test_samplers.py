"""Frame indices and test crops equal the released code's, entry by entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from side4video.data import retrieval_sampling as retrieval
from side4video.data.sampling import FrameSampler, dense_train, segment_train
from side4video.data.transforms import crop_boxes, resized_size

DRAWS = 400


@pytest.fixture(scope="module")
def reference(parity_dir: Path) -> dict[str, Any]:
    return json.loads((parity_dir / "samplers.json").read_text())


def _sampler(entry: dict[str, Any]) -> FrameSampler:
    kind = "dense" if entry["dense"] else {"sth": "segment", "kinetics": "uniform"}[entry["dataset"]]
    return FrameSampler(kind, entry["T"])


def _retrieval_frames(strategy: int, n: int, T: int, generator: torch.Generator) -> retrieval.MaskedFrames:
    if strategy == 1:
        return retrieval.strategy_1(n, T)
    if strategy == 4:
        return retrieval.strategy_4(n, T)
    return {2: retrieval.strategy_2, 3: retrieval.strategy_3}[strategy](n, T, generator)


def _one_based(indices: list[int]) -> list[int]:
    return [index + 1 for index in indices]


def test_there_are_as_many_entries_as_we_know_of(reference: dict[str, Any]) -> None:
    assert [len(reference["recognition"]), len(reference["test_crops"])] == [48, 10]
    assert {key: len(rows) for key, rows in reference["retrieval"].items()} == {"frames_folder": 60, "video_file": 7}


def test_validation_indices(reference: dict[str, Any]) -> None:
    compared = 0
    for entry in reference["recognition"]:
        if entry["dense"] and entry["num_frames"] > 128:
            continue  # the released code draws this window at random: see the next test
        assert _one_based(_sampler(entry).val(entry["num_frames"])) == entry["val"], entry
        compared += 1
    assert compared == 44


def test_long_dense_validation_has_the_released_shape_and_sits_in_the_middle(reference: dict[str, Any]) -> None:
    entries = [entry for entry in reference["recognition"] if entry["dense"] and entry["num_frames"] > 128]
    assert len(entries) == 4
    for entry in entries:
        ours = _sampler(entry).val(entry["num_frames"])
        assert np.diff(ours).tolist() == np.diff(entry["val"]).tolist()
        assert ours[0] == (entry["num_frames"] - 128) // 2


@pytest.mark.parametrize("num_clips", [1, 2, 3, 4])
def test_test_indices(reference: dict[str, Any], num_clips: int) -> None:
    compared = 0
    for entry in reference["recognition"]:
        sampler = _sampler(entry)
        clips = sampler.test(entry["num_frames"], num_clips)
        assert [len(clip) for clip in clips] == [entry["T"]] * num_clips
        if f"test_clips_{num_clips}_error" in entry:
            assert (num_clips, entry["dense"]) == (1, True)
            assert clips == [sampler.val(entry["num_frames"])]
            continue
        assert _one_based([index for clip in clips for index in clip]) == entry[f"test_clips_{num_clips}"], entry
        compared += 1
    assert compared == (24 if num_clips == 1 else 48)


def test_training_draws_fill_exactly_the_released_ranges(reference: dict[str, Any]) -> None:
    """Each slot's smallest and largest draw; slots of at most 30 frames also reach every value between."""
    compared = 0
    for entry in reference["recognition"]:
        if "train_lowest" not in entry:
            continue
        sampler, generator = _sampler(entry), torch.Generator().manual_seed(5)
        drawn = np.array([sampler.train(entry["num_frames"], generator) for _ in range(DRAWS)]) + 1
        lowest, highest = np.array(entry["train_lowest"]), np.array(entry["train_highest"])
        assert (drawn >= lowest).all(), entry
        assert (drawn <= highest).all(), entry
        for released in entry["train"]:
            assert (np.array(released["indices"]) >= lowest).all()
        padded = entry["dataset"] == "sth" and entry["num_frames"] <= entry["T"]
        if padded:
            # sorted with free repeats: the extremes of a slot are rare, but every frame is always there
            assert all(set(row) == set(range(1, entry["num_frames"] + 1)) for row in drawn.tolist())
            compared += 1
            continue
        for slot in range(entry["T"]):
            width = highest[slot] - lowest[slot] + 1
            if width <= 30:
                assert set(drawn[:, slot]) == set(range(lowest[slot], highest[slot] + 1)), (entry, slot)
        compared += 1
    assert compared == 24


def test_training_draws_are_uniform_with_both_ends(reference: dict[str, Any]) -> None:
    """Chi-square per slot of the 79-frame videos against the uniform distribution on the released range."""
    entries = [e for e in reference["recognition"] if "train_lowest" in e and (e["num_frames"], e["T"]) == (79, 8)]
    assert len(entries) == 2
    for entry in entries:
        sampler, generator = _sampler(entry), torch.Generator().manual_seed(11)
        drawn = np.array([sampler.train(79, generator) for _ in range(2000)]) + 1
        for slot, (low, high) in enumerate(zip(entry["train_lowest"], entry["train_highest"], strict=True)):
            counts = np.bincount(drawn[:, slot] - low, minlength=high - low + 1)
            expected = 2000 / len(counts)
            # about 10 degrees of freedom: 40 is beyond 1 in 50,000
            assert ((counts - expected) ** 2 / expected).sum() < 40, (entry["dataset"], slot)


def test_dense_training_windows(reference: dict[str, Any]) -> None:
    compared = 0
    for entry in reference["recognition"]:
        if not entry["dense"]:
            continue
        n, T = entry["num_frames"], entry["T"]
        for released in entry["train"]:
            start = released["indices"][0] - 1
            assert [(start + i * (128 // T)) % n + 1 for i in range(T)] == released["indices"]
            if n <= 128:
                drawn = dense_train(n, T, torch.Generator().manual_seed(1))
                assert _one_based(drawn) == released["indices"]
            compared += 1
    assert compared == 72


def test_dense_training_never_takes_the_last_place() -> None:
    generator = torch.Generator().manual_seed(2)
    assert {dense_train(133, 8, generator)[0] for _ in range(200)} == {0, 1, 2, 3, 4}
    assert {dense_train(129, 8, generator)[0] for _ in range(20)} == {0}


def test_segment_training_repeats_are_uniform() -> None:
    """Five frames into eight slots: three free repeats, each frame equally often."""
    generator = torch.Generator().manual_seed(3)
    counts = np.bincount(np.concatenate([segment_train(5, 8, generator) for _ in range(3000)]), minlength=5)
    assert counts.sum() == 24_000
    # 1 sure copy and 0.6 repeats each: mean 4800, standard deviation about 38
    assert (np.abs(counts - 4800) < 200).all()


def test_test_geometry(reference: dict[str, Any]) -> None:
    for entry in reference["test_crops"]:
        width, height = entry["source_wh"]
        crop = (entry["crop"], entry["crop"])
        scaled = resized_size((height, width), crop, "squash" if entry["dataset"] == "something" else "short")
        assert [scaled[1], scaled[0]] == entry["scaled_wh"]
        for num_crops, key in ((3, "three_crop_boxes_left_right_center"), (5, "five_crop_boxes")):
            boxes = [[b.left, b.top, b.left + b.width, b.top + b.height] for b in crop_boxes(scaled, crop, num_crops)]
            assert boxes == entry[key], entry
        (center,) = crop_boxes(scaled, crop, 1)
        assert [center.left, center.top, center.left + 224, center.top + 224] == entry["center_crop_box"]


def test_retrieval_by_frame_count(reference: dict[str, Any]) -> None:
    compared = {1: 0, 3: 0, 4: 0, 2: 0}
    for entry in reference["retrieval"]["frames_folder"]:
        n, T, strategy = entry["num_frames"], entry["max_frames"], entry["strategy"]
        generator = torch.Generator().manual_seed(entry.get("seed", 0))
        ours = _retrieval_frames(strategy, n, T, generator)
        assert max(ours.indices) < n
        if "error" in entry:
            continue
        expected = [index - 1 if real else 0 for index, real in zip(entry["indices"], entry["mask"], strict=True)]
        if strategy in (1, 4):
            assert list(ours.indices) == expected, entry
            assert [int(real) for real in ours.mask] == entry["mask"]
        elif strategy == 3:
            stride = n // T
            for slot, (mine, theirs) in enumerate(zip(ours.indices, expected, strict=True)):
                low, high = slot * stride, slot * stride + max(stride, 1) - 1
                if stride == 0:
                    low = high = 0
                assert low <= theirs <= high
                assert low <= mine <= high
            assert all(ours.mask)
        else:
            # only the offset is drawn: the released clip is ours for one of the offsets that we can draw
            clips = {retrieval.strategy_2(n, T, torch.Generator().manual_seed(s)) for s in range(400)}
            assert (tuple(expected), tuple(bool(real) for real in entry["mask"])) in {
                (c.indices, c.mask) for c in clips
            }
        compared[strategy] += 1
    assert compared == {1: 5, 2: 15, 3: 20, 4: 10}


def test_retrieval_training_reaches_both_ends_of_every_stride() -> None:
    generator = torch.Generator().manual_seed(4)
    drawn = np.array([retrieval.strategy_3(79, 12, generator).indices for _ in range(300)])
    for slot in range(12):
        assert set(drawn[:, slot].tolist()) == set(range(6 * slot, 6 * slot + 6))


def test_retrieval_by_rate(reference: dict[str, Any]) -> None:
    for entry in reference["retrieval"]["video_file"]:
        ours = retrieval.by_rate(
            entry["num_frames"],
            entry["max_frames"],
            frames_per_second=entry["fps"],
            rate=entry["feature_framerate"],
        )
        assert list(ours.indices) == entry["indices"], entry
        assert [int(real) for real in ours.mask] == entry["mask"]
