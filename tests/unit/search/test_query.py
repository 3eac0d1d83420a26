"""Questions to a library: exact scores of the model, examples, filters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from run.small_runs import draw_clip
from side4video.backbones.caption_tokens import CaptionTokens, ClipTokenizer
from side4video.backbones.create_text import create_tokenizer
from side4video.errors import InputError, VideoError
from side4video.search.embedding import EmbeddedWindow, VideoEmbedder, WindowSettings
from side4video.search.footage import FileState
from side4video.search.library import Library, LibraryIdentity, make_library
from side4video.search.query import ExampleQuery, TextQuery, Where, find_moments, fits, image_query, video_query
from side4video.search.store import WindowPoint
from side4video.tasks.retrieval import VideoTextModel
from unit.search.test_embedding import CROP

SETTINGS = WindowSettings(4, 2, 2.0)
VIDEOS, WINDOWS = 5, 7


def vectors(video: int, number: int, width: int) -> Tensor:
    """Frames of a window, of other lengths; the last window of a video is shorter."""
    generator = torch.Generator().manual_seed(100 * video + number)
    frames = 3 if number == WINDOWS - 1 else 4
    return torch.randn(frames, width, generator=generator) * (1 + torch.rand(frames, 1, generator=generator))


@pytest.fixture
def library(text_model: VideoTextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    monkeypatch.setattr("os.fsync", lambda _: None)
    made = LibraryIdentity({"backbone_hash": "b", "weights_hash": "w"}, SETTINGS)
    with make_library(tmp_path / "lib", made, run=tmp_path, embed_dim=text_model.embed_dim, kind="flat") as opened:
        for video in range(VIDEOS):
            windows = [
                EmbeddedWindow(10.0 * n, 10.0 * n + 9, 2.0, (0, 1, 2, 3), vectors(video, n, text_model.embed_dim))
                for n in range(WINDOWS)
            ]
            opened.add(
                f"/footage/{'dogs' if video % 2 else 'cats'}/{video}.mp4", f"hash {video}", FileState(1, 1), windows
            )
        yield opened


@torch.no_grad()
def text(model: VideoTextModel, caption: str) -> tuple[TextQuery, CaptionTokens]:
    tokenizer = create_tokenizer("tiny-clip", max_words=12)
    assert isinstance(tokenizer, ClipTokenizer)
    tokens = tokenizer([caption])
    return TextQuery(model, model.encode_text(tokens.ids_MQ), tokens.mask_MQ), tokens


@torch.no_grad()
def test_scores_are_the_models_similarity_of_each_window_alone(library: Library, text_model: VideoTextModel) -> None:
    query, tokens = text(text_model, "a red circle moves to the left")
    moments = find_moments(library, query, top=VIDEOS * WINDOWS)
    assert len(moments) == VIDEOS * WINDOWS, "windows do not touch"
    tokens_1QE = text_model.encode_text(tokens.ids_MQ)
    expected: dict[tuple[str, float], float] = {}
    for video in range(VIDEOS):
        for number in range(WINDOWS):
            frames_1TE = vectors(video, number, text_model.embed_dim).unsqueeze(0)
            mask_1T = torch.ones(1, frames_1TE.shape[1], dtype=torch.bool)
            sim = text_model.similarity(tokens_1QE, tokens.mask_MQ, frames_1TE, mask_1T)
            expected[f"{video}.mp4", 10.0 * number] = sim.item()
    found = {(Path(m.path).name, m.start_seconds): m.score for m in moments}
    assert found.keys() == expected.keys()
    for key, score in expected.items():
        assert found[key] == pytest.approx(score, abs=1e-5), key
    ranks = [found[Path(m.path).name, m.start_seconds] for m in moments]
    assert ranks == sorted(ranks, reverse=True)
    assert find_moments(library, query, top=3) == moments[:3]


@torch.no_grad()
def test_the_store_is_asked_for_what_the_model_looks_at(text_model: VideoTextModel) -> None:
    """The text's half of WTI is the store's score by tokens, with its mean their sum."""
    query, tokens = text(text_model, "a red circle")
    asked = query.for_store()
    assert asked.tokens_QE is not None
    assert len(asked.tokens_QE) == int(tokens.mask_MQ.sum()) < 12, "padding is nothing to look for"
    torch.testing.assert_close(asked.mean_E, asked.tokens_QE.sum(0))
    frames_1TE = torch.randn(1, 3, text_model.embed_dim, generator=torch.Generator().manual_seed(4))
    assert text_model.wti is not None
    tokens_1QE = text_model.encode_text(tokens.ids_MQ)
    weight_1Q = text_model.wti.text_weights(tokens_1QE, tokens.mask_MQ)
    cosine_QT = F.normalize(tokens_1QE[0], dim=-1) @ F.normalize(frames_1TE[0], dim=-1).T
    by_token = (cosine_QT.amax(1) * weight_1Q[0]).sum()
    by_store = (asked.tokens_QE @ F.normalize(frames_1TE[0], dim=-1).T).amax(1).sum()
    torch.testing.assert_close(by_store, by_token, atol=1e-5, rtol=0)


@torch.no_grad()
def test_mean_pooling_ranks_by_its_own_score(text_model: VideoTextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_model, "interaction", "mean")
    query, tokens = text(text_model, "a red circle")
    assert query.for_store().tokens_QE is None
    frames_TE = vectors(0, 0, text_model.embed_dim)
    sentence_E = text_model.encode_text(tokens.ids_MQ)[0, int(tokens.mask_MQ.sum()) - 1]
    cosine = F.cosine_similarity(sentence_E, frames_TE.mean(0), dim=0) * text_model.logit_scale.exp()
    torch.testing.assert_close(query.scores([frames_TE])[0], cosine, atol=1e-4, rtol=1e-5)


def test_filters(library: Library, text_model: VideoTextModel) -> None:
    query = ExampleQuery(vectors(3, 2, text_model.embed_dim))

    def found(where: Where) -> list[tuple[str, float]]:
        return sorted((m.path, m.start_seconds) for m in find_moments(library, query, top=99, where=where))

    assert {path for path, _ in found(Where(path_glob="dogs"))} == {"/footage/dogs/1.mp4", "/footage/dogs/3.mp4"}
    assert len(found(Where(path_glob="*/0.mp4"))) == WINDOWS
    assert found(Where(path_glob="birds/*")) == []
    # windows last from 10n to 10n + 9
    assert {start for _, start in found(Where(after_seconds=39))} == {40, 50, 60}
    assert {start for _, start in found(Where(after_seconds=38.9, before_seconds=50))} == {30, 40}


def test_globs() -> None:
    path = "/footage/holidays/2024/beach.mp4"
    for glob in ("beach.mp4", "holidays", "holidays/", "holidays/*", "./2024", "*.mp4", "/footage/*", path, "20?4/b*"):
        assert fits(path, glob), glob
    for glob in ("each.mp4", "holi", "*.mkv", "/holidays", "2024/holidays"):
        assert not fits(path, glob), glob


def test_an_example_finds_itself_first(library: Library, text_model: VideoTextModel) -> None:
    query = ExampleQuery(vectors(3, 2, text_model.embed_dim))
    best, second, *_ = find_moments(library, query, top=4)
    assert (best.path, best.start_seconds) == ("/footage/dogs/3.mp4", 20)
    assert best.score == pytest.approx(1, abs=1e-5)
    assert second.score < 0.9
    # the mean over the example's frames of the best cosine
    frames_TE, other_TE = vectors(3, 2, text_model.embed_dim), vectors(0, 6, text_model.embed_dim)
    cosine_QT = F.cosine_similarity(frames_TE.unsqueeze(1), other_TE.unsqueeze(0), dim=-1)
    torch.testing.assert_close(query.scores([other_TE])[0], cosine_QT.amax(1).mean(), atol=1e-6, rtol=0)


def test_windows_of_unfinished_videos_are_not_shown(library: Library, text_model: VideoTextModel) -> None:
    (found,) = library.store.search(ExampleQuery(vectors(3, 2, text_model.embed_dim)).for_store(), limit=1)
    half = type(found.window)(**{**vars(found.window), "path": "/footage/half.mp4"})
    library.store.upsert([WindowPoint(half, vectors(3, 2, text_model.embed_dim))])
    moments = find_moments(library, ExampleQuery(vectors(3, 2, text_model.embed_dim)), top=99)
    assert library.store.count() == VIDEOS * WINDOWS + 1
    assert "/footage/half.mp4" not in {moment.path for moment in moments}


@torch.no_grad()
def test_pictures_and_clips_as_examples(text_model: VideoTextModel, tmp_path: Path) -> None:
    embedder = VideoEmbedder(text_model, CROP, SETTINGS)
    pixels_HWC = torch.randint(0, 255, (80, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    image = Image.fromarray(pixels_HWC.numpy())
    image.save(tmp_path / "still.png")
    # what a phone writes: lying on its side, with a note to turn it
    exif = Image.Exif()
    exif[0x0112] = 6
    image.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    expected_TE = text_model.encode_video(CROP(pixels_HWC.permute(2, 0, 1).unsqueeze(0)).unsqueeze(0))[0]
    for name in ("still.png", "turned.png"):
        torch.testing.assert_close(image_query(embedder, tmp_path / name).frames_QE, expected_TE, atol=1e-5, rtol=0)
    clip = draw_clip(tmp_path / "clip.mp4", "grow", seed=1, num_frames=23)
    whole = video_query(embedder, clip)
    part = video_query(embedder, clip, start_seconds=1.0, end_seconds=1.2)
    assert (len(whole.frames_QE), len(part.frames_QE)) == (4, 2)
    (tmp_path / "text.png").write_text("hello")
    for name, message in (
        ("text.png", "not a readable picture"),
        ("gone.png", "No such file"),
        ("clip.mp4", "readable"),
    ):
        with pytest.raises(InputError, match=message):
            image_query(embedder, tmp_path / name)
    with pytest.raises(VideoError, match="no such file"):
        video_query(embedder, tmp_path / "gone.mp4")
    with pytest.raises(InputError, match="after the last frame"):
        video_query(embedder, clip, start_seconds=50)


def test_more_candidates_are_taken_until_there_are_enough_moments(
    library: Library, text_model: VideoTextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("side4video.search.query.CANDIDATES", 2)
    monkeypatch.setattr("side4video.search.query._MOMENT_CANDIDATES", 1)
    same_TE = vectors(3, 2, text_model.embed_dim)
    windows = [EmbeddedWindow(float(n), 60.0, 2.0, (0, 1, 2, 3), same_TE) for n in range(WINDOWS)]
    library.add("/footage/long.mp4", "long", FileState(1, 1), windows)
    query = ExampleQuery(same_TE)
    assert len({found.window.path for found in library.store.search(query.for_store(), limit=3)}) < 3
    assert len(find_moments(library, query, top=3)) == 3


def test_fewer_than_one_moment(library: Library, text_model: VideoTextModel) -> None:
    with pytest.raises(InputError, match="top must be at least 1; got 0"):
        find_moments(library, ExampleQuery(vectors(3, 2, text_model.embed_dim)), top=0)
