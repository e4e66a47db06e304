"""Scores of candidate answers in a dialog about an image, by the ITM head.

B questions, D local devices, b rounds a device, S pixels a side, N image tokens, W their width,
C candidates, T text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from blip_jax.data.dialog import (
    DialogRound,
    answer_line,
    encode_rounds,
    history_line,
    question_line,
)
from blip_jax.data.images import normalize
from blip_jax.data.text import Cleanup
from blip_jax.models.base import Base
from blip_jax.models.inputs import (
    ImageLike,
    as_images,
    as_list,
    broadcast,
    check_not_empty,
    is_sequence,
)
from blip_jax.models.pmapped import PmappedFunction
from blip_jax.models.results import RankedOptions

if TYPE_CHECKING:
    from blip_jax.models.model import Model

CHUNK = 25  # candidates of a round that are read at a time
LENGTH_BUCKET = 32  # texts of rounds are padded to a multiple of this
CANDIDATE_BUCKET = 5  # numbers of candidates are padded to a multiple of this

# Pairs of question and answer, the oldest first.
History = Sequence[tuple[str, str]]


class DialogMethods(Base):
    """What a model of type dialog can do."""

    def rank_dialog(
        self,
        images: ImageLike | Sequence[ImageLike],
        captions: str | Sequence[str],
        history: History | Sequence[History],
        questions: str | Sequence[str],
        options: Sequence[str] | Sequence[Sequence[str]],
        *,
        batch_size: int = 8,
        on_error: str = "raise",
    ) -> list[RankedOptions]:
        """Ranks the candidate answers to questions in dialogs about images (VisDial).

        One of each for a single question; or for several questions lists, of which those with one
        entry are used for all.

        Args:
          captions: what the dialog begins with; "" for none.
          history: earlier rounds, pairs (question, answer), the oldest first, [] for none; of
            several questions a list of these. Of what is too long the oldest rounds are left out.
          options: candidate answers; of several questions a list of lists, or one list for all.
          batch_size: the most questions a batch.
          on_error: as of `caption`.

        Raises:
          UserError: an image cannot be read, the lists do not go together, or the model cannot
            rank dialogs.
        """
        self.require("rank_dialog")
        cleanup = self.tokenizer.cleanup
        rounds = _rounds(as_list(captions), history, questions, options, cleanup)
        images, rounds = broadcast(as_images(images), rounds, names=("images", "questions"))
        most = max(len(row.candidates) for row in rounds)
        count = -(-most // CANDIDATE_BUCKET) * CANDIDATE_BUCKET
        ids, mask = encode_rounds(self.tokenizer, rounds, count, self.max_length)
        length = int(text_lengths(mask, self.max_length).max())
        arrays = ids[..., :length], mask[..., :length]
        function = self._function(dialog_function, CHUNK)
        (scores,) = self._run(function, images, arrays, batch_size, on_error, "rank dialog")
        given = _options(options, len(rounds))
        return [
            None if np.isnan(row[0]) else RankedOptions(tuple(own), row[: len(own)])
            for own, row in zip(given, scores, strict=True)
        ]


def _rounds(
    captions: list[str], history: Any, questions: Any, options: Any, cleanup: Cleanup
) -> list[DialogRound]:
    """Returns the round of each question; `history` and `options` as in `rank_dialog`."""
    asked = as_list(questions)
    histories = _histories(history, is_sequence(questions))
    listed = _options(options, len(asked))
    names = ("captions", "dialogs", "questions", "option lists")
    rows = zip(*broadcast(captions, histories, asked, listed, names=names), strict=True)
    return [
        DialogRound(
            answer_line(caption, cleanup),
            tuple(history_line(*pair, cleanup) for pair in as_list(earlier)),
            question_line(question, cleanup),
            tuple(answer_line(text, cleanup) for text in own),
        )
        for caption, earlier, question, own in rows
    ]


def _histories(history: Any, several: bool) -> list:
    """Returns the history of each question, or one for all of them, in a list."""
    pairs = as_list(history)
    is_one = all(any(isinstance(text, str) for text in as_list(pair)) for pair in pairs)
    return [pairs] if is_one or not several else pairs


def _options(options: Any, count: int) -> list[list[str]]:
    """Returns the candidate answers of each of `count` questions.

    Raises:
      UserError: one has none.
    """
    nested = any(is_sequence(row) for row in options)
    rows = [as_list(row) for row in options] if nested else [as_list(options)] * count
    for row in rows:
        check_not_empty(row, "options")
    return rows * count if len(rows) == 1 else rows


def text_lengths(mask: np.ndarray, most: int) -> np.ndarray:
    """Returns int [R]: the tokens of a round's longest text, of `mask` [R, C, T], padded.

    They are multiples of 32, or `most`, so that few programs are compiled.
    """
    longest = mask.sum(-1).max(-1)
    return np.minimum(-(-longest // LENGTH_BUCKET) * LENGTH_BUCKET, most)


def dialog_function(model: Model, chunk: int) -> PmappedFunction:
    """Returns a function of images and the texts of rounds to scores of their candidates.

    It takes images uint8 [D * b, S, S, 3], ids int32 and mask bool [D * b, C, T], and gives what
    `dialog_score_function` does.
    """

    def score(apply, images, ids, mask):
        return _scores(apply, apply("encode_image", normalize(images)), ids, mask, chunk)

    return PmappedFunction(score, model, ("dialog", chunk))


def dialog_score_function(model: Model, chunk: int) -> PmappedFunction:
    """Returns a function of image tokens and the texts of rounds to scores of their candidates.

    It takes tokens [D * b, N, W], ids int32 and mask bool [D * b, C, T], and gives float32
    [D * b, C]: the log-odds of a match, logarithm of P(match) / P(no match). They rank as the
    probability does, but those of sure answers do not round to the same number.

    Args:
      chunk: candidates of a round that are read at a time. A round is read after the other, so that
        memory does not grow with b and C beyond the image tokens.
    """

    def score(apply, tokens, ids, mask):
        return _scores(apply, tokens, ids, mask, chunk)

    return PmappedFunction(score, model, ("dialog_score", chunk))


def _scores(apply, tokens: jax.Array, ids: jax.Array, mask: jax.Array, chunk: int) -> jax.Array:
    count, length = ids.shape[1:]
    size = min(chunk, count)
    chunks = -(-count // size)
    padding = (0, 0), (0, chunks * size - count), (0, 0)
    # The padding repeats nothing: its first token is read, so that no softmax is over nothing.
    ids = jnp.pad(ids, padding).reshape(-1, chunks, size, length)
    mask = jnp.pad(mask, padding).at[:, count:, 0].set(True).reshape(ids.shape)

    def of_round(row):
        image, ids, mask = row
        context = apply("image_context", image[None], "encoder")

        def of_chunk(part):
            return log_odds(apply("itm_logits", *part, context))

        return jax.lax.map(of_chunk, (ids, mask)).reshape(-1)[:count]

    return jax.lax.map(of_round, (tokens, ids, mask))


def log_odds(logits: jax.Array) -> jax.Array:
    """Maps ITM logits [..., 2] to log P(match) - log P(no match)."""
    return logits[..., 1] - logits[..., 0]
