"""Reading tokenizers from files: BERT's vocab.txt, tokenizer.json, and Hugging Face's folders."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers
from etils import epath

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import check_scheme

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
EXTRA = ("[DEC]", "[ENC]")
CONFIG = "tokenizer_config.json"
CLEANUP = "text_cleanup"  # its field that names how texts are cleaned up
# Roles in the order in which tokens are given out; the tokenizer's own names for them, and names
# that are looked for where it says none.
ROLES = {
    "sep": (("sep_token", "eos_token"), ("[SEP]", "</s>", "<eos>", "<|endoftext|>")),
    "cls": (("cls_token", "bos_token"), ("[CLS]", "<s>", "<bos>", "<|startoftext|>")),
    "pad": (("pad_token",), ("[PAD]", "<pad>")),
}
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
                 "vocab.json")  # fmt: skip
# Classes of which tokenizer.json says everything.
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend", "")


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """What files say of a tokenizer.

    Attributes:
      backend: vocabulary and algorithm.
      special_tokens: tokens by Hugging Face's names, such as "pad_token"; not of BERT vocabularies.
      cleanup: name of the clean-up that texts had in training.
    """

    backend: tokenizers.Tokenizer
    special_tokens: Mapping[str, str]
    cleanup: str


def read_tokenizer(name_or_dir: str) -> TokenizerFiles:
    """Returns the tokenizer of a folder, local or `gs://`, or of a Hugging Face id.

    Raises:
      UserError: there is no such folder or id, or it is no tokenizer.
    """
    check_scheme(name_or_dir)
    folder = epath.Path(name_or_dir).expanduser()
    if folder.is_dir():
        if (folder / "vocab.txt").is_file():
            return _from_vocabulary(folder)
        if not any((folder / name).is_file() for name in _VOCABULARIES):
            raise UserError(f"tokenizer folder {name_or_dir} holds no vocab.txt or tokenizer.json")
        config = _config(folder)
        if (folder / "tokenizer.json").is_file() and (
            str(config.get("tokenizer_class", "")) in _PLAIN_CLASSES
        ):
            return _from_json(folder, config)
    elif folder.is_absolute() or name_or_dir.startswith(("./", "../")):
        raise UserError(f"tokenizer folder {name_or_dir} does not exist")
    return _from_transformers(name_or_dir)


def _from_transformers(name: str) -> TokenizerFiles:
    import transformers  # slow to import, and only its own classes need it

    message = (
        f"tokenizer {name!r} is neither a folder with vocab.txt or tokenizer.json nor an id that "
        "Hugging Face could load"
    )
    with _failing_as(message):
        loaded = transformers.AutoTokenizer.from_pretrained(name)
        special = {
            key: getattr(loaded, key)
            for names, _ in ROLES.values()
            for key in (*names, "unk_token")
        }
        backend, values = loaded.backend_tokenizer, loaded.init_kwargs
    return TokenizerFiles(backend, {k: v for k, v in special.items() if v}, _cleanup(values))


def _from_json(folder: epath.Path, config: Mapping[str, Any]) -> TokenizerFiles:
    file = folder / "tokenizer.json"
    with _failing_as(f"{file} is not a tokenizer"):
        backend = tokenizers.Tokenizer.from_str(file.read_text("utf-8"))
    special = {}
    for key, value in config.items():
        value = value.get("content") if isinstance(value, dict) else value  # an AddedToken
        if key.endswith("_token") and isinstance(value, str):
            special[key] = value
    return TokenizerFiles(backend, special, _cleanup(config))


@contextlib.contextmanager
def _failing_as(message: str) -> Iterator[None]:
    """Turns what the tokenizers library raises, panics of its Rust code too, into a UserError."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{message} ({type(error).__name__})") from error


def _config(folder: epath.Path) -> dict[str, Any]:
    """Returns tokenizer_config.json; {} without one."""
    settings = folder / CONFIG
    try:
        config = json.loads(settings.read_text("utf-8-sig")) if settings.is_file() else {}
        if not isinstance(config, dict):
            raise ValueError
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{settings} is not a configuration of a tokenizer") from error
    return config


def _cleanup(config: Mapping[str, Any]) -> str:
    return str(config.get(CLEANUP, "blip"))


def _from_vocabulary(folder: epath.Path) -> TokenizerFiles:
    config = _config(folder)
    lower = config.get("do_lower_case", True)
    if not isinstance(lower, bool):
        raise UserError(
            f"{folder / CONFIG}: do_lower_case is {lower!r:.80}; expected true or false"
        )
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
    vocabulary = {word: number for number, word in enumerate(words) if word not in EXTRA}
    missing = " ".join(token for token in BERT_SPECIAL if token not in vocabulary)
    if missing:
        raise UserError(f"{folder / 'vocab.txt'} has no {missing}; give a BERT vocabulary")
    backend = tokenizers.BertWordPieceTokenizer(vocab=vocabulary, lowercase=lower)
    return TokenizerFiles(tokenizers.Tokenizer.from_str(backend.to_str()), {}, _cleanup(config))


def assign_special_tokens(
    backend: tokenizers.Tokenizer, named: Mapping[str, str]
) -> dict[str, str]:
    """Returns the tokens for the roles sep, cls and pad, all different; adds those not there.

    Texts that transformers encodes with the changed backend begin and end with them, too.
    """
    roles: dict[str, str] = {}
    for role, (names, usual) in ROLES.items():
        candidates = [*(named[name] for name in names if name in named), *usual]
        known = [token for token in candidates if backend.token_to_id(token) is not None]
        free = [token for token in known if token not in roles.values()]
        roles[role] = free[0] if free else usual[0]
    backend.add_special_tokens(list(roles.values()))
    cls, sep = ((roles[name], backend.token_to_id(roles[name])) for name in ("cls", "sep"))
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{cls[0]} $A {sep[0]}", pair=f"{cls[0]} $A {sep[0]} $B {sep[0]}",
        special_tokens=[cls, sep],
    )  # fmt: skip
    return roles
