"""A page in a headless Chromium, Debian's, which asks no other host than its own."""

import contextlib
import os
import shutil
from collections.abc import Iterator

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
SCREENSHOTS = os.environ.get("BLIP_JAX_SCREENSHOTS", "")  # folder for pictures of pages; "": none
WAIT = 120_000  # ms, of a result: the first call of each kind compiles


@contextlib.contextmanager
def chromium() -> Iterator:
    """A browser for the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        yield running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


def open_page(browser, address: str, path: str = "/", width: int = 1200):
    """Returns a page; asking another host than that of `address` fails the test."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(WAIT)

    def only_here(route):
        assert route.request.url.startswith(address), route.request.url
        route.continue_()

    page.route(lambda url: url.startswith("http"), only_here)
    page.goto(address + path)
    return page


def check_and_picture(page, name: str) -> None:
    """Checks that nothing is wider than the window; leaves a picture of the whole page."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{name}.png", full_page=True)
