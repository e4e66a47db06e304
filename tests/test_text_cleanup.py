"""Texts of other languages: their clean-up, their words in metrics, and how pages show them."""

import json
import math
import warnings

import pytest

from blip_jax.data.text import find_cleanup, split_units, unicode_caption, unicode_question
from blip_jax.data.vocabulary import record_texts
from blip_jax.demo.views import answer_text
from blip_jax.metrics.captioning import caption_scores, tokenized
from blip_jax.reports import charts
from blip_jax.reports.gallery import write_gallery
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.terminal import page_text, printable


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("「赤い」丸。ＡＢ", "赤い 丸 AB"),
        ("ｶﾞﾗｽ　の コップ！", "ガラス の コップ"),
        ("هل هذه «كرة»؟ نعم، هي.", "هل هذه كرة ؟ نعم، هي"),
        ("\u200fילד \u202aBMX\u202c (קטן)", "ילד BMX קטן"),
        ("दो कुत्ते।", "दो कुत्ते"),
        ("A Dog’s “ball”: 5,5\u00a0m\n", "A Dog’s ball 5,5 m"),
        ("می‌رود", "می‌رود"),  # a joiner that is part of the word stays
        ("。！", ""),
    ],
)
def test_captions_of_other_languages(raw, clean):
    assert unicode_caption(raw) == clean


def test_two_graphemes_of_a_script_without_blanks_count_as_a_word():
    assert unicode_caption("赤" * 100) == "赤" * 60
    assert unicode_caption("x " * 40) == "x " * 29 + "x"
    assert unicode_caption("か\u3099" * 7, max_words=3) == "が" * 6
    assert unicode_caption("สวัสดีครับ", max_words=2) == "สวัสดี"  # vowels stay with their consonants
    assert unicode_caption("ab 赤い丸 cd", max_words=3) == "ab 赤い丸"
    assert unicode_caption("赤い丸ab", max_words=2) == "赤い丸"


def test_questions_lose_punctuation():
    assert unicode_question("これは「何」ですか？") == "これは何ですか?"


def test_a_text_is_split_into_words_or_graphemes():
    assert split_units("a red 赤い丸ー") == ["a", "red", "赤", "い", "丸", "ー"]
    assert split_units("كرة حمراء") == ["كرة", "حمراء"]


def test_an_unknown_cleanup_is_named():
    with pytest.raises(UserError, match="no text clean-up 'unicod'; did you mean 'unicode'"):
        find_cleanup("unicod")


def test_a_vocabulary_is_trained_on_texts_in_the_models_cleanup():
    record = {"texts": ["Ａ Dog"], "fields": json.dumps({"question": "Who?!"})}
    assert list(record_texts(record, "unicode")) == ["A Dog", "Who?"]
    assert list(record_texts(record)) == ["ａ dog", "who?"]


def test_metrics_count_graphemes_where_words_have_no_blanks():
    words, references = tokenized(["赤い丸、ＡＢがある。"], [["كرة حمراء، كبيرة؟", "A dog's ball"]])
    assert words == ["赤 い 丸 ab が あ る"]
    assert references == [["كرة حمراء كبيرة", "a dog's ball"]]
    pytest.importorskip("pycocoevalcap")
    found = caption_scores(["赤い丸がある", "青い箱"], [["赤い丸がある"], ["青い四角"]])
    # 8 of 9 graphemes occur, 6 of 7 pairs, 4 of 5 and 3 of 3 longer ones; references have 10.
    expected = (8 / 9 * 6 / 7 * 4 / 5 * 3 / 3) ** 0.25 * math.exp(1 - 10 / 9)
    assert found["bleu4"] == pytest.approx(100 * expected, rel=1e-4)


def test_pages_show_a_text_in_its_own_direction(tmp_path):
    text = {"text": "\u200fמילה", "origin": "web", "decision": "kept", "p_match": 0.9,
            "cosine": 0.1, "true": True}  # fmt: skip
    index = write_gallery(
        str(tmp_path / "g"), {"title": "معرض"}, [{"key": "k", "image": b"", "texts": [text]}], 1
    )
    page = open(index, encoding="utf-8").read()
    assert 'said.dir = "auto"' in page and "معرض" in page
    assert '"text": "\\u05de' in (tmp_path / "g" / "data" / "00000.js").read_text()
    assert "<b><bdi>كرة</bdi></b>" in answer_text("كرة", -1.0)
    assert page_text("\u200fx\u202e") == "x\\u202e" and printable("\u200fx") == "\\u200fx"


def test_charts_have_names_in_any_script():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = charts.bars({"日本語": 1.0, "כדור": 2.0}, "كرة")
    assert "日本語" in drawn and "כדור" in drawn and "كرة" in drawn
