"""The work of `side4video convert`: an authors' checkpoint to a run folder, and a run to their key names."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from side4video.backbones import FrozenBackbone, create_backbone
from side4video.backbones.open_clip_vit import OpenClipViT
from side4video.backbones.released import (
    CLIP_HEAD_WIDTH,
    EVA_HEAD_WIDTHS,
    TEXT,
    TEXT_HEAD_WIDTH,
    VISUAL,
    ReleasedName,
)
from side4video.build import build_backbone, build_model, build_spec, load_run, resolve_settings
from side4video.build_retrieval import build_text_model
from side4video.config.load import validate_settings
from side4video.config.schema import RunSettings
from side4video.data.class_names import read_class_names
from side4video.errors import BackboneError, CheckpointError, ConfigError
from side4video.official.compare import Comparison, compare_backbone, compare_text
from side4video.official.contents import NEVER_USED, Contents, recognition_contents, retrieval_contents
from side4video.official.parts import layout_of, our_state
from side4video.official.read import Checkpoint, open_checkpoint
from side4video.official.save import official_state
from side4video.tasks.base import TrainedModel
from side4video.tasks.retrieval import VideoTextModel
from side4video.training.checkpoint import METRICS, OWN_BACKBONE, RUN, WEIGHTS, RunFolder, writing
from side4video.training.files import sync_folder, write_bytes, write_tensors
from side4video.training.provenance import provenance

logger = logging.getLogger(__name__)

BESIDE_THE_MODEL = "beside the model in the file; a run keeps no optimiser of somebody else's"
# image width, depth and patch size of what the authors released
_KNOWN = {
    ("clip", 768, 12, 32): "open_clip:ViT-B-32/openai",
    ("clip", 768, 12, 16): "open_clip:ViT-B-16/openai",
    ("clip", 1024, 24, 14): "open_clip:ViT-L-14/openai",
    ("eva", 1792, 64, 14): "open_clip:EVA02-E-14/laion2b_s4b_b115k",
}


@dataclass(frozen=True)
class Hints:
    """What keys and shapes cannot tell: heads of the frozen blocks and of the text tower's, the tapped blocks."""

    num_heads: int | None = None
    side_blocks: tuple[int, ...] | None = None
    text_heads: int | None = None


@dataclass(frozen=True)
class Converted:
    """What became of a checkpoint's keys. `unused` names each with the reason."""

    out: Path
    task: str
    dialect: str
    backbone: str
    kept_backbone: bool
    trained: int
    comparison: Comparison | None
    unused: dict[str, str]
    num_classes: int | None
    side_width: int
    side_blocks: tuple[int, ...]


def convert_to_run(
    source: Path,
    out: Path,
    values: Mapping[str, Any],
    *,
    task: str | None,
    hints: Hints,
    keep_backbone: bool,
) -> Converted:
    """Make a run folder of a released checkpoint; `values` are nested settings of data, backbone and retrieval.

    Raises:
        CheckpointError: a file that cannot be read, or does not fit in every key; another backbone.
        BackboneError: the named backbone cannot be had; the message says what else can be done.
        ConfigError: settings or hints that do not fit, class names of another number.
        TrainingError: the folder cannot be written; nothing called `out` has appeared.
    """
    checkpoint = open_checkpoint(source)
    found = _contents(checkpoint, task, hints)
    partial = out.with_name(f"{out.name}.partial")
    with writing(out.parent):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    try:
        settings, backbone, comparison = _backbone(found, values, hints, partial, keep=keep_backbone)
        class_names = _class_names(settings, found)
        model = _model(settings, found, backbone, class_names)
        state = our_state(checkpoint.tensors, found.names, model.trainable_state())
        model.load_trainable_state(state)
        _check_complete(checkpoint, found)
        unused = {f"{found.layout.visual}{key}": NEVER_USED for key in found.unused}
        unused |= dict.fromkeys(checkpoint.beside, BESIDE_THE_MODEL)
        resolved = resolve_settings(settings, backbone)
        if keep_backbone:
            own = resolved.backbone.model_copy(update={"weights": str((out / OWN_BACKBONE).resolve())})
            resolved = resolved.model_copy(update={"backbone": own})
        folder = RunFolder(partial)
        folder.begin(resolved, backbone, class_names)
        folder.save_weights(state, WEIGHTS)
        folder.save_json(METRICS, {"history": []})
        origin = {"file": str(source.resolve()), "sha256": _sha256(source), "unused": unused}
        folder.save_json(RUN, {"status": "converted", "converted_from": origin, **provenance()})
        with writing(out.parent):
            partial.replace(out)
            sync_folder(out.parent.resolve())
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Converted(
        out=out,
        task=found.task,
        dialect=found.layout.dialect,
        backbone=backbone.name,
        kept_backbone=keep_backbone,
        trained=sum(len(keys) for keys in found.names.values()),
        comparison=comparison,
        unused=unused,
        num_classes=found.num_classes,
        side_width=found.spec.width,
        side_blocks=model.side.taps,
    )


def convert_to_official(run: Path, out: Path) -> dict[str, Any]:
    """Write a run under the released names: how many tensors, and what a reader of the file must know.

    A `.pt` file of a recogniser is a dict with `epoch` and `model_state_dict`, as the released ones are; of a
    text-video model it is the bare state dict.

    Raises:
        CheckpointError: not a run, a damaged one, or one that the released code cannot express.
        BackboneError: its backbone cannot be had here.
        TrainingError: the file cannot be written; what was there before still is.
    """
    settings = RunFolder(run).settings()
    exact = settings.backbone.model_copy(update={"precision": "fp32"})
    backbone = build_backbone(settings.model_copy(update={"backbone": exact}))
    model = load_run(run, backbone=backbone)
    state = official_state(model)
    layout = layout_of(state)
    parsed = (retrieval_contents if layout.retrieval else recognition_contents)(
        state, layout, side_blocks=model.side.taps
    )
    notes = _notes(model, parsed)
    with writing(out.parent):
        if out.suffix.lower() == ".safetensors":
            write_tensors(out, state)
        else:
            content: Any = state if layout.retrieval else {"epoch": 0, "model_state_dict": state}
            write_bytes(out, _pickled(content))
    return {"out": str(out), "task": parsed.task, "dialect": layout.dialect, "tensors": len(state), "notes": notes}


def _contents(checkpoint: Checkpoint, task: str | None, hints: Hints) -> Contents:
    layout = layout_of(checkpoint.tensors, task=task)
    if layout.retrieval:
        return retrieval_contents(
            checkpoint.tensors, layout, side_blocks=hints.side_blocks, text_heads=hints.text_heads
        )
    if hints.text_heads is not None:
        raise ConfigError("--text-heads belongs to retrieval; a recogniser has no text tower")
    return recognition_contents(checkpoint.tensors, layout, side_blocks=hints.side_blocks)


def _backbone(
    found: Contents, values: Mapping[str, Any], hints: Hints, folder: Path, *, keep: bool
) -> tuple[RunSettings, FrozenBackbone, Comparison | None]:
    """The settings with the frozen model in them, that model in float32, and how it compares with the checkpoint."""
    given = dict(values.get("backbone", {}))
    if keep:
        name, path = _keep(found, hints, folder)
        settings = _settings(found, values, {**given, "name": name, "weights": str(path)})
        return settings, create_backbone(name, weights=str(path), precision="fp32"), None
    name = given.get("name") or _KNOWN.get(_shape(found))
    if name is None:
        raise BackboneError(
            f"which frozen model does the checkpoint belong to? It is {found.depth} blocks of width "
            f"{_shape(found)[1]} with patches of {_shape(found)[3]}: name it with --backbone, or --keep-backbone"
        )
    settings = _settings(found, values, {**given, "name": name})
    exact = settings.backbone.model_copy(update={"precision": "fp32"})
    try:
        backbone = build_backbone(settings.model_copy(update={"backbone": exact}))
    except BackboneError as error:
        raise BackboneError(
            f"{error}\nA local file instead: --weights FILE; or --keep-backbone stores the checkpoint's own frozen "
            "weights in the run"
        ) from error
    return settings, backbone, compare_backbone(found, backbone)


def _keep(found: Contents, hints: Hints, folder: Path) -> tuple[str, Path]:
    """Write the frozen part beside the run; its name as a backbone."""
    dialect, width = found.layout.dialect, _shape(found)[1]
    heads = hints.num_heads or _guess_heads(width, (CLIP_HEAD_WIDTH,) if dialect == "clip" else EVA_HEAD_WIDTHS)
    text_heads = None
    tensors = {f"{VISUAL}{key}": value for key, value in {**found.trunk, **found.unused}.items()}
    if found.text:
        text_width = found.text["positional_embedding"].shape[1]
        text_heads = hints.text_heads or max(1, text_width // TEXT_HEAD_WIDTH)
        tensors |= {f"{TEXT}{key}": value for key, value in found.text.items()}
    path = folder / OWN_BACKBONE
    with writing(folder):
        write_tensors(path, {key: _smallest(value) for key, value in tensors.items()})
    return str(ReleasedName(dialect, heads, text_heads)), path


def _guess_heads(width: int, head_widths: Sequence[int]) -> int:
    for head_width in head_widths:
        if width % head_width == 0:
            return width // head_width
    raise CheckpointError(f"heads of {tuple(head_widths)} channels do not divide the frozen width {width}: --num-heads")


def _smallest(value: Tensor) -> Tensor:
    """In half precision where that loses nothing."""
    half = value.half() if value.is_floating_point() else value
    return half if torch.equal(half.to(value.dtype), value) else value


def _shape(found: Contents) -> tuple[str, int, int, int]:
    """Dialect, width, depth and patch size of the frozen tower."""
    key = "conv1.weight" if found.layout.dialect == "clip" else "patch_embed.proj.weight"
    if key not in found.trunk:
        raise CheckpointError(f"the frozen tower lacks {key}")
    patches = found.trunk[key]
    return found.layout.dialect, patches.shape[0], found.depth, patches.shape[-1]


def _settings(found: Contents, values: Mapping[str, Any], backbone: Mapping[str, Any]) -> RunSettings:
    spec = found.spec
    assert not isinstance(spec.taps, str)
    side = {
        "dialect": found.layout.dialect,
        "width": spec.width,
        "taps": list(spec.taps),
        "temporal_kernel": spec.temporal_kernel,
    }
    retrieval = dict(values.get("retrieval", {}))
    if found.layout.retrieval:
        wti = {"interaction": "wti", "interaction_width": found.wti_width}
        retrieval |= {**(wti if found.wti_width else {"interaction": "mean"}), "video_mask": "released"}
    whole = {
        **values,
        "task": found.task,
        "side": side,
        "retrieval": retrieval,
        # exact wherever it is evaluated; the default would be bf16 on some CPUs
        "backbone": {"precision": "fp32", **backbone},
    }
    return validate_settings(whole)


def _class_names(settings: RunSettings, found: Contents) -> list[str] | None:
    if found.num_classes is None:
        return None
    if settings.data.classes is None:
        return [str(number) for number in range(found.num_classes)]
    path = Path(settings.data.classes)
    if not path.is_file() and settings.data.root is not None:
        path = Path(settings.data.root) / path
    names = list(read_class_names(path))
    if len(names) != found.num_classes:
        raise ConfigError(f"{path} names {len(names)} classes; the checkpoint has {found.num_classes}")
    return names


def _model(
    settings: RunSettings, found: Contents, backbone: FrozenBackbone, class_names: Sequence[str] | None
) -> TrainedModel:
    if class_names is not None:
        return build_model(settings, class_names, backbone=backbone)
    model = build_text_model(settings, backbone, build_spec(settings.side, backbone, retrieval=True))
    compare_text(found, model.text.state_dict(), name=backbone.name)
    return model


def _check_complete(checkpoint: Checkpoint, found: Contents) -> None:
    """Each key is in exactly one place: trained, frozen or unused."""
    trained = {key for keys in found.names.values() for key in keys}
    frozen = {f"{found.layout.visual}{key}" for key in (*found.frozen, *found.unused)}
    if trained & frozen or trained | frozen != checkpoint.tensors.keys():
        left = sorted((trained & frozen) | ((trained | frozen) ^ checkpoint.tensors.keys()))
        raise CheckpointError(f"keys that are used twice, or not at all: {left[:5]}")


def _notes(model: TrainedModel, parsed: Contents) -> list[str]:
    notes: list[str] = []
    trunk = model.backbone.trunk
    width = _shape(parsed)[1]
    if isinstance(trunk, OpenClipViT):
        block: Any = trunk.visual.transformer.resblocks[0]
        if "QuickGELU" not in type(block.mlp.gelu).__name__:
            notes.append(f"{model.backbone.name} has {type(block.mlp.gelu).__name__}; the released code has QuickGELU, "
                         "so there the model computes other numbers")  # fmt: skip
        usual, heads = max(1, width // CLIP_HEAD_WIDTH), int(block.attn.num_heads)
    else:
        block = trunk.model.blocks[0]  # pyright: ignore[reportAttributeAccessIssue] - `official_state` has checked it
        usual, heads = _guess_heads(width, EVA_HEAD_WIDTHS), int(block.attn.num_heads)
    if heads != usual:
        notes.append(f"the frozen blocks have {heads} heads, which the keys cannot tell: num_heads={heads}")
    if isinstance(model, VideoTextModel) and model.wti is not None and parsed.layout.dialect == "eva":
        hidden = parsed.wti_width
        if hidden != 1024 or model.embed_dim != 1024:
            notes.append(
                f"the released code's weight heads with EVA are 1024 wide; these are {model.embed_dim}, {hidden}"
            )
    step = parsed.depth // len(model.side.taps)
    if tuple(model.side.taps) != tuple(range(step - 1, parsed.depth, step)):
        notes.append(
            f"side blocks after the frozen blocks {list(model.side.taps)}, which the keys cannot tell: side_blocks"
        )
    return notes


def _pickled(content: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
