"""Pages in a real browser without a window: headless Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTH, HEIGHT = 1600, 900


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; where there is none, the test fails and says what to install."""
    path = os.environ.get("HILBERT_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("these tests look at pages in Chromium, which is not here: apt-get install chromium (or brew, dnf)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


def new_page(browser: Browser, *, width: int = WIDTH, height: int = HEIGHT) -> Page:
    """A page as someone sees it who was never here: nothing is remembered."""
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    page.set_default_timeout(90_000)
    return page


def screenshot(page: Page, name: str, otherwise: Path) -> None:
    """Written to the folder that HILBERT_SCREENSHOTS names, else to `otherwise`."""
    folder = Path(os.environ.get("HILBERT_SCREENSHOTS") or otherwise)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")
