"""The page of a timeline in a real browser: mouse, finger and keyboard; it asks nobody for anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from run.small_runs import CLASSES, draw_clip
from side4video.cli.main import main

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.xdist_group("app")
SECONDS = 6


@pytest.fixture(scope="module")
def timeline(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page over six seconds at ten frames a second, whose segments are many."""
    folder = tmp_path_factory.mktemp("page")
    video = draw_clip(folder / "long.mp4", "grow", seed=3, num_frames=10 * SECONDS)
    words = ["predict", str(trained), str(video), "--timeline", "--fps", "5", "--stride", "1"]
    assert main([*words, "--threshold", "0.3", "--out", str(folder / "page.html")]) == 0
    return folder / "page.html"


@pytest.mark.parametrize(("width", "height", "scheme"), [(1200, 900, "light"), (360, 740, "dark")])
def test_point_tap_and_keys(browser: Browser, timeline: Path, width: int, height: int, scheme: str) -> None:
    is_phone = width < 500
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # pyright: ignore[reportArgumentType]
        has_touch=is_phone,
    )
    page, said, asked = context.new_page(), list[str](), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{timeline}")
    stage, readout = page.locator(".stage"), page.locator(".readout")
    assert not readout.is_visible()
    box = stage.bounding_box()
    assert box is not None
    place = (box["x"] + box["width"] / 2, box["y"] + 20)
    page.touchscreen.tap(*place) if is_phone else page.mouse.move(*place)
    assert readout.is_visible()
    assert readout.locator(".at").inner_text() == f"0:0{SECONDS // 2}.0"
    assert {line.split("\n")[0] for line in readout.locator("li").all_inner_texts()} == set(CLASSES)

    stage.focus()
    for keys, expected in (("Home", 0.0), ("ArrowRight", 0.2), ("ArrowRight", 0.4), ("ArrowLeft", 0.2), ("End", 5.8)):
        page.keyboard.press(keys)
        assert float(stage.get_attribute("aria-valuenow") or "-1") == pytest.approx(expected)
    assert "0:05.8, " in (stage.get_attribute("aria-valuetext") or "")
    jumps = page.locator("button.jump")
    assert jumps.count() >= 1
    jumps.last.click()
    assert float(stage.get_attribute("aria-valuenow") or "-1") == pytest.approx(
        float(jumps.last.get_attribute("data-seconds") or "-2"), abs=0.06
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()


def test_without_its_script_the_page_shows_the_same(browser: Browser, timeline: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{timeline}")
    assert page.locator(".lane svg").count() == len(CLASSES)
    assert page.locator(".lane rect").count() >= 1
    assert page.locator("tbody tr").count() >= 1
    context.close()
