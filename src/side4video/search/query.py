"""A question to a library: text, an example picture or an example clip; the store finds candidates, the model ranks.

- Text: the score is the model's own `similarity` (WTI or mean pooling), exact for every candidate.
- Examples: the mean over the example's frames of the highest cosine with any frame of the window (MaxSim). The model
  was trained to compare text with video, not video with video, so this is a comparison of looks, not of its making.

Shapes: Q, tokens of the query, or frames of an example; V, candidate windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from side4video.data.decode import open_video
from side4video.data.retrieval_sampling import strategy_1
from side4video.errors import InputError
from side4video.search.embedding import VideoEmbedder
from side4video.search.library import Library
from side4video.search.moments import Moment, merge_windows
from side4video.search.store import VectorQuery, WindowFilter
from side4video.tasks.retrieval import VideoTextModel
from side4video.tasks.similarity import sentence_vectors

CANDIDATES = 100
"""Windows that are scored exactly, at least; `benchmarks/search.py` shows what that finds."""
_MOMENT_CANDIDATES = 10  # for each moment that is asked for
_BATCH_WINDOWS = 256


class Query(Protocol):
    """What to look for."""

    def for_store(self) -> VectorQuery:
        """What finds candidates."""
        ...

    def scores(self, frames: Sequence[Tensor]) -> Tensor:
        """`score_V` of windows by their `frames_TE`, exact."""
        ...


@dataclass(frozen=True)
class TextQuery:
    """One caption as `encode_text` gives it, `tokens_1QE`, with its mask. Padding stays: the model's score sees it."""

    model: VideoTextModel
    tokens_1QE: Tensor
    mask_1Q: Tensor

    @torch.no_grad()
    def for_store(self) -> VectorQuery:
        """Under WTI unit tokens times their weights, whose sum finds windows by their mean; else the sentence."""
        if self.model.wti is None or self.model.interaction == "mean":
            return VectorQuery(sentence_vectors(self.tokens_1QE, self.mask_1Q)[0].float().cpu())
        weight_1Q = self.model.wti.text_weights(self.tokens_1QE, self.mask_1Q)
        weighted_QE = (F.normalize(self.tokens_1QE.float(), dim=-1) * weight_1Q.unsqueeze(-1))[self.mask_1Q].cpu()
        return VectorQuery(weighted_QE.sum(0), weighted_QE)

    @torch.no_grad()
    def scores(self, frames: Sequence[Tensor]) -> Tensor:
        """The model's similarity of the caption and each window on its own, float32 on the CPU."""
        score_V = torch.zeros(len(frames))
        device = self.tokens_1QE.device
        for places in _of_one_length(frames):
            # windows of one length together: a padded frame would count as a cosine of 0
            frames_VTE = torch.stack([frames[place] for place in places]).to(device)
            mask_VT = torch.ones(frames_VTE.shape[:2], dtype=torch.bool, device=device)
            sim_1V = self.model.similarity(self.tokens_1QE, self.mask_1Q, frames_VTE, mask_VT)
            score_V[places] = sim_1V[0].float().cpu()
        return score_V


@dataclass(frozen=True)
class ExampleQuery:
    """Frames of a picture or clip, embedded as one clip."""

    frames_QE: Tensor

    def for_store(self) -> VectorQuery:
        """The mean, and the frames' directions in equal parts."""
        return VectorQuery(self.frames_QE.mean(0), self._directions() / len(self.frames_QE))

    def scores(self, frames: Sequence[Tensor]) -> Tensor:
        """MaxSim, from -1 to 1."""
        directions_QE = self._directions()
        best = [(directions_QE @ F.normalize(frames_TE, dim=-1).T).amax(1).mean() for frames_TE in frames]
        return torch.stack(best) if best else torch.zeros(0)

    def _directions(self) -> Tensor:
        return F.normalize(self.frames_QE, dim=-1)


@dataclass(frozen=True)
class Where:
    """Which part of a library to look in: paths that fit a glob, windows that overlap a time of their video."""

    path_glob: str | None = None
    after_seconds: float | None = None
    before_seconds: float | None = None

    def for_store(self, library: Library) -> WindowFilter | None:
        """The filter; None for everything."""
        paths = None
        if self.path_glob is not None:
            paths = [path for path in library.entries if fits(path, self.path_glob)]
        found = WindowFilter(paths=paths, after_seconds=self.after_seconds, before_seconds=self.before_seconds)
        return None if found.is_empty else found


def fits(path: str, glob: str) -> bool:
    """Whether a path or its end fits a glob; `*` also stands for `/`, and a folder's name for all that is in it."""
    glob = glob.removeprefix("./").rstrip("/")
    return any(fnmatchcase(path, pattern) for pattern in (glob, f"*/{glob}", f"{glob}/*", f"*/{glob}/*"))


def image_query(embedder: VideoEmbedder, path: Path) -> ExampleQuery:
    """A query of one picture, seen as a video of one frame.

    Raises:
        InputError: it is no picture that can be read.
    """
    try:
        with Image.open(path) as image:
            # upright, as phones mean it
            rgb = ImageOps.exif_transpose(image).convert("RGB")
            pixels = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
            frames_THWC = pixels.view(1, rgb.height, rgb.width, 3)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a readable picture"
        raise InputError(f"{path}: {reason}") from None
    return ExampleQuery(embedder.embed_clip(frames_THWC.permute(0, 3, 1, 2)))


def video_query(
    embedder: VideoEmbedder, path: Path, *, start_seconds: float | None = None, end_seconds: float | None = None
) -> ExampleQuery:
    """A query of a video or the part of it between two times: as many frames as a window has, spread over it.

    Raises:
        VideoError: it cannot be read.
        InputError: an empty part, or one after its end.
    """
    with open_video(path) as reader:
        span = reader.frame_range(start_seconds, end_seconds)
        slots = strategy_1(len(span), embedder.settings.num_frames)
        frames_TCHW = reader.read([span[index] for index in sorted(set(slots.indices))])
    return ExampleQuery(embedder.embed_clip(frames_TCHW))


def find_moments(library: Library, query: Query, *, top: int, where: Where | None = None) -> list[Moment]:
    """The best `top` moments, best first.

    The store's candidates are scored exactly, and more are taken until there are `top` moments; when a library has few
    windows, all of them are.

    Raises:
        InputError: fewer than one moment asked for.
        StoreError: the store cannot be read.
    """
    if top < 1:
        raise InputError(f"top must be at least 1; got {top}")
    limit = max(CANDIDATES, _MOMENT_CANDIDATES * top)
    condition = None if where is None else where.for_store(library)
    while True:
        found = library.store.search(query.for_store(), limit=limit, where=condition, with_frames=True)
        kept = [window for window in found if library.holds(window.window)]
        frames = [window.frames_TE for window in kept if window.frames_TE is not None]
        scores = query.scores(frames).tolist()
        moments = merge_windows([(w.window, score) for w, score in zip(kept, scores, strict=True)], top)
        if len(moments) == top or len(found) < limit:
            return moments
        limit *= 4  # neighbours took the places of other moments


def _of_one_length(frames: Sequence[Tensor]) -> Iterator[list[int]]:
    """Places of windows that have equally many frames, a batch at a time."""
    by_length: dict[int, list[int]] = {}
    for place, frames_TE in enumerate(frames):
        by_length.setdefault(len(frames_TE), []).append(place)
    for places in by_length.values():
        for first in range(0, len(places), _BATCH_WINDOWS):
            yield places[first : first + _BATCH_WINDOWS]
