"""Processes, devices and precision: the border to Lightning Fabric.

`start` is called once in every process, before anything heavy is built. With `devices` above one and no launcher it
starts the other processes itself, by running the same command again; under `torchrun` or SLURM it joins those that are
there. Control messages between processes (counts, wishes to stop, scores) travel over a CPU group as plain tensors and
JSON: they never wait for the GPU, and nothing is pickled.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.strategy import Strategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from side4video.config.groups import TrainSettings
from side4video.errors import ConfigError
from side4video.training.rendezvous import join_group, under_agent

logger = logging.getLogger(__name__)

StepPrecision = Literal["fp32", "bf16", "fp16"]


class Runtime:
    """One process of a run: its rank, its device, and how it talks to the others. Made by `start`."""

    def __init__(self, fabric: Fabric, precision: StepPrecision) -> None:
        self.fabric = fabric
        self.precision: StepPrecision = precision
        self._group: Any = None
        if self.world_size > 1 and dist.get_backend() != "gloo":
            self._group = dist.new_group(backend="gloo")

    @property
    def rank(self) -> int:
        """This process, from 0."""
        return self.fabric.global_rank

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.fabric.world_size

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.fabric.device

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The loss scaler of fp16, which is part of a resumed state."""
        plugin = self.fabric.strategy.precision
        return plugin.scaler if isinstance(plugin, MixedPrecision) else None

    def setup(self, step: nn.Module, optimizer: torch.optim.Optimizer, frozen: nn.Module) -> tuple[Any, Any]:
        """Wrap the module whose forward gives the loss, and its optimiser, for this runtime.

        Nothing of `frozen`, a part of `step`, is sent between processes: every process has built the same one.
        """
        ids = {id(value) for value in (*frozen.parameters(), *frozen.buffers())}
        named = [*step.named_parameters(remove_duplicate=False), *step.named_buffers(remove_duplicate=False)]
        ignored = [name for name, value in named if id(value) in ids]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(step, ignored)  # pyright: ignore[reportPrivateUsage]
        return self.fabric.setup(step, optimizer)

    def setup_optimizer(self, optimizer: torch.optim.Optimizer) -> Any:
        """Wrap an optimiser of a module that nothing wraps; averaging gradients is then its owner's business."""
        return self.fabric.setup_optimizers(optimizer)

    def no_sync(self, wrapped: Any, enabled: bool) -> AbstractContextManager[Any]:
        """Keep gradients local during this backward pass, when another batch of the same step follows."""
        return self.fabric.no_backward_sync(wrapped, enabled=enabled and self.world_size > 1)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of training, for a forward pass outside of it."""
        return self.fabric.autocast()

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes, exact for counts."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self._group)
        return total.tolist()

    def gather(self, value: Tensor) -> list[Tensor]:
        """A CPU tensor of every process, in order of rank; the first axis may differ in size."""
        if self.world_size == 1:
            return [value]
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([value.shape[0]]), group=self._group)
        longest = max(int(size) for size in sizes)
        padded = value.new_zeros(longest, *value.shape[1:])
        padded[: value.shape[0]] = value
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=self._group)
        return [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]

    def gather_json(self, value: Any) -> list[Any]:
        """A JSON value of every process, in order of rank."""
        if self.world_size == 1:
            return [value]
        encoded = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        return [json.loads(bytes(part.tolist())) for part in self.gather(encoded)]

    def share_buffers(self, module: nn.Module) -> None:
        """Overwrite the buffers of `module` with those of the first process, as the wrapper does in training."""
        if self.world_size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def close(self) -> None:
        """Leave the group of processes. The runtime is of no use afterwards."""
        if dist.is_initialized():
            dist.destroy_process_group()


def start(settings: TrainSettings) -> Runtime:
    """Join or start the processes of a run, and choose device and precision.

    Raises:
        ConfigError: an accelerator, a precision or a number of devices that this machine does not have.
    """
    accelerator = choose_accelerator(settings.accelerator)
    _check_accelerator(accelerator)
    devices, num_nodes = _devices(settings, accelerator)
    precision = resolve_precision(settings.precision, accelerator)
    strategy: Strategy | str = "auto"
    if devices * num_nodes > 1:
        if accelerator == "mps":
            raise ConfigError(f"train.devices must be 1 on mps; got {devices}")
        strategy = DDPStrategy(gradient_as_bucket_view=True)
    with _quiet():
        try:
            fabric = Fabric(
                accelerator=accelerator,
                devices=devices,
                num_nodes=num_nodes,
                strategy=strategy,
                plugins=_plugin(precision, accelerator),
            )
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"train.devices={settings.devices} train.accelerator={settings.accelerator}: {error}"
            ) from error
        if devices * num_nodes > 1 and under_agent():
            # Fabric takes a group that is there
            join_group("nccl" if accelerator == "cuda" else "gloo")
        fabric.launch()
        return Runtime(fabric, precision)


def choose_accelerator(setting: str) -> str:
    """`auto` in words: a GPU of NVIDIA's, else one of Apple's, else the CPU."""
    if setting != "auto":
        return setting
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_precision(setting: str, accelerator: str) -> StepPrecision:
    """`auto` in words: bf16 on GPUs that have it, fp16 on older ones, else fp32."""
    if setting == "auto":
        if accelerator != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if setting not in ("fp32", "bf16", "fp16"):
        raise ConfigError(f"train.precision must be auto, fp32, bf16 or fp16; got {setting!r}")
    return setting


class _SidePrecision(MixedPrecision):
    """Autocast that leaves its inputs alone: the frozen model wants the pixels in full and has its own precision."""

    @override
    def convert_input(self, data: Any) -> Any:
        return data


def _plugin(precision: StepPrecision, accelerator: str) -> Precision:
    if precision == "fp32":
        return Precision()
    return _SidePrecision("bf16-mixed" if precision == "bf16" else "16-mixed", device=accelerator)


def _devices(settings: TrainSettings, accelerator: str) -> tuple[int, int]:
    """Processes on this node, and nodes. Under torchrun its own numbers hold."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        if settings.devices not in ("auto", local):
            raise ConfigError(f"train.devices={settings.devices}, but torchrun started {local} processes on this node")
        return local, world // local
    num_nodes = int(os.environ.get("SLURM_NNODES", "1")) if "SLURM_NTASKS" in os.environ else 1
    if settings.devices != "auto":
        if settings.devices < 1:
            raise ConfigError(f"train.devices must be at least 1, or auto; got {settings.devices}")
        return settings.devices, num_nodes
    if "SLURM_NTASKS_PER_NODE" in os.environ:
        return int(os.environ["SLURM_NTASKS_PER_NODE"]), num_nodes
    return (torch.cuda.device_count() if accelerator == "cuda" else 1), num_nodes


def _check_accelerator(accelerator: str) -> None:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[accelerator]:
        allowed = ", ".join(name for name, available in there.items() if available)
        raise ConfigError(f"train.accelerator={accelerator} is not available on this machine; available: {allowed}")


@contextmanager
def _quiet() -> Generator[None]:
    """Without Fabric's banners and its advice on things that we decide."""
    fabric_log = logging.getLogger("lightning_fabric")
    level = fabric_log.level
    fabric_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning_fabric")
            yield
    finally:
        fabric_log.setLevel(level)
