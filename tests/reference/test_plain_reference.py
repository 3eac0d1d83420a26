"""The plain reference equals the stored cases, and our model equals the plain reference at sizes of our own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reference import plain
from reference.cases import GRADIENT_TOLERANCE, OUTPUT_TOLERANCE, load_case, relative_error
from side4video.official import from_official
from side4video.official.names import OfficialLayout, side_names

PLAIN = {"clip": plain.clip_recogniser, "eva": plain.eva_recogniser}
# side 160 has two heads of 80; 5, 7 and 1 frames; taps at the top, every second, all
CLIP_SIZES = [
    {"width": 64, "depth": 2, "grid": 3, "patch": 7, "side": 160, "num_classes": 5, "T": 5, "heads": 4, "taps": [0, 1]},
    {
        "width": 96,
        "depth": 4,
        "grid": 2,
        "patch": 10,
        "side": 64,
        "num_classes": 11,
        "T": 7,
        "heads": 3,
        "taps": [1, 3],
    },
    {"width": 80, "depth": 3, "grid": 4, "patch": 4, "side": 40, "num_classes": 3, "T": 1, "heads": 2, "taps": [2]},
]
EVA_SIZES = [
    {
        "width": 112,
        "depth": 4,
        "grid": 3,
        "patch": 7,
        "side": 160,
        "num_classes": 5,
        "T": 5,
        "heads": 1,
        "taps": [1, 3],
    },
    {
        "width": 96,
        "depth": 3,
        "grid": 2,
        "patch": 10,
        "side": 64,
        "num_classes": 11,
        "T": 7,
        "heads": 3,
        "taps": [0, 2],
    },
]
SIZES = [("clip", size) for size in CLIP_SIZES] + [("eva", size) for size in EVA_SIZES]


@pytest.mark.parametrize("name", ["recog_clip_eval", "recog_clip_train", "recog_eva_eval"])
def test_plain_equals_the_stored_case(parity_dir: Path, name: str) -> None:
    case = load_case(parity_dir / name)
    dialect = "eva" if "_eva_" in name else "clip"
    taps = case.hparams.get("side_blocks_after", list(range(case.hparams["layers"])))
    outputs = PLAIN[dialect](
        case.weights, case.clip_BTCHW, heads=case.hparams["heads"], taps=taps, train=case.record["mode"] == "train"
    )
    for key, value in outputs.items():
        stored = case.io[f"inter.{key}" if key.startswith("side.") else f"output.{key}"]
        assert relative_error(value, stored) < OUTPUT_TOLERANCE, key


@pytest.mark.parametrize(
    ("dialect", "size"), SIZES, ids=lambda v: v if isinstance(v, str) else f"side{v['side']}-T{v['T']}"
)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_ours_equals_plain_at_other_sizes(dialect: str, size: dict, train: bool) -> None:
    shape = {key: size[key] for key in ("width", "depth", "grid", "patch", "side", "num_classes")}
    draw = plain.draw_clip_state if dialect == "clip" else plain.draw_eva_state
    state = draw(seed=size["side"], num_side_blocks=len(size["taps"]), **shape)
    pixels = size["grid"] * size["patch"]
    clip_BTCHW = torch.randn(3, size["T"], 3, pixels, pixels, generator=torch.Generator().manual_seed(1))

    model = from_official(state, num_heads=size["heads"], side_blocks=size["taps"]).train(train)
    trained = {
        n for n in state if ("side" in n or n.startswith("fc")) and state[n].is_floating_point() and "running" not in n
    }
    leaves = {name: value.clone().requires_grad_(name in trained) for name, value in state.items()}
    expected = PLAIN[dialect](leaves, clip_BTCHW, heads=size["heads"], taps=size["taps"], train=train)
    for k, feature_BTNS in enumerate(model.side_features(clip_BTCHW)):
        assert relative_error(feature_BTNS, expected[f"side.{k}"].detach()) < OUTPUT_TOLERANCE
    logits_BK = model(clip_BTCHW)
    assert relative_error(logits_BK, expected["logits"].detach()) < OUTPUT_TOLERANCE

    weights_BK = torch.randn(logits_BK.shape, generator=torch.Generator().manual_seed(2))
    (logits_BK * weights_BK).sum().backward()
    (expected["logits"] * weights_BK).sum().backward()
    names = side_names(OfficialLayout(dialect, retrieval=False), len(size["taps"]), final_norm=dialect == "clip")
    names |= {"head.weight": ("fc.weight",), "head.bias": ("fc.bias",)}
    checked = 0
    for part in ("side", "head"):
        for name, parameter in getattr(model, part).named_parameters():
            reference = torch.cat([leaves[o].grad for o in names[f"{part}.{name}"]]).reshape(parameter.shape)
            assert parameter.grad is not None
            scale = max(float(value.grad.abs().max()) for key, value in leaves.items() if key in trained)
            if float(reference.abs().max()) < 1e-5 * scale:
                # zero in exact arithmetic: both must be rounding noise
                assert float(parameter.grad.abs().max()) < 1e-5 * scale, name
            else:
                assert relative_error(parameter.grad, reference) < GRADIENT_TOLERANCE, name
            checked += len(names[f"{part}.{name}"])
    assert checked == len(trained)
