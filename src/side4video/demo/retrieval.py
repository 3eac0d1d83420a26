"""The demo of retrieval: draw captioned clips, train, look captions up in a gallery, compare with the frozen model.

Nothing here is special to the demo but the data: the same settings, training, run folder and evaluation as
`side4video train --task retrieval` and `side4video evaluate`. The gallery's scenes were not trained on; each of them is
there with every motion (`demo.captions`), so that its appearance alone finds one clip of several.

Shapes: M, captions; V, videos; caption m describes video m.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.precision import cpu_has_bf16
from side4video.build import build_backbone, load_text_model, pixel_format, train_run
from side4video.build_retrieval import build_caption_sets, build_text_model, build_tokenizer, eval_captions_loader
from side4video.config.groups import (
    BackboneSettings,
    DataSettings,
    OptimSettings,
    RetrievalSettings,
    SideSettings,
    TrainSettings,
)
from side4video.config.schema import RunSettings
from side4video.data.caption_loader import CaptionLoader
from side4video.data.captions import CaptionSet
from side4video.data.motions import opposites
from side4video.demo.captions import GALLERY, MOTIONS, TRAIN, CaptionedMotion, write_captioned_motions
from side4video.side.spec import SideSpec
from side4video.tasks.retrieval import Interaction
from side4video.training.evaluate_retrieval import evaluate_retrieval
from side4video.training.progress import ProgressView

CLIPS, RUN = "clips", "run"


@dataclass(frozen=True)
class RetrievalDemoSize:
    """How much is drawn and trained: what fits into four minutes on two cores."""

    train_scenes: int = 64
    gallery_scenes: int = 20
    epochs: int = 10


DEFAULT_SIZE = RetrievalDemoSize()


@dataclass(frozen=True)
class Found:
    """How well captions find their clips, as shares from 0 to 1.

    `r1` and `r5`: among the whole gallery. `scene`: the first clip is of the right scene, whatever its motion.
    `motion`: the right clip comes first among those of its scene. `direction`: it comes before its opposite.
    """

    r1: float
    r5: float
    scene: float
    motion: float
    direction: float


@dataclass(frozen=True)
class RetrievalDemoResult:
    """What was measured: `side` the trained model, `shuffled` the same on frames in random order, `frozen` plain mean
    pooling of the same image-text model, `frozen_wti` its words compared with frames by untrained weights. `example` is
    a clip of the gallery that a search is shown with."""

    side: Found
    shuffled: Found
    frozen: Found
    frozen_wti: Found
    example: CaptionedMotion
    num_train: int
    num_gallery: int
    num_scenes: int
    trained_parameters: int
    frozen_parameters: int
    clips: Path
    run: Path

    @property
    def chance(self) -> Found:
        """What guessing gives."""
        number = self.num_gallery
        return Found(1 / number, 5 / number, 1 / self.num_scenes, 1 / len(MOTIONS), 0.5)

    def as_json(self, seconds: float) -> dict[str, float]:
        """The value of `--json`."""
        return {
            "t2v_r1": self.side.r1,
            "frozen_t2v_r1": self.frozen.r1,
            "frozen_wti_t2v_r1": self.frozen_wti.r1,
            "shuffled_t2v_r1": self.shuffled.r1,
            **{f"side_{k}": v for k, v in asdict(self.side).items() if k != "r1"},
            **{f"frozen_{k}": v for k, v in asdict(self.frozen).items() if k != "r1"},
            "seconds": seconds,
        }


def retrieval_demo_settings(folder: Path, *, seed: int, size: RetrievalDemoSize) -> RunSettings:
    """The settings of the demo's run, as a recipe would give them."""
    return RunSettings(
        task="retrieval",
        memory="fast",
        backbone=BackboneSettings(name="tiny-clip"),
        side=SideSettings(width=48, taps=[1, 3, 5], temporal_kernel=5),
        data=DataSettings(
            train=str(folder / CLIPS / f"{TRAIN}.jsonl"),
            val=str(folder / CLIPS / f"{GALLERY}.jsonl"),
            num_frames=6,
            batch_size=16,
        ),
        # the clips of a scene share a batch: only their motion tells them apart
        retrieval=RetrievalSettings(max_words=24, pretrained_lr_ratio=0.1, together=len(MOTIONS)),
        optim=OptimSettings(epochs=size.epochs, lr=6e-3, weight_decay=0.05, betas=(0.9, 0.98), clip_grad_norm=1.0),
        train=TrainSettings(
            seed=seed,
            devices=1,
            evaluate_every=size.epochs,
            # faster where the processor has units for it; others would emulate it
            precision="bf16" if cpu_has_bf16() else "auto",
        ),
    )


def run_retrieval_demo(
    folder: Path,
    *,
    seed: int = 0,
    size: RetrievalDemoSize | None = None,
    tell: Callable[[str], None] = lambda _: None,
    progress: ProgressView | None = None,
) -> RetrievalDemoResult:
    """Do the whole job in `folder`, which is made when it is not there; `tell` hears of each step.

    Raises:
        InputError, TrainingError: as `train_run`.
        OSError: the folder cannot be written.
    """
    size = size or DEFAULT_SIZE
    settings = retrieval_demo_settings(folder, seed=seed, size=size)
    tell("drawing captioned motion clips (H.264)")
    drawn = write_captioned_motions(
        folder / CLIPS, seed=seed, train_scenes=size.train_scenes, gallery_scenes=size.gallery_scenes
    )
    train, gallery = build_caption_sets(settings)
    backbone = build_backbone(settings)
    tell(f"training a side network on {len(train)} clips with their captions")
    train_run(settings, folder / RUN, progress=progress, backbone=backbone)

    tell(f"looking {gallery.num_captions} captions up among {len(gallery)} clips of other scenes")
    model = load_text_model(folder / RUN, backbone=backbone)
    clips = drawn[GALLERY]

    def found(sim_MV: Tensor) -> Found:
        return measure(sim_MV, clips)

    ordered = evaluate_retrieval(model, _loader(settings, backbone, gallery)).sim_MV
    shuffled = evaluate_retrieval(model, _loader(settings, backbone, gallery, shuffle_frames=True)).sim_MV
    tell("the same with the frozen image-text model alone")
    frozen = {kind: _frozen_similarity(settings, backbone, gallery, kind) for kind in ("mean", "wti")}
    return RetrievalDemoResult(
        side=found(ordered),
        shuffled=found(shuffled),
        frozen=found(frozen["mean"]),
        frozen_wti=found(frozen["wti"]),
        example=clips[0],
        num_train=len(train),
        num_gallery=len(gallery),
        num_scenes=size.gallery_scenes,
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        frozen_parameters=sum(p.numel() for p in backbone.parameters()),
        clips=folder / CLIPS,
        run=folder / RUN,
    )


def measure(sim_MV: Tensor, clips: Sequence[CaptionedMotion]) -> Found:
    """The shares of `Found`; a tie counts against the right clip."""
    own_M1 = sim_MV.diagonal()[:, None]
    ranks_M = (sim_MV >= own_M1).sum(1)
    scenes_V = torch.tensor([clip.scene for clip in clips])
    motions_V = torch.tensor([MOTIONS.index(clip.motion) for clip in clips])
    opposite_M = torch.tensor([MOTIONS.index(opposites()[clip.motion]) for clip in clips])
    same_MV = scenes_V[:, None] == scenes_V[None]
    rivals_MV = same_MV & (motions_V[None] == opposite_M[:, None])

    def share(right_M: Tensor) -> float:
        return float(right_M.float().mean())

    return Found(
        r1=share(ranks_M == 1),
        r5=share(ranks_M <= 5),
        scene=share(same_MV[torch.arange(len(clips)), sim_MV.argmax(1)]),
        motion=share(((sim_MV >= own_M1) & same_MV).sum(1) == 1),
        direction=share(~((sim_MV >= own_M1) & rivals_MV).any(1)),
    )


def _frozen_similarity(
    settings: RunSettings, backbone: FrozenBackbone, gallery: CaptionSet, kind: Interaction
) -> Tensor:
    """The image-text model as it is, without a side network: `kind` says how words and frames are compared."""
    wanted = settings.retrieval.model_copy(update={"interaction": kind, "train_text": False})
    model = build_text_model(settings.model_copy(update={"retrieval": wanted}), backbone, SideSpec(width=8, taps=(0,)))
    loader = _loader(settings, backbone, gallery)
    return evaluate_retrieval(model, loader, embed=backbone.features).sim_MV


def _loader(
    settings: RunSettings, backbone: FrozenBackbone, captions: CaptionSet, *, shuffle_frames: bool = False
) -> CaptionLoader:
    return eval_captions_loader(
        settings,
        captions,
        build_tokenizer(settings, backbone),
        pixel_format(backbone.preprocessing),
        shuffle_frames=shuffle_frames,
    )
