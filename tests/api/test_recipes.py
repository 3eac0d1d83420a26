"""Shipped recipes: the paper's settings and sizes, what they say about themselves, and the command that lists them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from side4video.backbones import create_backbone
from side4video.backbones.base import FrozenBackbone
from side4video.build import build_spec, estimate_run
from side4video.cli.main import main
from side4video.config.load import load_settings, shipped_recipes
from side4video.config.schema import RunSettings
from side4video.data.catalog import known_dataset
from side4video.tasks.recognition import VideoClassifier

SCRIPT = Path(__file__).parents[2] / "scripts" / "write_recipe_notes.py"
KINDS = ("b32", "b16", "b16-16f", "b16-light", "l14", "l14-16f", "l14-light", "e14", "e14-16f")
PARTS = {
    "ssv2-b16-5pct": (0.05, None),
    "ssv2-b16-10pct": (0.1, None),
    "ssv2-b16-20pct": (0.2, None),
    "ssv2-b16-50pct": (0.5, None),
    "ssv2-b16-fewshot": (1.0, 16),
    "k400-b16-fewshot": (1.0, 16),
}
NAMES = [f"{dataset}-{kind}" for dataset in ("ssv1", "ssv2", "k400") for kind in KINDS] + [*PARTS]
RECIPES = {name: path for name, path in shipped_recipes().items() if name in NAMES}
ARCHITECTURES = {
    "b32": "open_clip:ViT-B-32/openai",
    "b16": "open_clip:ViT-B-16/openai",
    "l14": "open_clip:ViT-L-14/openai",
    "e14": "open_clip:EVA02-E-14/laion2b_s4b_b115k",
}
# data set, backbone: epochs, warm-up, learning rate, videos a GPU, RandAugment (the paper's recipes)
TRAINING = {
    ("ssv1", "b32"): (40, 4, 1e-3, 16, True),
    ("ssv1", "b16"): (40, 4, 1e-3, 16, True),
    ("ssv1", "l14"): (30, 4, 1e-4, 16, True),
    ("ssv1", "e14"): (30, 6, 1e-4, 8, True),
    ("ssv2", "b32"): (30, 4, 1e-3, 16, True),
    ("ssv2", "b16"): (30, 4, 1e-3, 16, True),
    ("ssv2", "l14"): (30, 4, 1e-4, 16, True),
    ("ssv2", "e14"): (25, 6, 1e-4, 8, True),
    ("k400", "b32"): (30, 4, 1e-3, 32, False),
    ("k400", "b16"): (30, 4, 1e-3, 32, False),
    ("k400", "l14"): (30, 4, 1e-4, 32, False),
    ("k400", "e14"): (20, 4, 1e-4, 1, True),
}
SIDES = {"b32": (320, "all"), "b16": (320, "all"), "l14": (512, "all"), "e14": (576, "every_second")}
LIGHT_SIDES = {"b16": (192, "every_second"), "l14": (320, "every_second")}
# entries of counts.json; of light models, and the paper's GFLOPs of three views
COUNTED = {"b32": "ViT-B/32 side 320", "b16": "ViT-B/16 side 320", "l14": "ViT-L/14 side 512"}
COUNTED |= {"e14": "EVA02-CLIP-bigE-14 side 576"}
LIGHT_COUNTED = {"b16": ("ViT-B/16 side 192", 445), "l14": ("ViT-L/14 side 320", 2092)}
CHEAP = ("ssv2-b32", "k400-b16-light")


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_recipe_notes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


notes = load_script()


@cache
def backbone(name: str) -> FrozenBackbone:
    return create_backbone(name, device="meta")


def classes(name: str) -> int:
    number = known_dataset(name.split("-", maxsplit=1)[0]).num_classes
    assert number is not None
    return number


def model(name: str, settings: RunSettings) -> VideoClassifier:
    own = backbone(settings.backbone.name)
    with torch.device("meta"):
        return VideoClassifier(own, classes(name), side=build_spec(settings.side, own), memory=settings.memory)


@pytest.fixture(scope="module")
def stored() -> dict:
    return json.loads(notes.RESULTS.read_text())


@pytest.fixture(scope="module")
def counts(parity_dir: Path) -> dict:
    return json.loads((parity_dir / "counts.json").read_text())


def test_every_row_is_shipped_under_its_name() -> None:
    assert sorted(RECIPES) == sorted(NAMES)
    shipped = [name for name in shipped_recipes() if load_settings(name).task == "recognition"]
    assert sorted(shipped) == sorted(NAMES), "no recipe that these tests do not look at"


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_the_papers(name: str) -> None:
    settings = load_settings(name)
    dataset, size, *more = name.split("-")
    published, light = known_dataset(dataset), more == ["light"]
    data, optim = settings.data, settings.optim
    assert settings.backbone.name == ARCHITECTURES[size]
    assert (settings.side.width, settings.side.taps) == (LIGHT_SIDES if light else SIDES)[size]
    epochs, warmup, lr, batch, augmented = TRAINING[dataset, size]
    assert (optim.epochs, optim.warmup_epochs, optim.lr, data.batch_size) == (epochs, warmup, lr, batch)
    assert data.rand_augment == ("m7-n4-mstd0.5-inc1" if augmented else None)
    assert data.num_frames == (16 if more == ["16f"] else 8)
    for key in ("frame_pattern", "resize", "sampling", "flip", "grayscale", "repeated_augmentation", "min_frames"):
        assert getattr(data, key) == getattr(published, key), key
    assert data.flip_pairs == ("something" if published.flip == "swap" else None)
    assert (optim.weight_decay, optim.label_smoothing, optim.betas) == (0.15, 0.1, (0.9, 0.999))
    assert (optim.schedule, optim.schedule_every, optim.clip_grad_norm) == ("cosine", "official", None)
    assert (data.mixup, data.cutmix) == (0, 0)
    assert (data.fraction, data.shots) == PARTS.get(name, (1.0, None))
    assert (data.train, data.val, data.root) == ("train.txt", "val.txt", None), "paths come from the user"


@pytest.mark.parametrize("name", NAMES)
def test_built_on_meta_it_has_the_papers_parameters(name: str, counts: dict) -> None:
    built = model(name, load_settings(name))
    assert {p.device.type for p in built.parameters()} == {"meta"}
    size = name.split("-")[1]
    if name.endswith("light"):
        expected = counts["layer_subsets"][LIGHT_COUNTED[size][0]]["every second layer"]
    else:
        expected = counts["recognition"][COUNTED[size]]["trainable_without_fc"]
    assert sum(p.numel() for p in built.side.parameters()) == expected
    trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
    assert trained == expected + classes(name) * (built.side.spec.width + 1)


@pytest.mark.parametrize("name", ["ssv2-b32", "ssv1-b16", "ssv2-l14"])
def test_arithmetic_is_as_counted_within_one_percent(name: str, counts: dict) -> None:
    estimate = estimate_run(load_settings(name), classes(name))("fast", 1)
    expected = counts["recognition"][COUNTED[name.split("-")[1]]]["flops_total"]
    assert estimate.flops_forward == pytest.approx(expected, rel=0.01)


def test_every_file_says_what_is_stored(stored: dict) -> None:
    assert sorted(stored) == sorted(NAMES)
    files = notes.expected(stored)
    assert {RECIPES[name] for name in NAMES} | {notes.DOCS} == set(files)
    for path, text in files.items():
        assert path.read_text() == text, f"{path.name}: run scripts/write_recipe_notes.py"
    for name in NAMES:
        assert stored[name]["paper"] == notes.published(name)
        assert f"side4video train {name} data.root=" in RECIPES[name].read_text()


@pytest.mark.parametrize("name", CHEAP)
def test_what_is_stored_is_what_the_plan_says(name: str, stored: dict) -> None:
    plan = notes.planned(load_settings(name), classes(name))
    kept = stored[name]["plan"]
    assert plan.keys() == kept.keys()
    assert (plan["batch"], plan["trained_millions"]) == (kept["batch"], kept["trained_millions"])
    # another torch may keep or move a little more
    assert plan == pytest.approx(kept, rel=0.02)


def test_stored_plans_agree_with_the_counted_arithmetic(stored: dict, counts: dict) -> None:
    """The rows that no test estimates again: their forward pass is known, of the light ones from the paper."""
    for name in NAMES:
        size = name.split("-")[1]
        if name.endswith("light"):
            # three views, in multiply-adds
            expected = LIGHT_COUNTED[size][1] / 3 * 2e9
        else:
            expected = counts["recognition"][COUNTED[size]]["flops_total"] * load_settings(name).data.num_frames / 8
        assert stored[name]["plan"]["gflops_clip"] * 1e9 == pytest.approx(expected, rel=0.01), name


def test_the_command_lists_a_recipe_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines if line.split()[0] in NAMES) == sorted(NAMES)
    ends = {line.index("open_clip:") for line in lines if "open_clip:" in line}
    assert ends == {header.index("backbone")}, "columns are aligned"
    row = next(line for line in lines if line.startswith("ssv2-b16-light "))
    assert row.split("  ")[-1].strip() == "68.6 (three views)"
    for part in ("Something-Something V2", "open_clip:ViT-B-16/openai", " 8  ", "192 every_second"):
        assert part in row


def test_the_list_in_json_and_by_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "SSV2-*16F", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in entries] == ["ssv2-b16-16f", "ssv2-e14-16f", "ssv2-l14-16f"]
    first = entries[0]
    assert (first["num_frames"], first["side_width"], first["taps"]) == (16, 320, "all")
    assert first["paper"] == {"top1": 71.5, "views": "16x3x2"}
    assert first["plan"]["batch"] == 32
    assert Path(first["path"]).is_file()
    assert main(["recipes", "ssv2-b17"]) == 2
    assert "no recipe matches 'ssv2-b17'; did you mean 'ssv2-b16" in capsys.readouterr().err


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from side4video.cli.main import main; code = main(['recipes', '--json']); "
        "sys.exit(code or str({'torch', 'timm', 'open_clip', 'av', 'numpy'} & set(sys.modules)).replace('set()', ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert {entry["name"] for entry in json.loads(done.stdout)} >= set(NAMES)
