"""Tokenizers other than BERT's: unigram and byte-level BPE, own and foreign, and their models."""

import io
import json
import pickle

import jax
import numpy as np
import pytest
import tiny
import tokenizers
from PIL import Image
from tokenizers import decoders, models, pre_tokenizers

from blip_jax.checkpoints import Checkpoint, sources
from blip_jax.data.text import BLIP, UNICODE
from blip_jax.data.tokenizer import Tokenizer
from blip_jax.data.tokenizer_training import train_tokenizer
from blip_jax.models import load
from blip_jax.models.gradcam import merged_words
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.captioning import CaptioningConfig

TEXTS = ["赤い丸がある黒い背景", "黒い背景に青い四角と緑の丸", "كرة حمراء", "A red Ball on the mat"]
TYPES = ("unigram", "bpe")


@pytest.fixture(scope="module", params=TYPES)
def trained(request, tmp_path_factory):
    """(folder, tokenizer)."""
    folder = str(tmp_path_factory.mktemp(request.param))
    return folder, train_tokenizer(TEXTS * 4, folder, 330, request.param, "unicode")


def test_texts_are_encoded_and_decoded_as_they_were(trained):
    _, tokenizer = trained
    ids, mask = pickle.loads(pickle.dumps(tokenizer)).encode(TEXTS, 40)
    assert tokenizer.decode(ids) == TEXTS
    assert (ids[:, 0] == tokenizer.ids.cls).all() and tokenizer.cleanup is UNICODE
    assert (ids[np.arange(4), mask.sum(1) - 1] == tokenizer.ids.sep).all()
    assert tokenizer.ids.dec == len(json.loads(tokenizer._backend.to_str())["model"]["vocab"])
    assert not tokenizer.is_wordpiece


def test_a_prompt_is_the_beginning_of_a_text(trained):
    _, tokenizer = trained
    for prompt, text in (("赤い ", TEXTS[0]), ("A red ", "Ball"), ("كرة", " حمراء")):
        start = tokenizer.prompt(prompt)
        (ids,), (mask,) = tokenizer.encode([prompt + text], 40)
        assert ids[1 : len(start)].tolist() == start[1:].tolist()
        assert tokenizer.decode([ids[len(start) : mask.sum()]]) == [text.strip()]


@pytest.mark.parametrize("tokenizer_type", ("wordpiece", *TYPES))
def test_training_does_not_depend_on_order(tmp_path, tokenizer_type):
    texts = [*TEXTS, "青い四角がある緑の背景", "赤い四角と青い丸"] * 3
    first = train_tokenizer(texts, str(tmp_path / "a"), 320, tokenizer_type)
    second = train_tokenizer(reversed(texts), str(tmp_path / "b"), 320, tokenizer_type)
    assert first.digest == second.digest and first.cleanup is BLIP
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_folder_is_read_by_transformers_and_back(trained, tmp_path):
    folder, tokenizer = trained
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    found = theirs(TEXTS, padding="max_length", truncation=True, max_length=40)["input_ids"]
    assert found == tokenizer.encode(TEXTS, 40)[0].tolist()
    theirs.save_pretrained(str(tmp_path))
    back = Tokenizer.load(str(tmp_path))
    assert (back.ids, back.cleanup) == (tokenizer.ids, UNICODE)
    assert back.encode(TEXTS, 40)[0].tolist() == found


def test_the_cleanup_can_be_set_and_counts_in_the_digest(trained):
    folder, tokenizer = trained
    other = Tokenizer.load(folder, "blip")
    assert other.cleanup is BLIP and other.digest != tokenizer.digest
    assert Tokenizer.load(folder).digest == tokenizer.digest


def test_pieces_of_unspaced_scripts_are_words(trained):
    _, tokenizer = trained
    (ids,), (mask,) = tokenizer.encode(["A Ball 赤い丸"], 40)
    pieces = tokenizer.pieces(ids[: mask.sum()])
    words, rows = merged_words(pieces[1:-1])
    assert pieces[0] == "[CLS]" and len(pieces) == mask.sum()
    assert words[:2] == ["A", "Ball"] and "".join(words[2:]) == "赤い丸" and "" not in words
    assert [row.start for row in rows][1:] == [row.stop for row in rows][:-1]


def test_byte_level_bpe_knows_every_character_and_shows_it_whole(trained):
    _, tokenizer = trained
    ids, mask = tokenizer.encode(["☃ 鬱"], 20)
    if isinstance(tokenizer._backend.model, models.BPE):
        assert tokenizer.decode(ids) == ["☃ 鬱"]
        words, _ = merged_words(tokenizer.pieces(ids[0, : mask.sum()])[1:-1])
        assert words == ["☃", "鬱"]
    else:
        assert tokenizer.decode(ids) == ["[UNK] [UNK]"]


def bytes_of(vocabulary):
    """A byte-level BPE without merges, as GPT-2's is made."""
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def test_tokens_that_a_foreign_tokenizer_lacks_are_added(tmp_path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = bytes_of({token: number for number, token in enumerate(alphabet)})
    backend.add_special_tokens(["<|endoftext|>"])
    end = "<|endoftext|>"
    special = {"bos_token": end, "eos_token": end, "unk_token": end, "pad_token": end}
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(str(tmp_path))
    ids = tokenizer.ids
    assert (ids.sep, ids.cls, ids.pad) == (256, 257, 258)  # one token cannot mean all three
    assert (ids.dec, ids.enc, ids.vocab_size) == (259, 260, 261)
    assert tokenizer.decode(tokenizer.encode(["Hi 丸"], 12)[0]) == ["Hi 丸"]
    tokenizer.save(str(tmp_path / "own"))
    assert Tokenizer.load(str(tmp_path / "own")).ids == ids


def test_tokens_that_a_foreign_tokenizer_names_are_used(tmp_path):
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "▁ab"]
    backend = tokenizers.Tokenizer(models.Unigram([(p, -1.0 - len(p)) for p in pieces], 3))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    (tmp_path / "tokenizer.json").write_text(backend.to_str())
    tokenizer = Tokenizer.load(str(tmp_path))  # without a config, by their usual names
    ids, _ = tokenizer.encode(["ab ba"], 8)
    assert ids.tolist() == [[0, 7, 4, 6, 5, 2, 1, 1]]
    assert tokenizer.decode(ids) == ["ab ba"] and tokenizer.ids.vocab_size == 10


@pytest.mark.parametrize(
    ("size", "tokenizer_type", "message"),
    [
        (12, "unigram", r"vocab_size is 12, but the texts have \d+ different characters; set it"),
        (200, "bpe", "vocab_size is 200, but tokenizer_type bpe has 261 tokens of bytes"),
        (99, "bert", "no tokenizer type 'bert'; known: wordpiece, unigram, bpe"),
    ],
)
def test_what_cannot_be_trained_is_said(tmp_path, size, tokenizer_type, message):
    with pytest.raises(UserError, match=message):
        train_tokenizer(TEXTS, str(tmp_path), size, tokenizer_type)


def test_texts_are_needed_and_unknown_words_must_be_encodable(tmp_path):
    with pytest.raises(UserError, match="no texts to train a tokenizer on"):
        train_tokenizer([""], str(tmp_path), 300, "unigram")
    backend = tokenizers.Tokenizer(models.Unigram([("a", -1.0)]))
    with pytest.raises(UserError, match="cannot encode unknown words"):
        Tokenizer(backend)


@pytest.mark.parametrize("to", ("hf", "original"))
def test_conversion_keeps_the_vocabulary(trained, tmp_path, to):
    if to == "original":
        pytest.importorskip("torch")
    folder, tokenizer = trained
    config = tiny.config(med={"vocab_size": tokenizer.ids.vocab_size, "heads": 2})
    params = tiny.init(config, model_type="captioner")
    path = str(tmp_path / ("folder" if to == "hf" else "model.pth"))
    checkpoint = Checkpoint("captioner", config, params, tokenizer=tokenizer, prompt="画像 ")
    sources.write(checkpoint, path, to)
    found = load(path, **({"tokenizer": folder} if to == "original" else {}))
    assert found.config.med.vocab_size == tokenizer.ids.vocab_size
    assert found.tokenizer.digest == tokenizer.digest
    jax.tree.map(np.testing.assert_array_equal, found.params, params)


def test_training_uses_the_tokenizers_cleanup(trained):
    _, tokenizer = trained
    model = tiny.config(med={"max_length": 24})
    task = CaptioningConfig(max_length=24).make(model, tokenizer)
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "PNG")
    record = {"image": buffer.getvalue(), "texts": ["A Ｂall「赤」"], "key": "k"}
    example = task.example(record, np.random.default_rng(0))
    assert example["text"] == "A Ball 赤"
