"""The released text-video model as slow, obvious code on the released names, for sizes that no stored case has.

Written from the description in the reference values' README; shares no code with the package. Names come without their
leading `clip.`, as `stripped` gives them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reference import plain
from reference.plain import Draw, State, attention, batch_norm, layer_norm, linear, quick_gelu


def stripped(state: State) -> State:
    return {name.removeprefix("clip."): value for name, value in state.items()}


def text_tower(state: State, ids: Tensor, *, heads: int, quick: bool, prefix: str = "") -> Tensor:
    length = ids.shape[1]
    x = state[f"{prefix}token_embedding.weight"][ids] + state[f"{prefix}positional_embedding"][:length]
    future = torch.ones(length, length).triu(1).bool()
    i = 0
    while f"{prefix}transformer.resblocks.{i}.ln_1.weight" in state:
        p = f"{prefix}transformer.resblocks.{i}"
        y = layer_norm(state, f"{p}.ln_1", x)
        q, k, v = (y @ state[f"{p}.attn.in_proj_weight"].T + state[f"{p}.attn.in_proj_bias"]).chunk(3, -1)
        mixed = []
        for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
            scores = (qh @ kh.transpose(-1, -2) / qh.shape[-1] ** 0.5).masked_fill(future, float("-inf"))
            mixed.append(scores.softmax(-1) @ vh)
        x = x + linear(state, f"{p}.attn.out_proj", torch.cat(mixed, -1))
        y = linear(state, f"{p}.mlp.c_fc", layer_norm(state, f"{p}.ln_2", x))
        x = x + linear(state, f"{p}.mlp.c_proj", quick_gelu(y) if quick else F.gelu(y))
        i += 1
    return layer_norm(state, f"{prefix}ln_final", x) @ state[f"{prefix}text_projection"]


def clip_frames(state: State, clip: Tensor, *, heads: int, taps: list[int], train: bool) -> Tensor:
    batch, num_frames = clip.shape[:2]
    trunk = plain.clip_trunk(state, clip.flatten(0, 1), heads)
    side = plain.stem(state, clip, train=train)
    width = side.shape[-1]
    position = state["visual.transformer.side_spatial_position_embeddings"]
    for k, tap in enumerate(taps):
        tokens = trunk[tap].unflatten(0, (batch, num_frames))
        p = f"visual.transformer.side_transformer.{k}"
        normed = layer_norm(state, f"visual.transformer.side_lns.{k}", tokens)
        projected = linear(state, f"visual.transformer.side_linears.{k}", normed)
        side = 0.5 * side + 0.5 * projected[:, :, 1:]
        convs = [f"{p}.{name}" for name in ("pw_conv1", "dw_conv1", "pw_conv2")]
        side = side + plain.temporal(state, convs, batch_norm(state, f"{p}.norm1", side, train=train))
        x = torch.cat([plain.shifted(projected[:, :, 0])[:, :, None], side], 2) + position
        x = layer_norm(state, f"{p}.ln_1", x)
        query, key, value = (x @ state[f"{p}.attn.in_proj_weight"].T + state[f"{p}.attn.in_proj_bias"]).chunk(3, -1)
        mixed = attention(query, key, value, max(1, width // 64))[:, :, 1:]
        side = side + linear(state, f"{p}.attn.out_proj", mixed)
        y = F.gelu(linear(state, f"{p}.mlp.fc1", batch_norm(state, f"{p}.norm2", side, train=train)))
        side = side + linear(state, f"{p}.mlp.fc2", y)
    side = batch_norm(state, "visual.side_post_bn", side, train=train).mean(2)
    cls = trunk[-1].unflatten(0, (batch, num_frames))[:, :, 0]
    return layer_norm(state, "visual.ln_post", cls + side @ state["visual.side_proj"]) @ state["visual.proj"]


def eva_frames(state: State, clip: Tensor, *, heads: int, taps: list[int], train: bool) -> Tensor:
    batch, num_frames = clip.shape[:2]
    trunk = plain.eva_trunk(state, clip.flatten(0, 1), heads)
    # the recogniser's side blocks are the same; its head is fed nothing here
    blocks = plain.eva_recogniser(
        {**state, "fc.weight": torch.zeros(1, state["visual.side_conv1.bias"].shape[0]), "fc.bias": torch.zeros(1)},
        clip,
        heads=heads,
        taps=taps,
        train=train,
    )
    side = batch_norm(state, "visual.side_post_bn", blocks[f"side.{len(taps) - 1}"], train=train).mean(2)
    cls = trunk[-1].unflatten(0, (batch, num_frames))[:, :, 0]
    return linear(state, "visual.head", layer_norm(state, "visual.norm", cls + side @ state["visual.side_proj"], 1e-6))


def token_weights(state: State, name: str, x: Tensor, mask: Tensor) -> Tensor:
    scores = linear(state, f"{name}.2", linear(state, f"{name}.0", x).clamp(min=0))[..., 0]
    return scores.masked_fill(mask == 0, float("-inf")).softmax(-1)


def wti(state: State, tokens: Tensor, mask: Tensor, frames: Tensor, video_mask: Tensor) -> Tensor:
    """One caption and one video at a time."""
    word_weight = token_weights(state, "text_weight_fc", tokens, mask)
    frame_weight = token_weights(state, "video_weight_fc", frames, video_mask)
    rows = []
    for m in range(len(tokens)):
        row = []
        for v in range(len(frames)):
            a = tokens[m] / tokens[m].norm(dim=-1, keepdim=True)
            b = frames[v] / frames[v].norm(dim=-1, keepdim=True)
            cosine = (a @ b.T) * mask[m][:, None] * video_mask[v][None]
            best_frame, best_word = cosine.max(1).values, cosine.max(0).values
            row.append(((word_weight[m] * best_frame).sum() + (frame_weight[v] * best_word).sum()) / 2)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def mean_pooling(state: State, tokens: Tensor, ids: Tensor, frames: Tensor) -> Tensor:
    rows = []
    for m in range(len(tokens)):
        sentence = tokens[m, int(ids[m].argmax())]
        videos = [frame.mean(0) for frame in frames]
        rows.append(torch.stack([sentence @ v / sentence.norm() / v.norm() for v in videos]))
    return torch.stack(rows) * state["logit_scale"].exp()


def symmetric_loss(sim: Tensor) -> Tensor:
    rows = -torch.log_softmax(sim, 1).diagonal().mean()
    columns = -torch.log_softmax(sim, 0).diagonal().mean()
    return (rows + columns) / 2


def draw_text(draw: Draw, prefix: str, *, width: int, depth: int, context: int, vocab: int, embed: int) -> None:
    draw.normal(f"{prefix}token_embedding.weight", vocab, width, std=0.5)
    draw.normal(f"{prefix}positional_embedding", context, width)
    for i in range(depth):
        p = f"{prefix}transformer.resblocks.{i}"
        draw.norm(f"{p}.ln_1", width)
        draw.norm(f"{p}.ln_2", width)
        draw.normal(f"{p}.attn.in_proj_weight", 3 * width, width, std=width**-0.5)
        draw.normal(f"{p}.attn.in_proj_bias", 3 * width)
        draw.linear(f"{p}.attn.out_proj", width, width)
        draw.linear(f"{p}.mlp.c_fc", width, 4 * width)
        draw.linear(f"{p}.mlp.c_proj", 4 * width, width)
    draw.norm(f"{prefix}ln_final", width)
    draw.normal(f"{prefix}text_projection", width, embed, std=width**-0.5)


def draw_state(dialect: str, *, embed: int, text: dict[str, int], weight_width: int, **shape: int) -> State:
    """A released retrieval checkpoint of these shapes, with its `clip.` prefixes."""
    width, side = shape["width"], shape["side"]
    make = plain.draw_clip_state if dialect == "clip" else plain.draw_eva_state
    state = {name: value for name, value in make(num_classes=2, **shape).items() if not name.startswith("fc.")}
    draw = Draw(shape["seed"] + 1)
    draw.state = state
    draw.normal("visual.side_proj", side, width, std=side**-0.5)
    if dialect == "clip":
        for name in [n for n in state if "side_transformer" in n]:
            renamed = name
            for old, new in ((".conv.0.", ".pw_conv1."), (".conv.1.", ".dw_conv1."), (".conv.2.", ".pw_conv2.")):
                renamed = renamed.replace(old, new)
            state[renamed.replace(".bn_1.", ".norm1.").replace(".bn_2.", ".norm2.")] = state.pop(name)
        table = "visual.transformer.side_spatial_position_embeddings"
        draw.normal(table, 1 + len(state[table]), side)
        draw.norm("visual.ln_post", width)
        draw.normal("visual.proj", width, embed, std=width**-0.5)
        draw_text(draw, "", embed=embed, **text)
    else:
        draw.norm("visual.norm", width)
        draw.linear("visual.head", width, embed)
        draw.norm("visual.side_post_bn", side, batch=True)
        draw_text(draw, "text.", embed=embed, **text)
    state["logit_scale"] = torch.tensor(2.5)
    state = {f"clip.{name}": value for name, value in state.items()}
    draw.state = state
    for name in ("text_weight_fc", "video_weight_fc"):
        draw.linear(f"{name}.0", embed, weight_width)
        draw.linear(f"{name}.2", weight_width, 1)
    return state
