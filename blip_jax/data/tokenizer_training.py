"""Training of a tokenizer on the texts of a run: WordPiece, unigram (sentencepiece) or BPE."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Literal, get_args

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from blip_jax.data.tokenizer import Tokenizer, train_wordpiece
from blip_jax.data.tokenizer_files import BERT_SPECIAL
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint

# "wordpiece" is BERT's, in lower case and by words between blanks. "unigram" is sentencepiece's,
# which needs no blanks. "bpe" is GPT-2's of bytes, which knows every character.
TokenizerType = Literal["wordpiece", "unigram", "bpe"]
SCORING_ROUNDS = 2
BYTES = 256  # in every BPE vocabulary


def train_tokenizer(
    texts: Iterable[str],
    directory: str,
    vocab_size: int,
    tokenizer_type: str = "wordpiece",
    cleanup: str = "blip",
) -> Tokenizer:
    """Trains a tokenizer, saves it in `directory`, and returns it.

    Args:
      texts: cleaned texts; the same texts in any order give the same vocabulary.
      directory: created if missing.
      vocab_size: upper bound of the base vocabulary, including five special tokens.
      tokenizer_type: one of TokenizerType.
      cleanup: name of the texts' clean-up, which is saved too.

    Raises:
      UserError: there is no such type or clean-up, or `vocab_size` is too small for the type.
    """
    if tokenizer_type == "wordpiece":
        return train_wordpiece(texts, directory, vocab_size, cleanup)
    if tokenizer_type not in get_args(TokenizerType):
        known = get_args(TokenizerType)
        raise UserError(
            f"there is no tokenizer type {tokenizer_type!r:.80}; {hint(tokenizer_type, known)}"
        )
    texts = sorted(texts)
    if not any(texts):
        raise UserError("there are no texts to train a tokenizer on; give datasets with texts")
    backend, trainer = (_unigram if tokenizer_type == "unigram" else _bpe)(texts, vocab_size)
    backend.train_from_iterator(texts, trainer)
    if tokenizer_type == "unigram":
        _set_scores(backend, texts)
    special = dict(zip(("pad", "unk", "cls", "sep", "mask"), BERT_SPECIAL, strict=True))
    Tokenizer(backend, {f"{k}_token": v for k, v in special.items()}, cleanup).save(directory)
    return Tokenizer.load(directory)


def _unigram(texts: list[str], vocab_size: int):
    """Returns an untrained tokenizer like sentencepiece's, and its trainer."""
    characters = set("".join(texts)) - {" "}
    least = len(BERT_SPECIAL) + len(characters) + 1  # and the mark of a blank
    if vocab_size < least:
        raise UserError(
            f"vocab_size is {vocab_size}, but the texts have {len(characters)} different "
            f"characters; set it to {least} or more, or tokenizer_type to bpe"
        )
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return backend, trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(BERT_SPECIAL),
        unk_token="[UNK]",
        show_progress=False,
    )


def _set_scores(backend: tokenizers.Tokenizer, texts: list[str]) -> None:
    """Gives the pieces scores and ids that depend on the texts alone.

    The library's sums run in the order of a hash map, which differs between runs. Its pieces are
    scored again: by how often they occur in the texts, then twice by how often they are used.
    """
    special, pieces = list(BERT_SPECIAL), sorted(backend.get_vocab().keys() - set(BERT_SPECIAL))
    corpus = "\n".join(
        word for text in texts for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)
    )
    counts = {piece: corpus.count(piece) for piece in pieces}
    for _ in range(1 + SCORING_ROUNDS):
        total = math.log(sum(counts.values()) + len(pieces))
        scored = [(piece, math.log(counts[piece] + 1) - total) for piece in pieces]
        vocabulary = [*((token, 0.0) for token in special), *scored]
        backend.model = models.Unigram(vocabulary, special.index("[UNK]"))
        encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
        counts = Counter(token for encoding in encoded for token in encoding.tokens)


def _bpe(texts: list[str], vocab_size: int):
    """Returns an untrained tokenizer like GPT-2's, and its trainer."""
    least = len(BERT_SPECIAL) + BYTES
    if vocab_size < least:
        raise UserError(
            f"vocab_size is {vocab_size}, but tokenizer_type bpe has {least} tokens of bytes and "
            "special ones; set it higher"
        )
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    return backend, trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(BERT_SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=1,
        show_progress=False,
    )
