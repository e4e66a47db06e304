"""The page of the web demo in a headless Chromium.

With BLIP_JAX_SCREENSHOTS=FOLDER it leaves a picture of each tab there, wide and as on a phone.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import tiny_dataset
from PIL import Image

pytest.importorskip("gradio", reason="needs the extra demo")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]
WAIT = 120_000  # ms, of a result: the first call of each kind compiles
BUTTONS = {"Caption": "Caption", "Match": "Match", "Answer": "Answer", "Attention": "Show",
           "Batch": "Run", "CapFilt": "Score"}  # fmt: skip
SCREENSHOTS = os.environ.get("BLIP_JAX_SCREENSHOTS", "")


@pytest.fixture(scope="module")
def address(world, tmp_path_factory):
    """The address of a page of tiny models, run by the command line."""
    folder = tmp_path_factory.mktemp("models")
    argv = [sys.executable, "-m", "blip_jax", "demo"]
    for model_type in ("pretrain", "vqa"):
        model = tiny_dataset.trained(world, 2, "", model_type)
        argv.append(f"--model={tiny_dataset.save(model, str(folder / model_type))}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*argv, f"--port={port}"])
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, "the page has ended"
            try:
                urllib.request.urlopen(url, timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "small.png")
    Image.new("RGB", (10_000, 5_000), "green").save(folder / "large.png")
    (folder / "wrong.png").write_text("no picture")
    return folder


def open_tab(browser, address: str, tab: str, width: int = 1200):
    """Returns the page and the panel of a tab; asking another host fails the test."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(WAIT)

    def only_here(route):
        assert route.request.url.startswith(address), route.request.url
        route.continue_()

    page.route(lambda url: url.startswith("http"), only_here)
    page.goto(address)
    page.get_by_role("tab").first.wait_for()
    if not page.get_by_role("tab", name=tab, exact=True).count():  # in the menu of a narrow page
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown").get_by_text(tab, exact=True).click()
    else:
        page.get_by_role("tab", name=tab, exact=True).click()
    return page, page.locator("[role=tabpanel]:visible")


def send(panel, tab: str, picture: pathlib.Path, text: str = "a red square\na <b>dog</b>") -> None:
    panel.locator("input[type=file]").first.set_input_files(str(picture))
    panel.get_by_text(picture.name).or_(panel.locator("img")).first.wait_for()
    if tab in ("Match", "Answer", "Attention", "CapFilt"):
        panel.locator("textarea, input[type=text]").first.fill(text)
    panel.get_by_role("button", name=BUTTONS[tab], exact=True).click()


@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("tab", BUTTONS)
def test_each_tab_shows_results(browser, address, files, tab, width):
    page, panel = open_tab(browser, address, tab, width)
    send(panel, tab, files / "small.png", "a red square" if tab == "Attention" else "a red\na dog")
    shown = {
        "Caption": ".scores tr >> nth=1", "Match": ".scores tr >> nth=2", "Answer": ".prose p b",
        "Attention": "figure >> nth=3", "Batch": "text=small.png >> nth=-1",
        "CapFilt": ".scores tr >> nth=3",
    }  # fmt: skip
    panel.locator(shown[tab]).wait_for()
    if tab == "CapFilt":
        threshold = panel.get_by_label("threshold", exact=False).first
        threshold.fill("1")
        threshold.press("Enter")
        panel.get_by_text("0 of", exact=False).wait_for()
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/{tab}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()


def test_a_wrong_file_is_an_error_on_the_page(browser, address, files):
    page, panel = open_tab(browser, address, "Caption")
    panel.locator("input[type=file]").first.set_input_files(str(files / "wrong.png"))
    page.wait_for_timeout(1000)
    panel.get_by_role("button", name="Caption", exact=True).click()
    toast = page.locator(".toast-body.error")
    toast.wait_for()
    assert "wrong.png" in toast.inner_text()
    page.close()


def test_a_picture_of_50_megapixels_and_two_visitors_at_once(browser, address, files):
    tabs = [open_tab(browser, address, "Match") for _ in range(2)]
    for (_, panel), name in zip(tabs, ("large.png", "small.png"), strict=True):
        send(panel, "Match", files / name)
    found = []
    for page, panel in tabs:
        panel.locator(".scores tr >> nth=2").wait_for()
        found.append(panel.locator(".scores").inner_text())
        page.close()
    assert "a <b>dog</b>" in found[0] and found[0] != found[1]
