"""The error of quantised weights: what is measured, on a small case, and the page against the result file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import quantised_gradients as script

SMALL = replace(
    script.SETUPS["tiny-clip"], width=16, taps=(1, 4), batch_size=2, num_frames=3, image_size=32, steps=2, batches=2
)


def test_the_distance_is_of_all_tensors_together() -> None:
    expected = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[0.0, 4.0, 0.0]])}
    found = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([[0.0, 4.0, 2.0]])}
    assert script.distance(found, expected) == pytest.approx(5**0.5 / 5)
    assert script.distance(expected, expected) == 0


def test_fewer_bits_are_a_larger_error_and_every_tensor_has_a_gradient() -> None:
    found = script.measure(SMALL)
    errors = {key: value["mean"] for key, value in found["relative_error"].items()}
    assert errors.keys() == script.WAYS.keys()
    assert 0 < errors["int8"] < errors["fp8"] < errors["int4"] < 1
    assert 0 < errors["bf16"] < errors["bf16 step"] < 1
    assert all(value["mean"] < value["largest"] for value in found["relative_error"].values())
    assert found["trained_tensors_with_gradient"] == found["trained_tensors"] > 20


def test_the_same_weights_have_no_error() -> None:
    one, two = (script.make_model(SMALL, script.make_backbone(SMALL, script.FULL)) for _ in range(2))
    batch = script.draw_batch(SMALL, script.pixel_format(one.backbone.preprocessing), 7)
    assert script.distance(script.gradients(one, batch), script.gradients(two, batch)) == 0


def test_the_published_page_says_what_the_result_file_holds() -> None:
    stored = json.loads(script.RESULT.read_text(encoding="utf-8"))
    page = script.PAGE.read_text(encoding="utf-8")
    assert page.split(script.BEGIN)[1].split(script.END)[0].strip() == script.table(stored)


def test_the_result_file_is_of_what_the_script_measures() -> None:
    stored = json.loads(script.RESULT.read_text(encoding="utf-8"))
    assert {"command", "hardware", "torch"} <= stored.keys()
    assert "dirty" not in stored["commit"]
    assert stored["setups"].keys() == script.SETUPS.keys()
    for name, setup in script.SETUPS.items():
        found = stored["setups"][name]
        assert (found["title"], found["steps_before"], found["batches"]) == (setup.title, setup.steps, setup.batches)
        assert found["relative_error"].keys() == script.WAYS.keys()
