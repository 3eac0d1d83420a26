"""A training run small enough for tests: a three-block frozen model, drawn clips, and a script that can be killed.

    python small_run.py OUT '{"settings": {"optim.epochs": 3}, "resume": true, "kill_at": 5}'

`kill_at` ends the process with SIGKILL before that batch of the run is given (counted over epochs); with `"once": PATH`
only the process `kill_rank`, once, under an agent that restarts all. `kill_in_write` does so inside the n-th write of a
file, half of it written. `full_at` lets no file grow from that batch on, `signal_at` sends `signal` (a name) to itself.
`"batches": PATH` lists the batches that the first process is given. `"shard": true` spreads the frozen blocks over the
processes. `"sweep": {NAME: SETTINGS}` trains a model for each of them over one backbone. With `"trace": PATH` each
process writes what it raised there, and `"weights": PATH` what the model held at the end. With `"evaluate": PATH`
nothing is trained: the run in OUT is evaluated, and what came of it is written there.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from side4video.backbones.base import FrozenBackbone
from side4video.backbones.trunk import Preprocessing
from side4video.batch import BrokenClip, VideoBatch
from side4video.config.load import load_settings
from side4video.config.schema import RunSettings
from side4video.side import SideSpec
from side4video.tasks.recognition import VideoClassifier
from side4video.training import files
from side4video.training.checkpoint import RunFolder
from side4video.training.evaluate import evaluate
from side4video.training.fit import fit
from side4video.training.runtime import Runtime, start
from side4video.training.sweep import SweepMember, fit_together
from side4video.training.values import FitResult, TrainingData

NUM_CLASSES = 3
NUM_FRAMES = 4
IMAGE_SIZE = (12, 16)
SETTINGS = {
    "optim.epochs": 3,
    "optim.warmup_epochs": 1,
    "optim.lr": 3e-3,
    "data.batch_size": 4,
    "data.num_frames": NUM_FRAMES,
    "train.accelerator": "cpu",
    "train.devices": "auto",
    "train.loggers": ["csv"],
    "train.save_every_steps": 2,
    "train.seed": 5,
}


class SmallTrunk(nn.Module):
    """An image model of three MLP blocks on patches of 4 x 8 pixels, with a class token and a buffer."""

    width, depth, num_prefix, has_class_token, post_norm = 12, 3, 1, True, False
    patch_size = (4, 8)
    preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), IMAGE_SIZE, "bilinear")

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.patches = nn.Conv2d(3, self.width, self.patch_size, stride=self.patch_size)
            self.class_token = nn.Parameter(torch.randn(self.width))
            self.blocks = nn.ModuleList(nn.Linear(self.width, self.width) for _ in range(self.depth))
            # a batch norm would move if anything put the backbone in training mode
            self.norm = nn.BatchNorm1d(self.width)

    def embed(self, images_ICHW: Tensor) -> tuple[Tensor, None]:
        patches_IND = self.patches(images_ICHW).flatten(2).transpose(1, 2)
        patches_IND = self.norm(patches_IND.flatten(0, 1)).view_as(patches_IND)
        class_I1D = self.class_token.expand(patches_IND.shape[0], 1, self.width)
        return torch.cat([class_I1D, patches_IND], dim=1), None

    def run_block(self, index: int, tokens_IAD: Tensor, context: None) -> Tensor:
        mixed_IAD = tokens_IAD + tokens_IAD.mean(1, keepdim=True)
        return tokens_IAD + torch.tanh(self.blocks[index](mixed_IAD))

    def block(self, index: int) -> nn.Module:
        return self.blocks[index]

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        return image_size[0] // self.patch_size[0], image_size[1] // self.patch_size[1]

    def finish(self, tokens_IAD: Tensor) -> Tensor:
        return tokens_IAD[:, 0]


def small_settings(overrides: dict[str, Any] | None = None) -> RunSettings:
    """Settings of a small run."""
    return load_settings(None, {**SETTINGS, **(overrides or {})})


def small_model(
    *, norm: str = "batch", seed: int = 2, dropout: float = 0.25, backbone_seed: int = 1, shard: int = 1
) -> VideoClassifier:
    """A classifier on the small trunk."""
    backbone = FrozenBackbone(SmallTrunk(backbone_seed), name="small", shard=shard)
    spec = SideSpec(width=16, num_heads=2, norm=norm)
    names = [f"class {number}" for number in range(NUM_CLASSES)]
    generator = torch.Generator().manual_seed(seed)
    return VideoClassifier(backbone, NUM_CLASSES, side=spec, class_names=names, dropout=dropout, generator=generator)


@dataclass
class SmallLoader:
    """Batches of drawn clips; each clip depends on (seed, epoch, index) alone, its frames drift with its label."""

    num_videos: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    broken: tuple[int, ...] = ()
    shuffle: bool = True
    views: int = 1
    nan_at: int | None = None
    before: Callable[[int], None] | None = None
    epoch: int = 0
    batch: int = 0

    def __len__(self) -> int:
        if self.shuffle:
            return self.num_videos // (self.batch_size * self.world_size)
        own = len(range(self.rank, self.num_videos, self.world_size))
        return (own + self.batch_size - 1) // self.batch_size

    def seek(self, epoch: int, batch: int) -> None:
        self.epoch, self.batch = epoch, batch

    def __iter__(self) -> Iterator[VideoBatch]:
        if self.shuffle:
            generator = torch.Generator().manual_seed(100 + self.epoch)
            order = torch.randperm(self.num_videos, generator=generator).tolist()
        else:
            order = list(range(self.rank, self.num_videos, self.world_size))
        for batch in range(self.batch, len(self)):
            if self.before is not None:
                self.before(self.epoch * len(self) + batch)
            place = batch * self.world_size + self.rank if self.shuffle else batch
            chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
            yield self._batch(chosen, self.epoch * len(self) + batch)

    def _batch(self, indices: list[int], number: int) -> VideoBatch:
        good = [index for index in indices if index not in self.broken]
        pairs = [(index, view) for index in good for view in range(self.views)]
        clips = [small_clip(index, self.epoch * 7 + view) for index, view in pairs]
        clip_BTCHW = torch.stack(clips) if clips else torch.zeros(0, NUM_FRAMES, 3, *IMAGE_SIZE)
        if number == self.nan_at:
            clip_BTCHW = clip_BTCHW * float("nan")
        return VideoBatch(
            clip_BTCHW,
            torch.tensor([index % NUM_CLASSES for index, _ in pairs], dtype=torch.int64),
            torch.tensor([index for index, _ in pairs], dtype=torch.int64),
            torch.tensor([view for _, view in pairs], dtype=torch.int64),
            tuple(
                BrokenClip(index, f"video{index}.mp4", "no video stream") for index in indices if index in self.broken
            ),
        )


def small_clip(index: int, variant: int) -> Tensor:
    """One clip, TCHW."""
    generator = torch.Generator().manual_seed(index * 1000 + variant)
    drift_T = torch.arange(NUM_FRAMES) * (index % NUM_CLASSES - 1) * 0.7
    return torch.randn(NUM_FRAMES, 3, *IMAGE_SIZE, generator=generator) + drift_T[:, None, None, None]


def small_data(train: SmallLoader, val: SmallLoader | None, fingerprint: str = "small") -> TrainingData:
    """The loaders as `fit` takes them."""
    return TrainingData(train, val, train.seek, len(train), train.num_videos, fingerprint)


def _kill_in_write(number: int) -> None:
    """Die in the middle of the n-th file, with half of it on the disk."""
    written, write = 0, files.write_bytes

    def dying(path: Path, content: bytes) -> None:
        nonlocal written
        written += 1
        if written == number:
            with path.with_name(f"{path.name}.partial").open("wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)

    files.write_bytes = dying


def main(out: str, options: dict[str, Any]) -> FitResult | None:
    """Train, or evaluate, as the options say."""
    torch.set_num_threads(1)
    # a killed process loses nothing that the system has; only a power cut would
    os.fsync = lambda _: None
    settings = small_settings(options.get("settings"))
    runtime = start(settings.train)

    def before(batch: int) -> None:
        if "batches" in options and runtime.is_main:
            with Path(options["batches"]).open("a") as file:
                file.write(f"{batch}\n")
        if batch == options.get("kill_at") and ("once" not in options or first_time(options, runtime)):
            os.kill(os.getpid(), signal.SIGKILL)
        if batch == options.get("full_at"):
            # no file may grow beyond a kilobyte: a write fails as it does on a full disk
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
        if batch == options.get("signal_at") and runtime.rank == options.get("signal_rank", 0):
            os.kill(os.getpid(), getattr(signal, options["signal"]))

    if "kill_in_write" in options and runtime.is_main:
        _kill_in_write(options["kill_in_write"])
    world = runtime.world_size
    broken = tuple(options.get("broken", ()))
    batch_size = settings.data.batch_size // (world if options.get("split_batch") else 1)
    nan_at = options.get("nan_at") if runtime.rank == world - 1 else None
    train = SmallLoader(
        options.get("videos", 24), batch_size, runtime.rank, world, broken, before=before, nan_at=nan_at
    )
    # 15 videos over two processes: parts of different size
    val = SmallLoader(15, 3, runtime.rank, world, shuffle=False)
    shard = world if options.get("shard") else 1
    model = small_model(norm=options.get("norm", "batch"), dropout=options.get("dropout", 0.25), shard=shard)
    if "evaluate" in options:
        return evaluated(model, runtime, out, options["evaluate"])
    if "sweep" in options:
        return swept(settings, options, small_data(train, val), Path(out), runtime)
    resume = options.get("resume", False) if "once" not in options else RunFolder(out).holds_run()
    result = fit(settings, model, small_data(train, val), out, resume=resume, runtime=runtime)
    if "weights" in options:
        files.write_tensors(Path(f"{options['weights']}.{runtime.rank}"), model.trainable_state())
    return result


def swept(settings: RunSettings, options: dict[str, Any], data: TrainingData, out: Path, runtime: Runtime) -> None:
    """Train a model for each of the settings in `sweep` over one backbone."""
    models = [small_model(dropout=options.get("dropout", 0.25)) for _ in options["sweep"]]
    backbone = FrozenBackbone(SmallTrunk(), name="small", shard=runtime.world_size if options.get("shard") else 1)
    for model in models:
        model.video.backbone = backbone
    changed = {name: load_settings(settings.model_dump(), more) for name, more in options["sweep"].items()}
    members = [SweepMember(*pair, model, out / pair[0]) for pair, model in zip(changed.items(), models, strict=True)]
    results = fit_together(members, data, runtime=runtime)
    assert [result.error for result in results] == [None] * len(results)


def first_time(options: dict[str, Any], runtime: Runtime) -> bool:
    """Whether this is the process to be killed, and it has not been killed yet."""
    mark = Path(options["once"])
    if runtime.rank != options["kill_rank"] or mark.exists():
        return False
    mark.touch()
    return True


def evaluated(model: VideoClassifier, runtime: Runtime, out: str, path: str) -> None:
    """Write the metrics of the run in `out`, and every score to the last bit."""
    model.load_trainable_state(RunFolder(out).weights())
    loader = SmallLoader(15, 3, runtime.rank, runtime.world_size, (4,), shuffle=False, views=2)
    found = evaluate(model, loader, runtime=runtime)
    values = {**found.as_dict(), "loss": found.loss, "scores": found.scores_VK.numpy().tobytes().hex()}
    files.write_json(Path(f"{path}.{runtime.rank}"), values)


def traced(out: str, options: dict[str, Any]) -> None:
    """`main`, with what it raised written to `trace`."""
    raised = "nothing"
    try:
        main(out, options)
    except BaseException as error:
        raised = f"{type(error).__name__}: {error}"
        raise
    finally:
        if "trace" in options:
            Path(f"{options['trace']}.{os.environ.get('LOCAL_RANK', '0')}").write_text(raised)


def forked(out: str, options: dict[str, Any]) -> list[int]:
    """`traced` in child processes, which may be killed; their exit statuses as a shell counts.

    With several `processes` they find each other as under torchrun, or with `slurm` as under srun.
    """
    if "once" in options:
        elastic(out, options)
        return [0]
    world = options.get("processes", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children: list[int] = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            if world > 1 and options.get("slurm"):
                # what srun sets for its tasks; the port, so that two tests do not meet
                there = {"SLURM_NTASKS": world, "SLURM_NTASKS_PER_NODE": world, "SLURM_NNODES": 1, "SLURM_NODEID": 0}
                there |= {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_JOB_ID": 7, "SLURM_NODELIST": "localhost"}
                there |= {"SLURM_JOB_NAME": "small", "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in there.items()})
            elif world > 1:
                there = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
                there |= {"GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "t"}
                os.environ.update({name: str(value) for name, value in there.items()})
            _run_child(out, options)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def elastic(out: str, options: dict[str, Any]) -> None:
    """`traced` under the agent of `torchrun --max-restarts=1`, whose workers are forks of this process."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=options["processes"],
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=1,
        monitor_interval=0.1,
        start_method="fork",
    )
    elastic_launch(config, traced)(out, options)


def _run_child(out: str, options: dict[str, Any]) -> None:
    status = 1
    try:
        traced(out, options)
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException as error:  # noqa: BLE001 - the child has no one else to tell
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    os._exit(status)


if __name__ == "__main__":
    if sys.argv[1] == "--jobs":
        # many runs, one after the other, without importing torch for each
        jobs = json.loads(Path(sys.argv[2]).read_text())
        print(json.dumps([forked(out, options) for out, options in jobs]))
    else:
        traced(sys.argv[1], json.loads(sys.argv[2]))
