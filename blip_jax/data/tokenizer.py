"""Any tokenizer with BLIP's two extra tokens, on the raw `tokenizers` library.

Axes: B texts, L positions, P prompt tokens, T generated tokens.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
import tokenizers
from etils import epath

from blip_jax.data.text import BLIP, find_cleanup, is_unicode, is_unspaced
from blip_jax.data.tokenizer_files import (
    BERT_SPECIAL,
    CLEANUP,
    CONFIG,
    EXTRA,
    assign_special_tokens,
    read_tokenizer,
)
from blip_jax.runtime.errors import UserError

_WORD_STARTS = ("\N{LOWER ONE EIGHTH BLOCK}", "Ġ")  # a blank in sentencepiece and byte-level BPE


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """Ids of the tokens that the model gives a meaning; the defaults are bert-base-uncased's.

    It can replace a `Tokenizer` in programs that are compiled and not run: they need no more.

    Attributes:
      pad: fills a batch of texts. cls, sep: start and end of a text.
      dec: starts a text to generate. enc: starts a text that is read with an image.
      vocab_size: number of ids: the base vocabulary, and dec and enc, which follow it.
    """

    pad: int = 0
    cls: int = 101
    sep: int = 102
    dec: int = 30522
    enc: int = 30523
    vocab_size: int = 30524

    @property
    def ids(self) -> TokenIds:
        """Returns itself, as `Tokenizer.ids` would."""
        return self

    def prompt(self, text: str) -> np.ndarray:
        """Returns int32 [P]: [DEC] and a token for each word, as many as BLIP's prompts have."""
        return np.array([self.dec, *(self.cls for _ in text.split())], np.int32)


class Tokenizer:
    """Text to ids and back: BERT's WordPiece, sentencepiece (unigram) or byte-level BPE.

    `[DEC]` and `[ENC]` follow the base vocabulary: 30522 and 30523 for bert-base-uncased, as in
    the original. Of other vocabularies than BERT's, the start of a text is their [CLS] or <s>, its
    end [SEP] or </s>; of these and [PAD] those that are missing are added to the base vocabulary.

    Attributes:
      ids: the special tokens' ids and the vocabulary's size.
      is_wordpiece: whether it is BERT's; else it is unigram or BPE.
      cleanup: how texts are cleaned up before they are encoded; `encode` does not do it.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str] | None = None,
        cleanup: str = "blip",
    ):
        """Wraps a trained tokenizer; `Tokenizer.load` makes one from a name.

        Args:
          cleanup: its name, of `text.CLEANUPS`.
          special_tokens: of others than WordPiece, by Hugging Face's names ("pad_token", …); those
            left out are looked for by their usual names.

        Raises:
          UserError: a WordPiece vocabulary lacks one of BERT's special tokens, unknown words cannot
            be encoded, or there is no such clean-up.
        """
        self.cleanup = find_cleanup(cleanup)
        self._backend = backend
        self.is_wordpiece = isinstance(backend.model, tokenizers.models.WordPiece)
        if self.is_wordpiece:
            missing = [token for token in BERT_SPECIAL if backend.token_to_id(token) is None]
            if missing:
                raise UserError(
                    f"the tokenizer has no {' '.join(missing)}; give one with a BERT vocabulary"
                )
        backend.no_padding()
        backend.no_truncation()
        try:
            backend.encode("\N{SNOWMAN}")  # a word that no vocabulary has
        except Exception as error:  # the library has no types of its own
            raise UserError(f"the tokenizer cannot encode unknown words: {error}") from error
        if self.is_wordpiece:
            pad, _, cls, sep, mask = map(backend.token_to_id, BERT_SPECIAL)
            base = len(self._vocabulary())
            self._dropped = {pad, cls, mask}
        else:
            roles = assign_special_tokens(backend, special_tokens or {})
            pad, cls, sep = (backend.token_to_id(roles[name]) for name in ("pad", "cls", "sep"))
            base = 1 + max(self._vocabulary().values())
            added = backend.get_added_tokens_decoder().items()
            self._dropped = {i for i, token in added if token.special}
            if unknown := (special_tokens or {}).get("unk_token"):
                self._dropped.discard(backend.token_to_id(unknown))
                roles["unk"] = unknown
            self._roles = roles
        self.ids = TokenIds(pad, cls, sep, dec=base, enc=base + 1, vocab_size=base + 2)
        self._extra = dict(zip((base, base + 1), EXTRA, strict=True))

    @classmethod
    def load(cls, name_or_dir: str, cleanup: str = "") -> Tokenizer:
        """Returns the tokenizer of a folder, or of a Hugging Face id such as 'bert-base-uncased'.

        Args:
          name_or_dir: a folder with vocab.txt (and tokenizer_config.json, if it is not
            lower-casing) or tokenizer.json, or an id, which is downloaded once.
          cleanup: of texts; "": the one that the folder names, else BLIP's.

        Raises:
          UserError: there is no such folder or id, or it is no tokenizer.
        """
        files = read_tokenizer(name_or_dir)
        return cls(files.backend, files.special_tokens, cleanup or files.cleanup)

    def save(self, directory: str) -> None:
        """Writes a folder that `load` and transformers read.

        It holds tokenizer_config.json and the vocabulary: vocab.txt of WordPiece, else
        tokenizer.json.
        """
        folder = epath.Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        if self.is_wordpiece:
            vocabulary = self._vocabulary()
            words = sorted(vocabulary, key=vocabulary.get)
            (folder / "vocab.txt").write_text("".join(f"{x}\n" for x in words), encoding="utf-8")
            config = {"tokenizer_class": "BertTokenizer", "do_lower_case": self._lower_cases()}
        else:
            (folder / "tokenizer.json").write_text(self._backend.to_str(), encoding="utf-8")
            config = {"tokenizer_class": "PreTrainedTokenizerFast"}
            config |= {f"{name}_token": token for name, token in self._roles.items()}
        if self.cleanup is not BLIP:
            config[CLEANUP] = self.cleanup.name
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")

    @property
    def digest(self) -> str:
        """Returns a hash of the vocabulary, the algorithm and the clean-up of texts."""
        values: list = [json.loads(self._backend.to_str())]
        if self.is_wordpiece:
            vocabulary = sorted(self._backend.get_vocab(with_added_tokens=True).items())
            values = [vocabulary, self._lower_cases()]
        if self.cleanup is not BLIP:
            values.append(self.cleanup.name)
        return f"sha256 {hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]}"

    def has_same_words(self, other: Tokenizer) -> bool:
        """Returns whether both give every word the same id."""
        return self._vocabulary() == other._vocabulary()

    def _vocabulary(self) -> dict[str, int]:
        """Returns the base vocabulary: all tokens but [DEC] and [ENC]."""
        found = self._backend.get_vocab(with_added_tokens=True)
        return {token: number for token, number in found.items() if token not in EXTRA}

    def _lower_cases(self) -> bool:
        normalizer = json.loads(self._backend.to_str())["normalizer"] or {}
        return normalizer.get("lowercase", True)

    def encode(self, texts: list[str], max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [B, L] and mask bool [B, L] (True on tokens), L = `max_length`.

        [CLS] is first and [SEP] last, also in a truncated text; the rest is [PAD]. To read a text
        with an image or to generate it, overwrite position 0 with `ids.enc` or `ids.dec`.

        Raises:
          ValueError: max_length is under 2.
        """
        if max_length < 2:
            raise ValueError(f"max_length is {max_length}; [CLS] and [SEP] alone take 2")
        ids = np.full((len(texts), max_length), self.ids.pad, np.int32)
        check_unicode(texts)
        encoded = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        lengths = np.zeros((len(texts), 1), np.int32)
        for row, encoding in enumerate(encoded):
            tokens = encoding.ids[: max_length - 2]
            lengths[row] = len(tokens) + 2
            ids[row, : len(tokens) + 2] = [self.ids.cls, *tokens, self.ids.sep]
        return ids, np.arange(max_length) < lengths

    def decode(self, ids) -> list[str]:
        """Returns the texts of generated ids, int [B, T].

        A text ends at its first [SEP]; other special tokens and ids past the vocabulary are
        dropped. Unknown words read '[UNK]'.
        """
        rows = []
        for row in np.asarray(ids).tolist():
            end = row.index(self.ids.sep) if self.ids.sep in row else len(row)
            rows.append([i for i in row[:end] if 0 <= i < self.ids.dec and i not in self._dropped])
        texts = self._backend.decode_batch(rows, skip_special_tokens=False)
        return texts if self.is_wordpiece else [text.strip(" ") for text in texts]

    def pieces(self, ids) -> list[str]:
        """Returns the word pieces of ids int [T]; those that continue a word begin with "##".

        Of a character that byte-level BPE splits, the first token has all and the others are "##".
        In scripts without blanks between words every piece is a word.
        """
        ids = np.asarray(ids).tolist()
        if not self.is_wordpiece:
            return self._subword_pieces(ids)
        return list(map(self._token, ids))

    def _token(self, number: int) -> str:
        return self._extra.get(number) or self._backend.id_to_token(number) or ""

    def _subword_pieces(self, ids: list[int]) -> list[str]:
        found: list[str] = []
        while len(found) < len(ids):
            first = len(found)
            token = self._token(ids[first])
            if ids[first] in self._dropped or ids[first] in self._extra:
                found.append(token)
                continue
            for end in range(first + 1, min(first + 4, len(ids)) + 1):  # 4 bytes at most
                text = self._backend.decode(ids[first:end], skip_special_tokens=False).strip()
                if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                    break
            is_new = is_unspaced(text) and found[-1:] != [""]  # "": a blank without its word
            starts_word = token.startswith(_WORD_STARTS) or is_new
            found += [text if starts_word else f"##{text}", *["##"] * (end - first - 1)]
        return found

    def prompt(self, text: str) -> np.ndarray:
        """Returns the ids a generation starts from, int32 [P]: [DEC], then `text`, no [SEP].

        A blank at its end belongs to the first generated word.
        """
        check_unicode([text])
        tokens = self._backend.encode(text.rstrip(" "), add_special_tokens=False).ids
        return np.array([self.ids.dec, *tokens], np.int32)


def check_unicode(texts: Sequence[str]) -> None:
    """Raises a UserError if a text has half of a surrogate pair, which is no character."""
    for text in texts:
        if not is_unicode(text):
            raise UserError(f"text {text[:80]!r} is not valid Unicode; remove its surrogates")


def train_wordpiece(texts, directory: str, vocab_size: int, cleanup: str = "blip") -> Tokenizer:
    """Trains a vocabulary, saves it in `directory`, and returns its tokenizer.

    Args:
      texts: iterable of strings; the same texts in any order give the same vocabulary.
      directory: created if missing.
      vocab_size: upper bound of the base vocabulary, including the five special tokens.
      cleanup: name of the clean-up that the texts had.
    """
    texts = list(texts)
    trainer = tokenizers.BertWordPieceTokenizer(lowercase=True)
    # The library numbers the pieces "##x" in the order of a hash map, which differs between runs,
    # and resolves ties between pairs by these numbers. As special tokens they have fixed numbers.
    characters = sorted(_inner_characters(trainer, texts))
    trainer.train_from_iterator(
        texts,
        vocab_size=vocab_size,
        min_frequency=1,
        limit_alphabet=len(characters) + 1000,
        special_tokens=[*BERT_SPECIAL, *(f"##{character}" for character in characters)],
        show_progress=False,
    )
    backend = tokenizers.Tokenizer.from_str(trainer.to_str())
    Tokenizer(backend, cleanup=cleanup).save(directory)
    return Tokenizer.load(directory)


def _inner_characters(trainer: tokenizers.BertWordPieceTokenizer, texts: list[str]) -> set[str]:
    found = set()
    for text in texts:
        words = trainer.pre_tokenizer.pre_tokenize_str(trainer.normalizer.normalize_str(text))
        found.update(*(word[1:] for word, _ in words))
    return found
