"""What is done with a video, stage after stage, and what the page shows of it."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from side4video.app.footage import Clips, Footage
from side4video.app.limits import Limits
from side4video.app.playback import MP4_TYPE, write_playable
from side4video.app.recognise import LoadedRun, Recognisers, class_names, looks_of, scorer_of
from side4video.app.refusal import RefusalError
from side4video.app.saliency import saliency_of
from side4video.app.text_search import TextFinder
from side4video.app.timelines import timelines_of, usual_window
from side4video.app.videos import Video
from side4video.app.worker import Progress, Stage
from side4video.app.workspace import Workspace
from side4video.search.moments import Moment
from side4video.tasks.recognition import VideoClassifier

TOP_K = 5
_MIN_WINDOW, _MAX_WINDOW = 0.1, 60.0
_MAX_WINDOWS = 20_000


class Analysis:
    """The models of the page and what they do with a video.

    `finder`: the retrieval run that finds moments within a visitor's video; `footage`: the libraries.
    """

    def __init__(
        self,
        recognisers: Recognisers | None,
        limits: Limits,
        workspace: Workspace,
        *,
        finder: TextFinder | None = None,
        footage: Sequence[Footage] = (),
    ) -> None:
        self.recognisers, self.finder, self.footage = recognisers, finder, tuple(footage)
        self.limits, self.workspace = limits, workspace
        self.clips = Clips(workspace)

    def describe(self) -> dict[str, Any]:
        """What the page can do, as plain JSON values."""
        return {
            "runs": [{"name": run.name, "classes": list(_names(run))} for run in self._runs],
            "finder": None if self.finder is None else self.finder.name,
            "libraries": [
                {"name": library.name, "videos": library.num_videos, "knows_text": library.knows_text}
                for library in self.footage
            ],
        }

    def stages(self) -> list[Stage]:
        """In the order in which they are done."""
        found: list[Stage] = []
        if self._runs:
            found.append(Stage("classes", "looking at the video", self._classes, is_needed=True))
        found.append(Stage("playback", "making it playable", self._playback))
        if self._runs:
            found.append(Stage("timeline", "looking for what happens when", self._timeline))
            found.append(Stage("explain", "looking for what mattered", self._explain))
        if self.finder is not None:
            found.append(Stage("find", "preparing it for search", self._find))
        return found

    def play_original(self, video: Video, media_type: str) -> None:
        """Browsers can play the video as it is."""
        video.kept["playable"] = video.path, media_type
        video.results["playback"] = {"is_original": True}

    def playable(self, video: Video) -> tuple[Path, str] | None:
        """The file that browsers get, and its type."""
        return video.kept.get("playable")

    def wish_window(self, video: Video, seconds: object) -> None:
        """The visitor wants a timeline of windows of this length.

        Raises:
            RefusalError: no such length.
        """
        if not isinstance(seconds, int | float) or not _MIN_WINDOW <= seconds <= _MAX_WINDOW:
            raise RefusalError(400, f"a window lasts from {_MIN_WINDOW:g} to {_MAX_WINDOW:g} seconds")
        video.wishes["window_seconds"] = float(seconds)

    def wish_label(self, video: Video, run_name: object, label: object) -> None:
        """The visitor wants to know what spoke for a class of a run.

        Raises:
            RefusalError: no such run or class.
        """
        run = next((run for run in self._runs if run.name == run_name), None)
        if run is None or label not in _names(run):
            raise RefusalError(400, "there is no such class")
        video.wishes["explain"] = {**video.wishes.get("explain", {}), run.name: label}

    def find_in_video(self, video: Video, text: str, top: int) -> list[Moment]:
        """The best moments of the visitor's video for a sentence.

        Raises:
            RefusalError: the page cannot, or the video is not ready.
            InputError: a text without a word.
        """
        windows = video.kept.get("windows")
        if self.finder is None or windows is None:
            raise RefusalError(409, "this video cannot be searched yet", retry_seconds=3)
        return self.finder.find(windows, text, top)

    def close(self) -> None:
        """Let go of libraries."""
        for library in self.footage:
            library.close_idle(math.inf)

    @property
    def _runs(self) -> list[LoadedRun]:
        return [] if self.recognisers is None else self.recognisers.runs

    def _classes(self, video: Video, progress: Progress) -> None:
        assert self.recognisers is not None
        scores = self.recognisers.predict(video.path, progress)
        shown: list[dict[str, Any]] = []
        for run in self._runs:
            best = scores[run.name].topk(min(TOP_K, len(scores[run.name])))
            names = _names(run)
            pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            predictions = [{"label": names[index], "score": score} for score, index in pairs]
            shown.append({"run": run.name, "predictions": predictions})
        video.results["classes"] = shown

    def _playback(self, video: Video, progress: Progress) -> None:
        if self.playable(video) is not None:
            return
        target = self.workspace.new_file(".mp4")
        video.files.append(target)

        def grow(size: int) -> None:
            self.workspace.reserve(target, size)

        write_playable(video.path, target, progress=progress, may_grow=grow)
        self.workspace.settle(target)
        video.kept["playable"] = target, MP4_TYPE
        video.results["playback"] = {"is_original": False}

    def _timeline(self, video: Video, progress: Progress) -> None:
        assert self.recognisers is not None
        scorers = [scorer_of(run, looks_of(run).transform) for run in self._runs]
        seconds = float(video.info["seconds"])
        usual = min(usual_window(scorer.num_frames, seconds) for scorer in scorers)
        window = video.wishes.get("window_seconds", usual)
        # a timeline is to be looked at: more windows than this cost time and show nothing new
        window = max(window, seconds * max(scorer.num_frames for scorer in scorers) / _MAX_WINDOWS)
        found = timelines_of(
            scorers, video.path, window_seconds=window, runtime=self.recognisers.runtime, progress=progress
        )
        names = _keep_pictures(video, "timeline", (thumbnail.jpeg for thumbnail in found.thumbnails))
        pictures = [
            {"seconds": thumbnail.seconds, "picture": name}
            for thumbnail, name in zip(found.thumbnails, names, strict=True)
        ]
        video.results["timeline"] = {"runs": found.shown, "thumbnails": pictures, "window_seconds": window}

    def _explain(self, video: Video, progress: Progress) -> None:
        wishes: dict[str, str] = video.wishes.get("explain", {})
        likeliest: dict[str, str] = {
            entry["run"]: entry["predictions"][0]["label"] for entry in video.results["classes"]
        }
        shown: list[dict[str, Any]] = []
        pictures: list[bytes] = []
        for number, run in enumerate(self._runs):
            assert isinstance(run.model, VideoClassifier)

            def tell(share: float, before: int = number) -> None:
                progress((before + share) / len(self._runs))

            if run.model.head.out_features < 2:
                continue  # there is nothing that it chose between
            label = wishes.get(run.name) or likeliest[run.name]
            found = saliency_of(run.model, looks_of(run), video.path, label, self.limits, tell)
            shown.append({"run": run.name, **found.shown})
            pictures += found.pictures
        names = iter(_keep_pictures(video, "explain", pictures))
        for entry in shown:
            for frame in entry["frames"]:
                frame["picture"] = next(names)
        video.results["explain"] = shown

    def _find(self, video: Video, progress: Progress) -> None:
        assert self.finder is not None
        video.kept["windows"] = self.finder.embed(video.path, progress)
        video.results["find"] = {"windows": len(video.kept["windows"])}


def _keep_pictures(video: Video, stage: str, pictures: Iterable[bytes]) -> list[str]:
    """Names of the stage's pictures, new ones each time, so that no browser shows an old one."""
    for name in [name for name in video.pictures if name.startswith(stage)]:
        del video.pictures[name]
    turn = secrets.token_hex(4)
    kept = {f"{stage}-{turn}-{number}": picture for number, picture in enumerate(pictures)}
    video.pictures |= kept
    return list(kept)


def _names(run: LoadedRun) -> tuple[str, ...]:
    return class_names(run.model) if isinstance(run.model, VideoClassifier) else ()
