"""The text-video model: at step zero the plain image-text model, for every kind of image tower; what trains."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from timm.models.eva import Eva
from torch import nn

from side4video.backbones import FrozenBackbone, create_backbone
from side4video.backbones.frame_head import ClassTokenHead, JointSpaceHead
from side4video.backbones.text import TextTower, text_tower_of
from side4video.backbones.timm_vit import TimmViT
from side4video.errors import BackboneError, CheckpointError, ConfigError
from side4video.side.spec import SideSpec
from side4video.tasks.contrastive import symmetric_loss
from side4video.tasks.retrieval import MAX_LOGIT_SCALE, VideoTextModel

B, T, SIZE, PATCH, E, Q, VOCAB = 3, 5, 24, 8, 20, 7, 40
SPEC = SideSpec(width=16, taps=(0, 1))
KINDS = ["clip", "clip-average", "eva", "siglip"]


def make_clip(pool: str = "tok") -> CLIP:
    torch.manual_seed(0)
    vision = CLIPVisionCfg(image_size=SIZE, patch_size=PATCH, width=32, layers=3, head_width=16, pool_type=pool)
    text = CLIPTextCfg(context_length=Q, vocab_size=VOCAB, width=24, heads=2, layers=2)
    model = CLIP(E, vision, text, quick_gelu=True)
    nn.init.normal_(model.visual.ln_post.weight, 1.0, 0.2)
    return model.eval()


def make_backbone(kind: str) -> FrozenBackbone:
    torch.manual_seed(1)
    if kind == "eva":
        tower: nn.Module = TimmViT(
            Eva(
                img_size=SIZE,
                patch_size=PATCH,
                embed_dim=32,
                depth=3,
                num_heads=2,
                use_post_norm=True,
                use_rot_pos_emb=False,
                global_pool="token",
                num_classes=E,
            ),
            projection=nn.Identity(),
        )
    elif kind == "siglip":
        tower = TimmViT(
            timm.create_model(
                "vit_base_patch16_siglip_224",
                img_size=SIZE,
                patch_size=PATCH,
                embed_dim=E,
                depth=3,
                num_heads=2,
                num_classes=0,
            ),
            projection=nn.Identity(),
        )
    else:
        tower = make_clip("avg" if kind == "clip-average" else "tok")
    return create_backbone(tower, precision="fp32")


def make_text() -> TextTower:
    return text_tower_of(make_clip(), name="small")


def make_model(kind: str = "clip", **settings: Any) -> VideoTextModel:
    generator = torch.Generator().manual_seed(2)
    return VideoTextModel(make_backbone(kind), make_text(), side=SPEC, generator=generator, **settings)


def make_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    clip_BTCHW = torch.randn(B, T, 3, SIZE, SIZE, generator=generator)
    ids_BQ = torch.randint(1, VOCAB - 1, (B, Q), generator=generator)
    lengths_B = torch.tensor([7, 4, 5])
    ids_BQ[torch.arange(B), lengths_B - 1] = VOCAB - 1
    mask_BQ = torch.arange(Q)[None] < lengths_B[:, None]
    return clip_BTCHW, ids_BQ.masked_fill(~mask_BQ, 0), mask_BQ


def training_loss(model: VideoTextModel) -> torch.Tensor:
    clip_BTCHW, ids_BQ, mask_BQ = make_batch()
    frames_BTE, tokens_BQE = model(clip_BTCHW, ids_BQ)
    return symmetric_loss(model.training_similarity(tokens_BQE, mask_BQ, frames_BTE, torch.ones(B, T)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_at_step_zero_it_is_the_plain_image_text_model(kind: str, train: bool) -> None:
    model = make_model(kind).train(train)
    assert isinstance(model.frame_head, ClassTokenHead if kind in ("clip", "eva") else JointSpaceHead)
    clip_BTCHW, ids_BQ, mask_BQ = make_batch()
    frozen_BTE = model.backbone.features(clip_BTCHW)
    frames_BTE = model.encode_video(clip_BTCHW).detach()
    assert frames_BTE.shape == (B, T, E)
    torch.testing.assert_close(frames_BTE, frozen_BTE, atol=2e-6, rtol=0)
    tokens_BQE = model.encode_text(ids_BQ).detach()
    mask_BT = torch.ones(B, T)
    sentence_BE = tokens_BQE[torch.arange(B), ids_BQ.argmax(1)]
    plain_MV = F.normalize(sentence_BE, dim=-1) @ F.normalize(frozen_BTE.mean(1), dim=-1).T * model.logit_scale.exp()
    mean_MV = model.similarity(tokens_BQE, mask_BQ, frames_BTE, mask_BT, interaction="mean")
    torch.testing.assert_close(mean_MV, plain_MV, atol=2e-5, rtol=0)
    wti_MV = model.similarity(tokens_BQE, mask_BQ, frames_BTE, mask_BT)
    frozen_wti_MV = model.similarity(tokens_BQE, mask_BQ, frozen_BTE, mask_BT)
    torch.testing.assert_close(wti_MV, frozen_wti_MV, atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_only_side_proj_of_the_side_network_learns_in_the_first_step(kind: str) -> None:
    model = make_model(kind).train()
    training_loss(model).backward()
    assert model.side_proj.grad is not None
    assert float(model.side_proj.grad.abs().max()) > 0
    assert all(float(p.grad.abs().max()) == 0 for p in model.side.parameters() if p.grad is not None)
    with torch.no_grad():
        model.side_proj.normal_(std=0.1)
    model.zero_grad()
    training_loss(model).backward()
    assert sum(float(p.grad.abs().max()) > 0 for p in model.side.parameters() if p.grad is not None) > 20


@pytest.mark.parametrize("train_text", [True, False])
def test_training_changes_what_it_may_and_nothing_else(train_text: bool) -> None:
    model = make_model(train_text=train_text).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        training_loss(model).backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trained = {f"video.{n}" if n.startswith("side.") else n for n in model.trainable_state()}
    assert changed <= trained
    # a shift before a batch norm or a softmax has no gradient but rounding; AdamW's step is none for an exact zero
    assert not {n for n in trained - changed if not n.endswith("bias") and "resblocks" not in n}
    assert any(n.startswith("text.") for n in changed) is train_text
    assert not any(n.startswith("text.") for n in model.trainable_state()) or train_text
    assert any(n.startswith("frame_head.") for n in changed)
    assert model.text.training is train_text
    assert not any(module.training for module in model.backbone.modules())
    # the frozen tower's own norm and projection stayed, their copies moved
    clip_BTCHW, _, _ = make_batch()
    torch.testing.assert_close(make_backbone("clip").features(clip_BTCHW), model.backbone.features(clip_BTCHW))


def test_state_goes_there_and_back() -> None:
    model = make_model().train()
    training_loss(model).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    state = {name: value.clone() for name, value in model.trainable_state().items()}
    other = make_model()
    other.load_trainable_state(state)
    clip_BTCHW, ids_BQ, _ = make_batch()
    for mine, theirs in zip(model.eval()(clip_BTCHW, ids_BQ), other.eval()(clip_BTCHW, ids_BQ), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(CheckpointError, match=r"1 missing \['side_proj'\], 0 unknown"):
        other.load_trainable_state({n: v for n, v in state.items() if n != "side_proj"})
    with pytest.raises(CheckpointError, match=r"logit_scale is \(\) here and \(2,\) there"):
        other.load_trainable_state({**state, "logit_scale": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="unknown"):
        make_model(train_text=False).load_trainable_state(state)


def test_taps_need_not_reach_the_last_block() -> None:
    clip_BTCHW, _, _ = make_batch()
    for taps in ((0,), (1,), (2,), (0, 2)):
        model = VideoTextModel(make_backbone("clip"), make_text(), side=replace(SPEC, taps=taps)).eval()
        frozen_BTE = model.backbone.features(clip_BTCHW)
        torch.testing.assert_close(model.encode_video(clip_BTCHW), frozen_BTE, atol=2e-6, rtol=0)


@pytest.mark.parametrize("memory", ["balanced", "lean", "smallest"])
def test_memory_modes_give_the_same_gradients(memory: str) -> None:
    grads = []
    for mode in ("fast", memory):
        model = make_model(memory=mode).train()
        nn.init.normal_(model.side_proj, std=0.1, generator=torch.Generator().manual_seed(4))
        training_loss(model).backward()
        grads.append({n: p.grad for n, p in model.named_trained_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-4, msg=name)


def test_scale_is_used_in_training_only_and_clamped() -> None:
    model = make_model()
    clip_BTCHW, ids_BQ, mask_BQ = make_batch()
    frames_BTE, tokens_BQE = model.encode_video(clip_BTCHW), model.encode_text(ids_BQ)
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        args = (tokens_BQE, mask_BQ, frames_BTE, torch.ones(B, T))
        plain_MV, scaled_MV = model.similarity(*args), model.training_similarity(*args)
        torch.testing.assert_close(scaled_MV, plain_MV * torch.e**2)
        assert float(plain_MV.abs().max()) <= 1
        model.logit_scale.fill_(9.0)
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(MAX_LOGIT_SCALE)
    assert model.logit_scale.exp().item() == pytest.approx(100, rel=1e-5)


def test_mean_pooling_models_have_no_weighing_networks() -> None:
    model = make_model(interaction="mean")
    assert not any(name.startswith("wti.") for name in model.trainable_state())
    clip_BTCHW, ids_BQ, mask_BQ = make_batch()
    args = (model.encode_text(ids_BQ), mask_BQ, model.encode_video(clip_BTCHW), torch.ones(B, T))
    assert torch.equal(model.similarity(*args), model.training_similarity(*args))
    with pytest.raises(ValueError, match="has no WTI networks"):
        model.similarity(*args, interaction="wti")


def test_bad_combinations_are_refused() -> None:
    dino = create_backbone(
        timm.create_model("vit_small_patch14_dinov2", img_size=28, embed_dim=32, depth=2, num_heads=2), precision="fp32"
    )
    with pytest.raises(BackboneError, match=r"embeds frames in 32 dimensions .* captions in\s+20: .*tiny-clip"):
        VideoTextModel(dino, make_text())
    with pytest.raises(BackboneError, match=r"has no text tower: got NoneType; .*tiny-clip"):
        VideoTextModel(dino, None)  # type: ignore[arg-type]
    no_pool = create_backbone(timm.create_model("samvit_base_patch16", img_size=32, embed_dim=32, depth=2, num_heads=2))
    with pytest.raises(BackboneError, match=r"has no text tower: .*no pooled image embedding; .*tiny-clip"):
        VideoTextModel(no_pool, make_text())
    with pytest.raises(ConfigError, match="interaction must be wti or mean; got 'dot'"):
        make_model(interaction="dot")


def test_half_precision_backbone_feeds_a_float32_head() -> None:
    model = VideoTextModel(create_backbone(make_clip(), precision="bf16"), make_text(), side=SPEC).eval()
    clip_BTCHW, _, _ = make_batch()
    frames_BTE = model.encode_video(clip_BTCHW)
    assert frames_BTE.dtype == torch.float32
    exact_BTE = make_backbone("clip").features(clip_BTCHW)
    assert float(F.cosine_similarity(frames_BTE.detach(), exact_BTE, dim=-1).min()) > 0.999
