"""The released recogniser as slow, obvious code on the released names: the truth for sizes that no stored case has.

Written from the description in the reference values' README, one line of it after the other, with video layouts,
explicit softmax attention and 3D convolutions; it shares no code with the package. `test_plain_reference.py` first
proves it on the stored cases.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(state: State, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + eps).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def batch_norm(state: State, name: str, x: Tensor, *, train: bool) -> Tensor:
    """Statistics over everything but the last axis."""
    flat = x.reshape(-1, x.shape[-1])
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if train:
        mean, variance = flat.mean(0), flat.var(0, unbiased=False)
    return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    outputs = []
    for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = qh @ kh.transpose(-1, -2) / qh.shape[-1] ** 0.5
        outputs.append(scores.softmax(-1) @ vh)
    return torch.cat(outputs, -1)


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def clip_trunk(state: State, images: Tensor, heads: int) -> list[Tensor]:
    patch = state["visual.conv1.weight"].shape[-1]
    patches = F.conv2d(images, state["visual.conv1.weight"], stride=patch).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(images), 1, -1), patches], 1)
    x = layer_norm(state, "visual.ln_pre", x + state["visual.positional_embedding"])
    outputs, i = [], 0
    while f"visual.transformer.resblocks.{i}.ln_1.weight" in state:
        p = f"visual.transformer.resblocks.{i}"
        y = layer_norm(state, f"{p}.ln_1", x)
        q, k, v = (y @ state[f"{p}.attn.in_proj_weight"].T + state[f"{p}.attn.in_proj_bias"]).chunk(3, -1)
        x = x + linear(state, f"{p}.attn.out_proj", attention(q, k, v, heads))
        y = layer_norm(state, f"{p}.ln_2", x)
        x = x + linear(state, f"{p}.mlp.c_proj", quick_gelu(linear(state, f"{p}.mlp.c_fc", y)))
        outputs.append(x)
        i += 1
    return outputs


def eva_trunk(state: State, images: Tensor, heads: int) -> list[Tensor]:
    weight = state["visual.patch_embed.proj.weight"]
    patches = F.conv2d(images, weight, state["visual.patch_embed.proj.bias"], stride=weight.shape[-1])
    x = torch.cat([state["visual.cls_token"].expand(len(images), 1, -1), patches.flatten(2).transpose(1, 2)], 1)
    x = x + state["visual.pos_embed"]
    outputs, i = [], 0
    while f"visual.blocks.{i}.norm1.weight" in state:
        p = f"visual.blocks.{i}"
        bias = torch.cat(
            [state[f"{p}.attn.q_bias"], torch.zeros_like(state[f"{p}.attn.q_bias"]), state[f"{p}.attn.v_bias"]]
        )
        q, k, v = (x @ state[f"{p}.attn.qkv.weight"].T + bias).chunk(3, -1)
        x = x + layer_norm(state, f"{p}.norm1", linear(state, f"{p}.attn.proj", attention(q, k, v, heads)), 1e-6)
        y = linear(state, f"{p}.mlp.fc2", F.gelu(linear(state, f"{p}.mlp.fc1", x)))
        x = x + layer_norm(state, f"{p}.norm2", y, 1e-6)
        outputs.append(x)
        i += 1
    return outputs


def stem(state: State, clip: Tensor, *, train: bool) -> Tensor:
    weight = state["visual.side_conv1.weight"]
    patch = weight.shape[-1]
    video = F.conv3d(
        clip.transpose(1, 2), weight, state["visual.side_conv1.bias"], stride=(1, patch, patch), padding=(1, 0, 0)
    )
    return batch_norm(state, "visual.side_pre_bn3d", video.flatten(3).permute(0, 2, 3, 1), train=train)


def temporal(state: State, names: list[str], x: Tensor) -> Tensor:
    video = x.permute(0, 3, 1, 2)[..., None]
    video = F.conv3d(video, state[f"{names[0]}.weight"], state[f"{names[0]}.bias"])
    video = F.conv3d(
        video, state[f"{names[1]}.weight"], state[f"{names[1]}.bias"], padding=(1, 0, 0), groups=x.shape[-1]
    )
    video = F.conv3d(video, state[f"{names[2]}.weight"], state[f"{names[2]}.bias"])
    return video[..., 0].permute(0, 2, 3, 1)


def shifted(cls: Tensor) -> Tensor:
    out = torch.zeros_like(cls)
    half, num_frames = cls.shape[-1] // 2, cls.shape[1]
    for t in range(num_frames):
        if t + 1 < num_frames:
            out[:, t, :half] = cls[:, t + 1, :half]
        if t > 0:
            out[:, t, half:] = cls[:, t - 1, half:]
    return out


def clip_recogniser(state: State, clip: Tensor, *, heads: int, taps: list[int], train: bool) -> dict[str, Tensor]:
    batch, num_frames = clip.shape[:2]
    trunk = clip_trunk(state, clip.flatten(0, 1), heads)
    side = stem(state, clip, train=train)
    width = side.shape[-1]
    position = state["visual.transformer.side_spatial_position_embeddings"]
    outputs: dict[str, Tensor] = {}
    for k, tap in enumerate(taps):
        tokens = trunk[tap].unflatten(0, (batch, num_frames))
        p = f"visual.transformer.side_transformer.{k}"
        projected = linear(
            state,
            f"visual.transformer.side_linears.{k}",
            layer_norm(state, f"visual.transformer.side_lns.{k}", tokens),
        )
        side = 0.5 * side + 0.5 * projected[:, :, 1:]
        convs = [f"{p}.conv.{j}" for j in range(3)]
        side = side + temporal(state, convs, batch_norm(state, f"{p}.bn_1", side, train=train))
        x = torch.cat([shifted(projected[:, :, 0])[:, :, None], side + position], 2)
        x = layer_norm(state, f"{p}.ln_1", x)
        query, key, value = (x @ state[f"{p}.attn.in_proj_weight"].T + state[f"{p}.attn.in_proj_bias"]).chunk(3, -1)
        mixed = attention(query[:, :, 1:], key, value, max(1, width // 64))
        side = side + linear(state, f"{p}.attn.out_proj", mixed)
        y = F.gelu(linear(state, f"{p}.mlp.fc1", batch_norm(state, f"{p}.bn_2", side, train=train)))
        side = side + linear(state, f"{p}.mlp.fc2", y)
        outputs[f"side.{k}"] = side
    side = batch_norm(state, "visual.side_post_bn", side, train=train)
    outputs["features"] = side.mean((1, 2))
    outputs["logits"] = linear(state, "fc", outputs["features"])
    return outputs


def eva_recogniser(state: State, clip: Tensor, *, heads: int, taps: list[int], train: bool) -> dict[str, Tensor]:
    batch, num_frames = clip.shape[:2]
    trunk = eva_trunk(state, clip.flatten(0, 1), heads)
    side = stem(state, clip, train=train)
    width = side.shape[-1]
    position = state["visual.side_spatial_position_embeddings"]
    outputs: dict[str, Tensor] = {}
    for k, tap in enumerate(taps):
        tokens = trunk[tap].unflatten(0, (batch, num_frames))
        p = f"visual.side_blocks.{k}"
        projected = layer_norm(state, f"visual.side_lns.{k}", linear(state, f"visual.side_linears.{k}", tokens))
        side = 0.5 * side + 0.5 * projected[:, :, 1:]
        convs = [f"{p}.conv.{j}" for j in range(3)]
        side = side + batch_norm(state, f"{p}.bn_1", temporal(state, convs, side), train=train)
        x = torch.cat([shifted(projected[:, :, 0])[:, :, None], side + position], 2)
        query, key, value = (linear(state, f"{p}.attn.{part}_proj", x) for part in "qkv")
        mixed = linear(state, f"{p}.attn.proj", attention(query[:, :, 1:], key, value, max(1, width // 64)))
        side = side + layer_norm(state, f"{p}.ln_1", mixed)
        y = linear(state, f"{p}.mlp.2", F.gelu(linear(state, f"{p}.mlp.0", side)))
        side = side + batch_norm(state, f"{p}.bn_2", y, train=train)
        outputs[f"side.{k}"] = side
    outputs["features"] = side.mean((1, 2))
    outputs["logits"] = linear(state, "fc", outputs["features"])
    return outputs


class Draw:
    """Random weights of the right shapes, none of them trivial, under the released names."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.state: State = {}

    def normal(self, name: str, *shape: int, std: float = 0.1, mean: float = 0.0) -> None:
        self.state[name] = torch.randn(shape, generator=self.generator) * std + mean

    def linear(self, name: str, d_in: int, d_out: int) -> None:
        self.normal(f"{name}.weight", d_out, d_in, std=d_in**-0.5)
        self.normal(f"{name}.bias", d_out)

    def norm(self, name: str, width: int, *, batch: bool = False) -> None:
        self.normal(f"{name}.weight", width, mean=1.0)
        self.normal(f"{name}.bias", width)
        if batch:
            self.normal(f"{name}.running_mean", width)
            self.state[f"{name}.running_var"] = torch.rand(width, generator=self.generator) + 0.5
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(17)

    def side_common(self, width: int, patch: int, num_classes: int) -> None:
        self.normal("visual.side_conv1.weight", width, 3, 3, patch, patch, std=(9 * patch * patch) ** -0.5)
        self.normal("visual.side_conv1.bias", width)
        self.norm("visual.side_pre_bn3d", width, batch=True)
        self.linear("fc", width, num_classes)

    def convs(self, prefix: str, width: int) -> None:
        for j in (0, 2):
            self.normal(f"{prefix}.conv.{j}.weight", width, width, 1, 1, 1, std=width**-0.5)
            self.normal(f"{prefix}.conv.{j}.bias", width)
        self.normal(f"{prefix}.conv.1.weight", width, 1, 3, 1, 1, std=0.6)
        self.normal(f"{prefix}.conv.1.bias", width)


def draw_clip_state(
    *, seed: int, width: int, depth: int, grid: int, patch: int, side: int, num_classes: int, num_side_blocks: int
) -> State:
    draw = Draw(seed)
    draw.normal("visual.class_embedding", width)
    draw.normal("visual.positional_embedding", 1 + grid * grid, width)
    draw.normal("visual.conv1.weight", width, 3, patch, patch, std=(3 * patch * patch) ** -0.5)
    draw.norm("visual.ln_pre", width)
    for i in range(depth):
        p = f"visual.transformer.resblocks.{i}"
        draw.norm(f"{p}.ln_1", width)
        draw.norm(f"{p}.ln_2", width)
        draw.normal(f"{p}.attn.in_proj_weight", 3 * width, width, std=width**-0.5)
        draw.normal(f"{p}.attn.in_proj_bias", 3 * width)
        draw.linear(f"{p}.attn.out_proj", width, width)
        draw.linear(f"{p}.mlp.c_fc", width, 4 * width)
        draw.linear(f"{p}.mlp.c_proj", 4 * width, width)
    draw.side_common(side, patch, num_classes)
    draw.normal("visual.transformer.side_spatial_position_embeddings", grid * grid, side)
    draw.norm("visual.side_post_bn", side, batch=True)
    for k in range(num_side_blocks):
        p = f"visual.transformer.side_transformer.{k}"
        draw.norm(f"visual.transformer.side_lns.{k}", width)
        draw.linear(f"visual.transformer.side_linears.{k}", width, side)
        draw.norm(f"{p}.bn_1", side, batch=True)
        draw.norm(f"{p}.bn_2", side, batch=True)
        draw.norm(f"{p}.ln_1", side)
        draw.convs(p, side)
        draw.normal(f"{p}.attn.in_proj_weight", 3 * side, side, std=side**-0.5)
        draw.normal(f"{p}.attn.in_proj_bias", 3 * side)
        draw.linear(f"{p}.attn.out_proj", side, side)
        draw.linear(f"{p}.mlp.fc1", side, 4 * side)
        draw.linear(f"{p}.mlp.fc2", 4 * side, side)
    return draw.state


def draw_eva_state(
    *, seed: int, width: int, depth: int, grid: int, patch: int, side: int, num_classes: int, num_side_blocks: int
) -> State:
    draw = Draw(seed)
    hidden = width * 60 // 7 if width % 7 == 0 else 3 * width
    draw.normal("visual.cls_token", 1, 1, width)
    draw.normal("visual.pos_embed", 1, 1 + grid * grid, width)
    draw.normal("visual.patch_embed.proj.weight", width, 3, patch, patch, std=(3 * patch * patch) ** -0.5)
    draw.normal("visual.patch_embed.proj.bias", width)
    for i in range(depth):
        p = f"visual.blocks.{i}"
        draw.norm(f"{p}.norm1", width)
        draw.norm(f"{p}.norm2", width)
        draw.normal(f"{p}.attn.qkv.weight", 3 * width, width, std=width**-0.5)
        draw.normal(f"{p}.attn.q_bias", width)
        draw.normal(f"{p}.attn.v_bias", width)
        draw.linear(f"{p}.attn.proj", width, width)
        draw.linear(f"{p}.mlp.fc1", width, hidden)
        draw.linear(f"{p}.mlp.fc2", hidden, width)
    draw.norm("visual.norm", width)
    draw.linear("visual.head", width, 10)
    draw.side_common(side, patch, num_classes)
    draw.normal("visual.side_spatial_position_embeddings", grid * grid, side)
    for k in range(num_side_blocks):
        p = f"visual.side_blocks.{k}"
        draw.linear(f"visual.side_linears.{k}", width, side)
        draw.norm(f"visual.side_lns.{k}", side)
        draw.norm(f"{p}.bn_1", side, batch=True)
        draw.norm(f"{p}.bn_2", side, batch=True)
        draw.norm(f"{p}.ln_1", side)
        draw.convs(p, side)
        for part in ("q_proj", "k_proj", "v_proj", "proj"):
            draw.linear(f"{p}.attn.{part}", side, side)
        draw.linear(f"{p}.mlp.0", side, 4 * side)
        draw.linear(f"{p}.mlp.2", 4 * side, side)
    return draw.state
