"""Pictures in reports are upright as the model reads them; texts beside them are no code."""

import base64
import io
import json

import numpy as np
import pytest
import task_datasets
import tiny_dataset
from malformed_files import encoded, picture
from network_calls import refused
from PIL import Image

from blip_jax.data.images import decode
from blip_jax.data.pictures import embedded
from blip_jax.reports import sections
from blip_jax.reports.examples import write_examples
from blip_jax.reports.gallery import write_gallery
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate
from blip_jax.tasks.examples import read_images
from blip_jax.tasks.vqa import VqaConfig

EVIL = "</script><script>alert('x')</script>\u202eabc\x1b[31m\x85&\""
ESCAPED = (
    "&lt;/script&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\\u202eabc\\x1b[31m\\x85&amp;"
)
LONG = "a very long text " * 20_000


def photo(format="JPEG", seed=0):
    """A picture 48 wide and 40 high as stored, which EXIF says to turn: 40 wide and 48 high."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(seed), format, exif=exif)


def shown(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_pictures_of_the_report_are_upright(format):
    data = photo(format)
    found = sections.picture({"key": "k", "image": data, "texts": []})
    assert (found["width"], found["height"], found["small"]) == (40, 48, True)
    np.testing.assert_array_equal(shown(found["uri"]), decode(data))


def test_pictures_that_are_broken_or_large():
    found = sections.picture({"key": "k", "image": photo()[:60], "texts": []})
    assert found["uri"] == "" and (found["width"], found["height"]) == (0, 0)
    found = embedded(np.zeros((300, 900, 3), np.uint8))
    assert (found["width"], found["height"], found["small"]) == (400, 133, False)
    assert shown(found["uri"]).shape == (133, 400, 3)


def test_pictures_of_examples_are_as_the_model_reads_them(tmp_path):
    record = {"key": "a", "image": photo(), "texts": [], "truth": ""}
    folder = tiny_dataset.write(str(tmp_path / "photos"), [record])
    for upright in (True, False):
        ((found,),) = read_images(folder, "train", ["a"], upright).values()
        np.testing.assert_array_equal(found, decode(photo(), upright))


def test_heat_maps_are_drawn_on_the_picture_as_the_model_reads_it(world, model, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo())
    (found,) = model("retrieval").gradcam(str(path), "a red square")
    for image in (path, photo(), Image.open(path), decode(photo())):
        assert found.picture(image=image).size == (40, 48)
    # Where a map is cold the picture is seen, upright.
    found.mean[:] = 0
    np.testing.assert_array_equal(found.picture(image=path), decode(photo()))
    as_stored = tiny_dataset.trained(world, 2, "", "retrieval", quirks=("ignore_exif",))
    (found,) = as_stored.gradcam(str(path), "a red square")
    assert found.picture(image=path).size == (48, 40) and found.picture().size == (16, 16)


def test_pictures_that_cannot_be_drawn_on_are_named(model):
    (found,) = model("retrieval").gradcam(photo(), "a red square")
    assert refused(found.picture, image="/nowhere.jpg").startswith(
        "the picture to draw on: no such"
    )
    assert "draw on: not an image PIL" in refused(found.picture, image=b"x" * 99)
    assert "draw on: an array of shape [2]" in refused(found.picture, image=np.zeros(2))
    for word in (True, 1.5, float("nan"), ["red"]):
        assert refused(found.picture, word).startswith(f"word is {word!r} (")


def test_code_in_a_dataset_is_shown_as_text(model, tmp_path):
    records = []
    for number, image in enumerate((photo(), b"", b"\xff\xd8no image", photo(seed=1))):
        asked = [
            {"id": f"{EVIL}{number}", "question": EVIL, "answers": [EVIL, "red"]},
            {"id": f"{number}", "question": LONG, "answers": ["\0", LONG]},
        ]
        record = {
            "key": f"{EVIL}{number}",
            "texts": [EVIL, LONG],
            "fields": json.dumps({"questions": asked}),
        }
        records.append(record | {"image": image})
    folder = tiny_dataset.write(str(tmp_path / "data"), records, task_datasets.FEATURES)
    config = EvaluateConfig("", folder, "train", task=VqaConfig(max_length=12), examples=9)
    evaluate(config, str(tmp_path / "out"), model=model("vqa"), write_page=write_examples)
    page = (tmp_path / "out" / "examples.html").read_text()
    assert page.count("<article") == 4 and "heat map of" in page
    check_page(page)


def check_page(page):
    assert ESCAPED in page
    assert "<script>alert" not in page and not {"\u202e", "\x1b", "\x85", "\0"}.intersection(page)


def test_code_in_a_gallery_is_shown_as_text(tmp_path):
    text = {"text": f"{EVIL}\n", "origin": "web", "model": EVIL, "method": "", "p_match": 0.5,
            "cosine": 0.1, "decision": "kept", "true": None}  # fmt: skip
    entry = {"key": EVIL, "url": f"javascript:{EVIL}", "texts": [text]}
    entries = [entry | {"image": image} for image in (photo(), b"no image")]
    write_gallery(str(tmp_path / "g"), {"title": EVIL, "command": EVIL}, entries, 2)
    check_page((tmp_path / "g" / "index.html").read_text())
    (thumb,) = (tmp_path / "g").glob("thumbs/*/*.jpg")
    assert Image.open(thumb).size == (40, 48)
    (data,) = (tmp_path / "g" / "data").iterdir()
    rows = json.loads(data.read_text().removeprefix("gallery.add(").removesuffix(");\n"))
    assert rows[0]["key"].endswith('\\u202eabc\\x1b[31m\\x85&"')
    assert rows[0]["texts"][0]["text"] == rows[0]["key"] + "\n"
