"""Writes src/side4video/backbones/assets/catalog.json: every model of timm and open_clip that an adapter takes.

Each is built on the meta device (no weights, no memory), which takes a few minutes.

    python scripts/make_backbone_catalog.py
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import open_clip
import timm
import torch
from torch import nn

from side4video.backbones import tiny
from side4video.backbones.build_open_clip import open_clip_tower, tower_trunk
from side4video.backbones.open_clip_vit import OpenClipViT
from side4video.backbones.timm_vit import TimmViT
from side4video.errors import BackboneError

TARGET = Path(__file__).resolve().parents[1] / "src/side4video/backbones/assets/catalog.json"
COLUMNS = ["name", "library", "image_size", "patch_size", "width", "depth", "million_parameters", "downloads"]
Row = list[str | int | float | bool]


def main() -> None:
    """Build, count, write."""
    logging.disable(logging.WARNING)
    with torch.device("meta"):
        rows = [
            row("tiny-clip", "side4video", OpenClipViT(tiny.tiny_clip_model(pretrained=False).visual), downloads=True),
            *timm_rows(),
            *open_clip_rows(),
        ]
    lines = ",\n".join(json.dumps(r) for r in sorted(rows, key=lambda r: (str(r[1]), str(r[0]))))
    TARGET.write_text(f'{{"columns": {json.dumps(COLUMNS)}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")


def timm_rows() -> list[Row]:
    """One row for each set of published weights, and one for each architecture without any."""
    rows: list[Row] = []
    for architecture in timm.list_models():
        tagged = timm.list_pretrained(f"{architecture}.*")
        for name in tagged or [architecture]:
            try:
                trunk = TimmViT(timm.create_model(name, pretrained=False, num_classes=0))
            except BackboneError:
                break
            rows.append(row(f"timm:{name}", "timm", trunk, downloads=bool(tagged)))
    return rows


def open_clip_rows() -> list[Row]:
    """One row for each set of published weights, and one for each architecture without any."""
    rows: list[Row] = []
    for architecture in open_clip.list_models():
        try:
            trunk = tower_trunk(open_clip_tower(open_clip.get_model_config(architecture), {}), label=architecture)
        except BackboneError:
            continue
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        names = [f"open_clip:{architecture}/{tag}" for tag in tags] or [f"open_clip:{architecture}"]
        rows.extend(row(name, "open_clip", trunk, downloads=bool(tags)) for name in names)
    return rows


def row(name: str, library: str, trunk: nn.Module, *, downloads: bool) -> Row:
    """One line of the table, in the order of COLUMNS."""
    million = round(sum(p.numel() for p in trunk.parameters()) / 1e6, 1)
    side, patch = trunk.preprocessing.image_size[0], trunk.patch_size[0]
    return [name, library, side, patch, trunk.width, trunk.depth, million, downloads]


if __name__ == "__main__":
    main()
