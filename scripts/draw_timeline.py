"""Draws `docs/images/timeline.png`: the page of a timeline over clips of the demo, one after the other.

side4video demo --out demo
python scripts/draw_timeline.py demo

Needs a browser: Debian's chromium, or what `playwright install chromium` gets.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import av
from playwright.sync_api import sync_playwright

from side4video.cli.main import main as side4video

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "timeline.png"
CLASSES = ("move-left", "grow", "circle-clockwise", "part", "shrink", "move-right", "vanish", "approach", "move-left")
CLIPS_OF_EACH = 3
FRAMES_A_SECOND, SIDE = 12, 80  # those of the demo's clips


def join_clips(demo: Path, target: Path) -> None:
    """A few clips of each class, one behind the other."""
    with av.open(str(target), "w") as movie:
        stream = movie.add_stream("mpeg4", rate=FRAMES_A_SECOND)
        stream.bit_rate = 4_000_000
        stream.pix_fmt, stream.width, stream.height = "yuv420p", SIDE, SIDE
        for place, name in enumerate(CLASSES):
            clips = sorted((demo / "clips" / "val" / name).glob("*.mp4"))
            for number in range(CLIPS_OF_EACH):
                with av.open(str(clips[(place + number) % len(clips)])) as clip:
                    for frame in clip.decode(video=0):
                        movie.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24"))))
        movie.mux(stream.encode())


def main() -> None:
    """Draw the picture from a demo folder."""
    parser = argparse.ArgumentParser(description="Draws docs/images/timeline.png.")
    parser.add_argument("demo", type=Path, help="the folder that `side4video demo --out` has made")
    demo = parser.parse_args().demo
    with tempfile.TemporaryDirectory() as folder:
        video, page = Path(folder) / "long.mp4", Path(folder) / "long.html"
        shutil.copytree(demo / "run", Path(folder) / "mine")
        join_clips(demo, video)
        words = ["predict", f"{folder}/mine", str(video), "--timeline", "--fps", "4", "--stride", "1"]
        assert side4video([*words, "--min-seconds", "0.8", "--out", str(page)]) == 0
        # the page says where the run is, which is nobody's business
        page.write_text(page.read_text(encoding="utf-8").replace(f"{folder}/", "runs/"), encoding="utf-8")
        chromium = shutil.which("chromium")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            shown = browser.new_page(viewport={"width": 900, "height": 700}, color_scheme="light")
            shown.goto(f"file://{page}")
            box = shown.locator(".stage").bounding_box()
            assert box is not None
            shown.mouse.move(box["x"] + 0.42 * box["width"], box["y"] + 60)
            shown.locator("section").screenshot(path=OUT)
            browser.close()
    print(f"{OUT}: {OUT.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
