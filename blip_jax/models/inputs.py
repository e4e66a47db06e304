"""Texts to ids of few lengths, and what a model gives back as texts and scores.

B images, N captions an image, G texts an image, T tokens, P prompt tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from blip_jax.data.tokenizer import Tokenizer
from blip_jax.decoding import Generated
from blip_jax.runtime.errors import UserError

STEP = 16  # texts are padded to a multiple of so many tokens: few shapes, few programs


class Caption(NamedTuple):
    """A caption with what the model thinks of it.

    Attributes:
      text: without the prompt.
      score: of beam search the library's (log-probability over length), else the log-probability.
      tokens: int32 [T], behind the prompt, the end token included.
      log_probabilities: float32 [T], of each of them.
    """

    text: str
    score: float
    tokens: np.ndarray
    log_probabilities: np.ndarray


class Match(NamedTuple):
    """How well images and texts go together; [B], or [B, G] for several texts an image.

    Attributes:
      probability: float32, P(match) of the image-grounded encoder (ITM).
      cosine: float32, of the aligned features (ITC).
      logits: float32 [..., 2], of ITM: no match, match.
    """

    probability: np.ndarray
    cosine: np.ndarray
    logits: np.ndarray


def encode(tokenizer: Tokenizer, texts: list[str], most: int) -> tuple[np.ndarray, np.ndarray]:
    """ids int32 [B, T] and mask bool [B, T]; T is a multiple of STEP, or `most`."""
    ids, mask = tokenizer.encode(texts, most)
    longest = int(mask.sum(-1).max(initial=1))
    length = min(-(-longest // STEP) * STEP, most)
    return ids[:, :length], mask[:, :length]


def encode_prompts(
    tokenizer: Tokenizer, prompt: str | Sequence[str], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts int32 [B, P], padded, and their lengths int32 [B]; a single one is everybody's.

    Raises:
      UserError: there are more or fewer than `count`.
    """
    texts = [prompt] * count if isinstance(prompt, str) else list(prompt)
    if len(texts) != count:
        raise UserError(f"{len(texts)} prompts for {count} images: give one, or one an image")
    rows = {text: tokenizer.prompt(text) for text in set(texts)}
    lengths = np.array([len(rows[text]) for text in texts], np.int32)
    ids = np.full((count, lengths.max(initial=1)), tokenizer.ids.pad, np.int32)
    for number, text in enumerate(texts):
        ids[number, : lengths[number]] = rows[text]
    return ids, lengths


def captions_of(found: Generated, prompts: np.ndarray, tokenizer: Tokenizer) -> list[list[Caption]]:
    """What was generated, [B, N, T], behind prompts of so many tokens each."""
    captions = []
    for row, start in enumerate(prompts):
        texts = tokenizer.decode(found.tokens[row, :, start:])
        parts = [slice(start, end) for end in found.length[row]]
        captions.append([
            Caption(text, float(score), tokens[part], logs[part])
            for text, score, tokens, logs, part in zip(
                texts, found.score[row], found.tokens[row], found.log_probabilities[row], parts,
                strict=True,
            )
        ])  # fmt: skip
    return captions


def check_same_length(images: Sequence, texts: Sequence, name: str) -> None:
    """Raises a UserError unless there are as many of both, and some."""
    check_not_empty(images, "images")
    if len(images) != len(texts):
        raise UserError(f"{len(images)} images and {len(texts)} {name}: give one an image")


def check_not_empty(values: Sequence, name: str) -> None:
    """Raises a UserError if there are none."""
    if not len(values):
        raise UserError(f"no {name}: give one at least")
