from __future__ import annotations

import subprocess
import sys

import open_clip
import pytest
import timm
from timm.models import is_model

from side4video.backbones.catalog import AUTO, TINY, list_backbones, suggest
from side4video.errors import BackboneError


def test_listing_imports_neither_torch_nor_the_libraries() -> None:
    code = (
        "import sys\n"
        "from side4video.backbones import list_backbones\n"
        "assert len(list_backbones()) > 500\n"
        "heavy = {'torch', 'timm', 'open_clip', 'huggingface_hub', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_the_table_agrees_with_the_installed_libraries() -> None:
    """Names come and go between versions; most of the table must be there, and most of what is there in the table."""
    ours = {entry.name.removeprefix("timm:").partition(".")[0] for entry in list_backbones(library="timm")}
    assert sum(map(is_model, ours)) > 0.9 * len(ours)
    towers = {entry.name.removeprefix("open_clip:") for entry in list_backbones(library="open_clip")}
    known = {f"{arch}/{tag}" for arch, tag in open_clip.list_pretrained()} | set(open_clip.list_models())
    assert len(towers & known) > 0.9 * len(towers)
    vits = {name for name in timm.list_models("vit_*") + timm.list_models("eva*") if is_model(name)}
    assert len(vits & ours) > 0.7 * len(vits)


def test_ours_comes_first_and_the_papers_models_are_there() -> None:
    names = [entry.name for entry in list_backbones()]
    assert names[0] == TINY
    assert len(names) == len(set(names))
    assert {
        AUTO,
        "open_clip:ViT-B-32/openai",
        "open_clip:ViT-L-14/openai",
        "open_clip:ViT-L-14-336/openai",
        "open_clip:EVA02-E-14-plus/laion2b_s9b_b144k",
        "timm:vit_small_patch14_dinov2.lvd142m",
    } <= set(names)


def test_patterns() -> None:
    assert {entry.library for entry in list_backbones("DINOv2")} == {"timm"}
    found = list_backbones("open_clip:vit-l-14*/openai")
    assert {entry.name for entry in found} == {
        f"open_clip:ViT-L-14{kind}/openai" for kind in ("", "-336", "-quickgelu", "-336-quickgelu")
    } & {entry.name for entry in list_backbones()}
    assert list_backbones("no such model") == []


def test_an_entry_says_what_a_user_must_know() -> None:
    (entry,) = list_backbones("open_clip:EVA02-E-14/laion2b_s4b_b115k")
    assert (entry.width, entry.depth, entry.patch_size, entry.image_size) == (1792, 64, 14, 224)
    assert 4300 < entry.million_parameters < 4400
    assert entry.downloads


def test_an_unknown_library() -> None:
    with pytest.raises(BackboneError, match="library: got 'keras', allowed are side4video, timm, open_clip"):
        list_backbones(library="keras")


def test_suggestions_know_names_without_their_prefix() -> None:
    assert "'open_clip:ViT-B-16/openai'" in suggest("ViT-B-16/openai")
    assert "'tiny-clip'" in suggest("tinyclip")
    assert suggest("zzzzzzzzzzz") == "."
