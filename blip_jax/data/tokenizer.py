"""WordPiece with BLIP's two extra tokens, on the raw `tokenizers` library.

Axes: B texts, L positions, P prompt tokens, T generated tokens.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter

import numpy as np
import tokenizers
from etils import epath

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import check_scheme

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_EXTRA = ("[DEC]", "[ENC]")


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
    """Text to ids and back, lower-cased WordPiece.

    `[DEC]` and `[ENC]` follow the base vocabulary: 30522 and 30523 for bert-base-uncased, as in
    the original.

    Attributes:
      ids: the special tokens' ids and the vocabulary's size.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        """Wraps a trained BERT-like tokenizer; `Tokenizer.load` makes one from a name.

        Raises:
          UserError: the vocabulary lacks one of BERT's special tokens.
        """
        missing = [token for token in _SPECIAL if backend.token_to_id(token) is None]
        if missing:
            raise UserError(
                f"the tokenizer has no {' '.join(missing)}; give one with a BERT vocabulary"
            )
        self._backend = backend
        backend.no_padding()
        backend.no_truncation()
        try:
            backend.encode("\N{SNOWMAN}")  # a word that no vocabulary has
        except Exception as error:  # the library has no types of its own
            raise UserError(f"the tokenizer cannot encode unknown words: {error}") from error
        pad, _, cls, sep, mask = map(backend.token_to_id, _SPECIAL)
        base = len(backend.get_vocab(with_added_tokens=True).keys() - set(_EXTRA))
        self.ids = TokenIds(pad, cls, sep, dec=base, enc=base + 1, vocab_size=base + 2)
        self._dropped = {pad, cls, mask}

    @classmethod
    def load(cls, name_or_dir: str) -> Tokenizer:
        """Returns the tokenizer of a folder, or of a Hugging Face id such as 'bert-base-uncased'.

        Args:
          name_or_dir: a folder with vocab.txt (and tokenizer_config.json, if it is not
            lower-casing), or an id, which is downloaded once.

        Raises:
          UserError: there is no such folder or id, or it is not a BERT tokenizer.
        """
        check_scheme(name_or_dir)
        folder = epath.Path(name_or_dir).expanduser()
        if (folder / "vocab.txt").is_file():
            return cls(_from_vocabulary(folder))
        if folder.is_dir() and not (folder / "tokenizer.json").is_file():
            raise UserError(f"tokenizer folder {name_or_dir} holds no vocab.txt")
        if not folder.is_dir() and (folder.is_absolute() or name_or_dir.startswith(("./", "../"))):
            raise UserError(f"tokenizer folder {name_or_dir} does not exist")
        import transformers  # slow to import, and only the hub needs it

        try:
            loaded = transformers.AutoTokenizer.from_pretrained(name_or_dir)
            backend = loaded.backend_tokenizer
        except BaseException as error:  # also panics of the library's Rust code
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise UserError(
                f"tokenizer {name_or_dir!r} is neither a folder with vocab.txt nor an id that "
                f"Hugging Face could load ({type(error).__name__})"
            ) from error
        return cls(backend)

    def save(self, directory: str) -> None:
        """Writes vocab.txt and tokenizer_config.json, which transformers loads too."""
        folder = epath.Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        words = sorted(vocabulary.keys() - set(_EXTRA), key=vocabulary.get)
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
        normalizer = json.loads(self._backend.to_str())["normalizer"] or {}
        lower = normalizer.get("lowercase", True)
        config = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")

    @property
    def digest(self) -> str:
        """Returns a hash of the vocabulary and of whether texts are lower-cased."""
        vocabulary = sorted(self._backend.get_vocab(with_added_tokens=True).items())
        normalizer = json.loads(self._backend.to_str())["normalizer"] or {}
        values = [vocabulary, normalizer.get("lowercase", True)]
        return f"sha256 {hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]}"

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
        return self._backend.decode_batch(rows, skip_special_tokens=False)

    def pieces(self, ids) -> list[str]:
        """Returns the word pieces of ids int [T]; those that continue a word begin with "##"."""
        extra = {self.ids.dec: _EXTRA[0], self.ids.enc: _EXTRA[1]}
        return [
            extra.get(i) or self._backend.id_to_token(i) or "" for i in np.asarray(ids).tolist()
        ]

    def prompt(self, text: str) -> np.ndarray:
        """Returns the ids a generation starts from, int32 [P]: [DEC], then `text`, no [SEP]."""
        tokens = self._backend.encode(text, add_special_tokens=False).ids
        return np.array([self.ids.dec, *tokens], np.int32)


def _from_vocabulary(folder: epath.Path) -> tokenizers.Tokenizer:
    settings = folder / "tokenizer_config.json"
    try:
        config = json.loads(settings.read_text("utf-8-sig")) if settings.is_file() else {}
        lower = config.get("do_lower_case", True)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{settings} is not a configuration of a tokenizer") from error
    if not isinstance(lower, bool):
        raise UserError(f"{settings}: do_lower_case is {lower!r:.80}; expected true or false")
    try:
        text = (folder / "vocab.txt").read_text("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise UserError(f"{folder / 'vocab.txt'} is not a vocabulary in UTF-8") from error
    words = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    twice = [word for word, count in Counter(words).items() if count > 1]
    if twice:
        raise UserError(
            f"{folder / 'vocab.txt'} has the token {twice[0]!r:.80} twice; give every token once"
        )
    vocabulary = {word: number for number, word in enumerate(words) if word not in _EXTRA}
    missing = " ".join(token for token in _SPECIAL if token not in vocabulary)
    if missing:
        raise UserError(f"{folder / 'vocab.txt'} has no {missing}; give a BERT vocabulary")
    backend = tokenizers.BertWordPieceTokenizer(vocab=vocabulary, lowercase=lower)
    return tokenizers.Tokenizer.from_str(backend.to_str())


def train_wordpiece(texts, directory: str, vocab_size: int) -> Tokenizer:
    """Trains a vocabulary, saves it in `directory`, and returns its tokenizer.

    Args:
      texts: iterable of strings; the same texts in any order give the same vocabulary.
      directory: created if missing.
      vocab_size: upper bound of the base vocabulary, including the five special tokens.
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
        special_tokens=[*_SPECIAL, *(f"##{character}" for character in characters)],
        show_progress=False,
    )
    Tokenizer(tokenizers.Tokenizer.from_str(trainer.to_str())).save(directory)
    return Tokenizer.load(directory)


def _inner_characters(trainer: tokenizers.BertWordPieceTokenizer, texts: list[str]) -> set[str]:
    found = set()
    for text in texts:
        words = trainer.pre_tokenizer.pre_tokenize_str(trainer.normalizer.normalize_str(text))
        found.update(*(word[1:] for word, _ in words))
    return found
