"""Length, repetition and language of texts: measured, selected by, counted and shown."""

import json

import numpy as np
import pyarrow as pa
import pytest
import scored_dataset
import tiny_dataset

from blip_jax.capfilt import storage, text_measures
from blip_jax.capfilt.selection import KEPT, SelectionRules, select_texts
from blip_jax.cli.main import main
from blip_jax.data.synthetic.builder import make_record


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return scored_dataset.build(tmp_path_factory.mktemp("measures"))


@pytest.fixture(scope="module")
def table(web):
    return storage.read(web.scores, "train")


def assemble(web, folder, *options) -> int:
    argv = ["assemble", f"--workdir={folder}", f"--config.scores={web.scores}"]
    return main([*argv, *(f"--config.{x}" for x in options)])


@pytest.mark.parametrize(
    ("text", "words", "repetition"),
    [
        ("", 0, 0),
        ("dog", 1, 0),
        ("a dog and a dog", 5, 0.25),
        ("A dog and a Dog", 5, 0.25),
        ("red red red red", 4, 2 / 3),
        ("  a\tred   circle\n", 3, 0),
        ("赤い丸 ok", 4, 0),
        ("丸丸丸", 3, 0.5),
    ],
)
def test_words_and_repetition(text, words, repetition):
    assert text_measures.words(text) == words
    assert text_measures.repetition(text) == pytest.approx(repetition)


def test_equal_texts_are_measured_once():
    measured = []

    def measure(text):
        measured.append(text)
        return len(text)

    texts = pa.array(["aa", "b", "aa", "aa", "ccc"], pa.large_string())
    assert text_measures.of_numbers(texts, measure).tolist() == [2, 1, 2, 2, 3]
    assert sorted(measured) == ["aa", "b", "ccc"]
    nothing = pa.array([], pa.large_string())
    assert len(text_measures.of_numbers(nothing, measure)) == 0
    assert text_measures.of_strings(texts, str.upper).to_pylist() == ["AA", "B", "AA", "AA", "CCC"]


def test_languages():
    pytest.importorskip("py3langid")
    identify = text_measures.language_classifier()
    texts = {
        "two dogs are playing on the beach": "en",
        "zwei Hunde spielen am Strand im Sand": "de",
        "deux chiens jouent sur la plage": "fr",
        "赤い丸が青い四角の上にある": "ja",
        "2031 – 07": "",
    }
    assert {text: identify(text) for text in texts} == texts


def test_without_the_library_the_extra_is_named(web, tmp_path, capsys, monkeypatch):
    found = "blip_jax.runtime.extras.importlib.util.find_spec"
    monkeypatch.setattr(found, lambda name: None)
    assert assemble(web, tmp_path, "identify_languages=True") == 2
    message = capsys.readouterr().err
    assert 'py3langid is not installed; run pip install "blip-jax[language]"' in message


def test_limits_select(table):
    everything = dict.fromkeys(storage.ORIGINS)
    words = np.array([len(x.split()) for x in table.text.to_pylist()])
    rules = SelectionRules(everything, minimums={"words": 4}, maximums={"words": 6})
    decision = select_texts(table, rules)
    names = [rules.decisions[code] for code in decision]
    usable = np.array([x in ("kept", *rules.decisions[-2:]) for x in names])
    assert ((decision == KEPT) == (usable & (words >= 4) & (words <= 6))).all()
    assert {"words below its minimum", "words above its maximum", "kept"} < set(names)
    assert names.count("words below its minimum") == (usable & (words < 4)).sum()


def test_perplexity_is_that_of_captions_alone(table):
    synthetic = table.where("origin", "synthetic")
    expected = np.exp(-table.log_probability / np.maximum(table.tokens - 1, 1))
    np.testing.assert_allclose(table.perplexity[synthetic], expected[synthetic], rtol=1e-5)
    assert np.isnan(table.perplexity[~synthetic]).all() and (table.perplexity[synthetic] > 1).all()
    limit = float(np.median(table.perplexity[synthetic]))
    rules = SelectionRules(dict.fromkeys(storage.ORIGINS), maximums={"perplexity": limit})
    decision = select_texts(table, rules)
    dropped = decision == rules.decisions.index("perplexity above its maximum")
    assert (dropped == (table.scored & (table.perplexity > limit))).all()
    assert dropped.sum() > 80
    assert (decision[~synthetic] == KEPT).sum() > 200


def test_texts_of_other_languages_are_left_out(table):
    pytest.importorskip("py3langid")
    rules = SelectionRules(dict.fromkeys(storage.ORIGINS), languages=("en", "de"))
    decision = select_texts(table, rules)
    language = np.array(table.language.to_pylist())
    kept = decision == KEPT
    assert set(language[kept]) <= {"en", "de"} and kept.sum() > 100
    other = decision == rules.decisions.index("language left out")
    assert other.sum() > 0 and not set(language[other]) & {"en", "de"}


def test_statistics_card_and_report_show_them(web, table, tmp_path):
    pytest.importorskip("py3langid")
    options = "identify_languages=True", "gallery_images=3", "selection.minimums=words=3"
    assert assemble(web, tmp_path, *options) == 0
    found = json.loads((tmp_path / "statistics.json").read_text())
    words = found["measures"]["words"]
    own = table.words[table.where("origin", "web")]
    assert words["edges"][:2] == [0, 3] and words["web"][0] == (own < 3).sum() > 0
    assert sum(words["web"]) == len(own)
    assert sum(row["count"] for row in found["languages"]) == len(table.row)
    card = (tmp_path / "README.md").read_text()
    assert "Texts by number of words" in card and "### By language" in card
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Captions by their perplexity" in card and "Web texts by perplexity" not in page
    titles = "Web texts by words", "Synthetic texts by repetition", "Synthetic texts by perplexity"
    for title in (*titles, "By language"):
        assert title in page, title


def test_long_texts_are_in_the_last_bin(tmp_path):
    rng = np.random.default_rng(0)
    texts = [" ".join(["word"] * count) for count in (1, 100, 60)]
    rows = [
        {"key": text, "status": "ok", "texts": [scored_dataset.entry(text, 0, rng, 1, 0, 1)]}
        for text in texts
    ]
    records = [make_record(row, "train", scored_dataset.WEB) for row in range(len(rows))]
    images = tiny_dataset.write(str(tmp_path / "images"), records)
    scores = scored_dataset.write_scores(tmp_path / "scores", rows, ("judge",))
    argv = ["assemble", f"--workdir={tmp_path / 'out'}", f"--config.scores={scores}"]
    argv += [f"--config.dataset={images}", "--config.gallery_images=0"]
    assert main(argv) == 0
    found = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert found["measures"]["words"]["web"] == [1, *[0] * 18, 2]
    assert "perplexity" not in found["measures"]  # there is no caption
    assert "perplexity" not in (tmp_path / "out" / "README.md").read_text()
    assert found["measures"]["repetition"]["web"][-1] == 2


def test_assembling_keeps_a_share_of_each_length(web, table, tmp_path):
    options = "selection.shares.synthetic=0.25", "gallery_images=3"
    assert assemble(web, tmp_path, *options) == 0
    found = json.loads((tmp_path / "statistics.json").read_text())
    by_origin = {row["origin"]: row for row in found["texts"]}
    usable = table.scored & table.where("origin", "synthetic")
    counts = np.unique(table.words[usable], return_counts=True)[1]
    assert by_origin["synthetic"]["kept"] == np.ceil(counts * 0.25).sum()
    p_match = table.p_match[table.where("origin", "web"), 0]
    assert by_origin["web"]["kept"] == (p_match >= 0.5).sum()
    assert found["selection"]["shares"] == {"synthetic": 0.25}
    assert "not in the best share of its length" in (tmp_path / "README.md").read_text()
    page = (tmp_path / "report" / "index.html").read_text()
    assert "0.5 (web), any (synthetic)" in page
    assert assemble(web, tmp_path, "selection.shares.web=2") == 2
