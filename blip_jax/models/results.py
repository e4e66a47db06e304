"""What the methods of a model return."""

import dataclasses

import numpy as np


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
