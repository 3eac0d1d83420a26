from __future__ import annotations

import pytest

from side4video.backbones.licences import licence_of


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("tiny-clip", "MIT"),
        ("open_clip:ViT-B-16/openai", "MIT"),
        ("open_clip:ViT-B-16/laion2b_s34b_b88k", "MIT"),
        ("open_clip:ViT-B-16-SigLIP/webli", "Apache-2.0"),
        ("open_clip:ViT-B-16-quickgelu/metaclip_400m", "CC-BY-NC-4.0"),
        ("open_clip:ViT-B-16/dfn2b", None),
        ("open_clip:ViT-B-16", None),
        ("released:clip/12", None),
        ("custom:Mine", None),
    ],
)
def test_a_licence_is_told_where_it_is_known(name: str, licence: str | None) -> None:
    assert licence_of(name) == licence


def test_timms_own_record_counts_for_timms_models() -> None:
    from timm.models import get_pretrained_cfg

    name = "vit_small_patch14_dinov2.lvd142m"
    record = get_pretrained_cfg(name)
    assert record is not None
    assert record.license is not None
    assert licence_of(f"timm:{name}") == record.license
    assert licence_of("timm:no_such_model") is None
