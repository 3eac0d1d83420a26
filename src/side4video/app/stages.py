"""What is done with a video, stage after stage, and what the page shows of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from side4video.app.playback import MP4_TYPE, write_playable
from side4video.app.recognise import Recognisers, class_names
from side4video.app.videos import Video
from side4video.app.worker import Progress, Stage
from side4video.app.workspace import Workspace
from side4video.tasks.recognition import VideoClassifier

TOP_K = 5


class Analysis:
    """The models of the page and what they do."""

    def __init__(self, recognisers: Recognisers | None) -> None:
        self.recognisers = recognisers

    def describe(self) -> dict[str, Any]:
        """What the page can do, as plain JSON values."""
        runs = [] if self.recognisers is None else self.recognisers.runs
        return {"runs": [{"name": run.name, "classes": len(_names(run.model))} for run in runs]}

    def stages(self, workspace: Workspace) -> list[Stage]:
        """In the order in which they are done."""
        found: list[Stage] = []
        if self.recognisers is not None:
            found.append(Stage("classes", "looking at the video", self._classes, is_needed=True))
        found.append(Stage("playback", "making it playable", lambda v, p: self._playback(v, p, workspace)))
        return found

    def play_original(self, video: Video, media_type: str) -> None:
        """Browsers can play the video as it is."""
        video.kept["playable"] = video.path, media_type
        video.results["playback"] = {"is_original": True}

    def playable(self, video: Video) -> tuple[Path, str] | None:
        """The file that browsers get, and its type."""
        return video.kept.get("playable")

    def close(self) -> None:
        """Let go of libraries."""

    def _classes(self, video: Video, progress: Progress) -> None:
        assert self.recognisers is not None
        scores = self.recognisers.predict(video.path, progress)
        shown: list[dict[str, Any]] = []
        for run in self.recognisers.runs:
            best = scores[run.name].topk(min(TOP_K, len(scores[run.name])))
            names = _names(run.model)
            shown.append(
                {
                    "run": run.name,
                    "predictions": [
                        {"label": names[index], "score": score}
                        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
                    ],
                }
            )
        video.results["classes"] = shown

    def _playback(self, video: Video, progress: Progress, workspace: Workspace) -> None:
        if self.playable(video) is not None:
            return
        target = workspace.new_file(".mp4")
        video.files.append(target)
        grow: Callable[[int], None] = lambda size: workspace.reserve(target, size)  # noqa: E731
        write_playable(video.path, target, progress=progress, may_grow=grow)
        workspace.settle(target)
        video.kept["playable"] = target, MP4_TYPE
        video.results["playback"] = {"is_original": False}


def _names(model: Any) -> tuple[str, ...]:
    return class_names(model) if isinstance(model, VideoClassifier) else ()
