"""The web demo without its page: what it asks of models, and what it refuses."""

import io
import zipfile

import numpy as np
import pytest
from network_calls import TEXTS, refused
from PIL import Image

from blip_jax.demo import uploads, views
from blip_jax.demo.uploads import Picture, picture_of, pictures_of
from blip_jax.demo.work import BATCH, MAX_TEXTS, Demo, ScoredText
from blip_jax.runtime.errors import UserError


def png(side: int = 20, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PICTURE = Picture("a.png", png())


@pytest.fixture(scope="module")
def demo(model):
    return Demo([model("captioner"), model("retrieval"), model("vqa")])


def test_captions_are_the_models(demo, model):
    found = demo.captions(PICTURE, "beam", num_captions=2, num_beams=3)
    (wanted,) = model("captioner").captions([png()], num_beams=3, num_captions=2)
    assert [x.text for x in found] == [x.text for x in wanted]
    sampled = demo.captions(PICTURE, "sample", 3, top_p=0.8, seed=5)
    assert [x.score for x in sampled] == sorted((x.score for x in sampled), reverse=True)


def test_scores_and_answers_are_the_models(demo, model):
    rows = demo.match(PICTURE, "\n".join([*TEXTS[:3], "", TEXTS[0]]))
    wanted = model("retrieval").match([png()], [list(TEXTS[:3])])
    assert [row.text for row in rows] == list(TEXTS[:3])
    np.testing.assert_allclose([x.probability for x in rows], wanted.probability[0], atol=1e-6)
    text, score = demo.answer(PICTURE, "what is it?", "red\nblue")
    (answer,) = model("vqa").answer([png()], "what is it?", ["red", "blue"])
    assert text == answer.text and score == pytest.approx(answer.score, abs=1e-5)


def test_capfilt_scores_given_and_sampled_texts(demo):
    rows = demo.capfilt(PICTURE, TEXTS[0], 2)
    assert rows[0].origin == "given" and {x.origin for x in rows[1:]} == {"synthetic"}


def test_attention_has_a_map_of_each_word(demo):
    assert demo.attention(PICTURE, "match", "a red square").words == ["a", "red", "square"]


def test_a_batch_has_a_row_of_each_picture(demo):
    pictures = [Picture(f"{n}.png", png(seed=n)) for n in range(BATCH + 2)]
    pictures[3] = Picture("3.png", b"no picture")
    parts = list(demo.batch(pictures, "caption", ""))
    rows = sum(parts, [])
    assert [len(part) for part in parts] == [BATCH, 2]
    assert [row["image"] for row in rows] == [picture.name for picture in pictures]
    assert [n for n, row in enumerate(rows) if "error" in row] == [3]
    assert all(row["caption"] for n, row in enumerate(rows) if n != 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda demo: demo.captions(Picture("x.png", b"text"), "beam"), "x.png"),
        (lambda demo: demo.captions(PICTURE, "beam", num_captions=99), "99 captions"),
        (lambda demo: demo.match(PICTURE, " \n"), "no text"),
        (lambda demo: demo.match(PICTURE, "\n".join(map(str, range(MAX_TEXTS + 1)))), "at most"),
        (lambda demo: demo.match(PICTURE, "a" * 1000), "1000 characters"),
        (lambda demo: demo.answer(PICTURE, ""), "no question"),
        (lambda demo: demo.capfilt(PICTURE, "", 0), "no texts"),
        (lambda demo: list(demo.batch([PICTURE], "match", "")), "no text"),
        (lambda demo: picture_of(None), "no image"),
    ],
)
def test_what_is_refused_is_one_line(demo, call, message):
    said = refused(call, demo)
    assert message in said and "\n" not in said


def test_a_model_that_can_do_nothing_here_is_refused(model):
    assert "cannot caption or match or answer" in refused(Demo, [model("nlvr")])


def write_zip(path, members: dict[str, bytes]) -> dict:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return {"path": str(path)}


def test_an_archive_gives_its_pictures_in_order(tmp_path):
    members = {"b/2.png": png(seed=2), "../a.png": png(seed=1), "notes.txt": b"x", "b/._2.png": b""}
    found = pictures_of([write_zip(tmp_path / "some.zip", members)])
    assert [picture.name for picture in found] == ["../a.png", "b/2.png"]  # a name that is shown
    assert found[1].content == png(seed=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.zip"]


def test_what_is_too_large_or_damaged_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_PICTURE", 1000)
    found = pictures_of([write_zip(tmp_path / "some.zip", {"a.png": b"0" * 5000})])
    assert isinstance(found[0].content, UserError) and "larger" in str(found[0].content)
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(b"PK no archive")
    assert "is not a zip archive" in refused(pictures_of, [{"path": str(damaged)}])
    monkeypatch.setattr(uploads, "MAX_PICTURES", 1)
    two = write_zip(tmp_path / "two.zip", {"a.png": png(4), "b.png": png(4)})
    assert "more than 1 images" in refused(pictures_of, [two])
    assert "no image file" in refused(pictures_of, [])


def test_tables_escape_texts_and_mark_what_is_removed():
    rows = [ScoredText("<b>dog</b>", "given", 0.2, 0.1), ScoredText("cat", "synthetic", 0.7, 0.3)]
    shown = views.selection_table(rows, 0.5)
    assert "1 of 2 texts are kept" in shown and "<b>dog" not in shown
    removed, kept = shown.split("<tr ")[1:]
    assert 'class="removed"' in removed and "&lt;b&gt;dog" in removed and "cat" in kept
    assert views.match_table(rows).index("cat") < views.match_table(rows).index("dog")
