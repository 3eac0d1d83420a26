"""A library of footage on the page: searched, its moments shown as pictures, and played.

What is served is a moment that a search has found, by an id; never a path. The file must be as it was when it was
indexed. The library is held only while it is searched and shortly after, so that `side4video index` can add to it.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from side4video.app.playback import browser_type
from side4video.app.recognise import Backbones
from side4video.app.refusal import RefusalError
from side4video.app.text_search import make_embedder, text_query
from side4video.app.workspace import Workspace
from side4video.config.load import load_settings
from side4video.data.decode import open_video
from side4video.errors import StoreError, VideoError
from side4video.search.cut import cut_clip
from side4video.search.footage import file_state
from side4video.search.library import Library, open_library
from side4video.search.moments import Moment
from side4video.search.query import Query, find_moments, video_query
from side4video.search.run_identity import run_identity
from side4video.streaming.thumbnails import jpeg_of
from side4video.tasks.retrieval import VideoTextModel
from side4video.training.checkpoint import CONFIG
from side4video.training.runtime import Runtime

HELD_SECONDS = 30.0
"""A library that nobody searches is let go of after so long."""
_WAIT_SECONDS = 2.0
_PICTURE_HEIGHT = 180
_MAX_PICTURES = 2000
_MAX_CLIPS = 200
_AROUND_SECONDS = 2.0
_MAX_CLIP_SECONDS = 120.0
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class FoundMoment:
    """A moment that a visitor was shown; `size` and `mtime_ns` are of its file when it was indexed."""

    library: int
    moment: Moment
    size: int
    mtime_ns: int

    @property
    def name(self) -> str:
        """The video as the page calls it: its folder and name."""
        return "/".join(Path(self.moment.path).parts[-2:])


@dataclass(frozen=True)
class Playing:
    """What the player gets for a moment: a file, its type, and where the moment is in it."""

    path: Path
    media_type: str
    start_seconds: float
    end_seconds: float


class Footage:
    """One library with the model that indexed it. `number` is its place among the page's.

    Raises:
        StoreError: no library there, a damaged one, or another model's.
        CheckpointError, BackboneError: its run cannot be loaded.
    """

    def __init__(
        self,
        number: int,
        where: str,
        runs: list[Path],
        overrides: dict[str, Any],
        backbones: Backbones,
        runtime: Runtime,
    ) -> None:
        self.number, self._where = number, where
        self.name = where.rstrip("/").rsplit("/", 1)[-1]
        self._guard = threading.Lock()
        self._library: Library | None = None
        self._last_use = 0.0
        with open_library(where) as library:
            self._run = next((run for run in runs if _fits(library, run)), library.run)
            library.check_model(run_identity(self._run), self._run)
            self.num_videos = len(library.entries)
            windows = library.identity.windows
            self._identity = library.identity
        self.settings = load_settings(self._run / CONFIG, overrides)
        model = backbones.load(self._run, self.settings, runtime.device)
        self.embedder = make_embedder(model, self.settings, windows, runtime.autocast)
        self._pictures: OrderedDict[tuple[FoundMoment, float], bytes] = OrderedDict()

    @property
    def knows_text(self) -> bool:
        """Whether it can be searched by a sentence."""
        return isinstance(self.embedder.model, VideoTextModel)

    def search_text(self, text: str, top: int) -> list[FoundMoment]:
        """The best moments for a sentence.

        Raises:
            InputError: a text without a word.
            RefusalError: the library is in use elsewhere.
            StoreError: it cannot be read.
        """
        return self._search(lambda: text_query(self.embedder, self.settings, text), top)

    def search_video(self, path: Path, top: int) -> list[FoundMoment]:
        """The best moments that look like a video.

        Raises:
            VideoError: the video cannot be read.
            RefusalError, StoreError: as `search_text`.
        """
        return self._search(lambda: video_query(self.embedder, path), top)

    def close_idle(self, now: float | None = None) -> None:
        """Let go of the library when it has not been searched for a while, or (with infinity) at once."""
        with self._guard:
            moment = time.monotonic() if now is None else now
            if self._library is not None and moment - self._last_use > HELD_SECONDS:
                self._library.close()
                self._library = None

    def picture(self, found: FoundMoment) -> bytes:
        """A JPEG of the middle of a moment.

        Raises:
            RefusalError: the file is gone or has changed.
            VideoError: it cannot be read.
        """
        middle = (found.moment.start_seconds + found.moment.end_seconds) / 2
        key = found, middle
        picture = self._pictures.get(key)
        if picture is None:
            path = check_unchanged(found)
            with open_video(path) as reader:
                last = reader.info.num_frames - 1
                number = min(last, int(reader.timestamps_seconds.searchsorted(middle)))
                picture = jpeg_of(reader.read([number])[0], _PICTURE_HEIGHT)
            keep(self._pictures, key, picture, _MAX_PICTURES)
        return picture

    def _search(self, make_query: Callable[[], Query], top: int) -> list[FoundMoment]:
        query = make_query()
        with self._guard:
            library = self._opened()
            self._last_use = time.monotonic()
            moments = find_moments(library, query, top=top)
            states = [library.entries[moment.path].state for moment in moments]
        return [
            FoundMoment(self.number, moment, state.size, state.mtime_ns)
            for moment, state in zip(moments, states, strict=True)
        ]

    def _opened(self) -> Library:
        if self._library is not None:
            return self._library
        try:
            library = open_library(self._where, wait_seconds=_WAIT_SECONDS)
        except StoreError as error:
            if "in use" in str(error):
                raise RefusalError(
                    503, "the library is being changed now; try again in a moment", retry_seconds=10
                ) from error
            raise
        if library.identity != self._identity:
            library.close()
            raise StoreError(f"{self._where} belongs to another model now; start the page again")
        self._library = library
        self.num_videos = len(library.entries)
        return library


class Clips:
    """Moments that are cut out of videos which browsers do not play; the oldest make room for new ones."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._known: OrderedDict[FoundMoment, Playing] = OrderedDict()
        self._original: OrderedDict[FoundMoment, Playing] = OrderedDict()
        self._guard = threading.Lock()

    def play(self, found: FoundMoment) -> Playing:
        """The file that a browser gets for a moment, cut out when need be.

        Raises:
            RefusalError: the file is gone or has changed, or there is no room.
            VideoError: it cannot be read.
        """
        path = check_unchanged(found)
        moment = found.moment
        # a player asks for many parts of a file
        if found in self._original:
            return self._original[found]
        media_type = None if path.is_dir() or found in self._known else browser_type(path)
        if media_type is not None:
            original = Playing(path, media_type, moment.start_seconds, moment.end_seconds)
            keep(self._original, found, original, _MAX_CLIPS)
            return original
        with self._guard:
            if found in self._known:
                return self._known[found]
            target = self._workspace.new_file(".mp4")
            start = max(0.0, moment.start_seconds - _AROUND_SECONDS)
            end = min(moment.end_seconds, moment.start_seconds + _MAX_CLIP_SECONDS)
            try:
                cut_clip(path, start, end + _AROUND_SECONDS, target)
                self._workspace.reserve(target, target.stat().st_size)
            except BaseException:
                self._workspace.remove(target)
                raise
            playing = Playing(target, "video/mp4", moment.start_seconds - start, end - start)
            self._known[found] = playing
            while len(self._known) > _MAX_CLIPS:
                _, old = self._known.popitem(last=False)
                self._workspace.remove(old.path)
            return playing


def check_unchanged(found: FoundMoment) -> Path:
    """The file of a moment.

    Raises:
        RefusalError: it is not there, or not as it was when it was indexed.
    """
    path = Path(found.moment.path)
    try:
        state = file_state(path)
    except VideoError:
        raise RefusalError(410, f"{found.name} is not on the disk any more; index the library again") from None
    if (state.size, state.mtime_ns) != (found.size, found.mtime_ns):
        raise RefusalError(410, f"{found.name} has changed since it was indexed; index the library again")
    return path


def keep(known: OrderedDict[Any, Kept], key: Any, value: Kept, most: int) -> None:
    """Remember something, and forget the oldest when there is too much."""
    known[key] = value
    while len(known) > most:
        try:
            known.popitem(last=False)
        except KeyError:  # another thread was faster
            return


def _fits(library: Library, run: Path) -> bool:
    try:
        library.check_model(run_identity(run), run)
    except StoreError:
        return False
    return True
