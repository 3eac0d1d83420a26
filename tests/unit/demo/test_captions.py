"""Captioned motion clips: a scene's clips differ in their motion alone, captions say both, files depend on the seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from side4video.data.captions import read_captions
from side4video.data.motions import draw_motion, opposites
from side4video.demo.captions import GALLERY, MOTIONS, TRAIN, write_captioned_motions


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_captioned_motions(folder, seed=4, train_scenes=2, gallery_scenes=3, processes=1)
    return folder


def test_lists_are_captions_in_order_of_scenes(written: Path) -> None:
    for split, scenes in ((TRAIN, 2), (GALLERY, 3)):
        lines = [json.loads(line) for line in (written / f"{split}.jsonl").read_text().splitlines()]
        assert [(line["scene"], line["motion"]) for line in lines] == [(s, m) for s in range(scenes) for m in MOTIONS]
        captions = read_captions(written / f"{split}.jsonl")
        assert [record.captions for record in captions.records] == [(line["caption"],) for line in lines]
    gallery = [json.loads(line)["caption"] for line in (written / "gallery.jsonl").read_text().splitlines()]
    assert len(set(gallery)) == len(gallery), "every caption of the gallery means one clip"


@pytest.mark.parametrize("seed", [(4, 1, 0), (4, 1, 7)])
def test_opposites_of_a_scene_are_the_same_frames_in_opposite_order(seed: tuple[int, int, int]) -> None:
    clips = {motion: draw_motion(motion, np.random.default_rng(seed)) for motion in MOTIONS}
    for motion in MOTIONS:
        assert np.array_equal(clips[motion].frames_THWC, clips[opposites()[motion]].frames_THWC[::-1])
    # shape, colour and background are the same words for all of them
    words = [clip.caption.replace("medium ", "").replace("large ", "").replace("small ", "") for clip in clips.values()]
    starts = {" ".join(caption.split()[:3]) for caption in words}
    ends = {caption[caption.index(" over ") :] for caption in words}
    assert len(starts) == len(ends) == 1
    assert len(set(words)) == len(MOTIONS)


def test_files_depend_on_the_seed_alone(written: Path, tmp_path: Path) -> None:
    write_captioned_motions(tmp_path, seed=4, train_scenes=2, gallery_scenes=2, processes=1)
    name = f"{GALLERY}/001-grow.mp4"
    assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
    with pytest.raises(ValueError, match="gallery_scenes must be at least 2; got 1"):
        write_captioned_motions(tmp_path, seed=4, train_scenes=2, gallery_scenes=1)
