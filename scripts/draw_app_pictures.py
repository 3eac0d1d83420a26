"""Takes the pictures of docs/app.md: the web page in a headless Chromium, on a desktop and a phone, light and dark.

    python scripts/draw_app_pictures.py [--into docs/images]

The runs, the library and the videos are those of `benchmarks/app_material.py`, drawn larger.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import app_material as material  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SIZE = (320, 240)
PASSWORD = "only for this picture"


def make_runs(folder: Path) -> None:
    """Runs and a library in a folder."""
    clips = material.write_train_clips(folder / "clips")
    material.train_classifier(clips, folder / "runs" / "colours")
    material.train_classifier(clips, folder / "runs" / "colours-wide", width=48)
    words = material.write_retrieval_run(folder / "words")
    material.write_library(words, folder / "footage", folder / "lib", size=SIZE)


@contextmanager
def running_page(folder: Path, *more: str) -> Generator[str]:
    """The page; gives its address."""
    runs = [str(folder / "runs" / name) for name in ("colours", "colours-wide")]
    command = [sys.executable, "-m", "side4video.cli.main", "app", *runs, str(folder / "lib"), "--port", "0"]
    command += ["--max-upload", "2MB", *more, "train.accelerator=cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = re.search(r"http://\S+/", process.stderr.readline())
        if found is None:
            raise RuntimeError(process.stderr.read())
        yield found[0]
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def shoot(page: Page, path: Path, *, full: bool = True) -> None:
    """One picture, with few colours: screenshots have few."""
    page.wait_for_timeout(350)
    page.screenshot(path=str(path), full_page=full)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def ready(page: Page) -> None:
    """Everything has been found."""
    page.wait_for_selector("#tab-find", timeout=60_000)
    while page.evaluate("document.querySelector('.status').childElementCount"):
        page.wait_for_timeout(100)


def draw_desktop(browser: Browser, address: str, videos: list[Path], into: Path) -> None:
    """Timeline, what mattered, library, refusals."""
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    page.goto(address)
    page.set_input_files("#file", [str(video) for video in videos])
    page.wait_for_selector(f"#list li:nth-child({len(videos)})", timeout=60_000)
    page.get_by_role("button", name=re.compile("two colours")).first.click()
    ready(page)
    shoot(page, into / "app-classes.png")
    page.click("#tab-timeline")
    page.locator(".segment").last.click()
    shoot(page, into / "app-timeline.png")
    page.click("#tab-explain")
    shoot(page, into / "app-mattered.png")
    page.click("#nav-library")
    page.fill("#library-text", "a red circle")
    page.keyboard.press("Enter")
    page.locator(".moment").first.click()
    page.wait_for_timeout(1500)
    shoot(page, into / "app-library.png", full=False)
    page.click("#nav-video")
    large = {"name": "a whole holiday.mp4", "mimeType": "video/mp4", "buffer": b"x" * 2_400_000}
    page.set_input_files("#file", [large])
    page.set_input_files("#file", [{"name": "letter.mp4", "mimeType": "video/mp4", "buffer": b"Dear all,"}])
    page.locator("#uploads [role=alert]").nth(1).wait_for()
    shoot(page, into / "app-refused.png", full=False)
    page.close()


def draw_phone(browser: Browser, address: str, videos: list[Path], into: Path) -> None:
    """The dark side, on a phone."""
    parts: list[Path] = []
    page = browser.new_page(viewport={"width": 360, "height": 760}, color_scheme="dark", has_touch=True)
    page.goto(address)
    page.set_input_files("#file", [str(videos[0])])
    ready(page)
    page.tap("#tab-timeline")
    page.locator(".viewer-head").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('.viewer-head').scrollIntoView()")
    for name in ("timeline", "library"):
        if name == "library":
            page.evaluate("scrollTo(0, 0)")
            page.tap("#nav-library")
            page.fill("#library-text", "a yellow circle")
            page.keyboard.press("Enter")
            page.locator(".moment").first.wait_for()
            page.wait_for_timeout(500)
        parts.append(into / f"part-{name}.png")
        shoot(page, parts[-1], full=False)
    page.close()
    join(parts, into / "app-phone.png")


def join(parts: list[Path], path: Path) -> None:
    """Pictures side by side in one."""
    pictures = [Image.open(part).convert("RGB") for part in parts]
    sheet = Image.new("RGB", (sum(p.width + 16 for p in pictures) - 16, max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + 16
    sheet.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    for part in parts:
        part.unlink()


def draw_login(browser: Browser, address: str, into: Path) -> None:
    """The login page, after a wrong password."""
    page = browser.new_page(viewport={"width": 640, "height": 480})
    page.goto(address)
    page.fill("#password", "not this one")
    page.keyboard.press("Enter")
    page.locator("#problem").wait_for()
    shoot(page, into / "app-login.png", full=False)
    page.close()


def main() -> None:
    """Draw all of them."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "images")
    into: Path = parser.parse_args().into
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        make_runs(folder)
        videos = [
            material.write_video(folder / "two colours.mp4", [("red", 3), ("blue", 3)], seed=7, size=SIZE),
            material.write_video(folder / "meadow.avi", [("green", 4)], seed=8, size=SIZE, codec="mpeg4"),
        ]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with running_page(folder) as address:
            draw_desktop(browser, address, videos, into)
            draw_phone(browser, address, videos, into)
        (folder / "secret.txt").write_text(PASSWORD)
        with running_page(folder, "--password-file", str(folder / "secret.txt")) as address:
            draw_login(browser, address, into)
        browser.close()


if __name__ == "__main__":
    main()
