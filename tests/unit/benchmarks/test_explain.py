"""Deletion and localisation: what is counted, on cases that can be counted by hand, and the page against the result."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import explain as script


class Brightness(nn.Module):
    """Names class 0 the more surely the brighter the clip's first frame is."""

    class _Backbone:
        patch_size = (4, 2)

    backbone = _Backbone()

    def forward(self, clip_BTCHW: torch.Tensor) -> torch.Tensor:
        bright_B = clip_BTCHW[:, 0].mean((1, 2, 3))
        return torch.stack([bright_B, torch.zeros_like(bright_B)], 1)


def case(clip_BTCHW: torch.Tensor) -> script.Case:
    shapes_TYX = torch.zeros(3, 2, 5, dtype=torch.bool)
    shapes_TYX[0, 1, 2] = shapes_TYX[1, 0, 0] = shapes_TYX[1, 0, 1] = True
    return script.Case(clip_BTCHW, shapes_TYX, 0, float(Brightness()(clip_BTCHW).softmax(1)[0, 0]))


def test_localisation_counts_frames_that_show_a_shape() -> None:
    map_TYX = torch.zeros(3, 2, 5)
    map_TYX[0, 1, 2], map_TYX[0, 0, 0] = 3.0, -9.0
    map_TYX[1, 0, 1], map_TYX[1, 1, 4] = 1.0, 2.0
    map_TYX[2, 0, 0] = 4.0
    # of two frames with a shape one is hit; of a positive part of 10, 4 lies on shapes
    assert script.localisation(case(torch.zeros(1, 3, 3, 8, 10)), map_TYX) == pytest.approx((0.5, 0.4))


def test_a_drop_is_of_the_first_patches_alone() -> None:
    clip_BTCHW = torch.zeros(1, 3, 3, 8, 10)
    clip_BTCHW[:, 0] = 2.0
    clip_BTCHW[:, 0, :, :4, :2] = 12.0
    one = case(clip_BTCHW)
    order_TYX = torch.zeros(3, 2, 5)
    order_TYX[0, 0, 0] = 1.0
    order_TYX[1:] = 0.5
    found = script.drops(Brightness(), one, order_TYX)  # type: ignore[arg-type]
    assert found.shape == (len(script.FILLS), len(script.SHARES))
    # 5 % of 30 patches are 2 (rounded to even), of which one is in the first frame, whose mean falls from 3 to 2.1
    mean = float(clip_BTCHW.mean())
    after = torch.tensor([(9 * 2.0 + mean) / 10, 0.0]).softmax(0)[0]
    assert float(found[0, 0]) == pytest.approx(one.probability - float(after), abs=1e-5)
    assert float(found[1, 0]) == pytest.approx(
        one.probability - float(torch.tensor([1.8, 0.0]).softmax(0)[0]), abs=1e-5
    )


def test_kept_bytes_are_the_largest_number_alive_at_a_time() -> None:
    x = torch.ones(1000, requires_grad=True)
    weight = nn.Parameter(torch.ones(1000))

    def twice() -> None:
        for _ in range(2):
            (x.exp() * weight).sum().backward()

    # the result of exp, once for its own backward pass and once for the product's; weights do not count
    assert script.kept_bytes(twice) == 4000


def test_the_page_says_what_the_result_file_holds() -> None:
    stored = json.loads(script.RESULT.read_text(encoding="utf-8"))
    page = script.PAGE.read_text(encoding="utf-8")
    assert page.split(script.BEGIN)[1].split(script.END)[0].strip() == script.table(stored)
    assert "dirty" not in stored["commit"]
    methods = stored["found"]["methods"]
    assert methods.keys() == script.METHODS.keys()
    for fill in script.FILLS:
        for share in script.SHARES:
            ours, random = (methods[name]["probability_drop"][fill][f"{share:g}"] for name in ("ours", "random"))
            assert ours > random
