"""Our text-video model against the released code: every layer, similarities, losses, every gradient and buffer."""

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
from side4video.official.names import OfficialLayout
from side4video.official.retrieval import retrieval_names
from side4video.side.block import apply_norm
from side4video.side.fusion import shift_class_tokens
from side4video.tasks.contrastive import symmetric_loss
from side4video.tasks.retrieval import VideoTextModel
from side4video.tasks.similarity import mean_frames, sentence_vectors

CASES = ["retrieval_clip_eval", "retrieval_clip_train"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, parity_dir: Path) -> Case:
    return load_case(parity_dir / request.param)


def build(case: Case) -> VideoTextModel:
    hints = {"num_heads": case.hparams["heads"], "text_heads": case.hparams["text_heads"]}
    model = from_official(case.weights, task="retrieval", **hints)
    assert not model.training
    return model.train(case.record["mode"] == "train")


def names_of(model: VideoTextModel) -> dict[str, str]:
    names = retrieval_names(
        OfficialLayout("clip", retrieval=True), len(model.side.blocks), text=model.text, wti=model.wti is not None
    )
    return {ours: theirs for ours, (theirs,) in names.items()}


def inputs(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return case.io["input.input_ids"], case.io["input.attention_mask"], case.io["input.video_mask"]


def assert_close(value: torch.Tensor, case: Case, key: str) -> None:
    assert relative_error(value, case.io[key]) < OUTPUT_TOLERANCE, key


def test_every_layer_matches(case: Case) -> None:
    model = build(case)
    checked: set[str] = set()

    def check(key: str, value: torch.Tensor) -> None:
        assert_close(value, case, key)
        checked.add(key)

    side = model.side
    assert side.stem is not None
    stem_BTNS = side.stem(case.clip_BTCHW)
    check("inter.side_stem", stem_BTNS)
    previous_BTNS = stem_BTNS
    layers = list(model.backbone.stream(case.clip_BTCHW, side.taps))
    side_features = model.video.side_features(case.clip_BTCHW)
    for k, layer in enumerate(layers):
        check(f"inter.trunk.{k}", layer.tokens_BTAD)
        projected_BTAS = side.projections[k](layer.tokens_BTAD)
        check(f"inter.cls_proj.{k}", projected_BTAS[:, :, 0])
        fused_BTNS = 0.5 * previous_BTNS + 0.5 * projected_BTAS[:, :, 1:]
        check(f"inter.fused.{k}", fused_BTNS)
        check(f"inter.side.{k}", side_features[k])
        previous_BTNS = side_features[k]
        if k == 0:
            block = side.blocks[0]
            normed = apply_norm(block.temporal_norm, fused_BTNS)
            check("inter.block0.norm1", normed)
            check("inter.block0.pw_conv2", block.temporal(normed))
            mixed = fused_BTNS + block.temporal(normed)
            class_BT1S = shift_class_tokens(projected_BTAS[:, :, 0]).unsqueeze(2)
            tokens = block.attention_norm(torch.cat([class_BT1S, mixed], 2) + side.position)
            check("inter.block0.ln_1", tokens)
            # the released code also computes the class token's query, and drops it
            assert_patches = block.attention(tokens)
            assert relative_error(assert_patches, case.io["inter.block0.attn"][:, :, 1:]) < OUTPUT_TOLERANCE
            checked.add("inter.block0.attn")
            mixed = mixed + assert_patches
            normed = apply_norm(block.mlp_norm, mixed)
            check("inter.block0.norm2", normed)
            check("inter.block0.mlp", block.mlp(normed))
    assert side.norm is not None
    check("inter.side_post_bn", apply_norm(side.norm, side_features[-1]))
    assert checked == {key for key in case.io if key.startswith("inter.")}


def test_outputs_match(case: Case) -> None:
    model = build(case)
    ids_MQ, mask_MQ, mask_VT = inputs(case)
    frames_VTE, tokens_MQE = model.encode_video(case.clip_BTCHW), model.encode_text(ids_MQ)
    values = {
        "output.frame_embeds": frames_VTE,
        "output.text_hidden": tokens_MQE,
        "output.text_eot": sentence_vectors(tokens_MQE, mask_MQ.bool()),
        "output.video_mean": mean_frames(frames_VTE, torch.ones_like(mask_VT)),
        "output.wti_logits": model.similarity(tokens_MQE, mask_MQ, frames_VTE, mask_VT),
        "output.meanP_logits": model.similarity(tokens_MQE, mask_MQ, frames_VTE, mask_VT, interaction="mean"),
        "output.sim_logits": model.training_similarity(tokens_MQE, mask_MQ, frames_VTE, mask_VT),
    }
    values["output.meanP_sim_logits"] = values["output.meanP_logits"]
    stored = {key for key in case.io if key.startswith("output.")}
    assert stored
    assert stored <= set(values)
    for key in stored:
        assert_close(values[key], case, key)


@pytest.mark.parametrize("interaction", ["wti", "mean"])
def test_loss_gradients_and_buffers_match(parity_dir: Path, interaction: str) -> None:
    case = load_case(parity_dir / "retrieval_clip_train")
    model = build(case)
    ids_MQ, mask_MQ, mask_VT = inputs(case)
    frames_VTE, tokens_MQE = model(case.clip_BTCHW, ids_MQ)
    model.interaction = interaction
    loss = symmetric_loss(model.training_similarity(tokens_MQE, mask_MQ, frames_VTE, mask_VT))
    loss.backward()
    loss_key, prefix = ("loss", "grad.") if interaction == "wti" else ("meanP_loss", "meanP_grad.")
    assert abs(float(loss.detach()) - float(case.io[loss_key])) < LOSS_TOLERANCE

    names = names_of(model)
    zero = set(case.record["zero_gradients"]["names"])
    checked: set[str] = set()
    for name, parameter in model.named_trained_parameters():
        official = names[name]
        if f"{prefix}{official}" not in case.io:
            continue
        assert parameter.grad is not None, official
        reference = case.io[f"{prefix}{official}"].reshape(parameter.shape)
        if official in zero:
            assert float(parameter.grad.abs().max()) < ZERO_GRADIENT_TOLERANCE, official
        else:
            assert relative_error(parameter.grad, reference) < GRADIENT_TOLERANCE, official
        checked.add(official)
    assert checked == {key.removeprefix(prefix) for key in case.io if key.startswith(prefix)}
    if interaction == "mean":
        return
    assert checked == set(case.record["trainable"])
    trained = [p for _, p in model.named_trained_parameters()]
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]))
    assert norm == pytest.approx(case.record["total_grad_norm"], rel=1e-5)

    state = model.trainable_state()
    ours = {official: name for name, official in names.items()}
    buffers = {key: key.removeprefix("after.") for key in case.io if key.startswith("after.")}
    assert buffers
    for key, official in buffers.items():
        if official.endswith("num_batches_tracked"):
            assert int(state[ours[official]]) == int(case.io[key]) == 18
        else:
            assert relative_error(state[ours[official]], case.io[key]) < BUFFER_TOLERANCE, official


def test_what_trains_is_what_the_released_code_trains(parity_dir: Path) -> None:
    case = load_case(parity_dir / "retrieval_clip_train")
    model = build(case)
    names = names_of(model)
    assert {names[name] for name, _ in model.named_trained_parameters()} == set(case.record["trainable"])
    assert {id(p) for _, p in model.named_trained_parameters()} == {
        id(p) for p in model.parameters() if p.requires_grad
    }


def test_half_precision_files_and_wrappers(parity_dir: Path, tmp_path: Path) -> None:
    case = load_case(parity_dir / "retrieval_clip_eval")
    # matrices came from half precision, so nothing is lost by going back
    halves = {f"module.{n}": w.half() if w.dim() > 1 else w for n, w in case.weights.items()}
    path = tmp_path / "official.pt"
    torch.save(halves, path)
    model = from_official(path, task="retrieval", num_heads=2, text_heads=1)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert_close(model.encode_video(case.clip_BTCHW), case, "output.frame_embeds")


def test_every_key_must_be_used_and_hints_are_checked(parity_dir: Path) -> None:
    weights = load_case(parity_dir / "retrieval_clip_eval").weights
    with pytest.raises(CheckpointError, match="1 keys that no released model has"):
        from_official({**weights, "surprise": torch.zeros(3)}, task="retrieval")
    with pytest.raises(CheckpointError, match="1 unknown"):
        from_official({**weights, "clip.visual.surprise": torch.zeros(3)}, task="retrieval")
    for key in ("clip.logit_scale", "clip.visual.side_proj", "clip.ln_final.bias", "video_weight_fc.2.bias"):
        with pytest.raises(CheckpointError, match=f"lacks {key}"):
            from_official({name: value for name, value in weights.items() if name != key}, task="retrieval")
    with pytest.raises(CheckpointError, match="text_heads must divide the text width 64; got 3"):
        from_official(weights, task="retrieval", text_heads=3)
    with pytest.raises(CheckpointError, match="this is a retrieval checkpoint"):
        from_official(weights)
    with pytest.raises(CheckpointError, match="task must be recognition or retrieval; got 'search'"):
        from_official(weights, task="search")
    recognition = load_case(parity_dir / "recog_clip_eval").weights
    with pytest.raises(CheckpointError, match="this is a recognition checkpoint"):
        from_official(recognition, task="retrieval")


def test_a_checkpoint_without_weighing_networks_pools_the_mean(parity_dir: Path) -> None:
    case = load_case(parity_dir / "retrieval_clip_eval")
    weights = {name: value for name, value in case.weights.items() if "weight_fc" not in name}
    model = from_official(weights, task="retrieval", num_heads=2, text_heads=1)
    ids_MQ, mask_MQ, mask_VT = inputs(case)
    sim_MV = model.similarity(model.encode_text(ids_MQ), mask_MQ, model.encode_video(case.clip_BTCHW), mask_VT)
    assert_close(sim_MV, case, "output.meanP_logits")
