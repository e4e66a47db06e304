"""Results as notebooks show them: tables with pictures, whose texts are no code."""

import re
import warnings

import numpy as np
import scored_dataset
from network_calls import FILES, PIXELS, TEXTS, refused
from PIL import Image

from blip_jax.capfilt import assemble
from blip_jax.capfilt.config import AssembleConfig
from blip_jax.metrics.uncertainty import Estimate
from blip_jax.models import Table
from blip_jax.models.notebook import MAX_ROWS
from blip_jax.tasks.metric_table import Metrics

SHORT = {"max_length": 12, "min_length": 3}


def cells(shown: str) -> list[list[str]]:
    """The texts of the cells of a table, row by row; "IMAGE" for a picture."""
    shown = re.sub("<img [^>]*>", "IMAGE", shown)
    return [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in shown.split("<tr>")[1:]]


def test_captions_with_pictures_and_probabilities(model):
    captions = model("captioner").caption(FILES[:2], **SHORT)
    head, *rows = cells(captions._repr_html_())
    assert head == ["", "caption", "probability"]
    for row, caption in zip(rows, captions, strict=True):
        probability = np.prod(np.exp(caption.log_probs.astype(float)))
        assert row == ["IMAGE", caption.text, f"{probability:.3g}"]
    assert captions == list(captions)


def test_several_captions_of_an_image_are_lines_of_one_row(model):
    found = model("captioner").captions(FILES[:2], num_captions=3, **SHORT)
    shown = found._repr_html_()
    assert shown.count("<img ") == shown.count('rowspan="3"') == 2
    assert [row[-2] for row in cells(shown)[1:]] == [str(x) for row in found for x in row]


def test_what_is_skipped_has_its_name_and_no_result(model):
    files = [PIXELS[0], "missing<i>.png", PIXELS[1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model("captioner").caption(files, on_error="skip", **SHORT)
    assert found[1] is None
    assert cells(found._repr_html_())[2] == ["missing&lt;i&gt;.png", "", ""]


def test_long_lists_show_and_keep_their_first_images(model):
    found = model("captioner").caption([PIXELS[0]] * (MAX_ROWS + 6), **SHORT)
    shown = found._repr_html_()
    assert shown.count("<img ") == MAX_ROWS and f"{MAX_ROWS} of {MAX_ROWS + 6} rows" in shown
    assert len(found._images) == MAX_ROWS
    del found[1:]
    assert found._repr_html_() is None  # no longer the results of those images


def test_matches_of_each_form_of_texts(model):
    retrieval = model("retrieval")
    one_each = retrieval.match(FILES[:2], TEXTS[:2])
    several = retrieval.match(FILES[0], [TEXTS[0], "<b>a</b>"])
    nested = retrieval.match(FILES[:2], [TEXTS[:3], TEXTS[3:6]])
    assert [len(cells(x._repr_html_())) for x in (one_each, several, nested)] == [3, 3, 7]
    assert [x._repr_html_().count("<img ") for x in (one_each, several, nested)] == [2, 1, 2]
    row = cells(several._repr_html_())[2]
    assert row == ["&lt;b&gt;a&lt;/b&gt;", f"{several.probability[1]:.3g}",
                   f"{several.cosine[1]:.3g}"]  # fmt: skip
    found = [row[-2] for row in cells(nested._repr_html_())[1:]]
    assert found == [f"{x:.3g}" for x in nested.probability.reshape(-1)]


def test_answers_beside_their_questions(model):
    found = model("vqa").answer(FILES[0], ["what <is> it?", "is it red?"], ["yes", "no"])
    head, first, second = cells(found._repr_html_())
    assert head == ["", "question", "answer", "log-probability"]
    assert first == ["IMAGE", "what &lt;is&gt; it?", found[0].text, f"{found[0].score:.3g}"]
    assert second[1:3] == ["is it red?", found[1].text]


def test_a_table_of_similarities_is_shaded_and_struck_by_line():
    table = Table({"<a>": [0.5, -0.5], "n": [1200, None]}, PIXELS[:2], [False, True])
    shown = table._repr_html_()
    assert cells(shown) == [
        ["", "&lt;a&gt;", "n"],
        ["IMAGE", "0.5", "1,200"],
        ["IMAGE", "-0.5", ""],
    ]
    assert shown.count("rgba(") == 1 and shown.count("line-through") == 2  # both cells of row two
    assert repr(table) == "Table(<a>, n: 2 rows)"
    assert "the rows of a table differ (a 1, images 2)" in refused(Table, {"a": [1]}, PIXELS[:2])


def test_controls_of_texts_do_not_turn_what_follows():
    (_, (text,)) = cells(Table({"text": ['\u202eabc\x1b[31m"']})._repr_html_())
    assert text == "\\u202eabc\\x1b[31m&quot;"


def test_large_pictures_are_stored_small():
    large = Image.effect_noise((3000, 2000), 50)
    shown = Table({"a": [1]}, [large])._repr_html_()
    assert len(shown) < 200_000 and "image/jpeg" in shown


def test_metrics_with_their_errors():
    found = Metrics({"accuracy": Estimate(91.5, 200, 1.25), "count": 3.0})
    assert cells(found._repr_html_()) == [
        ["metric", "value", "n", "± standard error"],
        ["accuracy", "91.5", "200", "1.25"],
        ["count", "3", "", ""],
    ]


def test_a_selection_strikes_out_what_is_removed(tmp_path):
    scored = scored_dataset.build(tmp_path)
    table = assemble.gallery(AssembleConfig(scores=scored.scores, dataset=scored.images))
    shown = table._repr_html_()
    rows = [row[-4:] for row in cells(shown)[1:]]
    decisions = [row[3] for row in rows]
    removed = sum(x != "kept" for x in decisions)
    assert 0 < removed < len(rows) and {row[0] for row in rows} == {"web", "synthetic"}
    assert shown.count("line-through") == 4 * removed
    assert len(table) == min(scored_dataset.ROWS, MAX_ROWS) == shown.count("<td rowspan")
    few = assemble.gallery(AssembleConfig(scores=scored.scores, gallery_images=2))
    assert len(few) == 2
