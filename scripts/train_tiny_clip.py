"""Trains the tiny CLIP from scratch on drawn pictures and their captions, and writes the weights that ship.

Every batch is drawn anew: half of its pictures are random, the other half are near misses of them with one attribute
changed (place, size, colour, shape or facing), so that the features must say where things are and how large. Beside
CLIP's contrastive loss, linear heads that are thrown away afterwards name what each patch shows, and, from the image
embedding, what is in each of the nine places (the drawing knows): from scratch, and with so few pictures, the
contrastive loss alone learned colours and sizes, but neither shapes nor places. The same seed, steps, batch and number
of threads give the same file on the same kind of CPU; its sha256 is printed.

The weights in the package are those of the command below. On held-out pictures they tell colour, tone, size and place
nearly always, shape, facing and background pattern hardly better than chance: the last line printed has the shares.

    python scripts/train_tiny_clip.py                 about 25 minutes on one idle core with bf16 units
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from open_clip import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

from side4video.backbones.tiny import IMAGE_SIZE, MEAN, STD, WEIGHTS, asset, tiny_clip_model, tiny_clip_tokenizer
from side4video.data import drawing

HELD_OUT = 1_000_000_007  # added to the seed for the pictures that are tested on


# what the heads name of a place or a patch; 0 stands for no shape
FIGURE_WORDS = (drawing.SHAPES, drawing.COLOURS, drawing.SIZES, drawing.FACINGS)
FIGURE_CLASSES = tuple(1 + len(words) for words in FIGURE_WORDS)
PATCH_CLASSES = (*FIGURE_CLASSES, len(drawing.PATTERNS), len(drawing.TONES))
GRID = IMAGE_SIZE // 8


class DrawnBatches(Dataset[tuple[Tensor, list[str], Tensor, Tensor]]):
    """Batch number i of pictures (uint8 `BCHW`), captions, patch and place labels, drawn from (seed, i) alone."""

    def __init__(self, seed: int, steps: int, batch_size: int) -> None:
        self.seed, self.steps, self.batch_size = seed, steps, batch_size

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, list[str], Tensor, Tensor]:
        generator = np.random.default_rng([self.seed, step])
        pixels: list[np.ndarray] = []
        captions: list[str] = []
        patches: list[np.ndarray] = []
        places: list[np.ndarray] = []
        for _ in range(self.batch_size // 2):
            scene = drawing.random_scene(generator)
            for one in (scene, drawing.change_one_attribute(scene, generator)):
                pixels.append(drawing.render(one, IMAGE_SIZE, IMAGE_SIZE, generator))
                captions.append(drawing.describe(one, generator))
                patches.append(patch_labels(one))
                places.append(place_labels(one))
        pixels_BCHW = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        return pixels_BCHW, captions, torch.from_numpy(np.stack(patches)), torch.from_numpy(np.stack(places))


def patch_labels(scene: drawing.Scene) -> np.ndarray:
    """For each patch, row by row, a number for each of `PATCH_CLASSES`, shape `N6`; a shape counts as a disc."""
    middles = (np.arange(GRID) + 0.5) / GRID - 0.5
    xs, ys = np.tile(middles, GRID), np.repeat(middles, GRID)
    labels_N6 = np.zeros((GRID * GRID, len(PATCH_CLASSES)), np.int64)
    labels_N6[:, 4] = drawing.PATTERNS.index(scene.background.pattern)
    labels_N6[:, 5] = drawing.TONES.index(scene.background.tone)
    for figure in scene.figures:
        labels_N6[np.hypot(xs - figure.x, ys - figure.y) < 0.9 * figure.radius + 0.03, :4] = figure_labels(figure)
    return labels_N6


def place_labels(scene: drawing.Scene) -> np.ndarray:
    """For each of the nine places a number for each of `FIGURE_CLASSES`."""
    labels_N4 = np.zeros((len(drawing.PLACES), len(FIGURE_CLASSES)), np.int64)
    for figure in scene.figures:
        labels_N4[list(drawing.PLACES).index(drawing.place_of(figure))] = figure_labels(figure)
    return labels_N4


def figure_labels(figure: drawing.Figure) -> list[int]:
    """Numbers from 1 for shape, colour, size and facing; facing is 0 where nobody can see it."""
    names = (figure.shape, figure.colour, drawing.size_of(figure), drawing.facing_of(figure))
    numbers = [1 + list(words).index(name) for words, name in zip(FIGURE_WORDS, names, strict=True)]
    if not figure.two_tone and figure.shape in {"circle", "ring"}:
        numbers[3] = 0
    return numbers


def naming_loss(logits_BNK: Tensor, labels_BNQ: Tensor, classes: Sequence[int]) -> Tensor:
    """Mean cross entropy of Q heads side by side; patches or places with a shape weigh as much as those without."""
    shown_BN = labels_BNQ[..., 0] > 0
    total = logits_BNK.new_zeros(())
    for number, part_BNK in enumerate(logits_BNK.split(list(classes), dim=-1)):
        losses_BN = functional.cross_entropy(part_BNK.transpose(1, 2), labels_BNQ[..., number], reduction="none")
        total = total + (losses_BN[shown_BN].mean() + losses_BN[~shown_BN].mean()) / 2
    return total / len(classes)


# what a caption says of a scene with one shape
ATTRIBUTES: dict[str, Sequence[str]] = {
    "shape": tuple(drawing.SHAPES),
    "colour": tuple(drawing.COLOURS),
    "size": tuple(drawing.SIZES),
    "place": tuple(drawing.PLACES),
    "facing": tuple(drawing.FACINGS),
    "tone": drawing.TONES,
    "pattern": drawing.PATTERNS,
}


def normalise(pixels_BCHW: Tensor) -> Tensor:
    """uint8 pixels to what the model sees."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels_BCHW.float() / 255 - mean) / std


def contrastive_loss(images_BE: Tensor, texts_BE: Tensor, captions: list[str], scale: Tensor) -> Tensor:
    """CLIP's symmetric loss; pictures that share a caption share its target."""
    order = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    numbers_B = torch.tensor([order[caption] for caption in captions])
    target_BB = (numbers_B[:, None] == numbers_B[None, :]).float()
    target_BB /= target_BB.sum(1, keepdim=True)
    logits_BB = scale.exp().clamp(max=100) * images_BE @ texts_BE.T
    return (functional.cross_entropy(logits_BB, target_BB) + functional.cross_entropy(logits_BB.T, target_BB)) / 2


def train(model: CLIP, *, seed: int, steps: int, batch_size: int, lr: float, checkpoint: Path) -> None:
    """AdamW with a short warm-up and a cosine to zero, in bf16 autocast."""
    tokenizer = tiny_clip_tokenizer()
    visual = model.visual
    visual.output_tokens = True
    patch_heads = nn.Linear(visual.ln_post.normalized_shape[0], sum(PATCH_CLASSES))
    place_heads = nn.Linear(visual.output_dim, len(drawing.PLACES) * sum(FIGURE_CLASSES))
    trained = [*model.parameters(), *patch_heads.parameters(), *place_heads.parameters()]
    decayed = [p for p in trained if p.ndim > 1]
    plain = [p for p in trained if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6)
    warmup = min(150, steps // 10)

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    loader = DataLoader(DrawnBatches(seed, steps, batch_size), batch_size=None, num_workers=1, prefetch_factor=4)
    model.train()
    running, started = torch.tensor([math.log(batch_size), 1.5, 1.5]), time.monotonic()
    for step, (pixels_BCHW, captions, patches_BN6, places_BN4) in enumerate(loader):
        # the fused kernel's backward is slow on CPUs; plain matrix products take half the time here
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            images_BE, patches_BND = visual(normalise(pixels_BCHW))
            texts_BE = model.encode_text(tokenizer(captions), normalize=True)
            patch_BNK = patch_heads(patches_BND)
            place_BNK = place_heads(images_BE).unflatten(1, (len(drawing.PLACES), -1))
        images_BE = functional.normalize(images_BE.float(), dim=-1)
        parts = (
            contrastive_loss(images_BE, texts_BE.float(), captions, model.logit_scale),
            naming_loss(patch_BNK.float(), patches_BN6, PATCH_CLASSES),
            naming_loss(place_BNK.float(), places_BN4, FIGURE_CLASSES),
        )
        loss = torch.stack(parts).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        running += (torch.stack(parts).detach() - running) * 0.02
        if (step + 1) % 50 == 0:
            losses = "losses: contrastive {:.3f}, patches {:.3f}, places {:.3f}".format(*running.tolist())
            print(f"step {step + 1}/{steps}  {losses}  {time.monotonic() - started:.0f} s", flush=True)
        if (step + 1) % 200 == 0:
            save(model, checkpoint)
            print(json.dumps(measure(model, seed)), flush=True)


@torch.no_grad()
def start_from_waves(positional_AD: Tensor) -> None:
    """Overwrite the patches' positions by sines and cosines of their row and column, to be trained from there.

    From random positions, training did not learn where things are in a thousand steps; from these in a hundred.
    """
    width = positional_AD.shape[1] // 4
    frequencies = math.pi * 2 ** (3 * torch.arange(width) / width)
    phases = ((torch.arange(GRID) + 0.5) / GRID)[:, None] * frequencies
    waves = torch.cat([phases.sin(), phases.cos()], dim=1)
    rows, columns = waves[:, None].expand(-1, GRID, -1), waves[None].expand(GRID, -1, -1)
    positional_AD[1:] = 0.7 * torch.cat([rows, columns], dim=2).flatten(0, 1)


@torch.no_grad()
def measure(model: CLIP, seed: int, *, gallery: int = 500, singles: int = 300) -> dict[str, float]:
    """Retrieval within a gallery of held-out pictures, and how often each attribute is told
    from its alternatives, all else in the caption being true."""
    model.eval()
    model.visual.output_tokens = False
    tokenizer = tiny_clip_tokenizer()
    generator = np.random.default_rng(seed + HELD_OUT)

    def embed(scenes: list[drawing.Scene]) -> Tensor:
        pixels = np.stack([drawing.render(scene, IMAGE_SIZE, IMAGE_SIZE, generator) for scene in scenes])
        pixels_BCHW = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        parts = [model.encode_image(normalise(part), normalize=True) for part in pixels_BCHW.split(250)]
        return torch.cat(parts)

    scenes = [drawing.random_scene(generator) for _ in range(gallery)]
    captions = [drawing.describe(scene) for scene in scenes]
    texts_ME = torch.cat([model.encode_text(part, normalize=True) for part in tokenizer(captions).split(250)])
    sim_MV = texts_ME @ embed(scenes).T
    right = torch.arange(gallery)
    result = {
        "text_to_picture_r1": (sim_MV.argmax(1) == right).float().mean().item(),
        "picture_to_text_r1": (sim_MV.argmax(0) == right).float().mean().item(),
    }

    pool = [scene for scene in (drawing.random_scene(generator) for _ in range(singles * 3)) if len(scene.figures) == 1]
    pool = [replace(s, figures=(replace(s.figures[0], two_tone=True, opacity=1.0),)) for s in pool[:singles]]
    images_VE = embed(pool)
    for attribute, words in ATTRIBUTES.items():
        choices = [[caption_with(scene, attribute, word) for word in words] for scene in pool]
        flat = tokenizer([caption for captions in choices for caption in captions])
        texts_VKE = torch.cat([model.encode_text(part, normalize=True) for part in flat.split(500)])
        texts_VKE = texts_VKE.unflatten(0, (len(pool), len(words)))
        best = torch.einsum("VE,VKE->VK", images_VE, texts_VKE).argmax(1).tolist()
        hits = [drawing.describe(s) == captions[at] for s, captions, at in zip(pool, choices, best, strict=True)]
        result[f"{attribute}_accuracy"] = sum(hits) / len(hits)
    model.train()
    model.visual.output_tokens = True
    return {name: round(value, 4) for name, value in result.items()}


def caption_with(scene: drawing.Scene, attribute: str, word: str) -> str:
    """The whole caption of a scene of one shape, with one attribute said to be `word`."""
    figure, background = scene.figures[0], scene.background
    match attribute:
        case "shape":
            figure = replace(figure, shape=word)
        case "colour":
            figure = replace(figure, colour=word)
        case "size":
            figure = replace(figure, radius=sum(drawing.SIZES[word]) / 2)
        case "place":
            figure = replace(figure, x=0.3 * drawing.PLACES[word][0], y=0.3 * drawing.PLACES[word][1])
        case "facing":
            figure = replace(figure, front=drawing.FACINGS[word])
        case "tone":
            background = replace(background, tone=word)
        case _:
            background = replace(background, pattern=word)
    return drawing.describe(replace(scene, figures=(figure,), background=background))


def save(model: CLIP, path: Path) -> None:
    """Both towers in half precision."""
    save_file({name: value.half().contiguous() for name, value in model.state_dict().items()}, path)


def main() -> None:
    """Train, save, measure the saved file, print its checksum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(asset(WEIGHTS)), help="where the weights go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=7e-4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = tiny_clip_model(pretrained=False)
    start_from_waves(model.visual.positional_embedding)
    train(model, seed=args.seed, steps=args.steps, batch_size=args.batch_size, lr=args.lr, checkpoint=args.out)
    save(model, args.out)
    model.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    print(json.dumps(measure(model, args.seed), indent=1))
    print(f"{args.out}: {args.out.stat().st_size} bytes, sha256 {hashlib.sha256(args.out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
