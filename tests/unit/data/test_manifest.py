"""Reading data sets in every form, the errors they give, and splitting."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from side4video.data.manifest import ClipRecord, Manifest, drop_short, read_manifest, split_manifest
from side4video.errors import ConfigError, DataError, InputError


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return root


def _write(file: Path, text: str) -> Path:
    file.write_bytes(text.encode())
    return file


def _names(manifest: Manifest, root: Path) -> list[tuple[str, str]]:
    return [(os.path.relpath(r.path, root), manifest.class_names[r.label]) for r in manifest.records]


# folders


def test_folder_of_class_folders(tmp_path: Path) -> None:
    _touch(tmp_path, "run/a.mp4", "run/deep/er/b.MKV", "hop/c d.webm", "hop/.hidden.mp4", ".git/x.mp4")
    manifest = read_manifest(tmp_path)
    assert manifest.class_names == ("hop", "run")
    assert _names(manifest, tmp_path) == [("hop/c d.webm", "hop"), ("run/a.mp4", "run"), ("run/deep/er/b.MKV", "run")]
    assert manifest.class_counts() == [1, 2]
    assert all(record.frame_pattern is None for record in manifest.records)


def test_folder_named_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path / "clips", "run/a.mp4", "hop/b.mp4")
    monkeypatch.chdir(tmp_path)
    for root in (None, tmp_path / "elsewhere"):
        paths = [record.path for record in read_manifest("clips", root=root).records]
        assert paths == ["clips/hop/b.mp4", "clips/run/a.mp4"]
        assert all(Path(path).is_file() for path in paths)


def test_frame_folders_are_one_clip_each(tmp_path: Path) -> None:
    _touch(tmp_path, "run/one/img_00001.jpg", "run/one/img_00002.jpg", "hop/two/img_00001.jpg", "hop/v.mp4")
    manifest = read_manifest(tmp_path, frame_pattern="img_{:05d}.jpg")
    assert [(os.path.relpath(r.path, tmp_path), r.frame_pattern) for r in manifest.records] == [
        ("hop/two", "img_{:05d}.jpg"),
        ("hop/v.mp4", None),
        ("run/one", "img_{:05d}.jpg"),
    ]


def test_odd_file_names(tmp_path: Path) -> None:
    names = ["run/a\nb.mp4", "run/été 日本.mp4", "hop/'quoted\" \t.mp4", "hop/#1,2;3.mp4"]
    _touch(tmp_path, *names)
    assert {name for name, _ in _names(read_manifest(tmp_path), tmp_path)} == set(names)


def test_undecodable_file_names(tmp_path: Path) -> None:
    folder = _touch(tmp_path, "run/a.mp4", "hop/b.mp4")
    with open(os.path.join(os.fsencode(folder), b"run", b"\xff\xfe.mp4"), "wb") as file:  # noqa: PTH118, PTH123
        file.write(b"x")
    assert len(read_manifest(folder)) == 3


def test_folders_named_by_number_keep_their_order(tmp_path: Path) -> None:
    assert read_manifest(_touch(tmp_path, "10/a.mp4", "2/b.mp4", "1/c.mp4")).class_names == ("1", "2", "10")


def test_link_back_up_does_not_loop(tmp_path: Path) -> None:
    _touch(tmp_path, "run/a.mp4", "hop/b.mp4")
    (tmp_path / "run" / "again").symlink_to(tmp_path / "run")
    assert len(read_manifest(tmp_path)) == 2


def test_files_passed_over_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, "run/a.mp4", "run/notes.txt", "hop/b.mp4", "hop/thumb.jpg", "loose.mp4")
    with caplog.at_level(logging.WARNING):
        assert len(read_manifest(tmp_path)) == 2
    assert "passed over 3 files" in caplog.text


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ([], "has no class folders"),
        (["a.mp4", "b.mp4"], "holds 2 videos: move them into one folder per class"),
        (["run/a.mp4"], "has one class only, 'run'"),
        (["run/a.mp4", "hop/notes.txt"], "hop' holds no videos or frame folders"),
        (["run/a.mp4", "hop/1.jpg"], "only pictures"),
        (["train/run/a.mp4", "val/run/b.mp4"], "holds splits, not classes.*data.train"),
    ],
)
def test_bad_folders(tmp_path: Path, names: list[str], match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_manifest(_touch(tmp_path, *names))


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere': no such file or folder"):
        read_manifest(tmp_path / "nowhere")


def test_validation_takes_the_training_classes(tmp_path: Path) -> None:
    folder = _touch(tmp_path, "run/a.mp4")
    manifest = read_manifest(folder, class_names=("hop", "run"))
    assert (manifest.class_names, manifest.records[0].label) == (("hop", "run"), 1)
    (tmp_path / "hop").mkdir()
    assert len(read_manifest(folder, class_names=("hop", "run"))) == 1


def test_validation_class_that_training_lacks(tmp_path: Path) -> None:
    folder = _touch(tmp_path, "run/a.mp4", "hopp/b.mp4")
    with pytest.raises(
        DataError, match="class 'hopp' is not among the 2 classes of the training set; did you mean 'hop'"
    ):
        read_manifest(folder, class_names=("hop", "run"))


# tables


def test_csv_with_windows_quotes_and_newlines(tmp_path: Path) -> None:
    text = '\ufeffpath,label,start,end\r\n"a\nb, c.mp4",run,1.5,2\r\nd.mp4,hop,,\r\n'
    manifest = read_manifest(_write(tmp_path / "clips.csv", text))
    first, second = manifest.records
    assert first == ClipRecord(str(tmp_path / "a\nb, c.mp4"), 1, 1.5, 2.0)
    assert second == ClipRecord(str(tmp_path / "d.mp4"), 0)


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("a.txt", "\t")])
def test_separators(tmp_path: Path, name: str, mark: str) -> None:
    text = f"label{mark}path{mark}num_frames\nrun{mark}a b.mp4{mark}9\nhop{mark}folder{mark}\n"
    manifest = read_manifest(_write(tmp_path / name, text), frame_pattern="{:d}.png")
    assert [r.num_frames for r in manifest.records] == [9, None]
    assert [r.frame_pattern for r in manifest.records] == [None, "{:d}.png"]


def test_root_and_absolute_paths(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.csv", "path,label\nsub/a.mp4,run\n/elsewhere/b.mp4,hop\n../c.mp4,hop\n")
    manifest = read_manifest(file, root="/data")
    assert [r.path for r in manifest.records] == ["/data/sub/a.mp4", "/elsewhere/b.mp4", "/data/../c.mp4"]


def test_unknown_columns_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_manifest(_write(tmp_path / "a.csv", "path,label,weather\na.mp4,run,rain\nb.mp4,hop,sun\n"))
    assert "ignored columns weather" in caplog.text


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a.mp4,run\nb.mp4,hop\n", "line 1: the first line must be a header with the columns path,label"),
        ("path,class\na.mp4,run\n", "line 1: the first line must be a header"),
        ("path,label\na.mp4,run\nb.mp4\n", "line 3: 1 columns where the header has 2"),
        ("path,label\na.mp4,run,extra\n", "line 2: 3 columns where the header has 2"),
        ("path,label\n,run\n", "line 2: path must be a text that is not empty"),
        ("path,label\na.mp4,\n", "line 2: label must be a text that is not empty"),
        ("path,label,start\na.mp4,run,soon\n", "line 2: start must be seconds from 0; got 'soon'"),
        ("path,label,start\na.mp4,run,-1\n", "line 2: start must be seconds from 0"),
        ("path,label,end\na.mp4,run,nan\n", "line 2: end must be seconds"),
        ("path,label,start,end\na.mp4,run,3,2\n", "line 2: end must come after start"),
        ("path,label,num_frames\na.mp4,run,0\n", "line 2: num_frames must be a whole number from 1"),
        ("path,label,path\na.mp4,run,b\n", "line 1: a column appears twice"),
        ('path,label\n"a.mp4,run\n', "not a valid table row"),
        ("path,label\n", "lists no clips"),
        ("path,label\na.mp4,run\nb.mp4,run\n", "one class only, 'run'"),
        ("path,label\na.mp4,run\nb.mp4,hop\n./a.mp4,hop\n", r"line 4: clip './a.mp4' is listed already \(line 2\)"),
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        ("path,label\na\0.mp4,run\n", "zero bytes"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=f"a.csv'.*{match}"):
        read_manifest(_write(tmp_path / "a.csv", text))


def test_two_parts_of_one_video_are_two_clips(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.csv", "path,label,start,end\na.mp4,run,0,1\na.mp4,hop,1,2\n")
    assert len(read_manifest(file)) == 2


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"path,label\n\xff\xfe,run\n")
    with pytest.raises(DataError, match="not a UTF-8 text file"):
        read_manifest(tmp_path / "a.csv")


def test_a_video_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a video; a data set is a folder"):
        read_manifest(_touch(tmp_path, "a.mp4") / "a.mp4")


def test_jsonl(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"path": "a b.mp4", "label": "run", "start": 0.5, "end": None},
        {"path": "c.mp4", "label": "hop"},
    ]
    file = _write(tmp_path / "a.jsonl", "\n\n".join(json.dumps(row) for row in rows) + "\n")
    manifest = read_manifest(file)
    assert [(r.label, r.start_seconds, r.end_seconds) for r in manifest.records] == [(1, 0.5, None), (0, None, None)]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"path": "a.mp4", "label": "x"}\n{"path": "a.mp4"', "line 2: not valid JSON"),
        ("[1, 2]\n", "line 1: must be an object with the keys path,label"),
        ('\n{"path": "a.mp4"}\n', "line 2: label must be a text"),
        ('{"path": 3, "label": "x"}\n', "line 1: path must be a text"),
        ('{"path": "a.mp4", "label": true}\n', "line 1: label must be a text"),
        ('{"path": "a.mp4", "label": "x", "start": [1]}\n', "line 1: start must be seconds"),
        ("[" * 100_000 + "\n", "line 1: not valid JSON"),
    ],
)
def test_bad_jsonl(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=f"a.jsonl'.*{match}"):
        read_manifest(_write(tmp_path / "a.jsonl", text))


# lists of the released code


def test_lists_of_the_released_code(tmp_path: Path) -> None:
    file = _write(tmp_path / "train.txt", "some folder 37 2\r\nvid eo.mp4 0\nclip 7.mp4 12 1\n\n")
    manifest = read_manifest(file, frame_pattern="{:06d}.jpg")
    assert manifest.class_names == ("0", "1", "2")
    assert [(os.path.relpath(r.path, tmp_path), r.label, r.num_frames, r.frame_pattern) for r in manifest.records] == [
        ("some folder", 2, 37, "{:06d}.jpg"),
        ("vid eo.mp4", 0, None, None),
        ("clip 7.mp4", 1, 12, None),
    ]


def test_a_list_may_be_called_csv(tmp_path: Path) -> None:
    assert len(read_manifest(_write(tmp_path / "train.csv", "a.mp4 0\nb.mp4 1\n"))) == 2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a.mp4 0\nb.mp4 one\n", "line 2: must be `folder frames label`"),
        ("a.mp4 0\n1\n", "line 2: must be"),
        ("a.mp4 0\nb.mp4 -1\n", "line 2: must be"),
        ("a.mp4 0\nfolder 0 1\n", "line 2: the frame count must be at least 1"),
        ("a.mp4 0\nb.mp4 99999999999999999999\n", "line 2: must be"),
    ],
)
def test_bad_lists(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=f"a.txt'.*{match}"):
        read_manifest(_write(tmp_path / "a.txt", text))


def test_list_labels_beyond_the_classes(tmp_path: Path) -> None:
    file = _write(tmp_path / "val.txt", "a.mp4 0\nb.mp4 2\n")
    with pytest.raises(DataError, match="line 2: class '2' is not among the 2 classes of the training set"):
        read_manifest(file, class_names=("run", "hop"))


def test_short_videos_are_dropped_only_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = read_manifest(_write(tmp_path / "a.txt", "x 7 0\ny 8 1\nz.mp4 0\n"))
    assert len(manifest) == 3
    with caplog.at_level(logging.WARNING):
        kept = drop_short(manifest, 8)
    assert [r.num_frames for r in kept.records] == [8, None]
    assert kept.class_names == manifest.class_names
    assert "dropped 1 of 3 clips" in caplog.text
    with pytest.raises(DataError, match="all 2 clips have fewer than 9 frames"):
        drop_short(read_manifest(_write(tmp_path / "a.txt", "x 7 0\ny 8 1\n")), 9)


# class names


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.txt", "stand still\nrun, fast\nhop\n"),
        ("c.csv", 'id,name\n2,hop\n0,stand still\n1,"run, fast"\n'),
        ("c.csv", '0,stand still\n1,"run, fast"\n2,hop\n'),
        ("c.json", '{"hop": "2", "stand still": "0", "run, fast": 1}'),
        ("c.json", '["stand still", "run, fast", "hop"]'),
    ],
)
def test_class_files(tmp_path: Path, name: str, text: str) -> None:
    classes = _write(tmp_path / name, text)
    clips = _write(tmp_path / "a.txt", "a.mp4 1\nb.mp4 2\n")
    manifest = read_manifest(clips, classes=classes)
    assert manifest.class_names == ("stand still", "run, fast", "hop")
    assert manifest.class_counts() == [0, 1, 1]
    table = _write(tmp_path / "a.csv", 'path,label\na.mp4,2\nb.mp4,"run, fast"\n')
    assert [r.label for r in read_manifest(table, classes=classes).records] == [2, 1]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("id,name\n0,a\n2,b\n", "line 3: class numbers must run from 0 without gaps; 2 comes where 1 is missing"),
        ("id,name\n0,a\n0,b\n", "line 3: .*0 appears twice"),
        ("a\nb\na\n", "line 3: class 'a' appears twice"),
        ("id,name\n0,a\nx,b\n", "line 3: a class is a number and a name"),
        ("0,a,b\n", "line 1: a class is a number and a name"),
    ],
)
def test_bad_class_files(tmp_path: Path, text: str, match: str) -> None:
    clips = _write(tmp_path / "a.txt", "a.mp4 0\nb.mp4 1\n")
    with pytest.raises(DataError, match=match):
        read_manifest(clips, classes=_write(tmp_path / "c.txt", text))


def test_numbers_that_are_names_are_not_taken_for_places(tmp_path: Path) -> None:
    """Training classes 1, 5, 7; a validation class 2 must not become the third class."""
    val = _write(tmp_path / "val.csv", "path,label\na.mp4,5\nb.mp4,2\n")
    with pytest.raises(DataError, match="line 3: class '2' is not among"):
        read_manifest(val, class_names=("1", "5", "7"))


# published forms


def test_something_json(tmp_path: Path) -> None:
    _touch(tmp_path / "videos", "11.webm", "12.mp4", "13/000001.jpg")
    rows = [
        {"id": "11", "label": "pushing cup", "template": "Pushing [something]", "placeholders": ["cup"]},
        {"id": 12, "template": "Dropping [something] onto [something]"},
        {"id": "13", "template": "Pushing [something]"},
        {"id": "14", "template": "Pushing [something]"},
    ]
    labels = _write(tmp_path / "labels.json", '{"Pushing something": "0", "Dropping something onto something": "1"}')
    file = _write(tmp_path / "train.json", json.dumps(rows))
    manifest = read_manifest(file, root=tmp_path / "videos", classes=labels, frame_pattern="{:06d}.jpg")
    assert [(Path(r.path).name, r.label, r.frame_pattern) for r in manifest.records] == [
        ("11.webm", 0, None),
        ("12.mp4", 1, None),
        ("13", 0, "{:06d}.jpg"),
        ("14.webm", 0, None),
    ]
    assert read_manifest(file).class_names == ("Dropping something onto something", "Pushing something")


def test_something_first_version(tmp_path: Path) -> None:
    _touch(tmp_path, "100/00001.jpg")
    file = _write(tmp_path / "v1-train.csv", "100;Pushing something\n101;Lifting something; slowly\n")
    manifest = read_manifest(file, frame_pattern="{:05d}.jpg")
    assert manifest.class_names == ("Lifting something; slowly", "Pushing something")
    assert manifest.records[0].frame_pattern == "{:05d}.jpg"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"a": 1}', "must be a list of objects with id and template"),
        ('[{"id": "1", "template": "a"}, {"id": "2"}]', "entry 2: needs `id` and `template`"),
        ('[{"id": "1",\n "template": }]', "line 2: not valid JSON"),
        ("[]", "lists no clips"),
        ('[{"id": "1", "template": "a"}, {"id": "1", "template": "b"}]', "entry 2: clip .* is listed already"),
    ],
)
def test_bad_something(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_manifest(_write(tmp_path / "a.json", text))


KINETICS = "label,youtube_id,time_start,time_end,split\n"


def test_kinetics_csv(tmp_path: Path) -> None:
    _touch(
        tmp_path / "k", "aaa_000010_000020.mp4", "bbb.mkv", "swimming_pool/ccc_000001_000011.mp4",
        "val/hop/ddd.mp4", "eee_000000_000010/img_00001.jpg",
    )  # fmt: skip
    rows = (
        "hop,aaa,10,20,val\nhop,bbb,3,13,val\nswimming pool,ccc,1.0,11.0,val\nhop,ddd,2,12,val\n"
        "hop,eee,0,10,val\nhop,-g_0,5,15,val\n"
    )
    manifest = read_manifest(_write(tmp_path / "val.csv", KINETICS + rows), root=tmp_path / "k", frame_pattern="{}.jpg")
    assert [os.path.relpath(r.path, tmp_path / "k") for r in manifest.records] == [
        "aaa_000010_000020.mp4",
        "bbb.mkv",
        "swimming_pool/ccc_000001_000011.mp4",
        "val/hop/ddd.mp4",
        "eee_000000_000010",
        "-g_0_000005_000015.mp4",
    ]
    assert manifest.class_names == ("hop", "swimming pool")
    assert all(r.start_seconds is None for r in manifest.records)
    assert [r.frame_pattern for r in manifest.records] == [None, None, None, None, "{}.jpg", None]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("label,youtube_id,split\na,b,val\n", "line 1: lacks time_start, time_end of label,youtube_id"),
        (KINETICS + "a,b,1,2\n", "line 2: 4 columns where the header has 5"),
        (KINETICS + "a,b,x,2,val\n", "line 2: time_start and time_end must be seconds"),
        (KINETICS + ",b,1,2,val\n", "line 2: label and youtube_id must not be empty"),
    ],
)
def test_bad_kinetics(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_manifest(_write(tmp_path / "a.csv", text))


# settings


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"format must be one of auto, folder.*got 'xml'"):
        read_manifest(tmp_path, format="xml")  # pyright: ignore[reportArgumentType]


def test_format_of_the_wrong_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="format=list reads a file"):
        read_manifest(tmp_path, format="list")
    with pytest.raises(DataError, match="format=folder reads a folder"):
        read_manifest(_write(tmp_path / "a.txt", "x 1\n"), format="folder")


@pytest.mark.parametrize("pattern", ["img.jpg", "img_{}_{}.jpg", "{name}.jpg", "{:q}.jpg", "{0.x}.jpg", "{"])
def test_bad_frame_patterns(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match="frame_pattern must hold the frame's number"):
        read_manifest(_touch(tmp_path, "run/a.mp4", "hop/b.mp4"), frame_pattern=pattern)


# splits


def _manifest(counts: dict[str, int]) -> Manifest:
    records = [
        ClipRecord(f"{name}/{i}.mp4", label) for label, (name, count) in enumerate(counts.items()) for i in range(count)
    ]
    return Manifest(tuple(records), tuple(counts))


def test_split_takes_a_share_of_each_class() -> None:
    manifest = _manifest({"a": 30, "b": 10, "c": 3, "d": 2})
    train, val = split_manifest(manifest, 0.2, seed=4)
    assert (train.class_counts(), val.class_counts()) == ([24, 8, 2, 1], [6, 2, 1, 1])
    assert sorted((*train.records, *val.records), key=lambda r: r.path) == sorted(
        manifest.records, key=lambda r: r.path
    )
    assert train.class_names == val.class_names == manifest.class_names


def test_split_depends_on_the_seed_only() -> None:
    manifest = _manifest({"a": 30, "b": 10})
    assert split_manifest(manifest, 0.2, seed=4) == split_manifest(manifest, 0.2, seed=4)
    assert split_manifest(manifest, 0.2, seed=4)[1] != split_manifest(manifest, 0.2, seed=5)[1]


def test_a_class_of_one_clip_stays_in_training(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train, val = split_manifest(_manifest({"a": 5, "lonely": 1}), 0.9, seed=0)
    assert (train.class_counts(), val.class_counts()) == ([1, 1], [4, 0])
    assert "too few clips to hold out any for validation in 1 classes: lonely" in caplog.text
    with pytest.raises(DataError, match="no class has two videos"):
        split_manifest(_manifest({"a": 1, "b": 1}), 0.5, seed=0)


def test_parts_of_one_video_stay_together() -> None:
    """Eight videos of three parts each, with different classes: no video on both sides, no class without training."""
    records = [ClipRecord(f"v{v}.mp4", part % 2, part, part + 1) for v in range(8) for part in range(3)]
    for seed in range(5):
        train, val = split_manifest(Manifest(tuple(records), ("a", "b")), 0.4, seed=seed)
        assert {r.path for r in train.records} & {r.path for r in val.records} == set()
        assert val.records
        assert min(train.class_counts()) > 0


def test_no_class_loses_its_last_training_clips() -> None:
    """Class x lies only in videos that are chosen for the sake of the rarer p and r."""
    labels = {"v0": "pxxx", "v1": "rxxx", "v2": "p", "v3": "r"}
    names = ("p", "r", "x")
    records = [
        ClipRecord(video, names.index(label), part, part + 1)
        for video, parts in labels.items()
        for part, label in enumerate(parts)
    ]
    for seed in range(16):
        train, _ = split_manifest(Manifest(tuple(records), names), 0.5, seed=seed)
        assert min(train.class_counts()) > 0


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, float("nan")])
def test_bad_fractions(fraction: float) -> None:
    with pytest.raises(InputError, match="must be between 0 and 1"):
        split_manifest(_manifest({"a": 4, "b": 4}), fraction, seed=0)
