"""Every vector store keeps the promises of `search/store.py`; the flat store is the truth for the others.

The server store speaks to qdrant-client's local mode: a peer that implements the same interface without a network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from qdrant_client import QdrantClient

from side4video.errors import StoreError
from side4video.search.qdrant_server_store import QdrantServerStore
from side4video.search.store import (
    FoundWindow,
    StoreIdentity,
    VectorQuery,
    VectorStore,
    Window,
    WindowFilter,
    WindowPoint,
)
from side4video.search.stores import KINDS, open_store
from side4video.tasks.similarity import WeightedTokenInteraction

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]

Opener = Callable[..., VectorStore]
E = 7
IDENTITY = StoreIdentity(E, model={"name": "a model", "wti": True, "window": [8, 4.5]})


def open_local_server(folder: Path, *, identity: StoreIdentity | None = None) -> VectorStore:
    """The server store on a peer that keeps its points in `folder`."""
    client = QdrantClient(path=str(folder))
    return QdrantServerStore(client, where="the local peer", collection="windows", identity=identity)


def open_kind(kind: str) -> Opener:
    def opener(folder: Path, *, identity: StoreIdentity | None = None) -> VectorStore:
        return open_store(folder, identity=identity, kind=kind)

    return opener


OPENERS: dict[str, Opener] = {**{kind: open_kind(kind) for kind in KINDS}, "qdrant-server": open_local_server}
VIDEOS = (
    ("cats/day one/a.mp4", 5),
    ("cats/day one/b.mp4", 3),
    ("cats/c.mp4", 6),
    ("dogs/a.mp4", 4),
    ("dögs/ü.mp4", 2),
    ("top.mp4", 3),
)
FILTERS = {
    "none": None,
    "folder": WindowFilter(folders=["cats"]),
    "folders": WindowFilter(folders=["cats/day one", "dogs"]),
    "not a folder's beginning": WindowFilter(folders=["cat"]),
    "paths": WindowFilter(paths=["dögs/ü.mp4", "cats/c.mp4", "nowhere.mp4"]),
    "no path": WindowFilter(paths=[]),
    "hash": WindowFilter(content_hashes=["hash-1", "hash-3"]),
    "all but a hash": WindowFilter(except_hashes=["hash-2"]),
    "after": WindowFilter(after_seconds=6.0),
    "before": WindowFilter(before_seconds=2.0),
    "time and folder": WindowFilter(folders=["cats"], after_seconds=3.0, before_seconds=5.0),
}
MATCHES = {"none": 23, "folder": 14, "folders": 12, "not a folder's beginning": 0, "paths": 8, "no path": 0, "hash": 7,
           "all but a hash": 17, "after": 11, "before": 6, "time and folder": 9}  # fmt: skip


def make_points(seed: int = 0) -> list[WindowPoint]:
    """23 windows of 2 to 5 frames, four seconds long and two apart, of lengths from 0.1 to 10."""
    draw = torch.Generator().manual_seed(seed)
    points: list[WindowPoint] = []
    for video, (path, num_windows) in enumerate(VIDEOS):
        for number in range(num_windows):
            start = 2.0 * number
            window = Window(
                path, f"hash-{video}", number, num_windows, start, start + 4.0, 29.97, {"frames": [number, None, "ä"]}
            )
            frames_TE = torch.randn(2 + (video + number) % 4, E, generator=draw)
            points.append(
                WindowPoint(window, frames_TE * 10 ** (2 * torch.rand(len(frames_TE), 1, generator=draw) - 1))
            )
    return points


def make_queries() -> list[VectorQuery]:
    draw = torch.Generator().manual_seed(7)
    tokens_QE = torch.randn(4, E, generator=draw)
    return [VectorQuery(3.0 * tokens_QE.mean(0)), VectorQuery(tokens_QE.mean(0), tokens_QE)]


@pytest.fixture(scope="module", params=list(OPENERS))
def opener(request: pytest.FixtureRequest) -> Opener:
    return OPENERS[request.param]


@pytest.fixture
def store(opener: Opener, tmp_path: Path) -> Iterator[VectorStore]:
    """A store with all points, to change."""
    store = opener(tmp_path / "store", identity=IDENTITY)
    store.upsert(make_points())
    yield store
    store.close()


@pytest.fixture(scope="module", params=[False, True], ids=["as written", "optimised"])
def full(
    request: pytest.FixtureRequest, opener: Opener, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VectorStore]:
    """A store with all points, only to read."""
    with warnings.catch_warnings():
        # marks do not reach fixtures of a module
        warnings.filterwarnings("ignore", message="Payload indexes have no effect in the local Qdrant")
        store = opener(tmp_path_factory.mktemp("full") / "store", identity=IDENTITY)
    store.upsert(make_points())
    if request.param:
        store.optimise()
    yield store
    store.close()


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VectorStore]:
    store = open_store(tmp_path_factory.mktemp("truth") / "store", identity=IDENTITY, kind="flat")
    store.upsert(make_points())
    yield store
    store.close()


def same(found: list[FoundWindow], expected: list[FoundWindow]) -> None:
    """The same windows in the same order, with scores and frames as near as float32 allows."""
    assert [f.window for f in found] == [f.window for f in expected]
    torch.testing.assert_close([f.score for f in found], [f.score for f in expected], rtol=1e-5, atol=1e-5)
    for f, e in zip(found, expected, strict=True):
        assert (f.frames_TE is None) == (e.frames_TE is None)
        if f.frames_TE is not None:
            torch.testing.assert_close(f.frames_TE, e.frames_TE, rtol=1e-6, atol=1e-6)


def test_the_truth_is_the_plain_formula(truth: VectorStore) -> None:
    by_mean, by_tokens = make_queries()
    points = make_points()
    means_VE = torch.stack([torch.nn.functional.normalize(p.frames_TE.mean(0), dim=0) for p in points])
    scores_V = means_VE @ torch.nn.functional.normalize(by_mean.mean_E, dim=0)
    found = truth.search(by_mean, limit=23)
    torch.testing.assert_close(torch.tensor([f.score for f in found]), scores_V.sort(descending=True).values)
    assert [f.window.id for f in found] == [points[i].window.id for i in scores_V.argsort(descending=True)]
    assert by_tokens.tokens_QE is not None
    scores_V = torch.stack(
        [(by_tokens.tokens_QE @ torch.nn.functional.normalize(p.frames_TE, dim=1).T).amax(1).sum() for p in points]
    )
    found = truth.search(by_tokens, limit=23)
    torch.testing.assert_close(torch.tensor([f.score for f in found]), scores_V.sort(descending=True).values)
    assert [f.window.id for f in found] == [points[i].window.id for i in scores_V.argsort(descending=True)]


def test_searches_and_filters_as_the_flat_store(full: VectorStore, truth: VectorStore) -> None:
    for name, where in FILTERS.items():
        assert full.count(where) == truth.count(where) == MATCHES[name], name
        scanned = [f.window.id for batch in full.scan(where, batch_size=5) for f in batch]
        assert len(scanned) == MATCHES[name], name
        assert set(scanned) == {p.window.id for p in make_points() if where is None or where.meets(p.window)}, name
        for query in make_queries():
            for exact in (False, True):
                for limit, with_frames in ((4, True), (40, False)):
                    options = {"limit": limit, "where": where, "with_frames": with_frames, "exact": exact}
                    found = full.search(query, **options)
                    assert len(found) == min(limit, MATCHES[name]), name
                    same(found, truth.search(query, **options))


def test_frames_come_back_so_that_wti_is_exact(full: VectorStore) -> None:
    points = make_points()
    torch.manual_seed(3)
    wti = WeightedTokenInteraction(E, hidden=5)
    tokens_MQE, mask_MQ = torch.randn(2, 4, E), torch.ones(2, 4)
    found = full.fetch([p.window.id for p in points], with_frames=True)
    assert [f.window for f in found] == [p.window for p in points]
    for f, p in zip(found, points, strict=True):
        assert f.frames_TE is not None
        mask_VT = torch.ones(1, len(p.frames_TE))
        expected = wti(tokens_MQE, mask_MQ, p.frames_TE[None], mask_VT)
        torch.testing.assert_close(wti(tokens_MQE, mask_MQ, f.frames_TE[None], mask_VT), expected, rtol=0, atol=1e-6)


def test_float16_keeps_the_same_numbers_everywhere(opener: Opener, tmp_path: Path) -> None:
    store = opener(tmp_path / "store", identity=replace(IDENTITY, precision="float16"))
    points = make_points()
    store.upsert(points)
    for f, p in zip(store.fetch([p.window.id for p in points], with_frames=True), points, strict=True):
        assert f.frames_TE is not None
        norms_T1 = p.frames_TE.norm(dim=1, keepdim=True)
        assert torch.equal(f.frames_TE, (p.frames_TE / norms_T1).half().float() * norms_T1)
        assert not torch.equal(f.frames_TE, p.frames_TE)
    store.close()


def test_an_upsert_again_replaces(store: VectorStore, truth: VectorStore) -> None:
    others = make_points(seed=1)
    store.upsert([*others[:9], *others[:9]])
    store.upsert(make_points()[:4])
    assert store.count() == 23
    ids = [p.window.id for p in others]
    assert len(set(ids)) == 23
    same(store.fetch(ids[:4], with_frames=True), truth.fetch(ids[:4], with_frames=True))
    for f, p in zip(store.fetch(ids[4:9], with_frames=True), others[4:9], strict=True):
        torch.testing.assert_close(f.frames_TE, p.frames_TE, rtol=1e-6, atol=1e-6)
    same(store.fetch(ids[9:], with_frames=True), truth.fetch(ids[9:], with_frames=True))


def test_deletes_what_meets_a_filter_and_stays_so(store: VectorStore, opener: Opener, tmp_path: Path) -> None:
    store.delete(WindowFilter(paths=["cats/c.mp4"], content_hashes=["another hash"]))
    store.delete(WindowFilter(paths=[]))
    assert store.count() == 23
    store.delete(WindowFilter(paths=["cats/c.mp4"], except_hashes=["hash-0"]))
    store.delete(WindowFilter(folders=["dogs"]))
    assert store.count() == 13
    store.optimise()
    store.close()
    again = opener(tmp_path / "store")
    assert {video.path for video in again.videos()} == {
        "cats/day one/a.mp4",
        "cats/day one/b.mp4",
        "dögs/ü.mp4",
        "top.mp4",
    }
    assert len(again.search(make_queries()[1], limit=40)) == 13
    again.upsert(make_points())
    assert again.count() == 23
    again.close()


@pytest.mark.parametrize("where", [WindowFilter(), WindowFilter(except_hashes=[])], ids=["empty", "excepts nothing"])
def test_never_deletes_everything_by_an_empty_filter(full: VectorStore, where: WindowFilter) -> None:
    with pytest.raises(StoreError, match="delete needs at least one condition"):
        full.delete(where)
    assert full.count() == 23


def test_tells_complete_videos_from_interrupted_ones(store: VectorStore) -> None:
    store.upsert([WindowPoint(Window("half.mp4", "x", n, 9, 0.0, 1.0, 25.0), torch.ones(2, E)) for n in (0, 4)])
    videos = {video.path: video for video in store.videos()}
    assert [(path, videos[path].stored_windows) for path, _ in VIDEOS] == list(VIDEOS)
    assert [video.path for video in videos.values()] == sorted(videos)
    assert (videos["half.mp4"].stored_windows, videos["half.mp4"].num_windows) == (2, 9)
    assert [path for path, video in videos.items() if not video.complete] == ["half.mp4"]
    assert videos["dogs/a.mp4"].content_hash == "hash-3"


def test_opened_again_it_is_the_same(store: VectorStore, truth: VectorStore, opener: Opener, tmp_path: Path) -> None:
    store.close()
    again = opener(tmp_path / "store", identity=replace(IDENTITY, model={"another": 1}))
    assert again.identity == IDENTITY  # its own, for the caller to compare
    for query in make_queries():
        same(again.search(query, limit=9, with_frames=True), truth.search(query, limit=9, with_frames=True))
    again.close()


def test_fetches_in_order_and_leaves_unknown_ids_out(full: VectorStore) -> None:
    ids = [p.window.id for p in make_points()]
    unknown = Window("nowhere.mp4", "h", 0, 1, 0.0, 1.0, 25.0).id
    assert [f.window.id for f in full.fetch([ids[11], unknown, ids[2]])] == [ids[11], ids[2]]
    assert full.fetch([]) == []


BAD = {
    "width": (torch.ones(2, E + 1), {}, r"frame vectors of shape \(2, 8\); this store takes \(frames, 7\)"),
    "no frame": (torch.ones(0, E), {}, r"shape \(0, 7\)"),
    "NaN": (torch.tensor([[1.0] * (E - 1) + [float("nan")]]), {}, "bad.mp4, window 3: frame vectors hold NaN"),
    "times": (torch.ones(2, E), {"end_seconds": 0.5}, "start, end and fps must be finite and in order"),
    "fps": (torch.ones(2, E), {"fps": float("inf")}, "start, end and fps must be finite"),
    "name": (torch.ones(2, E), {"path": "\udcff.mp4"}, "cannot be written as JSON"),
    "extra": (torch.ones(2, E), {"extra": {"x": {1, 2}}}, "cannot be written as JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses_a_bad_window_and_stores_nothing(full: VectorStore, case: str) -> None:
    frames_TE, change, message = BAD[case]
    window = replace(Window("bad.mp4", "h", 3, 4, 1.0, 2.0, 25.0), **change)
    good = WindowPoint(Window("good.mp4", "h", 0, 1, 0.0, 1.0, 25.0), torch.ones(2, E))
    with pytest.raises(StoreError, match=message):
        full.upsert([good, WindowPoint(window, frames_TE)])
    assert full.count() == 23


def test_an_empty_store_finds_nothing(opener: Opener, tmp_path: Path) -> None:
    store = opener(tmp_path / "store", identity=IDENTITY)
    store.optimise()
    store.upsert([])
    assert (store.count(), store.videos(), list(store.scan())) == (0, [], [])
    assert [store.search(query, limit=3) for query in make_queries()] == [[], []]
    store.close()


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_it_keeps_what_it_acknowledged(kind: str, tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_rounds.py")
    command = [sys.executable, str(script), kind, str(tmp_path / "store"), "4", "11"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["optimising"] for r in rounds] == [False, True, False, True], done.stderr
    assert all(r["killed"] for r in rounds), done.stderr
    assert all(r["count"] >= r["safe"] for r in rounds)
    assert {(r["doubled"], r["unknown"], *r["lost"], *r["wrong"]) for r in rounds} == {(0, 0)}
    assert rounds[-1]["safe"] >= 1400
