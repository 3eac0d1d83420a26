"""The files of a cache: shards of safetensors, each with a record of what is in it and its checksums.

    cache.json            what the cache was made for
    00000.safetensors     clips of some items, one item's tensors side by side
    00000.json            the items of that shard: labels, broken videos, checksums; written last, it makes the shard

A shard appears complete or not at all, so a killed process leaves nothing to clean up but a `.partial` file. Items are
numbered from 0; a shard holds `items_per_shard` of them in a row. An item is checked against its own checksum when it
is first read, so that a damaged disk stops a run without reading whole shards.

Shapes: R, clips of an item; G, layers of which all tokens are kept; A, all tokens of a frame.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from side4video.cache.key import CacheKey
from side4video.cache.record import is_record
from side4video.errors import CheckpointError, ConfigError
from side4video.training.files import read_json, write_bytes, write_json

KEY = "cache.json"
SHARD_BYTES = 256 * 2**20
OPEN_SHARDS = 64


@dataclass(frozen=True)
class Item:
    """The clips of one record in one view: tensors by name, labels, which frames are real (retrieval), the path, and
    whether the pixels had their channels last."""

    tensors: dict[str, Tensor]
    labels: tuple[int, ...]
    masks: tuple[tuple[bool, ...], ...]
    path: str
    channels_last: bool


@dataclass(frozen=True)
class BrokenItem:
    """An item whose video could not be read."""

    path: str
    reason: str


class CacheFolder:
    """One split of a cache by its folder; `key` says what it must have been made for.

    Raises:
        ConfigError: the folder holds a cache that was made for something else (the message names every field that
            differs), or other files.
        CheckpointError: damaged.
    """

    def __init__(self, path: Path, key: CacheKey, *, bytes_per_clip: int) -> None:
        self.path = path
        self.wanted = key
        self.is_new = not (path / KEY).is_file()
        self.key = key
        self.items_per_shard = max(1, SHARD_BYTES // max(1, bytes_per_clip * key.clips_per_view))
        if self.is_new:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise ConfigError(f"cache.dir: {path} exists and is no cache (no {KEY}); choose another folder")
            return
        stored = read_json(path / KEY)
        if not isinstance(stored, dict) or not isinstance(stored.get("key"), dict):
            raise CheckpointError(f"{path / KEY}: damaged: must hold the cache's key")
        items_per_shard = stored.get("items_per_shard")
        if type(items_per_shard) is not int or items_per_shard < 1:
            raise CheckpointError(f"{path / KEY}: damaged: items_per_shard must be a whole number from 1")
        differing = key.fits(stored["key"])
        if differing:
            raise ConfigError(
                f"cache.dir: {path} was made for something else: {'; '.join(differing)}. "
                "Choose another folder, or delete this one"
            )
        self.key = key.with_layers_of(stored["key"])
        self.items_per_shard = items_per_shard

    @property
    def num_shards(self) -> int:
        """Shards of the whole cache."""
        return -(-self.key.num_items // self.items_per_shard)

    def items_of(self, shard: int) -> range:
        """The items that belong into a shard."""
        first = shard * self.items_per_shard
        return range(first, min(first + self.items_per_shard, self.key.num_items))

    def missing_shards(self) -> list[int]:
        """Shards that are not there, or not as long as their record says."""
        return [shard for shard in range(self.num_shards) if not self._is_there(shard)]

    def begin(self) -> None:
        """Make the folder and note what it is for; remove what a killed process left half-written.

        Raises:
            OSError: it cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for partial in self.path.glob("*.partial"):
            partial.unlink()
        if not (self.path / KEY).is_file():
            write_json(self.path / KEY, {"key": self.key.as_json(), "items_per_shard": self.items_per_shard})

    def write_shard(self, shard: int, items: Mapping[int, Item | BrokenItem], *, squares: Sequence[float]) -> None:
        """Write a shard; `squares` are the sums of squared errors and of squared tokens, for the error of int8.

        Raises:
            OSError: the disk is full or cannot be written; the shard does not exist then.
        """
        tensors: dict[str, Tensor] = {}
        entries: dict[str, Any] = {}
        for number, item in items.items():
            if isinstance(item, BrokenItem):
                size = _file_size(item.path)
                entries[str(number)] = {"path": item.path, "broken": item.reason, "video_bytes": size}
                continue
            tensors |= {f"{number:09d}.{name}": tensor for name, tensor in item.tensors.items()}
            entries[str(number)] = {
                "path": item.path,
                "labels": list(item.labels),
                "masks": [[int(real) for real in mask] for mask in item.masks],
                "channels_last": item.channels_last,
                "tensors": sorted(item.tensors),
                "crc32": checksum(item.tensors),
                "video_bytes": _file_size(item.path),
            }
        content = safetensors.torch.save(tensors)
        record = {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "squares": list(squares),
            "items": entries,
        }
        write_bytes(self._file(shard), content)
        write_json(self._record(shard), record)

    def verify(self, shard: int) -> bool:
        """Whether a shard's whole file is as it was written."""
        digest = hashlib.sha256()
        with self._file(shard).open("rb") as file:
            while block := file.read(2**22):
                digest.update(block)
        return digest.hexdigest() == self.read_record(shard)["sha256"]

    def remove_shard(self, shard: int) -> None:
        """Remove a damaged shard, its record first."""
        self._record(shard).unlink(missing_ok=True)
        self._file(shard).unlink(missing_ok=True)

    def read_record(self, shard: int) -> dict[str, Any]:
        """A shard's record.

        Raises:
            CheckpointError: missing or damaged.
        """
        record = read_json(self._record(shard))
        if not is_record(record, self.items_of(shard)):
            raise CheckpointError(f"{self._record(shard)}: damaged; delete it, and it is made anew")
        return record

    def relative_error(self) -> float:
        """Root of the mean squared error of the stored tokens, relative to the tokens."""
        sums = [self.read_record(shard)["squares"] for shard in range(self.num_shards)]
        error, signal = (sum(values) for values in zip(*sums, strict=True))
        return (error / signal) ** 0.5 if signal else 0.0

    def stored_bytes(self) -> int:
        """Bytes of all shards that are there."""
        return sum(path.stat().st_size for path in self.path.glob("*.safetensors"))

    def _is_there(self, shard: int) -> bool:
        file, record = self._file(shard), self._record(shard)
        return record.is_file() and file.is_file() and file.stat().st_size == self.read_record(shard)["bytes"]

    def _file(self, shard: int) -> Path:
        return self.path / f"{shard:05d}.safetensors"

    def _record(self, shard: int) -> Path:
        return self.path / f"{shard:05d}.json"


class CacheReader:
    """Reads items of a complete cache from memory-mapped shards.

    Raises:
        ConfigError: a video whose size is no longer what it was; the message names it.
        CheckpointError: a shard that is missing or damaged.
    """

    def __init__(self, folder: CacheFolder) -> None:
        self.folder = folder
        self._entries: list[dict[str, Any]] = []
        for shard in range(folder.num_shards):
            items = folder.read_record(shard)["items"]
            self._entries += [items[str(number)] for number in folder.items_of(shard)]
        self._checked: set[int] = set()
        self._shards: OrderedDict[int, Any] = OrderedDict()
        self._check_videos()

    def read(self, number: int) -> Item | BrokenItem:
        """One item; its tensors lie in the file's memory and must not be changed.

        Raises:
            CheckpointError: the file is damaged.
        """
        entry = self._entries[number]
        if "broken" in entry:
            return BrokenItem(entry["path"], entry["broken"])
        shard = number // self.folder.items_per_shard
        file = self._open(shard)
        try:
            tensors = {name: file.get_tensor(f"{number:09d}.{name}") for name in entry["tensors"]}
        except SafetensorError as error:
            raise CheckpointError(f"{self.folder.path / f'{shard:05d}.safetensors'}: damaged: {error}") from None
        if number not in self._checked:
            if checksum(tensors) != entry["crc32"]:
                path = self.folder.path / f"{shard:05d}.safetensors"
                raise CheckpointError(
                    f"{path}: damaged: the clips of {entry['path']} are not what was written; delete the file, and "
                    "the next run makes it anew"
                )
            self._checked.add(number)
        masks = tuple(tuple(bool(real) for real in mask) for mask in entry["masks"])
        return Item(tensors, tuple(entry["labels"]), masks, entry["path"], entry["channels_last"])

    def _open(self, shard: int) -> Any:
        if shard in self._shards:
            self._shards.move_to_end(shard)
            return self._shards[shard]
        path = self.folder.path / f"{shard:05d}.safetensors"
        try:
            self._shards[shard] = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: damaged: {error}; delete it, and the next run makes it anew") from None
        if len(self._shards) > OPEN_SHARDS:
            self._shards.popitem(last=False)
        return self._shards[shard]

    def _check_videos(self) -> None:
        """A video that was replaced would be trained on as it was, and one that was mended would stay broken."""
        for entry in self._entries[: self.folder.key.num_records]:
            size, now = entry["video_bytes"], _file_size(entry["path"])
            if now is not None and size != now and (size is not None or "broken" in entry):
                had = "was not there" if size is None else f"had {size}"
                raise ConfigError(
                    f"cache.dir: {self.folder.path} was made for something else: {entry['path']} has {now} bytes and "
                    f"{had}. Delete the cache, or choose another folder"
                )


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of tensors' bytes in order of their names."""
    value = 0
    for _, tensor in sorted(tensors.items()):
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return value


def _file_size(path: str) -> int | None:
    """Bytes of a video file; nothing for a folder of frames, or when it is not there."""
    try:
        file = Path(path)
        return file.stat().st_size if file.is_file() else None
    except OSError:
        return None
