"""What does a file that is no readable video get? A short reason, quickly and quietly, and never a wrong frame."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from assets.make_assets import draw_frame, read_number
from side4video.data import decode as decode_module
from side4video.data.decode import VideoReader, probe_video
from side4video.errors import VideoError

Video = Callable[[str], Path]


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_cover_only(path: Path) -> None:
    """Sound with a cover picture, which FFmpeg counts as a video stream."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        cover = container.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = 0x400
        container.mux(cover.encode(av.VideoFrame(64, 48, "yuvj420p")))
        container.mux(cover.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def unreadable(kind: str, folder: Path, video: Video) -> Path:
    path = folder / f"{kind}.mp4"
    data = video("h264.mp4").read_bytes()
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "noise":
            path.write_bytes(random.Random(1).randbytes(20000))
        case "zeros":
            path.write_bytes(bytes(20000))
        case "text":
            path = folder / "notes.txt"
            path.write_text("a list of words\n" * 500)
        case "playlist":
            path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{video('h264.ts')}\n#EXT-X-ENDLIST\n")
        case "picture":
            from PIL import Image

            Image.new("RGB", (64, 48)).save(folder / "picture.png")
            path = folder / "picture.png"
        case "sound":
            write_sound(path)
        case "cover":
            write_cover_only(path)
        case "no index":  # what is left when a recording stops before the index is written
            path.write_bytes(data[: data.index(b"moov") - 4])
        case "half":
            path.write_bytes(data[: len(data) // 2])
        case "unknown codec":
            path.write_bytes(data.replace(b"avc1", b"zzz9"))
        case "folder":
            path.mkdir()
        case "no frames":
            with av.open(str(path), "w") as container:
                stream = container.add_stream("libx264", rate=25)
                stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
                container.start_encoding()
        case "pipe":
            os.mkfifo(path)
        case _:
            assert kind in ("missing", "a" * 300)
    return path


REASONS = {
    "missing": "no such file",
    "empty": "empty file",
    "folder": "not a regular file",
    "pipe": "not a regular file",
    "a" * 300: "cannot be reached: File name too long",
    "noise": "damaged, truncated or not a video",
    "zeros": "damaged, truncated or not a video",
    "text": "damaged, truncated or not a video",
    "playlist": "damaged, truncated or not a video",
    "picture": "damaged, truncated or not a video",
    "sound": "no video stream, audio only",
    "cover": "no video stream, audio only",
    "no index": "damaged, truncated or not a video",
    "half": r"truncated: its last \d+ bytes are missing",
    "unknown codec": "unsupported codec",
    "no frames": "no frames|damaged|no video stream",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", REASONS)
def test_reason(tmp_path: Path, video: Video, kind: str) -> None:
    path = unreadable(kind, tmp_path, video)
    with pytest.raises(VideoError, match=REASONS[kind]) as caught:
        probe_video(path)
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.reason
    assert len(caught.value.reason) < 80


def test_a_path_is_never_taken_for_a_protocol(tmp_path: Path, video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4", "http:x.mp4", "%05d.mp4", "naïve ü.mp4"):
        Path(name).write_bytes(video("h264.mp4").read_bytes())
        assert probe_video(name).num_frames == 30
    with pytest.raises(VideoError, match="no such file"):
        probe_video("http://127.0.0.1:9/v.mp4")


def test_frames_larger_than_allowed(video: Video) -> None:
    with pytest.raises(VideoError, match=r"frames of 96x72 are larger than allowed \(95 a side"):
        VideoReader(video("h264.mp4"), max_side=95)
    with pytest.raises(VideoError, match="larger than allowed"):
        VideoReader(video("h264.mp4"), max_pixels=96 * 72 - 1)
    assert VideoReader(video("h264.mp4"), max_side=96, max_pixels=96 * 72).info.width == 96


def test_no_camera_makes_frames_this_wide(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "wide.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16400, 16, "gray"
        container.mux(stream.encode(av.VideoFrame(16400, 16, "gray")))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"frames of 16400x16 are larger than allowed \(16384 a side,"):
        probe_video(tmp_path / "wide.mkv")
    assert VideoReader(tmp_path / "wide.mkv", max_side=16400).info.width == 16400


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "vp9.webm", "av1.mp4", "mpeg4.avi", "front-index.mp4"])
def test_truncated_where_the_file_tells(video: Video, tmp_path: Path, name: str) -> None:
    data, path = video(name).read_bytes(), tmp_path / name
    rng = random.Random(name)
    for _ in range(12):
        path.write_bytes(data[: rng.randrange(1, int(0.9 * len(data)))])
        with pytest.raises(VideoError, match=r"truncated|damaged"):
            probe_video(path)


@pytest.mark.parametrize("name", ["h264.ts", "hevc.ts", "mpeg4.ts", "opengop-h264.ts"])
def test_truncated_where_it_does_not_what_is_there_is_exact(video: Video, tmp_path: Path, name: str) -> None:
    data, path = video(name).read_bytes(), tmp_path / name
    with VideoReader(video(name)) as whole:
        originals = {frame.numpy().tobytes() for frame in whole.read(range(whole.info.num_frames))}
    rng = random.Random(name)
    counts: Counter[str] = Counter()
    for _ in range(12):
        path.write_bytes(data[: rng.randrange(1, len(data))])
        try:
            with VideoReader(path) as reader:
                assert reader.info.num_frames <= len(originals)
                for number in range(reader.info.num_frames):
                    try:
                        frame = reader.read([number])[0].numpy()
                    except VideoError:
                        counts["frame error"] += 1
                        continue
                    assert frame.tobytes() in originals
                    counts["exact"] += 1
        except VideoError:
            counts["video error"] += 1
    assert counts["exact"] > 50
    assert counts["frame error"] <= 1  # where the cut lies between two packets of the stream


@pytest.mark.parametrize(
    "name", ["h264.mp4", "h264.ts", "hevc.mkv", "vp9.webm", "av1.mp4", "mpeg4.avi", "fragmented.mp4"]
)
def test_flipped_bits_give_frames_or_video_errors_only(video: Video, tmp_path: Path, name: str) -> None:
    data, path = video(name).read_bytes(), tmp_path / name
    rng = random.Random(name)
    errors = 0
    for _ in range(20):
        changed = bytearray(data)
        for _ in range(rng.choice([1, 4, 20])):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            with VideoReader(path, max_held_bytes=rng.choice([0, 1 << 20])) as reader:
                total = reader.info.num_frames
                for number in rng.sample(range(total), min(5, total)):
                    assert reader.read([number]).shape == (1, 3, reader.info.height, reader.info.width)
        except VideoError:
            errors += 1
    assert errors > 0, "no damage was noticed at all"


def test_a_corrupt_picture_is_an_error(video: Video, tmp_path: Path) -> None:
    data = bytearray(video("allintra.mp4").read_bytes())
    with av.open(str(video("allintra.mp4"))) as container:
        place = next(p for i, p in enumerate(container.demux(video=0)) if i == 7)
        middle = place.pos + place.size // 2
    data[middle : middle + 40] = random.Random(2).randbytes(40)
    path = tmp_path / "spoilt.mp4"
    path.write_bytes(data)
    with VideoReader(path) as reader:
        with pytest.raises(VideoError, match=r"damaged picture|cannot be decoded"):
            reader.read([7])
        with pytest.raises(VideoError, match=r"damaged picture|cannot be decoded"):
            reader.read([3, 7])
        with VideoReader(video("allintra.mp4")) as whole:  # its neighbours do not depend on it
            np.testing.assert_array_equal(reader.read([6, 8]).numpy(), whole.read([6, 8]).numpy())


def test_a_file_that_changes_while_it_is_read(video: Video, tmp_path: Path) -> None:
    path = tmp_path / "v.ts"
    path.write_bytes(video("h264.ts").read_bytes())
    with VideoReader(path, max_held_bytes=0) as reader:
        path.write_bytes(video("hevc.ts").read_bytes())
        with pytest.raises(VideoError, match="changed while it was read"):
            reader.read([20])


def test_nothing_reaches_standard_error(video: Video, tmp_path: Path) -> None:
    spoilt = bytearray(video("h264.mp4").read_bytes())
    for place in range(400, 6000, 37):
        spoilt[place] ^= 0x55
    (tmp_path / "spoilt.mp4").write_bytes(spoilt)
    (tmp_path / "noise.mp4").write_bytes(random.Random(1).randbytes(5000))
    remuxed = video("opengop-h264.ts")
    code = (
        "import sys; from side4video.data.decode import VideoReader; from side4video.errors import VideoError\n"
        "for path in sys.argv[1:]:\n"
        "    try: print(VideoReader(path).read([25, 12, 29]).shape)\n"
        "    except VideoError as error: print(error.reason)\n"
    )
    files = [str(tmp_path / "spoilt.mp4"), str(tmp_path / "noise.mp4"), str(remuxed), str(video("av1.mp4"))]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 4


def test_one_decoder_thread(video: Video) -> None:
    with VideoReader(video("h264.mp4")) as reader:
        assert reader._context.thread_count == 1
        before = threads_now()
        reader.read(range(30))
        assert threads_now() <= before


def threads_now() -> int:
    return len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").is_dir() else 0


def test_an_undecodable_frame_is_named_by_its_number(video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    # as if the decoder had swallowed one packet
    with VideoReader(video("h264.mp4")) as reader:
        real = decode_module.packets_from
        lost = reader._table.frames[14]

        def without(*args: object) -> object:
            return ((i, packet) for i, packet in real(*args) if i != lost)  # type: ignore[arg-type]

        monkeypatch.setattr(decode_module, "packets_from", without)
        with pytest.raises(VideoError, match=r"frame 14 cannot be decoded|damaged picture"):
            reader.read([14])


def test_asset_maker_refuses_what_cannot_be_read() -> None:
    frame_HWC = draw_frame(300, 96, 72)
    assert read_number(frame_HWC.transpose(2, 0, 1)) == 300
    with pytest.raises(ValueError, match="neither dark nor bright"):
        read_number(np.full((3, 72, 96), 128))
    with pytest.raises(ValueError, match="check bits"):
        read_number(255 - frame_HWC.transpose(2, 0, 1))
