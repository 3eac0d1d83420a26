"""Our recogniser against the released code: every layer, the loss, every gradient, every buffer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reference.cases import (
    BUFFER_TOLERANCE,
    GRADIENT_TOLERANCE,
    LOSS_TOLERANCE,
    OUTPUT_TOLERANCE,
    ZERO_GRADIENT_TOLERANCE,
    Case,
    load_case,
    relative_error,
)
from side4video.errors import CheckpointError
from side4video.official import from_official
from side4video.official.names import OfficialLayout, side_names
from side4video.tasks.losses import classification_loss
from side4video.tasks.recognition import VideoClassifier

CASES = ["recog_clip_eval", "recog_clip_train", "recog_eva_eval"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, parity_dir: Path) -> Case:
    return load_case(parity_dir / request.param)


def build(case: Case) -> VideoClassifier:
    return from_official(case.weights, num_heads=case.hparams["heads"])


def test_frozen_blocks_match(case: Case) -> None:
    model = build(case)
    depth = case.hparams["layers"]
    for layer in model.backbone.stream(case.clip_BTCHW, range(depth)):
        assert relative_error(layer.tokens_BTAD, case.io[f"inter.trunk.{layer.layer}"]) < OUTPUT_TOLERANCE
    assert layer.layer == depth - 1


def test_side_features_match(case: Case) -> None:
    model = build(case).train(case.record["mode"] == "train")
    features = model.side_features(case.clip_BTCHW)
    expected = sorted(
        name for name in case.io if name.startswith("inter.side.") and name.removeprefix("inter.side.").isdigit()
    )
    assert len(features) == len(expected) > 0
    for k, feature_BTNS in enumerate(features):
        assert relative_error(feature_BTNS, case.io[f"inter.side.{k}"]) < OUTPUT_TOLERANCE


def test_stem_and_outputs_match(case: Case) -> None:
    model = build(case).train(case.record["mode"] == "train")
    assert model.side.stem is not None
    assert relative_error(model.side.stem(case.clip_BTCHW), case.io["inter.side_stem"]) < OUTPUT_TOLERANCE
    assert relative_error(model.features(case.clip_BTCHW), case.io["output.features"]) < OUTPUT_TOLERANCE
    assert relative_error(model(case.clip_BTCHW), case.io["output.logits"]) < OUTPUT_TOLERANCE


def test_loss_gradients_and_buffers_match(parity_dir: Path) -> None:
    case = load_case(parity_dir / "recog_clip_train")
    model = build(case).train()
    loss = classification_loss(model(case.clip_BTCHW), case.io["input.labels"], smoothing=0.1)
    loss.backward()
    assert abs(float(loss.detach()) - float(case.io["loss"])) < LOSS_TOLERANCE

    names = side_names(OfficialLayout("clip", retrieval=False), len(model.side.blocks), final_norm=True)
    names |= {"head.weight": ("fc.weight",), "head.bias": ("fc.bias",)}
    zero = set(case.record["zero_gradients"]["names"])
    parameters = {
        f"{part}.{name}": p for part in ("side", "head") for name, p in getattr(model, part).named_parameters()
    }
    checked = set()
    for name, parameter in parameters.items():
        (official,) = names[name]
        assert parameter.grad is not None
        reference = case.io[f"grad.{official}"].reshape(parameter.shape)
        if official in zero:
            assert float(parameter.grad.abs().max()) < ZERO_GRADIENT_TOLERANCE, official
        else:
            assert relative_error(parameter.grad, reference) < GRADIENT_TOLERANCE, official
        checked.add(official)
    assert checked == set(case.record["trainable"])

    state = model.trainable_state()
    buffers = {name: name.removeprefix("after.") for name in case.io if name.startswith("after.")}
    ours = {official: name for name, (official,) in names.items()}
    assert buffers
    for key, official in buffers.items():
        value = state[ours[official]]
        if official.endswith("num_batches_tracked"):
            assert int(value) == int(case.io[key]) == 18
        else:
            assert relative_error(value, case.io[key]) < BUFFER_TOLERANCE, official


def test_frozen_part_gets_no_gradient_and_stays(parity_dir: Path) -> None:
    case = load_case(parity_dir / "recog_clip_train")
    model = build(case).train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model(case.clip_BTCHW).sum().backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
    assert not any(module.training for module in model.backbone.modules())


@pytest.mark.parametrize("wrapper", ["plain", "module.", "model_state_dict", "half"])
def test_wrappers_of_released_files_are_undone(parity_dir: Path, tmp_path: Path, wrapper: str) -> None:
    case = load_case(parity_dir / "recog_clip_eval")
    state: dict[str, object] = dict(case.weights)
    if wrapper == "module.":
        state = {f"module.{name}": value for name, value in case.weights.items()}
    elif wrapper == "model_state_dict":
        state = {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {"state": {}, "param_groups": []}}
    elif wrapper == "half":
        # weights of two or more dimensions came from half precision, so nothing is lost by going back
        state = {n: w.half() if w.dim() > 1 and w.is_floating_point() else w for n, w in case.weights.items()}
    path = tmp_path / "official.pt"
    torch.save(state, path)
    logits_BK = from_official(path, num_heads=case.hparams["heads"])(case.clip_BTCHW)
    assert relative_error(logits_BK, case.io["output.logits"]) < OUTPUT_TOLERANCE


def test_every_key_must_be_used(parity_dir: Path) -> None:
    weights = load_case(parity_dir / "recog_clip_eval").weights
    with pytest.raises(CheckpointError, match="no released recogniser has"):
        from_official({**weights, "surprise": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="1 unknown"):
        from_official({**weights, "visual.surprise": torch.zeros(3)})
    with pytest.raises(CheckpointError, match=r"lacks fc\.weight"):
        from_official({name: value for name, value in weights.items() if name != "fc.weight"})
    with pytest.raises(CheckpointError, match="1 keys missing"):
        from_official({name: value for name, value in weights.items() if name != "visual.ln_pre.bias"})


def test_hints_are_checked(parity_dir: Path) -> None:
    weights = load_case(parity_dir / "recog_eva_eval").weights
    with pytest.raises(CheckpointError, match="num_heads must divide"):
        from_official(weights, num_heads=3)
    with pytest.raises(CheckpointError, match="side_blocks must name 2"):
        from_official(weights, side_blocks=[1, 2, 3])
    assert from_official(weights, side_blocks=[0, 3]).side.taps == (0, 3)
    assert from_official(weights).side.taps == (1, 3)
