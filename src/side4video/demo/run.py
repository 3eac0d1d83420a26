"""The demo: draw clips, train a side network beside the frozen tiny-clip, evaluate, predict, compare with a probe.

Nothing here is special to the demo but the data: the same settings, training, run folder and evaluation as
`side4video train` and `side4video evaluate`. Every number is measured on validation clips that were not trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.precision import cpu_has_bf16
from side4video.batch import VideoBatch
from side4video.build import build_backbone, build_manifests, load_classifier, pixel_format, train_run
from side4video.config.groups import BackboneSettings, DataSettings, OptimSettings, SideSettings, TrainSettings
from side4video.config.schema import RunSettings
from side4video.data.dataset import ClipDataset
from side4video.data.loaders import ClipLoader, collate, make_eval_loader
from side4video.data.motion_files import write_motion_clips
from side4video.data.motions import motion_classes, opposites
from side4video.data.records import Manifest
from side4video.data.sampling import FrameSampler
from side4video.data.transforms import TestTransform
from side4video.demo.direction import direction_accuracy
from side4video.demo.probe import frame_average_features, linear_probe
from side4video.tasks.recognition import VideoClassifier
from side4video.training.evaluate import evaluate
from side4video.training.progress import ProgressView

CLIPS, RUN = "clips", "run"
EVAL_BATCH = 32


@dataclass(frozen=True)
class DemoSize:
    """How much is drawn and trained: what fits into three minutes on two cores."""

    train_per_class: int = 100
    val_per_class: int = 20
    epochs: int = 5


DEFAULT_SIZE = DemoSize()


@dataclass(frozen=True)
class PredictedClip:
    """One validation clip, the caption it was drawn from, and the three likeliest classes with their scores."""

    path: Path
    truth: str
    caption: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class DemoResult:
    """What was measured: shares from 0 to 1. `probe_*` is the linear probe on the frame-average of frozen features."""

    top1: float
    probe_top1: float
    probe_direction: float
    direction: float
    shuffled_top1: float
    shuffled_direction: float
    num_classes: int
    num_train: int
    num_val: int
    trained_parameters: int
    frozen_parameters: int
    predicted: PredictedClip
    clips: Path
    run: Path

    def as_json(self, seconds: float) -> dict[str, float]:
        """The value of `--json`."""
        keys = ("top1", "probe_top1", "direction", "shuffled_top1", "shuffled_direction")
        values = asdict(self)
        return {key: float(values[key]) for key in keys} | {"seconds": seconds}


LEFT_OUT = ("move-up-right", "move-down-left", "turn-clockwise", "turn-anticlockwise")


def demo_classes() -> list[str]:
    """The 12 motions that the demo tells apart.

    Left out are what takes longer to learn than the demo has: diagonals beside left, right, up and down, and a shape
    that turns on the spot, whose facing tiny-clip hardly sees.
    """
    return [name for name in motion_classes() if name not in LEFT_OUT]


def demo_settings(folder: Path, *, seed: int, size: DemoSize) -> RunSettings:
    """The settings of the demo's run, as a recipe would give them."""
    return RunSettings(
        memory="fast",
        backbone=BackboneSettings(name="tiny-clip"),
        side=SideSettings(width=64, taps=[2, 3, 5], temporal_kernel=5),
        data=DataSettings(
            train=str(folder / CLIPS / "train"),
            val=str(folder / CLIPS / "val"),
            num_frames=6,
            batch_size=8,
            crop_area=(0.8, 1.0),
            crop_aspect=(0.85, 1.18),
        ),
        optim=OptimSettings(epochs=size.epochs, lr=3e-3, weight_decay=0.05, warmup_epochs=1.0, label_smoothing=0.0),
        train=TrainSettings(
            seed=seed,
            devices=1,
            evaluate_every=size.epochs,
            # a third less time where the processor has units for it; others would emulate it
            precision="bf16" if cpu_has_bf16() else "auto",
        ),
    )


@contextmanager
def _core_for_the_loader() -> Generator[None]:
    """A thread less than there are cores: in steps this short, a thread that waits for a core costs more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_core_for_the_loader()
def run_demo(
    folder: Path,
    *,
    seed: int = 0,
    size: DemoSize | None = None,
    tell: Callable[[str], None] = lambda _: None,
    progress: ProgressView | None = None,
) -> DemoResult:
    """Do the whole job in `folder`, which is made when it is not there; `tell` hears of each step.

    Raises:
        InputError, TrainingError: as `train_run`.
        OSError: the folder cannot be written.
    """
    size = size or DEFAULT_SIZE
    settings = demo_settings(folder, seed=seed, size=size)
    tell("drawing motion clips (H.264)")
    drawn = write_motion_clips(
        folder / CLIPS,
        seed=seed,
        train_per_class=size.train_per_class,
        val_per_class=size.val_per_class,
        classes=demo_classes(),
    )
    train, val = build_manifests(settings)
    backbone = build_backbone(settings)
    tell(f"training a side network on {len(train)} clips of {len(train.class_names)} motions")
    train_run(settings, folder / RUN, progress=progress, backbone=backbone)

    tell(f"evaluating on {len(val)} other clips: in order, then with their frames shuffled")
    model = load_classifier(folder / RUN, backbone=backbone)
    ordered = evaluate(model, _loader(settings, backbone, val))
    shuffled = evaluate(model, _loader(settings, backbone, val, shuffle_frames=True))

    tell("training a linear probe on the frame-average of the frozen features")
    train_VE, train_labels_V = frame_average_features(backbone, _loader(settings, backbone, train))
    val_VE, val_labels_V = frame_average_features(backbone, _loader(settings, backbone, val))
    probe = linear_probe(train_VE, train_labels_V, val_VE, num_classes=len(train.class_names), seed=seed)

    def direction(scores_VK: Tensor, labels_V: Tensor) -> float:
        return direction_accuracy(scores_VK, labels_V, train.class_names, opposites())

    captions = {(folder / CLIPS / clip.video).resolve(): clip.caption for clip in drawn}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return DemoResult(
        top1=ordered.report.top1,
        probe_top1=float((probe.logits_VK.argmax(dim=1) == val_labels_V).float().mean()),
        probe_direction=direction(probe.logits_VK, val_labels_V),
        direction=direction(ordered.scores_VK, ordered.labels_V),
        shuffled_top1=shuffled.report.top1,
        shuffled_direction=direction(shuffled.scores_VK, shuffled.labels_V),
        num_classes=len(train.class_names),
        num_train=len(train),
        num_val=len(val),
        trained_parameters=trained,
        frozen_parameters=sum(p.numel() for p in backbone.parameters()),
        predicted=_predict_one(model, _dataset(settings, backbone, val), captions, seed=seed),
        clips=folder / CLIPS,
        run=folder / RUN,
    )


def _dataset(
    settings: RunSettings, backbone: FrozenBackbone, manifest: Manifest, *, shuffle_frames: bool = False
) -> ClipDataset:
    """Fixed frames and the middle crop, as validation sees them."""
    return ClipDataset(
        manifest,
        sampler=FrameSampler(settings.data.sampling, settings.data.num_frames),
        transform=TestTransform(pixel_format(backbone.preprocessing), settings.data.resize),
        mode="val",
        seed=settings.train.seed,
        shuffle_frames=shuffle_frames,
    )


def _loader(
    settings: RunSettings, backbone: FrozenBackbone, manifest: Manifest, *, shuffle_frames: bool = False
) -> ClipLoader:
    dataset = _dataset(settings, backbone, manifest, shuffle_frames=shuffle_frames)
    return make_eval_loader(dataset, batch_size=EVAL_BATCH, workers=settings.data.workers)


def _predict_one(
    model: VideoClassifier, dataset: ClipDataset, captions: dict[Path, str], *, seed: int
) -> PredictedClip:
    """The classes of one validation clip, chosen by the seed and not by how well it went."""
    number = int(torch.randint(len(dataset), (), generator=torch.Generator().manual_seed(seed)))
    batch: VideoBatch = collate([dataset[number]])
    with torch.no_grad():
        scores_K = model(batch.clip_BTCHW).float().softmax(dim=-1)[0]
    names = dataset.manifest.class_names
    best = scores_K.topk(3)
    path = Path(dataset.manifest.records[number].path)
    return PredictedClip(
        path=path,
        truth=names[int(batch.labels_B[0])],
        caption=captions[path.resolve()],
        top=tuple((names[i], score) for score, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)),
    )
