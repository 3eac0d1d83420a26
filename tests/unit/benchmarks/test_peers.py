"""The peers train what they should, save what they should, and the page says what the result file holds."""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from peers import catalog, plot, report
from peers.catalog import (
    CHECKPOINTED,
    OFFLOADED,
    ONE_CLIP,
    OURS,
    PEERS,
    PLAIN,
    PROBES,
    RELEASED,
    Entry,
    Size,
    entries,
)
from peers.measure import materialise, measure
from peers.results import Results
from peers.simulate import frozen_flops, simulate, simulate_deep, step_loss
from side4video.memory.estimate import estimate_step

ROOT = Path(__file__).parents[3]
B, T, IMAGE, PATCH, D, CLASSES = 3, 4, 24, 8, 32, 7
TINY = Size("tiny", "timm:test_vit", (2, 3), (32, "all"), (16, "every_second"))


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers_script", ROOT / "benchmarks" / "peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = load_script()


def tower(kind: str) -> nn.Module:
    with torch.device("meta"):
        if kind == "vit":
            return VisionTransformer(IMAGE, PATCH, embed_dim=D, depth=3, num_heads=4, mlp_ratio=2.0, num_classes=0)
        return Eva(
            img_size=IMAGE, patch_size=PATCH, embed_dim=D, depth=3, num_heads=4, use_post_norm=True, num_classes=0
        )


def build(entry: Entry, kind: str = "vit", precision: str = "fp32") -> nn.Module:
    with torch.device("meta"):
        return entry.build(tower(kind), precision, CLASSES)


def real(entry: Entry, kind: str = "vit", precision: str = "fp32") -> nn.Module:
    """With weights that are all at work: nothing zero, nothing tiny."""
    model = materialise(build(entry, kind, precision), torch.device("cpu"))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2, generator=generator)
    return model.train()


def entry_of(method: str, way: str) -> Entry:
    return next(e for e in entries(TINY) if (e.method, e.way) == (method, way))


def clip() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(B, T, 3, IMAGE, IMAGE, generator=generator), torch.tensor([1, 5, 2])


def gradients(model: nn.Module, parts: int = 1) -> dict[str, Tensor]:
    clip_BTCHW, labels_B = clip()
    for part_BTCHW, part_B in zip(clip_BTCHW.chunk(parts), labels_B.chunk(parts), strict=True):
        (step_loss(model, part_BTCHW, part_B, half=False) / parts).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    scale = max(float(grad.abs().max()) for grad in wanted.values())
    for name, grad in found.items():
        torch.testing.assert_close(
            grad, wanted[name], rtol=1e-4, atol=1e-6 * scale, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("kind", ["vit", "eva"])
@pytest.mark.parametrize("method", [*PEERS, *PROBES])
def test_a_peer_trains_its_own_weights_and_no_others(method: str, kind: str) -> None:
    model = real(entry_of(method, PLAIN), kind)
    found = gradients(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == found.keys()
    assert all(float(grad.abs().max()) > 0 for name, grad in found.items() if "key" not in name)
    whole = sum(1 for _ in model.parameters())
    assert len(trained) == whole if method == "full fine-tuning" else 0 < len(trained) < whole


@pytest.mark.parametrize("kind", ["vit", "eva"])
@pytest.mark.parametrize("method", list(PEERS))
def test_checkpointed_blocks_give_the_same_gradients(method: str, kind: str) -> None:
    assert_same(gradients(real(entry_of(method, CHECKPOINTED), kind)), gradients(real(entry_of(method, PLAIN), kind)))


@pytest.mark.parametrize("method", [*PEERS, *PROBES])
def test_clips_one_by_one_give_the_gradient_of_the_batch(method: str) -> None:
    entry = entry_of(method, ONE_CLIP)
    assert_same(gradients(real(entry), parts=B), gradients(real(entry)))


def test_ours_may_be_taken_clip_by_clip_with_layer_norms_only() -> None:
    layered = entry_of(f"{OURS}, layer norms", ONE_CLIP)
    assert_same(gradients(real(layered), parts=B), gradients(real(layered)))
    entry = entry_of(OURS, "fast")
    with pytest.raises(AssertionError):
        assert_same(gradients(real(entry), parts=B), gradients(real(entry)))


@pytest.mark.parametrize("method", ["ST-Adapter-style", "AIM-style", "EVL-style"])
def test_frames_see_their_neighbours(method: str) -> None:
    model = real(entry_of(method, PLAIN)).eval()
    clip_BTCHW, _ = clip()
    with torch.no_grad():
        logits_BK, backwards_BK = model(clip_BTCHW), model(clip_BTCHW.flip(1))
    assert float((logits_BK - backwards_BK).abs().max()) > 1e-3


@pytest.mark.parametrize("method", ["full fine-tuning", "LoRA (peft)"])
def test_frames_that_see_nothing_of_each_other_may_be_reversed(method: str) -> None:
    model = real(entry_of(method, PLAIN)).eval()
    clip_BTCHW, _ = clip()
    with torch.no_grad():
        torch.testing.assert_close(model(clip_BTCHW), model(clip_BTCHW.flip(1)))


def really_saved(model: nn.Module) -> int:
    """Bytes that autograd keeps in a real step beside weights and pixels, in the allocator's blocks."""
    clip_BTCHW, labels_B = clip()
    given = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), clip_BTCHW, labels_B)}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step_loss(model, clip_BTCHW, labels_B)
    assert loss.requires_grad
    sizes = [t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in given]
    return sum(-(-size // 512) * 512 for size in sizes)


@pytest.mark.parametrize("way", [PLAIN, CHECKPOINTED])
@pytest.mark.parametrize("method", list(PEERS))
def test_bytes_kept_are_those_of_a_real_step(method: str, way: str) -> None:
    entry = entry_of(method, way)
    shape: dict[str, Any] = {"num_frames": T, "image_size": (IMAGE, IMAGE)}
    found = simulate(build(entry, precision="bf16"), batch_size=B, **shape)
    assert found.saved_bytes == really_saved(real(entry, precision="bf16"))
    assert sum(found.by_cause.values()) == found.peak_bytes
    assert found.by_cause["optimiser"] >= 2 * 4 * found.trainable_parameters


@pytest.mark.parametrize(
    ("method", "way"), [("full fine-tuning", CHECKPOINTED), ("AIM-style", PLAIN), (RELEASED, PLAIN)]
)
def test_a_deep_model_is_foretold_by_shallow_ones(method: str, way: str) -> None:
    entry = entry_of(method, way)

    def build_deep(depth: int) -> nn.Module:
        with torch.device("meta"):
            model = VisionTransformer(IMAGE, PATCH, embed_dim=D, depth=depth, num_heads=4, num_classes=0)
            return entry.build(model, "bf16", CLASSES)

    shape: dict[str, Any] = {"batch_size": B, "num_frames": T, "image_size": (IMAGE, IMAGE), "parts": 2}
    found, blocks = simulate_deep(build_deep, 10, **shape)
    assert found == simulate(build_deep(10), **shape)
    assert blocks in {(2, 4, 6), (10,)}


@pytest.mark.parametrize("method", list(PEERS))
def test_offloading_moves_what_is_kept_and_costs_no_arithmetic(method: str) -> None:
    shape: dict[str, Any] = {"batch_size": B, "num_frames": T, "image_size": (IMAGE, IMAGE)}
    entry = entry_of(method, CHECKPOINTED)
    here, away = (simulate(build(entry, precision="bf16"), offload=offload, **shape) for offload in (False, True))
    assert away.flops_step == here.flops_step
    assert away.by_cause["saved"] == away.saved_bytes == here.host_bytes == 0
    # not always below: at this size the peak may be where nothing is kept any more
    assert away.peak_bytes <= here.peak_bytes
    # copies for the way may overlap where tensors are views of one storage
    assert away.host_bytes >= 0.8 * here.saved_bytes > 0


@pytest.mark.parametrize("method", list(PEERS))
def test_checkpointing_trades_arithmetic_for_memory(method: str) -> None:
    plain, lean = (
        simulate(build(entry_of(method, way), precision="bf16"), batch_size=16, num_frames=T, image_size=(IMAGE, IMAGE))
        for way in (PLAIN, CHECKPOINTED)
    )
    assert lean.saved_bytes < plain.saved_bytes
    assert lean.peak_bytes < plain.peak_bytes
    assert lean.flops_step > plain.flops_step
    assert lean.flops_forward == plain.flops_forward


def test_the_simulation_agrees_with_the_estimate_of_our_own_models() -> None:
    shape: dict[str, Any] = {"batch_size": 16, "num_frames": T, "image_size": (IMAGE, IMAGE)}
    for mode in ("fast", "balanced"):
        own = estimate_step(build(entry_of(OURS, mode), precision="bf16"), **shape)  # pyright: ignore[reportArgumentType]
        found = simulate(build(entry_of(OURS, mode), precision="bf16"), **shape)
        assert found.flops_step == own.flops_step
        assert found.peak_bytes == pytest.approx(own.peak_bytes, rel=0.02)


def test_a_step_of_full_fine_tuning_costs_three_forward_passes() -> None:
    with torch.device("meta"):
        trunk = catalog.frozen_trunk(tower("vit"))
    unit = frozen_flops(trunk, num_images=B * T, image_size=(IMAGE, IMAGE))
    model = build(entry_of("full fine-tuning", PLAIN), precision="bf16")
    found = simulate(model, batch_size=B, num_frames=T, image_size=(IMAGE, IMAGE))
    assert found.flops_forward == pytest.approx(unit, rel=0.01)
    # the pixels need no gradient, and attention's backward pass costs two and a half times its forward pass
    assert 2.8 < found.flops_step / unit < 3.1


def test_measured_steps_train_and_leave_the_frozen_weights_alone() -> None:
    model = real(entry_of("LoRA (peft)", PLAIN))
    before = copy.deepcopy(model.state_dict())
    found = measure(model, batch_size=2, num_frames=T, image_size=(IMAGE, IMAGE), parts=2, steps=3, warm_up=1)
    assert len(found.seconds) == 3
    assert min(found.seconds) > 0
    assert found.peak_bytes is None  # a CPU does not count them
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def tiny_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script with one tiny image model and files of its own."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("Before.\n{}\nold\n{}\nAfter.\n".format(*report.markers("tables")))
    small = {
        "ROOT": tmp_path, "RESULT": tmp_path / "results" / "peers.json", "PAGE": tmp_path / "docs" / "page.md",
        "PICTURE": tmp_path / "docs" / "peers.png", "IMAGE_SIZE": (160, 160), "CPU_SIZE": "tiny",
        "CPU_IMAGE": (160, 160), "CPU_STEPS": 1, "GPU_STEPS": 1, "GPU_FRAMES": 2, "FRAMES": (2,),
    }  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(script, name, value)
    kept = {"LoRA (peft)", RELEASED, OURS}

    def some(size: Size) -> list[Entry]:
        return [entry for entry in entries(size) if entry.method in kept]

    for module in (script, catalog, report, plot):
        monkeypatch.setattr(module, "SIZES", (TINY,), raising=False)
        monkeypatch.setattr(module, "FRAMES", (2,), raising=False)
    monkeypatch.setattr(script, "entries", some)
    monkeypatch.setattr(report, "SHORT", 2)
    return script


def call(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["peers.py", *arguments])
    module.main()


def test_the_script_writes_rows_tables_and_picture(
    tiny_script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(tiny_script, monkeypatch, "--method", "lora")
    stored = json.loads(tiny_script.RESULT.read_text())
    assert {(row["batch_size"], row["way"]) for row in stored["simulated"]} == {
        (2, PLAIN), (2, CHECKPOINTED), (2, OFFLOADED), (3, PLAIN), (3, CHECKPOINTED), (3, OFFLOADED), (3, ONE_CLIP)
    }  # fmt: skip
    assert stored["runs"][0]["command"] == "python benchmarks/peers.py --method lora"
    assert {"commit", "hardware", "torch", "peft"} <= stored["runs"][0].keys()
    page = tiny_script.PAGE.read_text()
    assert page.startswith("Before.\n")
    assert page.endswith("\nAfter.\n")
    assert "| LoRA (peft) |" in page
    assert "old" not in page
    assert tiny_script.PICTURE.stat().st_size > 1000
    assert "[7/7," in capsys.readouterr().err
    call(tiny_script, monkeypatch, "--method", "lora", "--missing")
    assert "[1/" not in capsys.readouterr().err


def test_the_measuring_path_runs_on_a_stand_in_for_the_card(tiny_script: ModuleType) -> None:
    results, run = Results(tiny_script.RESULT), tiny_script.this_run()
    options = argparse.Namespace(size=None, method=[], seconds=60.0)
    real_note = tiny_script._note_measured
    tiny_script._note_measured = lambda row, results: None  # it speaks of bytes, which only a card counts
    try:
        tiny_script.measure_all(results, run, torch.device("cpu"), options)
    finally:
        tiny_script._note_measured = real_note
    rows = results.find("gpu")
    assert {(row["method"], row["way"]) for row in rows} == {(e.method, e.way) for e in tiny_script.entries(TINY)}
    assert all(row["seconds"] > 0 and row["clips_per_second"] > 0 for row in rows)
    assert "clips a second" in report.tables(results)


def test_what_does_not_fit_is_a_row_without_numbers(tiny_script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tiny_script, "measure", full)
    results = Results(tiny_script.RESULT)
    options = argparse.Namespace(size=None, method=["lora"], seconds=60.0)
    tiny_script.measure_all(results, tiny_script.this_run(), torch.device("cpu"), options)
    assert [row["seconds"] for row in results.find("gpu")] == [None] * 4
    assert "does not fit" in report.tables(results)


def test_time_that_is_over_leaves_rows_out_and_says_so(
    tiny_script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results(tiny_script.RESULT)
    options = argparse.Namespace(size=None, method=["lora"], seconds=-1.0)
    tiny_script.measure_all(results, tiny_script.this_run(), torch.device("cpu"), options)
    assert results.find("gpu") == []
    assert capsys.readouterr().err.count("was not measured") == 4


def test_the_cpu_row_compares_with_the_released_layout(tiny_script: ModuleType) -> None:
    results = Results(tiny_script.RESULT)
    tiny_script.measure_cpu(results, tiny_script.this_run())
    text = report.tables(results)
    assert f"| {RELEASED} | plain |" in text
    assert "| 1.00 x |" in text


def test_asking_for_a_card_that_is_not_there_is_refused(
    tiny_script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device is there"):
        call(tiny_script, monkeypatch, "--gpu")


def test_rows_replace_older_ones_and_runs_without_rows_go(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.json")
    row = {"size": "tiny", "batch_size": 2, "num_frames": 2, "method": "a", "way": PLAIN, "peak_bytes": 1}
    results.add("simulated", [row], {"command": "first"})
    results.add("simulated", [{**row, "way": CHECKPOINTED}], {"command": "second"})
    results.add("simulated", [{**row, "peak_bytes": 5}], {"command": "third"})
    again = Results(tmp_path / "r.json")
    assert [run["command"] for run in again.runs] == ["second", "third"]
    assert {(r["way"], r["peak_bytes"], r["run"]) for r in again.find("simulated")} == {
        (PLAIN, 5, 1),
        (CHECKPOINTED, 1, 0),
    }


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="must have one line"):
        report.write_docs(Results(tmp_path / "r.json"), page)


def test_the_published_page_says_what_the_result_file_holds() -> None:
    results = Results(ROOT / "benchmarks" / "results" / "peers.json")
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    begin, end = report.markers("tables")
    assert page.split(begin)[1].split(end)[0].strip() == report.tables(results).strip()


def test_the_result_file_has_no_strange_rows_and_the_page_counts_those_that_lack() -> None:
    results = Results(ROOT / "benchmarks" / "results" / "peers.json")
    wanted = {(size.label, batch, frames, e.method, e.way) for size, batch, frames, e in catalog.cells()}
    found = results.rows["simulated"].keys()
    assert found <= wanted
    assert len(found) > 60
    assert ("simulated rows are there" in report.tables(results)) == (found != wanted)
    assert all(row["run"] < len(results.runs) for row in results.find("simulated"))
