"""`side4video convert` both ways, for all four dialects of released checkpoints: complete, exact, strict."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.transformer import QuickGELU, TextTransformer, VisionTransformer
from safetensors.torch import load_file, save_file
from timm.models.eva import Eva
from torch import Tensor, nn

import side4video
from side4video.backbones import Preprocessing, create_backbone
from side4video.backbones.text import TextTower
from side4video.backbones.timm_vit import TimmViT
from side4video.cli.main import main
from side4video.official import from_official
from side4video.official.save import official_state
from side4video.side.spec import SideSpec
from side4video.tasks.recognition import VideoClassifier
from side4video.tasks.retrieval import VideoTextModel

DIALECTS = ("recognition-clip", "recognition-eva", "retrieval-clip", "retrieval-eva")
WIDTH, SIDE, CLASSES, JOINT, WORDS, VOCABULARY = 128, 64, 5, 48, 20, 90
PARAMETERS = ("weight", "bias")
NORM = (*PARAMETERS, "running_mean", "running_var", "num_batches_tracked")


def clip_tower() -> nn.Module:
    return VisionTransformer(
        image_size=24, patch_size=8, width=WIDTH, layers=2, heads=2, mlp_ratio=3.0, output_dim=JOINT,
        act_layer=QuickGELU,
    )  # fmt: skip


def eva_tower() -> nn.Module:
    norm = partial(nn.LayerNorm, eps=1e-6)
    tower = Eva(
        img_size=24, patch_size=8, embed_dim=WIDTH, depth=4, num_heads=2, mlp_ratio=3.0, use_post_norm=True,
        use_rot_pos_emb=False, norm_layer=norm, global_pool="token", num_classes=JOINT,
    )  # fmt: skip
    pixels = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.25), (24, 24), "bicubic")
    return TimmViT(tower, projection=nn.Identity(), preprocessing=pixels)


def model_of(dialect: str) -> VideoClassifier | VideoTextModel:
    """A small model of ours with random weights everywhere, in eval mode."""
    task, family = dialect.split("-")
    torch.manual_seed(DIALECTS.index(dialect))
    backbone = create_backbone(clip_tower() if family == "clip" else eva_tower(), precision="fp32")
    spec = replace(SideSpec.for_dialect(family, retrieval=task == "retrieval"), width=SIDE)
    if task == "recognition":
        model: Any = VideoClassifier(backbone, CLASSES, side=spec)
    else:
        act = QuickGELU if family == "clip" else nn.GELU
        tower = TextTransformer(
            context_length=WORDS, vocab_size=VOCABULARY, width=64, heads=1, layers=2, output_dim=JOINT, act_layer=act
        )
        text = TextTower(tower, name="small", logit_scale_init=2.5)
        model = VideoTextModel(backbone, text, side=spec, interaction_width=40)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point() and value.dim() > 0:
                value.copy_(torch.rand(value.shape, generator=generator) * (0.3 if "norm" not in name else 1.0) + 0.1)
            elif name.endswith("num_batches_tracked"):
                value.fill_(17)
    return model.eval()


def layers(prefix: str, names: tuple[str, ...], leaves: tuple[str, ...] = PARAMETERS) -> set[str]:
    return {f"{prefix}{name}.{leaf}" for name in names for leaf in leaves}


def expected_keys(dialect: str) -> set[str]:
    """The released names, written down from the reference values' table."""
    task, family = dialect.split("-")
    p = "clip." if task == "retrieval" else ""
    v = f"{p}visual."
    keys = layers(v, ("side_conv1",)) | layers(v, ("side_pre_bn3d",), NORM)
    if family == "clip":
        keys |= {f"{v}{name}" for name in ("conv1.weight", "class_embedding", "positional_embedding")}
        keys |= layers(v, ("ln_pre",)) | {f"{v}transformer.side_spatial_position_embeddings"}
        keys |= layers(v, ("side_post_bn",), NORM)
        frozen, block, side = f"{v}transformer.resblocks.", f"{v}transformer.side_transformer.", f"{v}transformer."
        for i in range(2):
            keys |= layers(f"{frozen}{i}.", ("ln_1", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"))
            keys |= {f"{frozen}{i}.attn.in_proj_{leaf}" for leaf in PARAMETERS}
            keys |= layers(f"{block}{i}.", ("ln_1", "attn.out_proj", "mlp.fc1", "mlp.fc2"))
            keys |= {f"{block}{i}.attn.in_proj_{leaf}" for leaf in PARAMETERS}
            if task == "recognition":
                keys |= layers(f"{block}{i}.", ("conv.0", "conv.1", "conv.2"))
                keys |= layers(f"{block}{i}.", ("bn_1", "bn_2"), NORM)
            else:
                keys |= layers(f"{block}{i}.", ("pw_conv1", "dw_conv1", "pw_conv2"))
                keys |= layers(f"{block}{i}.", ("norm1", "norm2"), NORM)
    else:
        keys |= {f"{v}cls_token", f"{v}pos_embed", f"{v}side_spatial_position_embeddings"}
        keys |= layers(v, ("patch_embed.proj", "norm", "head"))
        block, side = f"{v}side_blocks.", v
        for i in range(4):
            keys |= layers(f"{v}blocks.{i}.", ("attn.proj", "norm1", "mlp.fc1", "mlp.fc2", "norm2"))
            keys |= {f"{v}blocks.{i}.attn.{leaf}" for leaf in ("qkv.weight", "q_bias", "v_bias")}
        for k in range(2):
            keys |= layers(f"{block}{k}.", ("conv.0", "conv.1", "conv.2", "ln_1", "mlp.0", "mlp.2"))
            keys |= layers(f"{block}{k}.attn.", ("q_proj", "k_proj", "v_proj", "proj"))
            keys |= layers(f"{block}{k}.", ("bn_1", "bn_2"), NORM)
    for k in range(2):
        keys |= layers(side, (f"side_lns.{k}", f"side_linears.{k}"))
    if task == "recognition":
        return keys | layers("", ("fc",))
    keys |= {f"{v}side_proj", f"{p}logit_scale"} | layers(v, ("side_post_bn",), NORM)
    keys |= layers("", ("text_weight_fc.0", "text_weight_fc.2", "video_weight_fc.0", "video_weight_fc.2"))
    if family == "clip":
        keys |= layers(v, ("ln_post",)) | {f"{v}proj"}
    t = p if family == "clip" else f"{p}text."
    keys |= {f"{t}token_embedding.weight", f"{t}positional_embedding", f"{t}text_projection"} | layers(t, ("ln_final",))
    for i in range(2):
        inner = f"{t}transformer.resblocks.{i}."
        keys |= layers(inner, ("ln_1", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"))
        keys |= {f"{inner}attn.in_proj_{leaf}" for leaf in PARAMETERS}
    return keys


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(one[name].float(), other[name].float()) and one[name].shape == other[name].shape for name in one
    )


def released(dialect: str) -> dict[str, Tensor]:
    return official_state(model_of(dialect))


def convert(*words: str | Path) -> int:
    return main(["convert", *map(str, words)])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_names_are_the_released_ones(dialect: str) -> None:
    assert released(dialect).keys() == expected_keys(dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_official_to_run_to_official_loses_nothing(
    dialect: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = released(dialect)
    task = dialect.split("-", maxsplit=1)[0]
    content: Any = {f"module.{name}": value for name, value in state.items()}
    if task == "recognition":
        content = {"epoch": 3, "model_state_dict": content, "optimizer_state_dict": {"state": {}, "param_groups": []}}
    torch.save(content, tmp_path / "official.pt")
    run, back = tmp_path / "run", tmp_path / "back.safetensors"
    heads = ["--num-heads", "2", "--text-heads", "1"] if task == "retrieval" else ["--num-heads", "2"]
    assert convert(tmp_path / "official.pt", run, "--keep-backbone", *heads, "--json") == 0
    done = json.loads(capsys.readouterr().out)
    unused = {f"visual.{part}.{leaf}" for part in ("norm", "head") for leaf in PARAMETERS}
    beside = {"epoch", "optimizer_state_dict"} if task == "recognition" else set()
    assert set(done["unused"]) == beside | (unused if dialect == "recognition-eva" else set())
    assert (done["task"], done["side_width"], len(done["side_blocks"])) == (task, SIDE, 2)
    assert not list(tmp_path.glob("*.partial"))
    # it evaluates like the original, wherever the folder lies
    moved = run.rename(tmp_path / "elsewhere")
    model, original = side4video.load(moved), from_official(tmp_path / "official.pt", task=task, num_heads=2)
    clip_BTCHW = torch.randn(2, 3, 3, 24, 24)
    with torch.no_grad():
        if task == "recognition":
            assert torch.equal(model(clip_BTCHW), original(clip_BTCHW))
            assert not torch.equal(model(clip_BTCHW), model(clip_BTCHW.flip(1)))
        else:
            ids_MQ = torch.randint(1, VOCABULARY, (3, 7))
            found = [m.similarity(m.encode_text(ids_MQ), ids_MQ > 9, m.encode_video(clip_BTCHW), torch.tensor(
                [[1, 1, 0], [1, 1, 1]])) for m in (model, original)]  # fmt: skip
            assert torch.equal(*found)
    assert convert(moved, back, "--to", "official") == 0
    assert same(load_file(back), state)
    # and the run from that file is the same run
    assert convert(back, tmp_path / "again", "--keep-backbone", *heads) == 0
    for name in ("side.safetensors", "backbone.safetensors", "backbone.json", "classes.json", "preprocessing.json"):
        assert (moved / name).exists() == (task == "recognition" or name != "classes.json")
        if (moved / name).exists():
            assert (moved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("dialect", ["recognition-clip", "retrieval-clip"])
def test_run_to_official_to_run_is_bit_equal(
    dialect: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was trained beside tiny-clip, or a text-video model beside it, there and back."""
    run = trained
    width = ["backbone.pretrained=false", "backbone.precision=fp32"]
    if dialect == "retrieval-clip":
        model = VideoTextModel_beside_tiny()
        run = tmp_path / "first"
        save_file(official_state(model), tmp_path / "first.safetensors")
        assert convert(tmp_path / "first.safetensors", run, "--backbone", "tiny-clip") == 0
        width = []
    official, again = tmp_path / "official.pt", tmp_path / "again"
    assert convert(run, official, "--to", "official") == 0
    assert "tiny-clip has GELU; the released code has QuickGELU" in capsys.readouterr().err
    assert convert(official, again, "--backbone", "tiny-clip", *width, "--json") == 0
    done = json.loads(capsys.readouterr().out)
    assert done["compared"]["equal"] > 50
    assert done["compared"]["rounded"] == 0
    first, second = (load_file(folder / "side.safetensors") for folder in (run, again))
    assert same(first, second)
    assert json.loads((run / "backbone.json").read_text()) == json.loads((again / "backbone.json").read_text())


def VideoTextModel_beside_tiny() -> VideoTextModel:
    from side4video.backbones.create_text import create_text_tower

    torch.manual_seed(4)
    backbone = create_backbone("tiny-clip", precision="fp32")
    spec = replace(SideSpec.for_dialect("clip", retrieval=True), width=40)
    model = VideoTextModel(backbone, create_text_tower("tiny-clip"), side=spec).eval()
    with torch.no_grad():
        for parameter in (model.side_proj, *model.frame_head.parameters(), *model.text.parameters()):
            parameter.add_(torch.randn_like(parameter) / 17)
    return model


def test_a_converted_run_evaluates_and_predicts(
    run_copy: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    official, again = tmp_path / "official.pt", tmp_path / "again"
    names = tmp_path / "names.txt"
    names.write_text("\n".join(json.loads((run_copy / "classes.json").read_text())))
    assert convert(run_copy, official, "--to", "official") == 0
    words = ["--backbone", "tiny-clip", "backbone.pretrained=false", "--classes", str(names), "data.num_frames=6"]
    assert convert(official, again, *words, "data.workers=0") == 0
    capsys.readouterr()
    results = []
    for run in (run_copy, again):
        assert main(["evaluate", str(run), "--data", str(clips / "val"), "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-12)
    assert results[0]["confusion"] == results[1]["confusion"]
    video = next((clips / "val").rglob("*.mp4"))
    assert main(["predict", str(again), str(video), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["predictions"][0]["label"] in ("grow", "slide-left", "slide-right")


def test_frozen_weights_rounded_to_half_are_the_same_backbone(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    official = tmp_path / "official.safetensors"
    assert convert(trained, official, "--to", "official") == 0
    state = load_file(official)
    frozen = [key for key in state if "side" not in key and not key.startswith("fc.")]
    halved = {key: value.half() if key in frozen else value for key, value in state.items()}
    save_file(halved, tmp_path / "half.safetensors")
    words = ["--backbone", "tiny-clip", "backbone.pretrained=false"]
    capsys.readouterr()
    assert convert(tmp_path / "half.safetensors", tmp_path / "run", *words, "--json") == 0
    compared = json.loads(capsys.readouterr().out)["compared"]
    lossy = sum(not torch.equal(halved[key].float(), state[key]) for key in frozen)
    assert compared["rounded"] == lossy > 0
    # a frozen weight that is no rounding is another backbone's
    state["visual.conv1.weight"][0, 0, 0, 0] += 1e-4
    save_file(state, tmp_path / "other.safetensors")
    assert convert(tmp_path / "other.safetensors", tmp_path / "run2", *words) == 2
    message = capsys.readouterr().err
    assert "another backbone than tiny-clip: 1 of" in message
    assert "conv1.weight by up to 0.0001" in message
    assert not (tmp_path / "run2").exists()
    assert convert(official, tmp_path / "run3", "--backbone", "tiny-clip") == 2
    assert "was trained beside another backbone than tiny-clip" in capsys.readouterr().err


def spoil(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    if how == "missing":
        return {k: v for k, v in state.items() if k != "visual.side_linears.1.bias"}
    if how == "unknown":
        return {**state, "visual.surprise": torch.zeros(3)}
    if how == "elsewhere":
        return {**state, "surprise": torch.zeros(3)}
    if how == "shape":
        return {**state, "fc.weight": torch.zeros(CLASSES, SIDE + 1)}
    if how == "twice":
        return {**state, "module.fc.weight": state["fc.weight"]}
    return {"some.weight": torch.zeros(3)}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"lacks visual\.side_linears\.1\.bias"),
        ("unknown", r"1 unknown \['surprise'\]"),
        ("elsewhere", r"1 keys that no released recogniser has: \['surprise'\]"),
        ("shape", r"fc\.weight has shape \(5, 65\)"),
        ("twice", r"fc\.weight twice, with and without module\."),
        ("nothing", "not a released Side4Video checkpoint"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named(
    how: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(spoil(released("recognition-eva"), how), tmp_path / "bad.pt")
    assert convert(tmp_path / "bad.pt", tmp_path / "run", "--keep-backbone", "--num-heads", "2") == 2
    import re

    assert re.search(message, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def test_bad_words_and_damaged_files(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = released("recognition-clip")
    torch.save(state, tmp_path / "good.pt")
    whole = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    torch.save({"a": Path("x")}, tmp_path / "code.pt")  # nothing but tensors and plain containers is unpickled
    (tmp_path / "names.csv").write_text("id,name\n0,a\n1,b\n")
    good, out = tmp_path / "good.pt", tmp_path / "run"
    cases = [
        ([tmp_path / "none.pt", out], "no such file or folder"),
        ([tmp_path / "cut.pt", out], "cannot be read as a checkpoint"),
        ([tmp_path / "cut.safetensors", out], "cannot be read as a checkpoint"),
        ([tmp_path / "code.pt", out], "cannot be read as a checkpoint"),
        ([good, out], "which frozen model does the checkpoint belong to? It is 2 blocks of width 128"),
        ([good, out, "--task", "retrieval"], "this is a recognition checkpoint"),
        ([good, out, "--keep-backbone", "--num-heads", "3"], "num_heads must divide"),
        ([good, out, "--keep-backbone", "--text-heads", "3"], "--text-heads belongs to retrieval"),
        ([good, out, "--keep-backbone", "--side-blocks", "0,x"], "--side-blocks: must be numbers"),
        ([good, out, "--keep-backbone", "--side-blocks", "0"], "must name 2 frozen blocks"),
        ([good, out, "--keep-backbone", "--classes", tmp_path / "names.csv"], "names 2 classes; the checkpoint has 5"),
        ([good, out, "--backbone", "timm:vit_tiny_patch16_224", "backbone.pretrained=false"], "the released code has"),
        ([good, tmp_path / "cut.pt", "--keep-backbone"], "nothing is overwritten"),
        ([good, out, "--to", "onnx"], "--to: must be run or official"),
        ([good, out, "side.width=3"], "cannot be changed here"),
        ([trained, out], "is a folder, not a checkpoint"),
        ([good, tmp_path / "x.pt", "--to", "official"], "not a run folder"),
        ([trained, tmp_path / "x.onnx", "--to", "official"], "OUT must end in .pt"),
        ([trained, good, "--to", "official"], "nothing is overwritten"),
    ]
    before = sorted(path.name for path in tmp_path.iterdir())
    for words, message in cases:
        assert convert(*words) == 2, words
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_the_released_code_lacks_is_refused(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of("recognition-clip")
    other = VideoClassifier(model.backbone, 3, side=replace(model.side.spec, shift=False, norm="layer"))
    with pytest.raises(side4video.Side4VideoError, match=r"side\.shift=False \(there: True\), side\.norm=layer"):
        official_state(other)
    plain = create_backbone("timm:vit_tiny_patch16_224", pretrained=False, image_size=32, precision="fp32")
    with pytest.raises(side4video.Side4VideoError, match="CLIP's image tower and EVA02-CLIP's post-norm one"):
        official_state(VideoClassifier(plain, 3, side=replace(SideSpec(), width=16)))
