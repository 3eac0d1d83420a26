"""Shipped recipes of retrieval: the paper's settings, the released models' sizes, what they say about themselves."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from side4video.cli.main import main
from side4video.config.load import load_settings, shipped_recipes
from side4video.data.catalog import known_dataset

SCRIPT = Path(__file__).parents[2] / "scripts" / "write_retrieval_notes.py"
DATA_SETS = ("msrvtt", "msvd", "vatex")
SIZES = {
    "b32": ("open_clip:ViT-B-32/openai", 320, "all"),
    "b16": ("open_clip:ViT-B-16/openai", 320, "all"),
    "l14": ("open_clip:ViT-L-14/openai", 320, "all"),
    "e14": ("open_clip:EVA02-E-14/laion2b_s4b_b115k", 576, "every_second"),
}
NAMES = [f"{dataset}-{size}" for dataset in DATA_SETS for size in SIZES]
# entries of counts.json; that of ViT-E/14 is not there
COUNTED = {"b32": "ViT-B/32 side 320", "b16": "ViT-B/16 side 320", "l14": "ViT-L/14 side 320"}
# training split, validation split, frames of a test video
DATA = {
    "msrvtt": ("train-9k", "test-1k-a", "every"),
    "msvd": ("train", "val", "every"),
    "vatex": ("train", "val", "centers"),
}


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_retrieval_notes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


notes = load_script()


def test_every_row_is_shipped_under_its_name() -> None:
    retrieval = [name for name in shipped_recipes() if load_settings(name).task == "retrieval"]
    assert sorted(retrieval) == sorted(NAMES) == sorted(notes.retrieval_recipes())


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_the_papers(name: str) -> None:
    settings = load_settings(name)
    dataset, size = name.split("-")
    data, wanted, optim = settings.data, settings.retrieval, settings.optim
    assert (settings.backbone.name, settings.side.width, settings.side.taps) == SIZES[size]
    assert (data.num_frames, data.batch_size, wanted.max_words) == (12, 128, 32)
    assert (wanted.train_split, wanted.val_split, wanted.test_frames) == DATA[dataset]
    assert (wanted.format, wanted.train_frames, wanted.captions) == (dataset, "strides", "all")
    assert (wanted.interaction, wanted.train_text, wanted.gather_gradient) == ("wti", True, "exact")
    assert (optim.epochs, optim.lr, wanted.pretrained_lr_ratio, wanted.warmup) == (5, 1e-4, 1e-3, 0.1)
    assert (optim.weight_decay, optim.betas, optim.clip_grad_norm) == (0.2, (0.9, 0.98), 1.0)
    # 128 over 8 GPUs: what one of them normalises together
    assert wanted.chunk_size == data.batch_size // 8
    assert data.frame_pattern == known_dataset(dataset).frame_pattern
    assert (data.train, data.val, data.root) == (f"{dataset}_data", None, None), "paths come from the user"
    assert wanted.missing == "error"


@pytest.mark.parametrize("size", SIZES)
def test_built_on_meta_it_has_the_released_parameters(size: str, parity_dir: Path) -> None:
    model = notes.meta_model(load_settings(f"vatex-{size}"))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    sizes: dict[str, int] = {}
    for name, value in model.named_trained_parameters():
        part = name.partition(".")[0]
        sizes[part] = sizes.get(part, 0) + value.numel()
    stored = json.loads(notes.RESULTS.read_text())
    counts = json.loads((parity_dir / "counts.json").read_text())["retrieval (12 frames)"]
    for dataset in DATA_SETS:
        plan = stored[f"{dataset}-{size}"]["plan"]
        assert plan["trained_millions"] == round(sum(sizes.values()) / 1e6, 2)
        assert plan["side_millions"] == round((sizes["side"] + sizes["side_proj"]) / 1e6, 2)
    if size not in COUNTED:
        # recognition's side network, its last norm, and the projection to the tower's width
        recognition = json.loads((parity_dir / "counts.json").read_text())["recognition"]["EVA02-CLIP-bigE-14 side 576"]
        assert sizes["side"] == recognition["trainable_without_fc"] + 2 * 576
        assert sizes["side_proj"] == 576 * 1792
        return
    expected = counts[COUNTED[size]]
    assert sum(sizes.values()) == expected["trainable"]
    assert sizes["side"] + sizes["side_proj"] == expected["side"]
    assert sizes["text"] == expected["text encoder (trainable)"]
    assert sizes["wti"] == expected["wti heads"]


@pytest.mark.parametrize("name", ["msrvtt-b32"])
def test_what_is_stored_is_what_the_plan_says(name: str) -> None:
    stored = json.loads(notes.RESULTS.read_text())[name]["plan"]
    settings = load_settings(name)
    plan = {**notes.counted(settings), **notes.planned(settings)}
    assert plan.keys() == stored.keys()
    # numbers of torch's simulation may move a little between its versions
    assert plan == pytest.approx(stored, rel=0.02)


def test_every_file_says_what_is_stored() -> None:
    stored = json.loads(notes.RESULTS.read_text())
    assert list(stored) == notes.retrieval_recipes()
    for path, text in notes.expected(stored).items():
        assert path.read_text() == text, f"{path.name}: run scripts/write_retrieval_notes.py"
    for name in NAMES:
        assert stored[name]["paper"] == notes.published(name)
        assert f"side4video train {name} data.root=" in shipped_recipes()[name].read_text()
    assert stored["msrvtt-b32"]["paper"] == {"t2v_r1": 44.2, "memory_gb": 5.8, "t2v_r1_best": 52.3}
    assert "this row is not published" in shipped_recipes()["msvd-b16"].read_text()


def test_the_command_lists_their_scores(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "ms*"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["msrvtt-b32"].endswith("R@1 44.2")
    assert lines["msvd-e14"].endswith("R@1 at best 56.1")
    assert "576 every_second" in lines["msvd-e14"]
