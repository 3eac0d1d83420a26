"""Weights that come from a file one tensor at a time: the same model, the same hash, and never two copies in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.build_open_clip import open_clip_tower, tower_trunk
from side4video.backbones.create import create_backbone
from side4video.backbones.freezing import content_hash
from side4video.backbones.mapped import FileMemory, own_weights, without_values
from side4video.backbones.weights import read_weights

# ViT-E as open_clip has it, in small: post-norm blocks, a fused qkv with biases on q and v only, head width 112
SMALL_E = """
import sys, resource, open_clip, timm
from timm.models.eva import Eva
from timm.models import register_model

@register_model
def small_enormous(**kwargs):
    for unwanted in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "pretrained"):
        kwargs.pop(unwanted, None)
    sizes = dict(img_size=56, patch_size=14, embed_dim=672, depth=16, num_heads=6, mlp_ratio=15360 / 1792)
    return Eva(**{**sizes, **kwargs, "use_post_norm": True, "global_pool": "token", "qkv_fused": True})

config = open_clip.get_model_config("EVA02-E-14")
config["vision_cfg"] |= {"timm_model_name": "small_enormous", "image_size": 56}
get = open_clip.get_model_config
open_clip.get_model_config = lambda name: config if name == "Small-E-14" else get(name)
"""
LOAD = (
    SMALL_E
    + """
import torch
from side4video.backbones.create import create_backbone
path, precision = sys.argv[1:]
def peak():
    return int([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]) * 1024
before = peak()
backbone = create_backbone("open_clip:Small-E-14", weights=path, precision=precision)
rose = peak() - before
own = sum(p.nbytes for p in backbone.parameters())
clip = torch.randn(1, 2, 3, 56, 56)
layers = list(backbone.stream(clip, range(1, 16, 2)))
assert len(layers) == 8 and all(bool(layer.tokens_BTAD.isfinite().all()) for layer in layers)
print(rose, own, backbone.precision, float(layers[-1].tokens_BTAD.double().sum()), backbone.content_hash())
"""
)
SAVE = (
    SMALL_E
    + """
import torch
from safetensors.torch import save_file
from side4video.backbones.build_open_clip import open_clip_tower, tower_trunk
from side4video.backbones.base import FrozenBackbone
torch.manual_seed(3)
tower = open_clip_tower(config, {})
state = {f"visual.{key}": value for key, value in tower.state_dict().items()}
save_file(state, sys.argv[1])
torch.save({"state_dict": {key: value.half() for key, value in state.items()}}, sys.argv[2])
backbone = FrozenBackbone(tower_trunk(tower, label="small"), name="small", precision=torch.bfloat16)
layers = list(backbone.stream(torch.randn(1, 2, 3, 56, 56), [15]))
print(backbone.content_hash())
"""
)


def python(program: str, *words: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_small_vit_e_is_loaded_without_a_second_copy(tmp_path: Path) -> None:
    single, half = str(tmp_path / "single.safetensors"), str(tmp_path / "half.pt")
    (expected,) = python(SAVE, single, half)
    # float32 on the disk, bf16 in memory; then half precision on the disk and in memory
    for path, precision, name in ((single, "bf16", "torch.bfloat16"), (half, "fp16", "torch.float16")):
        rose, own, found, total, content = python(LOAD, path, precision)
        assert found == name
        assert int(own) > 190e6
        assert int(rose) < 1.3 * int(own)
        assert float(total) != 0
        assert (content == expected) == (path == single)


def test_a_mapped_model_is_the_model(tmp_path: Path) -> None:
    config = open_clip.get_model_config("ViT-B-32")
    assert config is not None
    config["vision_cfg"] |= {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 48}
    torch.manual_seed(1)
    tower = open_clip_tower(config, {})
    path = tmp_path / "weights.safetensors"
    save_file(dict(tower.state_dict()), path)
    with without_values():
        empty = open_clip_tower(config, {})
    assert all(p.is_meta for p in empty.parameters())
    assert not nn.Linear(2, 3).weight.is_meta
    empty.load_state_dict(read_weights(path), assign=True)
    files = FileMemory()
    assert all(files.holds(p) for p in empty.parameters())
    assert not any(files.holds(p) for p in tower.parameters())
    trunk, plain = tower_trunk(empty, label="mapped"), tower_trunk(tower, label="plain")
    assert own_weights(trunk, torch.bfloat16) == content_hash(plain)
    assert not any(FileMemory().holds(p) for p in empty.parameters())
    assert own_weights(trunk, torch.bfloat16) is None
    clip_BTCHW = torch.randn(1, 2, 3, 48, 32)
    path.unlink()
    ours, theirs = (FrozenBackbone(t, name="x", precision=torch.bfloat16) for t in (trunk, plain))
    for mine, other in zip(ours.stream(clip_BTCHW, [0, 1]), theirs.stream(clip_BTCHW, [0, 1]), strict=True):
        assert torch.equal(mine.tokens_BTAD, other.tokens_BTAD)


@pytest.mark.parametrize("format", ["new", "old"])
def test_pt_files_of_both_formats(tmp_path: Path, format: str) -> None:
    state = {"weight": torch.arange(6000.0).view(3, 2000)}
    path = tmp_path / "weights.pt"
    torch.save(state, path, _use_new_zipfile_serialization=format == "new")
    (found,) = read_weights(path).values()
    assert torch.equal(found, state["weight"])
    assert FileMemory().holds(found) == (format == "new")


def test_tables_stay_exact_and_loose_biases_follow(tmp_path: Path) -> None:
    # a small EVA02 with rotary angles, computed when it is built
    name = "timm:eva02_tiny_patch14_224"
    original = create_backbone(name, pretrained=False, precision="fp32")
    path = tmp_path / "eva.safetensors"
    save_file(dict(original.trunk.model.state_dict()), path)
    loaded = create_backbone(name, weights=str(path), precision="bf16")
    cast = create_backbone(name, pretrained=False, precision="bf16")
    assert not any(t.is_meta for t in (*loaded.parameters(), *loaded.buffers()))
    kinds = {key: value.dtype for key, value in cast.named_buffers()}
    assert {key: value.dtype for key, value in loaded.named_buffers()} == kinds
    assert loaded.content_hash() == original.content_hash()
