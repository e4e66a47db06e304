"""WordPiece with BLIP's two extra tokens, on the raw `tokenizers` library.

Axes: B texts, L positions, P prompt tokens, T generated tokens.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import tokenizers
from etils import epath

from blip_jax.runtime.errors import UserError

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_EXTRA = ("[DEC]", "[ENC]")


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """The special ids of a vocabulary, which are all that a compiled program knows of a tokenizer.

    The default is bert-base-uncased with BLIP's two tokens.
    """

    pad: int = 0
    cls: int = 101
    sep: int = 102
    dec: int = 30522
    enc: int = 30523
    vocab_size: int = 30524

    def prompt(self, text: str) -> np.ndarray:
        """Returns int32 [P]: [DEC] and a token a word, as many as BLIP's prompts have."""
        return np.array([self.dec, *(self.cls for _ in text.split())], np.int32)


class Tokenizer:
    """Text to ids and back, lower-cased WordPiece.

    `[DEC]`, which starts a text to generate, and `[ENC]`, which starts a text read together with
    an image, follow the base vocabulary: 30522 and 30523 for bert-base-uncased, as in the
    original.

    Attributes:
      pad, cls, sep, dec, enc: ids. vocab_size: ids in all, the base vocabulary and two more.
    """

    def __init__(self, backend: tokenizers.Tokenizer):
        """Wraps a trained BERT-like tokenizer; `Tokenizer.load` makes one from a name.

        Raises:
          UserError: the vocabulary lacks one of BERT's special tokens.
        """
        missing = [token for token in _SPECIAL if backend.token_to_id(token) is None]
        if missing:
            raise UserError(
                f"the tokenizer has no {' '.join(missing)}; a BERT vocabulary is needed"
            )
        self._backend = backend
        backend.no_padding()
        backend.no_truncation()
        self.pad, _, self.cls, self.sep, mask = map(backend.token_to_id, _SPECIAL)
        self.base = len(backend.get_vocab(with_added_tokens=True).keys() - set(_EXTRA))
        self.dec, self.enc = self.base, self.base + 1
        self.vocab_size = self.base + 2
        self._dropped = {self.pad, self.cls, mask}

    @classmethod
    def load(cls, name_or_dir: str) -> Tokenizer:
        """Returns the tokenizer of a folder, or of a Hugging Face id such as 'bert-base-uncased'.

        Args:
          name_or_dir: a folder with vocab.txt (and tokenizer_config.json, if it is not
            lower-casing), or an id, which is downloaded once.

        Raises:
          UserError: there is no such folder or id, or it is not a BERT tokenizer.
        """
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
        except (OSError, ValueError, AttributeError) as error:
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

    def encode(self, texts: list[str], max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [B, L] and mask bool [B, L] (True on tokens), L = `max_length`.

        [CLS] is first and [SEP] last, also where a text is cut; the rest is [PAD]. To read a text
        with an image or to generate it, overwrite position 0 with `enc` or `dec`.

        Raises:
          ValueError: max_length is under 2.
        """
        if max_length < 2:
            raise ValueError(f"max_length is {max_length}; [CLS] and [SEP] alone take 2")
        ids = np.full((len(texts), max_length), self.pad, np.int32)
        encoded = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        lengths = np.zeros((len(texts), 1), np.int32)
        for row, encoding in enumerate(encoded):
            tokens = encoding.ids[: max_length - 2]
            lengths[row] = len(tokens) + 2
            ids[row, : len(tokens) + 2] = [self.cls, *tokens, self.sep]
        return ids, np.arange(max_length) < lengths

    def decode(self, ids) -> list[str]:
        """Returns the texts of generated ids, int [B, T].

        A text ends at its first [SEP]; other special tokens and ids past the vocabulary are
        dropped. Unknown words read '[UNK]'.
        """
        rows = []
        for row in np.asarray(ids).tolist():
            end = row.index(self.sep) if self.sep in row else len(row)
            rows.append([i for i in row[:end] if 0 <= i < self.base and i not in self._dropped])
        return self._backend.decode_batch(rows, skip_special_tokens=False)

    def prompt(self, text: str) -> np.ndarray:
        """Returns the ids a generation starts from, int32 [P]: [DEC], then `text`, no [SEP]."""
        tokens = self._backend.encode(text, add_special_tokens=False).ids
        return np.array([self.dec, *tokens], np.int32)


def _from_vocabulary(folder: epath.Path) -> tokenizers.Tokenizer:
    settings = folder / "tokenizer_config.json"
    config = json.loads(settings.read_text("utf-8")) if settings.is_file() else {}
    words = (folder / "vocab.txt").read_text("utf-8").splitlines()
    vocabulary = {word: number for number, word in enumerate(words) if word not in _EXTRA}
    missing = " ".join(token for token in _SPECIAL if token not in vocabulary)
    if missing:
        raise UserError(f"{folder / 'vocab.txt'} has no {missing}; a BERT vocabulary is needed")
    lower = config.get("do_lower_case", True)
    backend = tokenizers.BertWordPieceTokenizer(vocab=vocabulary, lowercase=lower)
    return tokenizers.Tokenizer.from_str(backend.to_str())


def train_wordpiece(texts, directory: str, vocab_size: int) -> Tokenizer:
    """Trains a vocabulary, saves it in `directory`, and returns its tokenizer.

    Args:
      texts: iterable of strings; the same texts in any order give the same vocabulary.
      directory: made if need be.
      vocab_size: upper bound of the base vocabulary, the five special tokens counted.
    """
    texts = list(texts)
    trainer = tokenizers.BertWordPieceTokenizer(lowercase=True)
    # The library numbers the pieces "##x" in the order of a hash map, which differs from run to
    # run, and breaks ties between pairs by these numbers. Named beforehand, they are fixed.
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
