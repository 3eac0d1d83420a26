"""A new side network's statistics against those of the released code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from side4video.official.names import OfficialLayout, side_names
from side4video.side.network import SideNetwork
from side4video.side.spec import SideSpec

CASES = {
    "recognition CLIP (width 768, side 320; before the fp16 rounding of Linear and MultiheadAttention weights)": (
        OfficialLayout("clip", retrieval=False),
        768,
        320,
        14,
        16,
        "",
    ),
    "recognition EVA (width 1792, side 576)": (OfficialLayout("eva", retrieval=False), 1792, 576, 16, 14, "visual."),
    "retrieval CLIP (width 768, side 320, embed 512)": (OfficialLayout("clip", retrieval=True), 768, 320, 14, 16, ""),
}


@pytest.mark.parametrize("seeded", [True, False], ids=["generator", "global"])
@pytest.mark.parametrize("case", CASES)
def test_statistics(parity_dir: Path, case: str, seeded: bool) -> None:
    layout, backbone_width, width, grid, patch, prefix = CASES[case]
    stored = json.loads((parity_dir / "init.json").read_text())[case]
    spec = replace(SideSpec.for_dialect(layout.dialect, retrieval=layout.retrieval), width=width, taps=(0,))
    torch.manual_seed(4)
    network = SideNetwork(
        spec,
        backbone_width=backbone_width,
        depth=1,
        grid_YX=(grid, grid),
        patch_size=(patch, patch),
        generator=torch.Generator().manual_seed(4) if seeded else None,
    )
    names = side_names(layout, 1, final_norm=spec.final_norm)
    state = {f"side.{name}": value for name, value in network.state_dict().items()}
    checked = 0
    for ours, (official, *rest) in names.items():
        record = stored.get(official.removeprefix(prefix))
        if record is None or ours.endswith("num_batches_tracked"):
            continue
        value = state[ours].float()
        if rest:
            value = value.chunk(1 + len(rest))[0]
        checked += 1
        if "constant" in record:
            assert torch.equal(value, torch.full_like(value, record["constant"])), ours
            continue
        # a standard deviation of n draws is known to about 1/sqrt(2n); five times that, and theirs has the same spread
        spread = 7 / (2 * value.numel()) ** 0.5
        assert float(value.std()) == pytest.approx(record["std"], rel=spread + 0.005), ours
        assert abs(float(value.mean()) - record["mean"]) < 7 * record["std"] * (2 / value.numel()) ** 0.5, ours
        if abs(record["max"]) < 2 * record["std"]:  # uniform, not normal
            assert float(value.abs().max()) <= record["max"] * 1.01, ours
    assert checked >= 20
