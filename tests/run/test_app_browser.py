"""The web page in a real browser: the whole way of a visitor, with keyboard and phone, and what is refused.

One server and one browser for all tests. Without Chromium they are skipped, loudly; with SIDE4VIDEO_NEEDS_BROWSER=1
they fail instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from run.app_pages import AppMaterial, material, running_page
from side4video.app.limits import Limits

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = pytest.mark.xdist_group("app")
MAX_UPLOAD = 400_000
WAIT = 15_000  # milliseconds that the browser waits for something
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="session")
def address(app_material: AppMaterial, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page with a classifier and a library."""
    temp = tmp_path_factory.mktemp("app-temp")
    limits = Limits(max_upload_bytes=MAX_UPLOAD, max_seconds=30)
    with running_page([app_material.colours], [app_material.lib], limits=limits, temp=temp) as url:
        yield url


@pytest.fixture
def context(browser: Browser, address: str) -> Iterator[BrowserContext]:
    """A new visitor."""
    context = browser.new_context(base_url=address, viewport={"width": 1200, "height": 900})
    context.set_default_timeout(WAIT)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, address: str) -> Iterator[Page]:
    """The page, opened. No script may fail, nothing may be asked of anybody else, and the policy may block nothing."""
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type in {"error", "warning"} else None)
    page.on("request", lambda r: None if r.url.startswith((address, "blob:")) else problems.append(r.url))
    page.goto("/")
    page.wait_for_selector("#view-video:not([hidden])")
    yield page
    # the browser itself notes each answer of 400 and above; those are the tests' business
    assert [text for text in problems if "Failed to load resource" not in text] == []


def upload(page: Page, *files: Path | dict[str, Any]) -> None:
    page.set_input_files("#file", list(files))


def until(page: Page, condition: str) -> None:
    """Wait until a condition of JavaScript holds. The page's policy forbids the driver's own way of waiting."""
    deadline = time.monotonic() + WAIT / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"never true: {condition}"
        page.wait_for_timeout(30)


def bars(page: Page) -> list[str]:
    page.wait_for_selector("#panel .bars li")
    return page.locator("#panel .bars .label").all_inner_texts()


def wait_until_done(page: Page) -> None:
    page.wait_for_selector("#tab-find")
    until(page, "document.querySelector('.status').childElementCount === 0")


def player(page: Page, what: str, root: str = "#viewer") -> Any:
    return page.evaluate(f"document.querySelector('{root} video').{what}")


def test_a_clip_is_uploaded_and_the_right_class_comes_first(page: Page, app_material: AppMaterial) -> None:
    upload(page, app_material.green)
    assert bars(page)[0] == "green disc"
    assert page.locator("#panel .bars .value").first.inner_text().endswith(" %")
    assert page.locator(".viewer-head h2").inner_text() == "green.avi"
    # browsers do not play this avi: it is written anew, and then it plays
    page.wait_for_selector("#viewer video")
    until(page, "document.querySelector('#viewer video').readyState >= 2")
    assert player(page, "error") is None
    assert player(page, "duration") == pytest.approx(3, abs=0.15)
    wait_until_done(page)
    # it is there when the visitor comes back, and gone when it is removed
    page.reload()
    assert bars(page)[0] == "green disc"
    page.get_by_role("button", name="Remove green.avi").click()
    page.wait_for_selector("#empty:not([hidden])")
    page.reload()
    page.wait_for_selector("#empty:not([hidden])")


def test_the_timeline_says_what_happens_when_and_leads_there(page: Page, app_material: AppMaterial) -> None:
    upload(page, app_material.two_colours)
    wait_until_done(page)
    page.click("#tab-timeline")
    rows = page.locator("#panel tbody tr")
    assert [row.locator("td").nth(1).inner_text() for row in rows.all()] == ["red disc", "blue disc"]
    # a class has one colour: strip, legend and table
    for label in ("red disc", "blue disc"):
        place = page.locator(f".segment[title^='{label}']").get_attribute("class").split()[-1]
        assert page.locator(".legend li", has_text=label).locator(f".dot.{place}").count() == 1
    segment = page.locator(".segment[title^='blue disc']")
    begins = float(page.evaluate("e => parseFloat(e.style.left)", segment.element_handle()))
    assert 100 * 2.4 / 6 < begins < 100 * 3.6 / 6
    segment.click()
    until(page, "document.querySelector('#viewer video').currentTime > 2.3")
    assert player(page, "currentTime") == pytest.approx(6 * begins / 100, abs=0.05)
    # the first row plays its segment and stops at its end
    rows.first.locator("button").click()
    until(
        page,
        "document.querySelector('#viewer video').currentTime > 0.1 && !document.querySelector('#viewer video').paused",
    )
    player(page, "currentTime = 2.3")
    until(page, "document.querySelector('#viewer video').paused")
    assert 2.3 < player(page, "currentTime") < 3.7
    assert page.locator(".film img").count() > 5
    until(page, "[...document.querySelectorAll('.film img')].slice(0, 3).every((i) => i.naturalWidth > 0)")
    # other windows, other timeline
    page.select_option("#window", "4")
    until(page, "document.querySelector('#window:not(:disabled)')?.value === '4'")
    wait_until_done(page)
    assert page.locator("#window option:checked").inner_text() == "4 s"


def test_what_mattered_is_shown_for_the_class_that_is_asked_for(page: Page, app_material: AppMaterial) -> None:
    upload(page, app_material.two_colours)
    wait_until_done(page)
    page.click("#tab-explain")
    best = page.locator("#class-0 option:checked").inner_text()

    def shares() -> list[int]:
        texts = page.locator(".film.large .time").all_inner_texts()
        return [int(text.split("·")[1].rstrip(" %")) for text in texts]

    for label in ("red disc", "blue disc"):
        if label != best:
            page.select_option("#class-0", label)
            until(page, "document.querySelector('#class-0:not(:disabled)') !== null")
            wait_until_done(page)
        found = shares()
        first, second = sum(found[: len(found) // 2]), sum(found[len(found) // 2 :])
        # red is in the first half, blue in the second
        assert (first > 2 * second) if label == "red disc" else (second > 2 * first), (label, found)
        best = label
    until(page, "[...document.querySelectorAll('.film.large img')].every((i) => i.naturalWidth > 0)")


def test_a_moment_is_found_within_the_video_and_in_the_library(page: Page, app_material: AppMaterial) -> None:
    upload(page, app_material.two_colours)
    wait_until_done(page)
    page.click("#tab-find")
    page.fill("#find-text", "a blue circle")
    page.keyboard.press("Enter")
    first = page.locator("#panel .moments button").first
    first.click()
    until(page, "document.querySelector('#viewer video').currentTime > 2")
    page.click("#nav-library")
    for colour in ("red", "blue"):
        name, start, end = material.moment_of(colour)
        page.fill("#library-text", f"a {colour} circle")
        page.keyboard.press("Enter")
        best = page.locator(".moment").first
        best.locator(f"text={name}").wait_for()
        until(page, "document.querySelector('.moment img').naturalWidth > 0")
        best.click()
        until(page, "document.querySelector('.playing video')?.currentTime > 0.2")
        # red's video is played as it is; blue's is an avi, out of which the moment is cut
        offset = 0.0 if name.endswith(".mp4") else start - 2.5
        assert start - 1.1 < player(page, "currentTime", ".playing") + offset < end + 1.1
        player(page, f"currentTime = {end - offset - 0.5}")
        until(page, "document.querySelector('.playing video').paused")
        assert abs(player(page, "currentTime", ".playing") + offset - end) < 1.3
        assert seen_colour(page) == colour
    page.get_by_role("button", name="Find similar").click()
    page.locator(".moment").first.wait_for()


def seen_colour(page: Page) -> str:
    """Which colour the moment's player shows one and a half seconds before where it stands, by its pixels.

    The end of an earlier search in the video, or the picture before the one asked for, may still come: what counts is
    the picture that is presented with its own time.
    """
    page.evaluate(
        "new Promise((done, refuse) => { const v = document.querySelector('.playing video');"
        " const target = Math.max(0, v.currentTime - 1.5), late = setTimeout(() => refuse(new Error("
        " `no picture of ${target} s: ${v.currentTime} s, seeking ${v.seeking}, ready ${v.readyState}`)), 12000);"
        " const look = (now, { mediaTime }) => Math.abs(mediaTime - target) < 0.25"
        " ? (clearTimeout(late), done(true)) : v.requestVideoFrameCallback(look);"
        " v.requestVideoFrameCallback(look); v.currentTime = target; })"
    )
    sums = page.evaluate(
        "(() => { const v = document.querySelector('.playing video'); const c = document.createElement('canvas');"
        " c.width = v.videoWidth; c.height = v.videoHeight; const x = c.getContext('2d'); x.drawImage(v, 0, 0);"
        " const d = x.getImageData(0, 0, c.width, c.height).data; const s = [0, 0, 0];"
        " for (let i = 0; i < d.length; i += 4) if (Math.max(d[i], d[i+1], d[i+2]) > 130)"
        " { s[0] += d[i]; s[1] += d[i+1]; s[2] += d[i+2]; } return s; })()"
    )
    return ("red", "green", "blue")[max(range(3), key=sums.__getitem__)]


def test_refusals_are_clear(page: Page, app_material: AppMaterial) -> None:
    """Path traversal, an oversized file, no video, too long a one."""
    large = {"name": "large.mp4", "mimeType": "video/mp4", "buffer": b"x" * (MAX_UPLOAD + 1)}
    upload(page, large)
    alert = page.locator("#uploads [role=alert]")
    alert.wait_for()
    assert alert.inner_text() == "This file is too large: 0.4 MB, and at most 400 kB are taken."
    page.get_by_role("button", name="Close").click()
    assert alert.count() == 0
    upload(page, {"name": "../../etc/passwd", "mimeType": "video/mp4", "buffer": b"root:x:0:0"})
    alert.wait_for()
    assert alert.inner_text().startswith("This file cannot be read as a video")
    assert page.locator("#list li").count() == 0
    # who goes around the page's own scripts is refused by the server
    answers = page.evaluate(
        """async (size) => {
            const ask = async (path, options) => {
                const answer = await fetch(path, options);
                return [answer.status, (await answer.json()).error];
            };
            return [
                await ask("/api/videos", { method: "POST", body: new Uint8Array(size) }),
                await ask("/static/..%2f..%2f..%2f..%2fetc%2fpasswd"),
                await ask("/api/videos/..%2f..%2fetc%2fpasswd/media"),
                await ask("/api/moments/%2fetc%2fpasswd/media"),
            ];
        }""",
        MAX_UPLOAD + 1000,
    )
    assert answers[0][0] == 413
    assert "this file is too large" in answers[0][1]
    assert [status for status, _ in answers[1:]] == [404, 404, 404]
    assert all("nothing at this address" in error for _, error in answers[1:])


def test_an_upload_shows_its_progress_and_can_be_cancelled(page: Page, app_material: AppMaterial) -> None:
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 20_000}
    session.send("Network.emulateNetworkConditions", slow)
    clip = app_material.two_colours.read_bytes()
    # a box of nothing but room makes it large
    padded = clip + (300_000).to_bytes(4, "big") + b"free" + bytes(300_000 - 8)
    upload(page, {"name": "slow.mp4", "mimeType": "video/mp4", "buffer": padded})
    until(page, "/^[1-9][0-9]? % sent$/.test(document.querySelector('#uploads .hint')?.textContent)")
    assert 0 < page.evaluate("document.querySelector('#uploads progress').value") < 1
    # the server may have all of it by now, whatever the browser shows: it must be gone there too
    with page.expect_response(lambda response: "/api/uploads/" in response.url) as cancelled:
        page.get_by_role("button", name="Cancel").click()
    assert cancelled.value.status == 204
    assert page.locator("#uploads .upload").count() == 0
    session.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": -1})
    page.reload()
    page.wait_for_selector("#empty:not([hidden])")
    assert page.locator("#list li").count() == 0


def test_the_keyboard_is_enough(page: Page, app_material: AppMaterial) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert "file" in reached
    assert "nav-library" in reached
    upload(page, app_material.two_colours)
    wait_until_done(page)
    page.focus("#tab-classes")
    page.keyboard.press("ArrowRight")
    assert page.locator("[role=tab][aria-selected=true]").inner_text() == "Timeline"
    assert page.evaluate("document.activeElement.id") == "tab-timeline"
    page.locator(".segment").last.focus()
    page.keyboard.press("Enter")
    until(page, "document.querySelector('#viewer video').currentTime > 2")
    # every control has a name
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select, video')]"
        ".filter((e) => !e.ariaLabel && !e.textContent.trim() && !e.labels?.length).map((e) => e.outerHTML)"
    )
    assert unnamed == []


def test_a_phone_shows_all_of_it(browser: Browser, address: str, app_material: AppMaterial) -> None:
    for scheme in ("light", "dark"):
        context = browser.new_context(base_url=address, viewport=PHONE, color_scheme=scheme, has_touch=True)
        context.set_default_timeout(WAIT)
        page = context.new_page()
        page.goto("/")
        page.wait_for_selector("#view-video:not([hidden])")
        if scheme == "light":
            upload(page, app_material.two_colours)
            wait_until_done(page)
            for tab in ("classes", "timeline", "explain", "find"):
                page.tap(f"#tab-{tab}")
                assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], tab
        page.tap("#nav-library")
        page.fill("#library-text", "a red circle")
        page.keyboard.press("Enter")
        page.locator(".moment").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert contrasts(page) == []
        context.close()


def contrasts(page: Page) -> list[str]:
    """Texts whose contrast with what is behind them is below 4.5 (WCAG AA)."""
    return page.evaluate(
        """() => {
            const parse = (text) => text.match(/[\\d.]+/g).map(Number);
            const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
                .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const behind = (node) => {
                for (let e = node; e; e = e.parentElement) {
                    const [r, g, b, a = 1] = parse(getComputedStyle(e).backgroundColor);
                    if (a === 1) return [r, g, b];
                }
                return [255, 255, 255];
            };
            const found = [];
            const texts = "p, span, h1, h2, h3, a, button, label, td, th, option, summary";
            for (const node of document.querySelectorAll(texts)) {
                const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
                if (!own || !node.getClientRects().length) continue;
                const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
                const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
                if (ratio < 4.5) found.push(`${node.textContent.trim()}: ${ratio.toFixed(2)}`);
            }
            return found;
        }"""
    )


def test_the_password_is_asked_for(browser: Browser, app_material: AppMaterial, tmp_path: Path) -> None:
    """Forms are sent with the origin that the referrer policy leaves, which only a browser tells."""
    with running_page([app_material.words], [], limits=Limits(), temp=tmp_path, password="long enough") as url:
        context = browser.new_context(base_url=url)
        context.set_default_timeout(WAIT)
        page = context.new_page()
        page.goto("/")
        assert page.url == f"{url}/login"
        page.keyboard.type("not the right one")
        page.keyboard.press("Enter")
        page.locator("#problem").wait_for()
        assert page.locator("#problem").inner_text() == "That is not the password."
        page.fill("#password", "long enough")
        page.keyboard.press("Enter")
        page.wait_for_selector("#view-video:not([hidden])")
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Log out").click()
        page.wait_for_selector("#password")
        page.goto("/")
        assert page.url == f"{url}/login"
        context.close()


def test_without_javascript_there_is_a_message(browser: Browser, address: str) -> None:
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    assert "needs JavaScript" in page.locator("noscript").inner_text()
    context.close()
