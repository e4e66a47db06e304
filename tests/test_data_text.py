"""Clean-up and tokenizer: literal values."""

import json
import pickle

import numpy as np
import pytest
import tokenizers

from blip_jax.data.text import clean_caption, clean_question
from blip_jax.data.tokenizer import TokenIds, Tokenizer, train_wordpiece
from blip_jax.runtime.errors import UserError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "ball", "##s", "of", "picture"]


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return Tokenizer.load(str(tmp_path))


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ('A dog: "Rex" (asleep).  On; a   mat!\n', "a dog rex asleep on a mat"),
        ("  *Two* cats~ #1, one-eyed?  ", "two cats 1, one-eyed?"),
        ("a\tb", "a\tb"),
        ("Tab\t\there", "tab here"),
        ("don't. \n\n", "don't"),
        ("...", ""),
        ("x " * 40, "x " * 29 + "x"),
    ],
)
def test_captions_are_cleaned_as_the_original_does(raw, clean):
    assert clean_caption(raw) == clean


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Is it 3:00?  ", "is it 300?"),
        ('What  colour; is "it"~?', "what  colour is it?"),
        ("Why?\n", "why?\n"),
        ("w " * 60, "w " * 49 + "w"),
    ],
)
def test_questions_are_cleaned_as_the_original_does(raw, clean):
    assert clean_question(raw) == clean


def test_encode_gives_literal_ids(tokenizer):
    ids, mask = tokenizer.encode(["A red ball", "", "balls of balls of balls", "cat [DEC]"], 7)
    assert ids.tolist() == [
        [2, 5, 6, 7, 3, 0, 0],
        [2, 3, 0, 0, 0, 0, 0],
        [2, 7, 8, 9, 7, 8, 3],  # cut, and still closed by [SEP]
        [2, 1, 1, 1, 1, 3, 0],  # a text cannot spell [DEC]
    ]
    assert mask.sum(1).tolist() == [5, 2, 7, 6]
    assert ids.dtype == np.int32 and mask.dtype == bool


def test_the_two_extra_tokens_follow_the_base_vocabulary(tokenizer):
    assert tokenizer.ids == TokenIds(pad=0, cls=2, sep=3, dec=11, enc=12, vocab_size=13)


def test_a_vocabulary_of_berts_size_has_blips_ids(tmp_path):
    names = WORDS + [f"w{number}" for number in range(30_522 - len(WORDS))]
    for words in (names, [*names, "[DEC]", "[ENC]"]):  # a saved BLIP vocabulary holds them
        (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
        loaded = Tokenizer.load(str(tmp_path))
        assert loaded.ids == TokenIds(0, 2, 3, 30_522, 30_523, 30_524)


def test_decode_stops_at_sep_and_drops_special_tokens(tokenizer):
    rows = [[11, 5, 6, 7, 8, 3, 5], [2, 12, 10, 9, 4, 1, 0], [3, 5, 5, 5, 5, 5, 5]]
    assert tokenizer.decode(np.array(rows)) == ["a red balls", "picture of [UNK]", ""]


def test_prompt_starts_with_dec_and_has_no_sep(tokenizer):
    assert tokenizer.prompt("a picture of ").tolist() == [11, 5, 10, 9]


def test_it_can_be_pickled(tokenizer):
    ids, _ = pickle.loads(pickle.dumps(tokenizer)).encode(["a red ball"], 5)
    assert ids.tolist() == [[2, 5, 6, 7, 3]]


def test_training_does_not_depend_on_order_and_loads_in_transformers(tmp_path):
    texts = ["a red ball", "two red balls", "a picture of boxes", "dsc 2034 jpg"] * 3
    first = train_wordpiece(texts, str(tmp_path / "a"), 60)
    train_wordpiece(reversed(texts), str(tmp_path / "b"), 60)
    vocabulary = (tmp_path / "a" / "vocab.txt").read_text()
    assert vocabulary == (tmp_path / "b" / "vocab.txt").read_text()
    # The pieces come in alphabetical order: without that, the ids differ from run to run.
    pieces = [word for word in vocabulary.split() if word.startswith("##") and len(word) == 3]
    assert pieces == sorted(pieces) and "##d" in pieces
    assert first.ids.vocab_size == 62
    ids, _ = first.encode(texts, 12)
    assert first.decode(ids) == texts
    transformers = pytest.importorskip("transformers")
    other = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "a"))
    theirs = other(texts, padding="max_length", truncation=True, max_length=12)["input_ids"]
    assert ids.tolist() == theirs
    # And what transformers saves, tokenizer.json without vocab.txt and BLIP's tokens in it.
    other.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    other.save_pretrained(str(tmp_path / "theirs"))
    (tmp_path / "theirs" / "vocab.txt").unlink(missing_ok=True)
    back = Tokenizer.load(str(tmp_path / "theirs"))
    assert (back.encode(texts, 12)[0] == ids).all()
    assert back.ids == first.ids


def test_missing_tokenizers_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="holds no vocab.txt"):
        Tokenizer.load(str(tmp_path))
    with pytest.raises(UserError, match="nowhere does not exist"):
        Tokenizer.load(str(tmp_path / "nowhere"))
    backend = json.loads(train_wordpiece(["a dog"], str(tmp_path / "x"), 30)._backend.to_str())
    backend["model"]["unk_token"] = "none"
    with pytest.raises(UserError, match="cannot encode unknown words"):
        Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(backend)))
    (tmp_path / "vocab.txt").write_text("a\nb\n[UNK]\n")
    with pytest.raises(UserError, match=r"no \[PAD\] \[CLS\] \[SEP\] \[MASK\]"):
        Tokenizer.load(str(tmp_path))
