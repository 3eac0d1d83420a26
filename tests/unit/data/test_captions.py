"""Captioned videos from tables and from published data sets; missing videos, bad lines, hostile pickles."""

from __future__ import annotations

import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from side4video.data.captions import CaptionSet, read_captions
from side4video.data.plain_pickle import read_plain_pickle
from side4video.errors import ConfigError, DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return root


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def shown(captions: CaptionSet, root: Path) -> list[tuple[str, tuple[str, ...]]]:
    return [(os.path.relpath(r.path, root), r.captions) for r in captions.records]


# tables


def test_lines_of_one_part_of_a_video_are_its_captions(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "deep/b c.mkv")
    table = write(
        tmp_path / "captions.csv",
        'Video,caption,start,end\na.mp4,"a dog, running",,\ndeep/b c.mkv,a cat,1.5,4\na.mp4,it runs,,\n'
        "deep/b c.mkv,later,4,9\n",
    )
    captions = read_captions(table)
    assert shown(captions, tmp_path) == [
        ("a.mp4", ("a dog, running", "it runs")),
        ("deep/b c.mkv", ("a cat",)),
        ("deep/b c.mkv", ("later",)),
    ]
    assert [(r.start_seconds, r.end_seconds) for r in captions.records] == [(None, None), (1.5, 4.0), (4.0, 9.0)]
    assert captions.num_captions == 4
    assert captions.pairs() == [(0, 0), (0, 1), (1, 0), (2, 0)]
    assert captions.summary() == "3 videos, 4 captions"
    lines = [{"video": "a.mp4", "caption": "a dog, running"}, {"video": "a.mp4", "caption": "it runs", "start": None}]
    jsonl = write(tmp_path / "captions.jsonl", "\n".join(json.dumps(line) for line in lines))
    assert shown(read_captions(jsonl), tmp_path) == shown(captions, tmp_path)[:1]


def test_root_and_frame_folders(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "clip/img_00001.jpg")
    table = write(tmp_path / "c.tsv", "video\tcaption\nclip\ta dog, running\n")
    captions = read_captions(table, root=tmp_path / "videos", frame_pattern="img_{:05d}.jpg")
    assert captions.records[0].path == str(tmp_path / "videos" / "clip")
    assert captions.records[0].frame_pattern == "img_{:05d}.jpg"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.csv", "path,label\na.mp4,x\n", r"line 1: must be a header with the columns video,caption\[,start,end\]"),
        ("c.csv", "video,caption\na.mp4,\n", "line 2: caption must be a text that is not empty; got ''"),
        ("c.csv", "video,caption\na.mp4,a dog, running\n", "line 2: 3 columns where the header has 2.*must be quoted"),
        (
            "c.csv",
            "video,caption,start,end\na.mp4,x,5,5\n",
            "line 2: end must come after start; got start=5.0, end=5.0",
        ),
        ("c.csv", "video,caption,start\na.mp4,x,-1\n", "line 2: start must be seconds from 0; got '-1'"),
        ("c.csv", "video,caption,start\na.mp4,x,nan\n", "start must be seconds from 0"),
        ("c.csv", "video,caption\n", "lists no captions"),
        ("c.jsonl", '{"video": "a.mp4", "caption": 3}\n', "line 1: caption must be a text .*got 3"),
        ("c.jsonl", '{"video": "a.mp4", "caption": "x"}\n[1]\n', "line 2: must be an object"),
        ("c.jsonl", "{", "line 1: not valid JSON"),
        ("c.txt", "a.mp4 a dog", r"captions are a CSV or JSONL file .*msrvtt, msvd, vatex"),
    ],
)
def test_bad_tables(tmp_path: Path, name: str, text: str, message: str) -> None:
    touch(tmp_path, "a.mp4")
    with pytest.raises(DataError, match=message):
        read_captions(write(tmp_path / name, text))


def test_missing_videos_are_listed_and_left_out_only_when_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a.mp4")
    table = write(tmp_path / "c.csv", "video,caption\na.mp4,x\ngone.mp4,y\ngone.mp4,z\nalso.mp4,w\n")
    with pytest.raises(DataError, match=r"2 of 3 videos are not in .*gone\.mp4, also\.mp4; .*missing=leave_out"):
        read_captions(table)
    with caplog.at_level(logging.WARNING):
        captions = read_captions(table, missing="leave_out")
    assert captions.missing == ("gone.mp4", "also.mp4")
    assert "left out 2 of 3 videos" in caplog.text
    assert "gone.mp4, also.mp4" in caplog.text
    assert captions.summary() == "1 videos, 1 captions; 2 videos are missing and left out"
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(DataError, match="3 of 3 videos"):
        read_captions(table, missing="leave_out")
    with pytest.raises(DataError, match="no such file or folder"):
        read_captions(tmp_path / "nothing.csv")
    with pytest.raises(ConfigError, match="missing must be one of error, leave_out; got 'skip'"):
        read_captions(table, missing="skip")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="format must be one of auto, table"):
        read_captions(table, format="coco")  # type: ignore[arg-type]


# published data sets


@pytest.fixture
def msrvtt(tmp_path: Path) -> Path:
    write(tmp_path / "MSRVTT_train.9k.csv", "video_id\nvideo7\nvideo3\n")
    write(tmp_path / "MSRVTT_train.7k.csv", "video_id\nvideo3\n")
    write(
        tmp_path / "MSRVTT_JSFUSION_test.csv",
        'key,vid_key,video_id,sentence\nret0,msr9770,video9770,"a person, connecting"\nret1,msr3,video3,a cat\n',
    )
    sentences = [("video3", "a"), ("video7", "b"), ("video3", "c"), ("video5", "d"), ("video7", "e")]
    content = {
        "info": {},
        "videos": [],
        "sentences": [{"caption": text, "video_id": name, "sen_id": i} for i, (name, text) in enumerate(sentences)],
    }
    write(tmp_path / "MSRVTT_data.json", json.dumps(content))
    return touch(tmp_path, "all/video3.mp4", "all/video7.mp4", "all/more/video9770.webm")


def test_msrvtt(msrvtt: Path) -> None:
    train = read_captions(msrvtt, format="msrvtt", split="train-9k")
    assert shown(train, msrvtt) == [("all/video7.mp4", ("b", "e")), ("all/video3.mp4", ("a", "c"))]
    assert train == read_captions(msrvtt, format="msrvtt", root=msrvtt / "all")
    assert [r.name for r in read_captions(msrvtt, format="msrvtt", split="train-7k").records] == ["video3"]
    test = read_captions(msrvtt, format="msrvtt", split="test-1k-a")
    assert shown(test, msrvtt) == [
        ("all/more/video9770.webm", ("a person, connecting",)),
        ("all/video3.mp4", ("a cat",)),
    ]
    with pytest.raises(DataError, match="splits train-9k, train-7k and test-1k-a; got 'dev'"):
        read_captions(msrvtt, format="msrvtt", split="dev")
    (msrvtt / "all" / "video7.mp4").unlink()
    assert read_captions(msrvtt, format="msrvtt", missing="leave_out").missing == ("video7",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_msvd(tmp_path: Path, protocol: int) -> None:
    captions = {"yt_1_5": [["a", "man"], ["he", "runs"]], "yt-2_9": [["a", "\u00e9t\u00e9"]], "yt_3": [["no"]]}
    (tmp_path / "raw-captions.pkl").write_bytes(pickle.dumps(captions, protocol=protocol))
    write(tmp_path / "test_list.txt", "yt-2_9\nyt_1_5\n")
    write(tmp_path / "youtube_mapping.txt", "yt_1_5 vid1\nyt-2_9 vid2\n")
    touch(tmp_path, "YouTubeClips/yt_1_5.avi", "YouTubeClips/vid2.avi")
    found = read_captions(tmp_path, format="msvd", split="test")
    assert shown(found, tmp_path) == [
        ("YouTubeClips/vid2.avi", ("a \u00e9t\u00e9",)),
        ("YouTubeClips/yt_1_5.avi", ("a man", "he runs")),
    ]
    write(tmp_path / "train_list.txt", "unknown\n")
    with pytest.raises(DataError, match="captions of unknown: must be a list; got None"):
        read_captions(tmp_path, format="msvd", split="train")


def test_vatex(tmp_path: Path) -> None:
    entries = [
        {"videoID": "id_000006_000016", "enCap": ["a", "b"], "chCap": ["x"]},
        {"videoID": "-id_000001_000011", "enCap": ["c"]},
    ]
    file = write(tmp_path / "vatex_validation_v1.0.json", json.dumps(entries))
    touch(tmp_path, "v/id_000006_000016.mp4", "v/-id_000001_000011.mp4")
    assert [r.captions for r in read_captions(file, format="vatex").records] == [("a", "b"), ("c",)]
    chosen = write(tmp_path / "test.txt", "-id_000001_000011\n")
    found = read_captions(tmp_path, format="vatex", split="test", only=chosen)
    assert shown(found, tmp_path) == [("v/-id_000001_000011.mp4", ("c",))]
    write(chosen, "nobody\n")
    with pytest.raises(DataError, match="1 videos have no captions, such as nobody"):
        read_captions(tmp_path, format="vatex", split="test", only=chosen)


def test_vatex_as_the_released_code_keeps_it(tmp_path: Path) -> None:
    names = [f"id{number}_000000_000010" for number in range(5)]
    content = {name: {"videoID": name, "enCap": [f"{name} a", f"{name} b"], "chCap": ["x"]} for name in names}
    file = write(tmp_path / "vatex_data" / "vatex_data.json", json.dumps(content))
    for split, chosen in (("train", names[:3]), ("val", names[4:]), ("test", [names[3]])):
        write(file.parent / f"{split}_list.txt", "\n".join(chosen) + "\n")
    for split, chosen in (("train_video", names[:3]), ("val_video", names[4:]), ("test_video", [names[3]])):
        touch(tmp_path, *(f"VATEX_Frames/{split}/{name}/img_00001.jpg" for name in chosen))
    found = read_captions(file.parent, format="vatex", split="test", root=tmp_path, frame_pattern="img_{:05d}.jpg")
    assert shown(found, tmp_path) == [(f"VATEX_Frames/test_video/{names[3]}", (f"{names[3]} a", f"{names[3]} b"))]
    assert found.records[0].frame_pattern == "img_{:05d}.jpg"
    assert len(read_captions(file.parent, format="vatex", split="train", root=tmp_path)) == 3
    # a list beside the files of the data set's authors chooses from them
    (file.parent / "vatex_validation_v1.0.json").write_text(json.dumps(list(content.values())))
    file.unlink()
    found = read_captions(file.parent, format="vatex", split="val", root=tmp_path)
    assert [record.name for record in found.records] == [names[4]]
    write(file.parent / "val_list.txt", "nobody\n")
    with pytest.raises(DataError, match=r"1 videos of val_list\.txt have no captions, such as nobody"):
        read_captions(file.parent, format="vatex", split="val", root=tmp_path)


def test_didemo(tmp_path: Path) -> None:
    write(tmp_path / "val_list.txt", "1@N0_2.mov\n3@N0_4.mp4\n")
    entries = [
        {"video": "1@N0_2.mov", "description": "first"},
        {"video": "9@N0_9.mov", "description": "other"},
        {"video": "3@N0_4.mp4", "description": "alone"},
        {"video": "1@N0_2.mov", "description": "second"},
    ]
    write(tmp_path / "val_data.json", json.dumps(entries))
    touch(tmp_path, "1@N0_2.mp4", "3@N0_4.avi")
    found = read_captions(tmp_path, format="didemo", split="val")
    assert shown(found, tmp_path) == [("1@N0_2.mp4", ("first second",)), ("3@N0_4.avi", ("alone",))]
    (tmp_path / "1@N0_2.mp4").rename(tmp_path / "1@N0_2.mov.mp4")
    assert read_captions(tmp_path, format="didemo", split="val").records[0].path.endswith("1@N0_2.mov.mp4")


def test_lsmdc(tmp_path: Path) -> None:
    clip = "0001_American_Beauty_00.00.51.926-00.00.54.129"
    line = f'{clip}\t00.00.51.926\t00.00.54.129\t\t\tSOMEONE looks, "away"'
    file = write(tmp_path / "LSMDC16_annos_training.csv", f"{line}\n")
    touch(tmp_path, f"0001_American_Beauty/{clip}.avi")
    found = read_captions(tmp_path, format="lsmdc")
    assert shown(found, tmp_path) == [(f"0001_American_Beauty/{clip}.avi", ('SOMEONE looks, "away"',))]
    write(file, "one\ttwo\n")
    with pytest.raises(DataError, match="line 1: must have 6 columns between tabs; got 2"):
        read_captions(tmp_path, format="lsmdc")


def test_activitynet(tmp_path: Path) -> None:
    content = {
        "v_aa": {"duration": 9.0, "timestamps": [[0, 4], [4, 9]], "sentences": ["First. ", " Then."]},
        "v_bb": {"duration": 5.0, "timestamps": [[0, 5]], "sentences": ["Only."]},
    }
    write(tmp_path / "val_1.json", json.dumps(content))
    touch(tmp_path, "v_aa.mp4", "bb.mkv")
    found = read_captions(tmp_path, format="activitynet", split="val")
    assert shown(found, tmp_path) == [("v_aa.mp4", ("First. Then.",)), ("bb.mkv", ("Only.",))]
    write(tmp_path / "val_ids.json", json.dumps(["bb"]))
    assert [r.name for r in read_captions(tmp_path, format="activitynet", split="test").records] == ["v_bb"]


def test_a_video_that_is_listed_twice_is_one_video(msrvtt: Path, caplog: pytest.LogCaptureFixture) -> None:
    test = msrvtt / "MSRVTT_JSFUSION_test.csv"
    test.write_text(test.read_text() + "ret2,msr3,video3,a cat again\n")
    with caplog.at_level(logging.WARNING):
        found = read_captions(msrvtt, format="msrvtt", split="test-1k-a")
    assert [(r.name, len(r.captions)) for r in found.records] == [("video9770", 1), ("video3", 2)]
    assert "1 videos are listed more than once; their captions are put together" in caplog.text
    caplog.clear()
    write(msrvtt / "MSRVTT_train.9k.csv", "video_id\nvideo7\nvideo3\nvideo7\n")
    assert read_captions(msrvtt, format="msrvtt").num_captions == 4
    assert "1 lines repeat a video and are left out" in caplog.text
    caplog.clear()
    write(msrvtt / "train_list.txt", "video3\nvideo3\nvideo3\n")
    (msrvtt / "raw-captions.pkl").write_bytes(pickle.dumps({"video3": [["a"], ["a"]]}))
    # the same caption twice is two captions, as MSVD has many and its papers count them
    assert read_captions(msrvtt, format="msvd").records[0].captions == ("a", "a")
    assert "2 lines repeat a video and are left out" in caplog.text


def test_spellings_of_one_path_are_one_video(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    table = write(tmp_path / "c.csv", "video,caption\na.mp4,x\n./a.mp4,y\nsub/../a.mp4,z\n")
    assert shown(read_captions(table), tmp_path) == [("a.mp4", ("x", "y", "z"))]


def test_empty_captions_of_a_data_set_are_left_out_and_counted(msrvtt: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = msrvtt / "MSRVTT_data.json"
    file.write_text(file.read_text().replace('"caption": "b"', '"caption": "  "'))
    with caplog.at_level(logging.WARNING):
        found = read_captions(msrvtt, format="msrvtt")
    assert found.records[0].captions == ("e",)
    assert "left out 1 empty captions" in caplog.text
    file.write_text(file.read_text().replace('"caption": "e"', '"caption": ""'))
    with pytest.raises(DataError, match="video video7 has no caption"):
        read_captions(msrvtt, format="msrvtt")


@pytest.mark.parametrize("name", ["msrvtt", "msvd", "vatex", "didemo", "lsmdc", "activitynet"])
def test_missing_files_and_splits_say_what_is_allowed(tmp_path: Path, name: Any) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_captions(tmp_path, format=name)
    with pytest.raises(DataError, match=r"has the splits .*; got 'dev'"):
        read_captions(tmp_path, format=name, split="dev")


# pickles


class Payload:
    """Would run a command when a careless reader loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo harm > harmed",)


def test_a_pickle_that_names_anything_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "raw-captions.pkl"
    for protocol in range(6):
        file.write_bytes(pickle.dumps({"video": [["a", Payload()]]}, protocol=protocol))
        with pytest.raises(DataError, match=r"refused, .*names (posix|nt)\.system"):
            read_plain_pickle(file)
    for value in (Path("x"), range(3), 1 + 2j, bytearray(b"x")):
        file.write_bytes(pickle.dumps(value, protocol=2))
        with pytest.raises(DataError, match="refused"):
            read_plain_pickle(file)
    file.write_bytes(b"\x80\x02X\x01\x00\x00\x00aQ.")  # an outside object called "a"
    with pytest.raises(DataError, match="outside object 'a'"):
        read_plain_pickle(file)
    assert not (tmp_path / "harmed").exists()


def test_plain_pickles_of_any_python(tmp_path: Path) -> None:
    file = tmp_path / "x.pkl"
    value = {"a": [("b", 1, 2.5, None, True), {"c"}], "d": [["e"]]}
    for protocol in (2, 4, 5):
        # sets need a name below protocol 4
        plain = value if protocol >= 4 else {**value, "a": [("b", 1, 2.5, None, True)]}
        file.write_bytes(pickle.dumps(plain, protocol=protocol))
        assert read_plain_pickle(file) == plain
    # Python 2 writes text as bytes: protocol 2, SHORT_BINSTRING
    for text, expected in ((b"\xc3\xa9t\xc3\xa9", "\u00e9t\u00e9"), (b"\xe9t\xe9", "\u00e9t\u00e9")):
        file.write_bytes(b"\x80\x02U" + bytes([len(text)]) + text + b".")
        assert read_plain_pickle(file) == expected


@pytest.mark.parametrize(
    "content",
    [b"", b"not a pickle", b"\x80\x02", b"\x80\x02]q\x00(K\x01", b"\x80\x09.", b"a.", b".", b"]r\xff\xff\xff\xff."],
)
def test_damaged_pickles_are_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.pkl"
    file.write_bytes(content)
    with pytest.raises(DataError, match="not a readable pickle"):
        read_plain_pickle(file)
    with pytest.raises(DataError, match="no such file"):
        read_plain_pickle(tmp_path / "y.pkl")
