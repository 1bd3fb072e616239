"""A real browser, Debian's chromium, and what a page does in it that nobody may see."""

import io
import os
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.conftest import ROOT
from tests.e2e.conftest import PATIENCE_S

NAMES = ("chromium", "chromium-browser", "google-chrome")
DESK = {"width": 1280, "height": 900}
# Where to write screenshots; a test run writes none unless it is asked to.
SCREENSHOTS = os.environ.get("SCREENSHOTS")
QUALITY = 80

expect.set_options(timeout=1000 * PATIENCE_S)


def find_chromium() -> str:
    """Return chromium's path; where CI runs, it must be there."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        message = "no chromium is installed (Debian: apt-get install chromium)"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    return path


def run_chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium's own sandbox is refused to root.
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox"], timeout=1000 * PATIENCE_S
        )
        yield browser
        browser.close()


class Visit:
    """A page in a window of its own, and whatever it complained about or asked elsewhere."""

    def __init__(self, browser: Browser, base: str, **window: Any) -> None:
        self.base = base
        self.context: BrowserContext = browser.new_context(
            base_url=base, **{"viewport": DESK, **window}
        )
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self.complaints: list[str] = []
        self.page.on("console", lambda said: self._note(said.type, said.text))
        self.page.on("pageerror", lambda error: self._note("error", str(error)))
        self.page.on("request", lambda request: self._check_host(request.url))

    def open(self, path: str) -> Page:
        self.page.goto(path)
        return self.page

    def close(self) -> None:
        self.context.close()

    def _note(self, kind: str, text: str) -> None:
        # Chromium calls each answer of 4xx an error, which a test may have provoked.
        if kind in {"error", "warning"} and "responded with a status of 4" not in text:
            self.complaints.append(text)

    def _check_host(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "blob" and f"{parts.scheme}://{parts.netloc}" != self.base:
            self.complaints.append(f"asked {url}")


def keep_screenshot(page: Page, name: str, *, whole: bool = False) -> None:
    """Write a screenshot into the folder that SCREENSHOTS names, if it does."""
    if SCREENSHOTS is None:
        return
    path = ROOT / SCREENSHOTS / f"{name}.webp"
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(page.screenshot(full_page=whole))) as image:
        image.save(path, quality=QUALITY, method=6)
