"""One headless browser for all tests that look at pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Headless Chromium, Debian's."""
    found = os.environ.get("SIDE4VIDEO_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    needed = os.environ.get("SIDE4VIDEO_NEEDS_BROWSER") == "1"
    if found is None:
        message = "NO CHROMIUM FOUND: the web page is NOT tested in a browser in this run (apt-get install chromium)"
        pytest.fail(message) if needed else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()
