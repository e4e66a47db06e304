"""The page of the web demo in a headless Chromium.

With BLIP_JAX_SCREENSHOTS=FOLDER it leaves pictures there: of each tab, wide and as on a phone, of
a wrong file, and of what two visitors see.
"""

import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import tiny_dataset
from browser import CHROMIUM, check_and_picture, chromium, open_page
from PIL import Image

pytest.importorskip("gradio", reason="needs the extra demo")
pytest.importorskip("playwright", reason="needs playwright")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]
BUTTONS = {"Caption": "Caption", "Match": "Match", "Answer": "Answer", "Attention": "Show",
           "Batch": "Run", "CapFilt": "Score"}  # fmt: skip
# Of each tab a text, and what is there once results are.
TABS = {
    "Caption": ("", ".scores tr >> nth=3"),
    "Match": ("a red\na dog", ".scores tr >> nth=2"),
    "Answer": ("what is it?", ".prose p b"),
    "Attention": ("a red square", "figure >> nth=3"),
    "Batch": ("", "[data-testid=cell-0-1]"),
    "CapFilt": ("a red\na dog", ".scores tr >> nth=4"),
}


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
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "small.png")
    Image.new("RGB", (10_000, 5_000), "green").save(folder / "large.png")
    (folder / "wrong.png").write_text("no picture")
    return folder


def open_demo(browser, address: str, width: int = 1200):
    """Returns the page, once its tabs are there."""
    page = open_page(browser, address, width=width)
    page.get_by_role("tab").first.wait_for()
    return page


def select_tab(page, tab: str):
    """Returns the panel of a tab."""
    if not page.get_by_role("tab", name=tab, exact=True).count():  # in the menu of a narrow page
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown").get_by_text(tab, exact=True).click()
    else:
        page.get_by_role("tab", name=tab, exact=True).click()
    return page.locator("[role=tabpanel]:visible")


def send(panel, tab: str, picture: pathlib.Path, text: str) -> None:
    """Uploads a picture, writes a text where the tab takes one, and presses the button."""
    panel.locator("input[type=file]").first.set_input_files(str(picture))
    # Gradio shows the row of a file, and of an image the image, once it has come. The name alone,
    # as a text, is that of the upload under way: a row has it in two parts, and as its label.
    panel.get_by_label(picture.name).or_(panel.locator("img")).first.wait_for()
    if tab in ("Match", "Answer", "Attention", "CapFilt"):
        panel.locator("textarea, input[type=text]").first.fill(text)
    panel.get_by_role("button", name=BUTTONS[tab], exact=True).click()


@pytest.mark.parametrize("width", [1200, 390])
def test_each_tab_shows_results(browser, address, files, width):
    page = open_demo(browser, address, width)
    for tab, (text, shown) in TABS.items():
        panel = select_tab(page, tab)
        send(panel, tab, files / "small.png", text)
        panel.locator(shown).first.wait_for()
        if tab == "Batch":
            with page.expect_download() as download:
                panel.locator("tr:has-text('results')").last.locator("a").last.click()
            row = json.loads(pathlib.Path(download.value.path()).read_text("utf-8"))
            assert row["image"] == "small.png" and row["caption"]
        if tab == "CapFilt":
            threshold = panel.get_by_label("threshold", exact=False).first
            threshold.fill("1")
            threshold.press("Enter")
            panel.get_by_text("0 of 4 texts are kept").wait_for()
            decision = panel.locator(".scores tr >> nth=1").locator("td").last.bounding_box()
            assert decision["x"] + decision["width"] <= width  # not to be scrolled to
        page.wait_for_function("!document.querySelector('.translucent')")  # as results come
        check_and_picture(page, f"{tab}-{width}")
    page.close()


def test_a_folder_is_a_batch(browser, address, tmp_path):
    """Its pictures in the order of names, and nothing else that lies there."""
    for name in ("b.png", "a.png"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / name)
    (tmp_path / "a.txt").write_text("a text")
    page = open_demo(browser, address)
    panel = select_tab(page, "Batch")
    panel.locator("input[type=file]").nth(1).set_input_files(str(tmp_path))
    panel.get_by_label("b.png").wait_for()  # see send
    panel.get_by_role("button", name="Run", exact=True).click()
    panel.get_by_test_id("cell-1-1").wait_for()
    names = [panel.get_by_test_id(f"cell-{row}-0").inner_text().strip() for row in (0, 1)]
    assert names == ["a.png", "b.png"]
    assert not panel.get_by_test_id("cell-2-0").count()
    check_and_picture(page, "folder")
    page.close()


def test_a_wrong_file_is_an_error_on_each_tab(browser, address, files):
    page = open_demo(browser, address)
    for tab, (text, _) in TABS.items():
        panel = select_tab(page, tab)
        send(panel, tab, files / "wrong.png", text)
        if tab == "Batch":  # a row says it; other rows have results
            panel.get_by_test_id("cell-0-1").get_by_text("wrong.png: not an image").first.wait_for()
        else:
            toast = page.locator(".toast-body.error")
            toast.wait_for()
            assert "wrong.png" in toast.inner_text() and "Traceback" not in toast.inner_text()
        check_and_picture(page, f"wrong-file-{tab}")
        if tab != "Batch":
            page.locator(".toast-close").click()
            toast.wait_for(state="detached")
    page.close()


def test_a_picture_of_50_megapixels_and_two_visitors_at_once(browser, address, files):
    pages = [open_demo(browser, address) for _ in range(2)]
    panels = [select_tab(page, "Match") for page in pages]
    for panel, name in zip(panels, ("large.png", "small.png"), strict=True):
        send(panel, "Match", files / name, "a red square\na <b>dog</b>")
    found = []
    for number, (page, panel) in enumerate(zip(pages, panels, strict=True)):
        panel.locator(".scores tr >> nth=2").wait_for()
        found.append(panel.locator(".scores").inner_text())
        check_and_picture(page, f"visitor-{number}")
        page.close()
    assert "a <b>dog</b>" in found[0] and found[0] != found[1]
