"""Weights that come from a file one tensor at a time: the same model, the same hash, and never two copies in memory."""

from __future__ import annotations

import socket
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

# the text tower as of the larger one of the two, which differ in nothing else
config = open_clip.get_model_config("EVA02-E-14-plus")
config["vision_cfg"] |= {"timm_model_name": "small_enormous", "image_size": 56}
config["text_cfg"] |= {"width": 640, "heads": 10, "layers": 6}
get = open_clip.get_model_config
open_clip.get_model_config = lambda name: config if name == "Small-E-14" else get(name)
"""
LOAD = (
    SMALL_E
    + """
import torch
from side4video.backbones.create import create_backbone
from side4video.backbones.create_text import create_text_tower
from side4video.tasks.retrieval import VideoTextModel
path, precision = sys.argv[1:]
def peak():
    return int([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]) * 1024
def rise(load):
    open("/proc/self/clear_refs", "w").write("5")  # the peak from here on
    before = peak()
    loaded = load()
    return loaded, peak() - before
backbone, rose = rise(lambda: create_backbone("open_clip:Small-E-14", weights=path, precision=precision))
text, text_rose = rise(lambda: create_text_tower("open_clip:Small-E-14", weights=path))
text_own = sum(p.nbytes for p in text.parameters())
assert {p.dtype for p in text.parameters()} == {torch.float32} and abs(text.logit_scale_init - 3.25) < 1e-6
own = sum(p.nbytes for p in backbone.parameters())
clip = torch.randn(1, 2, 3, 56, 56)
layers = list(backbone.stream(clip, range(1, 16, 2)))
assert len(layers) == 8 and all(bool(layer.tokens_BTAD.isfinite().all()) for layer in layers)
ids = torch.tensor([[49406, 5, 7, 49407], [49406, 9, 49407, 0]])
words = float(text(ids).double().sum())
model = VideoTextModel(backbone, text, memory="balanced").train()
frames, tokens = model(clip, ids)
mask = torch.ones(2, 4, dtype=torch.bool)
model.training_similarity(tokens, mask, frames, torch.ones(1, 2, dtype=torch.bool)).sum().backward()
assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in (model.side_proj, text.text_projection))
total = float(layers[-1].tokens_BTAD.double().sum())
print(rose, own, backbone.precision, total, backbone.content_hash(), text_rose, text_own, words)
"""
)
SAVE = (
    SMALL_E
    + """
import torch
from safetensors.torch import save_file
from side4video.backbones.build_open_clip import open_clip_tower, tower_trunk
from side4video.backbones.base import FrozenBackbone
from side4video.backbones.text import TextTower
from open_clip.model import CLIPTextCfg, _build_text_tower
torch.manual_seed(3)
tower = open_clip_tower(config, {})
text = _build_text_tower(config["embed_dim"], CLIPTextCfg(**config["text_cfg"]), False)
text.text_projection.data.mul_(100)
text.load_state_dict({key: value.half() for key, value in text.state_dict().items()})
state = {f"visual.{key}": value for key, value in tower.state_dict().items()}
state |= {f"text.{key}": value for key, value in text.state_dict().items()}
state["logit_scale"] = torch.tensor(3.25)
words = TextTower(text, name="small", logit_scale_init=0.0)(
    torch.tensor([[49406, 5, 7, 49407], [49406, 9, 49407, 0]])
)
save_file(state, sys.argv[1])
torch.save({"state_dict": {key: value.half() for key, value in state.items()}}, sys.argv[2])
backbone = FrozenBackbone(tower_trunk(tower, label="small"), name="small", precision=torch.bfloat16)
layers = list(backbone.stream(torch.randn(1, 2, 3, 56, 56), [15]))
print(backbone.content_hash(), float(words.double().sum()))
"""
)


SHARD = (
    SMALL_E
    + """
import os, torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from side4video.backbones.create import create_backbone
path, port = sys.argv[1:]
torch.set_num_threads(1)
def peak():
    return int([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]) * 1024
rank = 0 if os.fork() else 1
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
# what the libraries need for themselves, once
fully_shard(torch.nn.Linear(4, 4), mesh=init_device_mesh("cpu", (2,)))
open("/proc/self/clear_refs", "w").write("5")
before = peak()
backbone = create_backbone("open_clip:Small-E-14", weights=path, precision="bf16", shard=2)
rose = peak() - before
own = sum(t.nbytes for t in backbone.resident())
clip = torch.randn(1, 2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
# in slices, and left early: the blocks are gathered once a pass, and go again
first = next(iter(backbone.stream(clip, [0, 15], frame_slice=1)))
tokens = [layer.tokens_BTAD for layer in backbone.stream(clip, [0, 15], frame_slice=1)]
assert torch.equal(first.tokens_BTAD, tokens[0])
assert sum(t.nbytes for t in backbone.resident()) == own
found = [None, None]
dist.all_gather_object(found, (rose, own, float(tokens[1].double().sum()), backbone.content_hash()))
dist.destroy_process_group()
if rank == 0:
    os.wait()
    plain = create_backbone("open_clip:Small-E-14", weights=path, precision="bf16")
    (layer,) = plain.stream(clip, [15], frame_slice=1)
    assert torch.equal(layer.tokens_BTAD, tokens[1])
    print(*found[0], *found[1], sum(p.nbytes for p in plain.parameters()), plain.content_hash())
os._exit(0) if rank else None
"""
)


def python(program: str, *words: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def small_e(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str, str]:
    """Files of both towers in float32 and in half precision, the image tower's hash, and what the text tower says."""
    folder = tmp_path_factory.mktemp("small_e")
    single, half = str(folder / "single.safetensors"), str(folder / "half.pt")
    expected, words = python(SAVE, single, half)
    return single, half, expected, words


def test_a_small_vit_e_is_loaded_without_a_second_copy(small_e: tuple[str, str, str, str]) -> None:
    single, half, expected, words = small_e
    # float32 on the disk, bf16 in memory; then half precision on the disk and in memory
    for path, precision, name in ((single, "bf16", "torch.bfloat16"), (half, "fp16", "torch.float16")):
        rose, own, found, total, content, text_rose, text_own, said = python(LOAD, path, precision)
        assert found == name
        assert int(own) > 190e6
        assert int(rose) < 1.3 * int(own)
        assert float(total) != 0
        assert (content == expected) == (path == single)
        # the text tower, which trains, comes from the same file into float32
        assert int(text_own) > 200e6
        assert int(text_rose) < 1.3 * int(text_own)
        assert said == words


def test_a_spread_vit_e_is_never_whole_in_any_process(small_e: tuple[str, str, str, str]) -> None:
    path, _, expected, _ = small_e
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    *of_both, whole, content = python(SHARD, path, str(port))
    for rose, own, total, found in (of_both[:4], of_both[4:]):
        # half of the blocks; patches, positions and norms are each one's own
        assert 0.5 * int(whole) <= int(own) < 0.52 * int(whole)
        # beside the part, one block at a time, in the file's float32 too
        assert int(rose) < 0.75 * int(whole)
        assert found == content == expected
        assert total == of_both[2]


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
