"""What the methods of a model return."""

import dataclasses

import numpy as np

from blip_jax.data.tokenizer import Tokenizer
from blip_jax.decoding import Generated


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class Caption:
    """A generated caption; `str` gives its text.

    Attributes:
      text: without the prompt.
      score: of beam search the log-probability over length, else the log-probability.
      tokens: int32 [T], after the prompt, the end token included.
      log_probs: float32 [T], of each of them.
    """

    text: str
    score: float
    tokens: np.ndarray
    log_probs: np.ndarray

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Caption({self.text!r}, score={self.score:.4g})"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Match:
    """How well texts describe images; arrays [B], or [B, G] for several texts an image.

    Attributes:
      probability: float32, P(match) of the image-grounded encoder (ITM).
      cosine: float32, of the aligned features (ITC).
      logits: float32 [..., 2], of ITM: no match, match.
    """

    probability: np.ndarray
    cosine: np.ndarray
    logits: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """An answer to a question; `str` gives its text.

    Attributes:
      text: the answer.
      score: its log-probability; of a generated one over its length.
    """

    text: str
    score: float

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Answer({self.text!r}, score={self.score:.4g})"


@dataclasses.dataclass(frozen=True, slots=True, eq=False, repr=False)
class RankedOptions:
    """Candidate answers to a question in a dialog; `str` gives the best.

    Attributes:
      options: as they were given.
      scores: float32 [C] of each of them: log P(right) - log P(wrong).
    """

    options: tuple[str, ...]
    scores: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """Returns the indices of the options, int [C], the best first."""
        return np.argsort(-self.scores, kind="stable")

    def __str__(self) -> str:
        return self.options[self.order[0]]

    def __repr__(self) -> str:
        return f"RankedOptions({str(self)!r} of {len(self.options)})"


def captions_of(
    generated: Generated, prompts: np.ndarray, tokenizer: Tokenizer
) -> list[list[Caption]]:
    """Returns captions of generated texts [B, N, T] that follow prompts of this many tokens."""
    captions = []
    for row, start in enumerate(prompts):
        texts = tokenizer.decode(generated.tokens[row, :, start:])
        parts = [slice(start, end) for end in generated.length[row]]
        captions.append([
            Caption(text, float(score), tokens[part], logs[part])
            for text, score, tokens, logs, part in zip(
                texts, generated.score[row], generated.tokens[row],
                generated.log_probabilities[row], parts, strict=True,
            )
        ])  # fmt: skip
    return captions
