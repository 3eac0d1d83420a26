"""What a vector store keeps and promises; `stores.open_store` opens one.

A point is one window of one video: where it lies, and one vector a frame. Stored are the frames' directions and their
lengths, since the model's exact score (`WeightedTokenInteraction`) weighs frames by their unnormalised vectors; and the
direction of their mean, which finds candidates quickly and is the exact answer under mean pooling.

A store finds candidates; the model ranks them: ask for `with_frames`, then score with the model's own `similarity`.

Shapes: T, frames of a window (may differ between windows); E, joint width; Q, tokens of a query.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol

from torch import Tensor

Precision = Literal["float32", "float16"]
_NAMESPACE = uuid.UUID("4f1c9c1e-0d0b-5c1a-9a43-7d2f6f1b8e57")


@dataclass(frozen=True)
class StoreIdentity:
    """What must agree between a store and whoever opens it.

    `model` is the embedding model's identity and whatever else makes windows comparable (plain JSON values): kept,
    given back, and compared by the library. `precision` is that of the stored directions: float32 gives scores back to
    about 1e-6, float16 halves the room. Lengths are always float32.
    """

    embed_dim: int
    precision: Precision = "float32"
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Window:
    """Which part of which video; seconds from the video's start. Windows of one video are numbered from 0.

    `path` has forward slashes; `num_windows` is how many windows the whole video has, which tells a complete video from
    an interrupted one. `extra` takes plain JSON values and is given back as it came.
    """

    path: str
    content_hash: str
    number: int
    num_windows: int
    start_seconds: float
    end_seconds: float
    fps: float
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def id(self) -> str:
        """A UUID made of path, content hash and number: the same window upserted again replaces itself."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.path}\0{self.content_hash}\0{self.number}"))

    @property
    def folders(self) -> list[str]:
        """Every folder above the video, nearest first."""
        return [str(parent) for parent in PurePosixPath(self.path).parents if str(parent) != "."]


@dataclass(frozen=True)
class WindowPoint:
    """A window with its frame embeddings as the model gives them, not normalised."""

    window: Window
    frames_TE: Tensor


@dataclass(frozen=True)
class FoundWindow:
    """A stored window. `score` is the store's own (0 when it was fetched); `frames_TE` is there when asked for."""

    window: Window
    score: float = 0.0
    frames_TE: Tensor | None = None


@dataclass(frozen=True)
class StoredVideo:
    """One video in the store. It is `complete` when all its windows are there."""

    path: str
    content_hash: str
    stored_windows: int
    num_windows: int

    @property
    def complete(self) -> bool:
        """All windows of the video are stored."""
        return self.stored_windows == self.num_windows


@dataclass(frozen=True)
class WindowFilter:
    """Windows that meet every condition given here; None means no condition, an empty collection meets nothing.

    `paths` and `content_hashes` are exact; `folders` takes every video anywhere below. A window counts when it overlaps
    `after_seconds` to `before_seconds`. `except_hashes` leaves videos with these contents out. For patterns, match
    `VectorStore.videos()` and pass the paths.
    """

    paths: Collection[str] | None = None
    folders: Collection[str] | None = None
    content_hashes: Collection[str] | None = None
    except_hashes: Collection[str] | None = None
    after_seconds: float | None = None
    before_seconds: float | None = None

    def meets(self, window: Window) -> bool:
        """Does `window` meet every condition?"""
        return (
            (self.paths is None or window.path in self.paths)
            and (self.folders is None or any(folder in self.folders for folder in window.folders))
            and (self.content_hashes is None or window.content_hash in self.content_hashes)
            and (self.except_hashes is None or window.content_hash not in self.except_hashes)
            and (self.after_seconds is None or window.end_seconds > self.after_seconds)
            and (self.before_seconds is None or window.start_seconds < self.before_seconds)
        )

    @property
    def is_empty(self) -> bool:
        """No condition at all: every window meets it."""
        return replace(self, except_hashes=self.except_hashes or None) == WindowFilter()


@dataclass(frozen=True)
class VectorQuery:
    """What to look for.

    `mean_E` is compared with the windows' means; its length does not matter. With `tokens_QE`, windows rank by
    `sum_q max_t <token_q, direction_t>` instead: the tokens count as they come, so pass unit vectors times their
    weights. Under WTI the fitting `mean_E` is the sum of these weighted tokens.
    """

    mean_E: Tensor
    tokens_QE: Tensor | None = None


@dataclass(frozen=True)
class SearchEffort:
    """How hard an approximate search tries: `prefetch` candidates by mean are ranked by tokens; `ef` is the beam of
    the graph walk. More finds more and takes longer; `benchmarks/search.py` has the numbers."""

    prefetch: int = 400
    ef: int = 512


class VectorStore(Protocol):
    """Windows on a disk or a server, searchable. One process at a time unless the store says otherwise.

    Every store keeps these promises, and `tests/contract/test_vector_stores.py` checks each.
    """

    @property
    def identity(self) -> StoreIdentity:
        """What the store was made with."""
        ...

    def upsert(self, points: Sequence[WindowPoint]) -> None:
        """Add windows, or replace those with the same id. When it returns, they survive a kill or a power cut.

        Raises:
            ValueError: a width that is not the store's, no frames, or values that are not finite; nothing was stored.
        """
        ...

    def delete(self, where: WindowFilter) -> None:
        """Remove the windows that meet `where`, for good when it returns.

        Raises:
            ValueError: a filter without a condition, which would remove everything.
        """
        ...

    def search(
        self,
        query: VectorQuery,
        *,
        limit: int,
        where: WindowFilter | None = None,
        with_frames: bool = False,
        exact: bool = False,
        effort: SearchEffort | None = None,
    ) -> list[FoundWindow]:
        """The best windows, best first. `exact` compares with every window that meets `where`, and takes its time."""
        ...

    def fetch(self, ids: Sequence[str], *, with_frames: bool = False) -> list[FoundWindow]:
        """The windows with these ids, in this order; unknown ids are left out."""
        ...

    def scan(
        self, where: WindowFilter | None = None, *, with_frames: bool = False, batch_size: int = 256
    ) -> Iterator[list[FoundWindow]]:
        """All windows that meet `where`, in batches and in no promised order; do not write while scanning."""
        ...

    def videos(self) -> list[StoredVideo]:
        """Every video in the store, by path."""
        ...

    def count(self, where: WindowFilter | None = None) -> int:
        """How many windows meet `where`, exactly."""
        ...

    def optimise(self) -> None:
        """Tidy up and build the search graph; results stay, searches get faster. Call it after many upserts."""
        ...

    def close(self) -> None:
        """Let go of files and lock; closing again does nothing. Do not use the store afterwards."""
        ...
