"""The plain retrieval reference equals the stored cases, and our model equals it at sizes of our own, CLIP and EVA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from reference import plain_retrieval as plain
from reference.cases import GRADIENT_TOLERANCE, LOSS_TOLERANCE, OUTPUT_TOLERANCE, load_case, relative_error
from side4video.official import from_official
from side4video.official.names import OfficialLayout
from side4video.official.retrieval import retrieval_names
from side4video.tasks.contrastive import symmetric_loss

FRAMES = {"clip": plain.clip_frames, "eva": plain.eva_frames}
TEXT_PREFIX = {"clip": "", "eva": "text."}
SIZES: list[tuple[str, dict[str, Any]]] = [
    (
        "clip",
        {
            "shape": {"width": 64, "depth": 3, "grid": 3, "patch": 7, "side": 160},
            "embed": 24,
            "weight_width": 24,
            "text": {"width": 48, "depth": 2, "context": 14, "vocab": 50},
            "T": 5,
            "heads": 4,
            "text_heads": 3,
            "taps": [0, 1],
        },
    ),
    (
        "eva",
        {
            "shape": {"width": 112, "depth": 4, "grid": 2, "patch": 10, "side": 64},
            "embed": 40,
            "weight_width": 72,
            "text": {"width": 64, "depth": 3, "context": 9, "vocab": 60},
            "T": 7,
            "heads": 2,
            "text_heads": 4,
            "taps": [1, 3],
        },
    ),
]


def captions(vocab: int, lengths: list[int], num_ids: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Start, words, end (the largest id), zeros; and the mask of all but the zeros."""
    ids = torch.zeros(len(lengths), num_ids, dtype=torch.int64)
    generator = torch.Generator().manual_seed(5)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(1, vocab - 2, (length,), generator=generator)
        ids[row, 0], ids[row, length - 1] = vocab - 2, vocab - 1
    return ids, (torch.arange(num_ids)[None] < torch.tensor(lengths)[:, None]).long()


@pytest.mark.parametrize("name", ["retrieval_clip_eval", "retrieval_clip_train"])
def test_plain_equals_the_stored_case(parity_dir: Path, name: str) -> None:
    case = load_case(parity_dir / name)
    state = plain.stripped(case.weights)
    ids, mask = case.io["input.input_ids"], case.io["input.attention_mask"]
    train = case.record["mode"] == "train"
    taps = list(range(case.hparams["layers"]))
    frames = plain.clip_frames(state, case.clip_BTCHW, heads=case.hparams["heads"], taps=taps, train=train)
    tokens = plain.text_tower(state, ids, heads=case.hparams["text_heads"], quick=True)
    sim = plain.wti(state, tokens, mask, frames, torch.ones_like(case.io["input.video_mask"]))
    mean = plain.mean_pooling(state, tokens, ids, frames)
    if train:
        sim = sim * state["logit_scale"].exp()
        assert abs(float(plain.symmetric_loss(sim)) - float(case.io["loss"])) < LOSS_TOLERANCE
        assert relative_error(sim, case.io["output.sim_logits"]) < OUTPUT_TOLERANCE
        assert relative_error(mean, case.io["output.meanP_sim_logits"]) < OUTPUT_TOLERANCE
    else:
        assert relative_error(frames, case.io["output.frame_embeds"]) < OUTPUT_TOLERANCE
        assert relative_error(tokens, case.io["output.text_hidden"]) < OUTPUT_TOLERANCE
        assert relative_error(sim, case.io["output.wti_logits"]) < OUTPUT_TOLERANCE
        assert relative_error(mean, case.io["output.meanP_logits"]) < OUTPUT_TOLERANCE


@pytest.mark.parametrize(
    ("dialect", "size"), SIZES, ids=lambda v: v if isinstance(v, str) else f"side{v['shape']['side']}"
)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_ours_equals_plain_at_other_sizes(dialect: str, size: dict[str, Any], train: bool) -> None:
    shape = dict(size["shape"], seed=11, num_side_blocks=len(size["taps"]))
    state = plain.draw_state(
        dialect, embed=size["embed"], text=size["text"], weight_width=size["weight_width"], **shape
    )
    pixels = shape["grid"] * shape["patch"]
    clip_BTCHW = torch.randn(3, size["T"], 3, pixels, pixels, generator=torch.Generator().manual_seed(1))
    ids_MQ, mask_MQ = captions(size["text"]["vocab"], [8, 4, 6], 8)
    mask_VT = torch.ones(3, size["T"], dtype=torch.int64)
    mask_VT[1, -2:] = 0
    clip_BTCHW[1, -2:] = 0

    model = from_official(
        state,
        task="retrieval",
        num_heads=size["heads"],
        side_blocks=size["taps"],
        text_heads=size["text_heads"],
    ).train(train)
    names = retrieval_names(OfficialLayout(dialect, retrieval=True), len(size["taps"]), text=model.text, wti=True)
    ours = dict(model.named_trained_parameters())
    trained = {key.removeprefix("clip.") for name in ours for key in names[name]}
    leaves = {n: value.clone().requires_grad_(n in trained) for n, value in plain.stripped(state).items()}
    expected_frames = FRAMES[dialect](leaves, clip_BTCHW, heads=size["heads"], taps=size["taps"], train=train)
    expected_tokens = plain.text_tower(
        leaves, ids_MQ, heads=size["text_heads"], quick=dialect == "clip", prefix=TEXT_PREFIX[dialect]
    )
    used_mask = torch.ones_like(mask_VT) if dialect == "clip" else mask_VT
    expected_sim = plain.wti(leaves, expected_tokens, mask_MQ, expected_frames, used_mask)

    frames_VTE, tokens_MQE = model(clip_BTCHW, ids_MQ)
    sim_MV = model.similarity(tokens_MQE, mask_MQ, frames_VTE, mask_VT)
    mean_MV = model.similarity(tokens_MQE, mask_MQ, frames_VTE, mask_VT, interaction="mean")
    assert relative_error(frames_VTE, expected_frames.detach()) < OUTPUT_TOLERANCE
    assert relative_error(tokens_MQE, expected_tokens.detach()) < OUTPUT_TOLERANCE
    assert relative_error(sim_MV, expected_sim.detach()) < OUTPUT_TOLERANCE
    expected_mean = plain.mean_pooling(leaves, expected_tokens, ids_MQ, expected_frames).detach()
    assert relative_error(mean_MV, expected_mean) < OUTPUT_TOLERANCE

    loss = symmetric_loss(model.training_similarity(tokens_MQE, mask_MQ, frames_VTE, mask_VT))
    expected_loss = plain.symmetric_loss(expected_sim * leaves["logit_scale"].exp())
    assert abs(float(loss.detach()) - float(expected_loss.detach())) < LOSS_TOLERANCE
    loss.backward()
    expected_loss.backward()
    scale = max(float(leaves[name].grad.abs().max()) for name in trained)
    for name, parameter in ours.items():
        reference = torch.cat([leaves[k.removeprefix("clip.")].grad.reshape(-1) for k in names[name]])
        assert parameter.grad is not None
        if float(reference.abs().max()) < 1e-5 * scale:
            # zero in exact arithmetic: both must be rounding noise
            assert float(parameter.grad.abs().max()) < 1e-5 * scale, name
        else:
            assert relative_error(parameter.grad.reshape(-1), reference) < GRADIENT_TOLERANCE, name
