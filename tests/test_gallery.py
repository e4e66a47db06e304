"""The report at scale: one folder, opened from the disk, that shows what is asked for."""

import html
import io
import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
import scored_dataset
from PIL import Image

from blip_jax.capfilt import labels, storage
from blip_jax.capfilt.gallery_entries import gallery_entries
from blip_jax.capfilt.selection import DECISIONS, SelectionRules, select_texts
from blip_jax.capfilt.table import reduce_filters
from blip_jax.cli.main import main
from blip_jax.reports import gallery
from blip_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / "blip_jax" / "reports" / "templates" / "gallery.js"
EVIL = "</script><script>alert('&\"x')</script>"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return scored_dataset.build(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module")
def folder(web, tmp_path_factory):
    """The report of the verb, of all images."""
    out = tmp_path_factory.mktemp("assembled")
    config = ROOT / "configs" / "assemble.py"
    options = [f"--config.scores={web.scores}", "--config.selection.max_texts_per_image=1"]
    assert main(["assemble", f"--config={config}", f"--workdir={out}", *options]) == 0
    return out / "report"


@pytest.fixture(scope="module")
def entries(web):
    """What the page is made of."""
    columns = storage.read(web.scores, "train")
    p_match = reduce_filters(columns, "p_match", "mean")
    decision, true = (
        select_texts(columns, SelectionRules(max_texts_per_image=1)),
        web.true.astype(np.int8),
    )
    rows = np.arange(scored_dataset.ROWS)
    return list(gallery_entries(web.images, "train", columns, rows, p_match, decision, true))


def data(folder) -> list[dict]:
    rows = []
    for file in sorted((folder / "data").iterdir()):
        text = file.read_text()
        assert text.startswith("gallery.add([") and text.endswith("]);\n") and text.isascii()
        rows += json.loads(text.removeprefix("gallery.add(").removesuffix(");\n"))
    return rows


def test_the_folder_holds_every_text_with_what_became_of_it(folder, entries):
    found = data(folder)
    assert [row["key"] for row in found] == [entry["key"] for entry in entries]
    for row, entry in zip(found, entries, strict=True):
        assert [text["text"] for text in row["texts"]] == [t["text"] for t in entry["texts"]]
        for text, wanted in zip(row["texts"], entry["texts"], strict=True):
            assert DECISIONS[text["decision"]] == wanted["decision"]
            assert text["true"] == wanted["true"] and text["origin"] == wanted["origin"]
            assert text["p"] is None or text["p"] == pytest.approx(wanted["p_match"], abs=1e-4)
            assert text["by"] == ("writer, nucleus" if text["origin"] == "synthetic" else "")


def test_pictures_are_small_files(folder):
    found = data(folder)
    thumbs = [row["thumb"] for row in found]
    assert thumbs[scored_dataset.BROKEN] == "" and len(set(thumbs)) == scored_dataset.ROWS
    with Image.open(folder / thumbs[0]) as picture:
        assert picture.format == "JPEG" and picture.size == (32, 32)
    page = (folder / "index.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?:https?:|/)", page)
    assert {name for name in re.findall(r'<script src="(.*?)"', page)} == {"data/00000.js"}
    # Of both origins: curve, reliability, 3 histograms; and of captions perplexity.
    assert page.count('class="chart"') == 11


def entry(text="a", size=(300, 100), **changes):
    image = b"" if size is None else _jpeg(size)
    known = {"text": text, "origin": "web", "model": "", "method": "", "p_match": 0.7,
             "cosine": 0.2, "decision": "kept", "true": None}  # fmt: skip
    return {"key": text, "url": "", "image": image, "texts": [known | changes]}


def _jpeg(size) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, "JPEG")
    return file.getvalue()


def test_many_images_are_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "_A_FILE", 2)
    monkeypatch.setattr(gallery, "_A_FOLDER", 4)
    entries = (entry(str(number)) for number in range(9))
    gallery.write_gallery(str(tmp_path / "out"), {"title": "t"}, entries, 9)
    found = data(tmp_path / "out")
    assert [row["key"] for row in found] == [str(number) for number in range(9)]
    assert sorted(path.name for path in (tmp_path / "out" / "thumbs").iterdir()) == [
        "0000", "0001", "0002",
    ]  # fmt: skip
    for row in found:
        with Image.open(tmp_path / "out" / row["thumb"]) as picture:
            assert picture.size == (192, 64) == tuple(row["size"])


def test_texts_are_no_markup_and_the_folder_is_whole(tmp_path):
    out, results = str(tmp_path / "out"), {"title": EVIL, "summary": EVIL, "command": EVIL}
    gallery.write_gallery(out, results, [entry(EVIL)], 1)

    def breaks():
        yield entry("b")
        raise OSError("the disk is full")

    with pytest.raises(OSError):
        gallery.write_gallery(out, {"title": "other"}, breaks(), 2)
    assert [row["key"] for row in data(tmp_path / "out")] == [EVIL]  # as it was
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert EVIL not in (tmp_path / "out" / "index.html").read_text()
    gallery.write_gallery(out, {"title": "other"}, [entry("c")], 1)  # and is replaced
    assert [row["key"] for row in data(tmp_path / "out")] == ["c"]


def test_what_is_in_the_way_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="mine exists already and is not a gallery"):
        gallery.write_gallery(str(tmp_path / "mine"), {"title": "t"}, [], 0)
    with pytest.raises(UserError, match="gs://bucket/report is not local"):
        gallery.write_gallery("gs://bucket/report", {"title": "t"}, [], 0)


# The script's choice, in Node.

IMAGES = [
    {"key": "a", "texts": [
        {"text": "A red Dog", "origin": "web", "by": "", "decision": 0, "p": 0.9, "cosine": 0.1,
         "true": True},
        {"text": "a cat", "origin": "synthetic", "by": "x", "decision": 6, "p": 0.2, "cosine": 0.5,
         "true": True}]},
    {"key": "b", "texts": [
        {"text": "red and blue", "origin": "web", "by": "", "decision": 0, "p": 0.6, "cosine": 0.3,
         "true": False}]},
    {"key": "c", "texts": [
        {"text": "", "origin": "web", "by": "", "decision": 2, "p": None, "cosine": None,
         "true": None}]},
]  # fmt: skip


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node")
def test_the_script_chooses():
    cases = {
        "": "a0 a1 b0 c0",
        "origin=web": "a0 b0 c0",
        "by=x": "a1",
        "decision=kept": "a0 b0",
        "decision=dropped": "a1 c0",
        "decision=2": "c0",
        "decision=wrong": "a1 b0",  # dropped, but true; kept, but not true
        "search=RED": "a0 b0",
        "search=dog red": "a0",
        "search=dog blue": "",
        "from=0.5": "a0 b0",  # what has no score is in no range
        "to=0.5": "a1",
        "from=0.6&to=0.6": "b0",
        "sort=p down": "a0 a1 b0 c0",
        "sort=p up": "a0 a1 b0 c0",
        "sort=p up&decision=kept": "b0 a0",
        "sort=cosine down&origin=web": "b0 a0 c0",
        "sort=cosine up&origin=web": "a0 b0 c0",
    }
    program = f"""
      const {{ choose, words }} = require({json.dumps(str(SCRIPT))});
      const images = {json.dumps(IMAGES)};
      const all = {{ from: 0, to: 1, sort: "order", origin: "", by: "", decision: "", search: "" }};
      const told = {json.dumps(list(cases))}.map((given) => {{
        const wanted = {{ ...all, ...Object.fromEntries(new URLSearchParams(given)) }};
        wanted.words = words(wanted.search);
        [wanted.from, wanted.to] = [Number(wanted.from), Number(wanted.to)];
        return choose(images, wanted).map(({{ image, texts }}) =>
          texts.map((text) => image.key + image.texts.indexOf(text)).join(" ")).join(" ");
      }});
      console.log(JSON.stringify(told));
    """
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    assert dict(zip(cases, json.loads(done.stdout), strict=True)) == cases


# In a browser.


def shown(folder, fragment=""):
    """(what stands above the cards, the cards as (decision, text) lists) once the page is built."""
    argv = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000",
            "--dump-dom", f"file://{folder}/index.html{fragment}"]  # fmt: skip
    page = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout
    count = re.search(r'id="count".*?>(.*?)<', page)[1]
    cards = re.findall(r'<figure class="card">(.*?)</figure>', page, re.DOTALL)
    texts = r'class="decision">\W*(\w+)</span>.*?class="words" dir="auto">(.*?)</p>'
    return count, [
        [(how, html.unescape(text)) for how, text in re.findall(texts, card, re.DOTALL)]
        for card in cards
    ]


@pytest.mark.skipif(not BROWSER, reason="needs a browser")
def test_a_browser_shows_it(folder, entries):
    count, cards = shown(folder)
    texts = sum(len(entry["texts"]) for entry in entries)
    assert count == f"{texts} texts of {len(entries)} images" and len(cards) == gallery.PAGE
    for card, wanted in zip(cards, entries):
        assert card == [
            ("kept" if text["kept"] else "dropped", text["text"]) for text in wanted["texts"]
        ]
    count, cards = shown(folder, "#decision=wrong&sort=p+down&search=small&from=0.5")
    wrong = [
        [text for text in entry["texts"] if text["kept"] != text["true"]
         and text["p_match"] >= 0.5 and "small" in text["text"]]
        for entry in entries
    ]  # fmt: skip
    wrong = [texts for texts in wrong if texts]
    assert count == f"{sum(map(len, wrong))} texts of {len(wrong)} images" and len(wrong) > 3
    highest = max((text for texts in wrong for text in texts), key=lambda text: text["p_match"])
    assert highest["text"] in [text for _, text in cards[0]]


@pytest.mark.skipif(not BROWSER, reason="needs a browser")
def test_a_browser_runs_no_text(tmp_path):
    gallery.write_gallery(str(tmp_path / "out"), {"title": EVIL}, [entry(EVIL, None)], 1)
    count, cards = shown(tmp_path / "out")
    assert count == "1 texts of 1 images" and cards == [[("kept", EVIL)]]


def test_the_sample_is_of_images_whose_truth_is_known(monkeypatch):
    monkeypatch.setattr(labels, "MAX_SAMPLED_ROWS", 10)
    assert labels.sampled_rows(4).tolist() == [0, 1, 2, 3]
    rows = labels.sampled_rows(1000)
    assert len(rows) == 10 and (np.diff(rows) == 100).all()
