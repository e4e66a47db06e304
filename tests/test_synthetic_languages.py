"""The Shapes dataset in Japanese: grammar, oracle, records, and the full pipeline on it."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from test_bootstrap import minute_config

from blip_jax.capfilt import bootstrap as boot
from blip_jax.capfilt import labels, storage
from blip_jax.capfilt.bootstrap import run
from blip_jax.cli import config_files
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.synthetic import japanese
from blip_jax.data.synthetic.config import ShapesConfig
from blip_jax.data.synthetic.grammar import Phrase, Statement
from blip_jax.data.synthetic.languages import JAPANESE, LANGUAGES
from blip_jax.data.synthetic.oracle import assess_texts, check, parse_truth
from blip_jax.data.synthetic.records import make_record
from blip_jax.data.synthetic.scenes import Scene, World, describe, sample_scene, sample_statement
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.runtime.errors import UserError

SCENE = Scene(
    (
        Phrase("circle", "red", "small", "", "top", "left"),
        Phrase("square", "blue", "large", "", "bottom", "right"),
    ),
    "black",
)
WORLD = World(cells=3, max_objects=4, textures=2)


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_what_is_said_can_be_read_back(language):
    rng = np.random.default_rng(0)
    for number in range(500):
        scene = sample_scene(rng, WORLD)
        statement = sample_statement(scene, rng, short=number % 2 == 0)
        text = language.render(statement, rng)
        assert language.parse(text) == statement, text
        if len(scene.objects) < 3:  # longer ones can exceed the limit of words
            assert language.cleanup.caption(text) == text


@pytest.mark.parametrize(
    ("text", "true", "complete", "claims"),
    [
        ("黒い背景に左上の小さい赤い丸と右下の大きい青い四角", True, True, 9),
        ("右下隅の巨大な紺色の正方形と左上の小さな紅色の円があるバック", False, False, 0),
        ("右下隅の巨大な紺色の正方形と左上の小さな紅色の円がある暗いバック", True, True, 9),
        ("赤い丸", True, False, 2),
        ("青い丸がある", False, False, 2),
        ("黒い背景の上に青い四角がある", True, False, 3),
        ("赤い丸と赤い丸", False, False, 4),  # there is one
        ("丸赤い", False, False, 0),  # the adjective comes first
        ("赤の丸", False, False, 0),  # a wrong ending
        ("赤い 丸", False, False, 0),  # no blanks
        ("赤い丸黒い背景", False, False, 0),  # a clause needs its verb
        ("黒い背景に赤い丸がある黒い背景", False, False, 0),
        ("赤い丸と", False, False, 0),
        ("a small red circle", False, False, 0),
        ("", False, False, 0),
    ],
)
def test_a_text_is_checked_against_its_scene(text, true, complete, claims):
    found = check(text, SCENE, JAPANESE)
    assert (found.true, found.complete, found.num_claims) == (true, complete, claims)


def test_each_word_means_one_thing_and_none_holds_the_word_for_and():
    tables = (*japanese.ATTRIBUTES.values(), japanese.BACKGROUNDS, japanese.POSITIONS)
    words = [word for table in tables for own in table.values() for word in own]
    assert len(words) == len(set(words)) and not any(japanese.AND in word for word in words)
    assert not any(japanese.parse_text(text) for text in japanese.BOILERPLATE)


def test_records_name_their_language_and_english_ones_are_as_before():
    config = ShapesConfig(kind="web", train=60, val=0, test=0, world=WORLD, language="japanese")
    records = [make_record(i, "train", config) for i in range(60)]
    truths = [json.loads(record["truth"]) for record in records]
    assert {truth["language"] for truth in truths} == {"japanese"}
    texts = [record["texts"][0] for record in records]
    found = assess_texts(texts, [record["truth"] for record in records])["caption_truth"]
    assert found.tolist() == [truth["noise"] == "" for truth in truths]
    assert {truth["noise"] for truth in truths} >= {"", "mismatch", "one_attribute_wrong"}
    english = [
        make_record(i, "train", ShapesConfig(kind=kind)) for kind in ("human", "web")
        for i in range(20)
    ]  # fmt: skip
    said = json.dumps([[record["texts"], record["truth"]] for record in english])
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == "b8e9c42cea0fcd96"
    assert parse_truth(english[0]["truth"])[1].name == "english"
    assert parse_truth(json.dumps({**truths[0], "language": "klingon"})) is None


def test_what_has_no_second_language_is_refused():
    with pytest.raises(UserError, match="no language 'japanes'; did you mean 'japanese'"):
        ShapesConfig(language="japanes")
    for kind in ("vqa", "pairs", "dialog", "clips"):
        with pytest.raises(UserError, match=f"datasets of kind {kind} are in english alone;"):
            ShapesConfig(kind=kind, language="japanese")
    assert ShapesConfig(language="japanese").name != ShapesConfig().name


def test_the_variant_is_the_same_pipeline_with_other_texts():
    config, usual = (config_files.load(name)[0] for name in ("shapes:japanese", "shapes"))
    assert config.world.language == "japanese" and config.text_cleanup == "unicode"
    assert config.pretraining.steps == usual.pretraining.steps
    with pytest.raises(UserError, match="no variant 'japan'; did you mean 'japanese'"):
        config_files.load("shapes:japan")


@pytest.mark.slow
def test_the_full_pipeline_runs_in_japanese(tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    config = minute_config(arms=("none",), **{
        "world.language": "japanese", "tokenizer_type": "unigram", "text_cleanup": "unicode",
        "captioner.task.lm.prompt": "画像 ", "vocab_size": 260, "pretraining.steps": 2,
    })  # fmt: skip
    trained = run.train

    def train(config, workdir):  # the model of pre-training takes both roles: one compilation less
        if workdir.endswith("pretrain-none"):
            return trained(config, workdir)
        return shutil.copytree(tmp_path / "pretrain-none", workdir)

    monkeypatch.setattr(run, "train", train)
    (row,) = boot.bootstrap(config, str(tmp_path))
    assert row["true %"] == 0 and row["CIDEr"] < 100
    tokenizer = Tokenizer.load(str(tmp_path / "captioner" / "tokenizer"))
    assert tokenizer.cleanup.name == "unicode" and not tokenizer.is_wordpiece
    scores = storage.read(str(tmp_path / "scores"), "train")
    web = next((tmp_path / "data").glob("shapes/web-*/*/features.json")).parent
    truth = labels.text_labels(str(web), "train", scores, np.arange(len(scores.key)))
    truth = truth[scores.where("origin", "web")]
    noise = [json.loads(to_text(x["truth"]))["noise"] for x in open_dataset(str(web), "train")]
    assert truth.tolist() == [labels.FALSE if kind else labels.TRUE for kind in noise]
    assert "背景" in (tmp_path / "report.html").read_text()


def test_a_true_text_has_no_wrong_claim():
    rng = np.random.default_rng(1)
    other = Statement((Phrase("ring", "pink"),))
    for _ in range(50):
        assert check(describe(SCENE, rng, language=JAPANESE), SCENE, JAPANESE).true
        assert not check(JAPANESE.render(other, rng), SCENE, JAPANESE).true
