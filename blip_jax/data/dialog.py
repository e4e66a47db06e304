"""The text of a round of a dialog that the dialog encoder reads, one for each candidate answer:

    [CLS] caption [SEP] question answer [SEP] … question answer [SEP] question candidate [SEP]

R rounds, C candidates of each, T tokens.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blip_jax.data.fields import dialog_caption, rounds_of
from blip_jax.data.text import BLIP, Cleanup


@dataclasses.dataclass(frozen=True)
class DialogRound:
    """A question after a dialog, and candidate answers to it. Texts are cleaned, and one line each.

    Attributes:
      caption: of the image.
      history: question and answer of each earlier round, in one text a round.
      question: that is asked now.
      candidates: answers to rank; of an example of training the right one comes first.
    """

    caption: str
    history: tuple[str, ...]
    question: str
    candidates: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """Returns all texts; `with_lines` puts changed ones in their places."""
        return [self.caption, *self.history, self.question, *self.candidates]

    def with_lines(self, lines: Sequence[str]) -> "DialogRound":
        """Returns a round with other texts, in the order of `lines`."""
        end = 1 + len(self.history)
        return DialogRound(lines[0], tuple(lines[1:end]), lines[end], tuple(lines[end + 1 :]))


EMPTY_ROUND = DialogRound("", (), "", ("",))


def question_line(text: str, cleanup: Cleanup = BLIP) -> str:
    """Returns a cleaned question in one line."""
    return " ".join(cleanup.question(text).split())


def answer_line(text: str, cleanup: Cleanup = BLIP) -> str:
    """Returns a cleaned answer or caption in one line."""
    return " ".join(cleanup.caption(text).split())


def history_line(question: str, answer: str, cleanup: Cleanup = BLIP) -> str:
    """Returns a cleaned question and its answer in one line."""
    return f"{question_line(question, cleanup)} {answer_line(answer, cleanup)}"


def dialog_round(
    record: Mapping[str, Any],
    number: int,
    candidates: Sequence[str] | None = None,
    cleanup: Cleanup = BLIP,
) -> DialogRound:
    """Returns a record's round `number`, counted from 0, with these candidates or its options."""
    rounds = rounds_of(record)
    history = [history_line(row["question"], row["answer"], cleanup) for row in rounds[:number]]
    options = rounds[number]["options"] if candidates is None else candidates
    return DialogRound(
        answer_line(dialog_caption(record), cleanup),
        tuple(history),
        question_line(rounds[number]["question"], cleanup),
        tuple(answer_line(text, cleanup) for text in options),
    )


def encode_rounds(
    tokenizer: Any, rounds: Sequence[DialogRound], num_candidates: int, max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids int32 [R, C, T] and mask bool [R, C, T], T = `max_length`.

    What is too long loses its oldest rounds, then the end of the caption. All candidates of a round
    follow the same history: as much as there is room for beside the longest of them. Question and
    candidate stay, but where these alone are too long, the question loses its end.

    Args:
      num_candidates: C; further candidates are left out, and missing ones are [CLS] [SEP] alone.
    """
    rounds = [dataclasses.replace(r, candidates=r.candidates[:num_candidates]) for r in rounds]
    lines = [line for row in rounds for line in row.lines]
    ids, mask = tokenizer.encode(lines, max_length)
    tokens = iter([
        row[1 : count - 1].tolist() for row, count in zip(ids, mask.sum(-1), strict=True)
    ])  # fmt: skip
    cls, sep = tokenizer.ids.cls, tokenizer.ids.sep
    out = np.full((len(rounds), num_candidates, max_length), tokenizer.ids.pad, np.int32)
    lengths = np.full((len(rounds), num_candidates), 2)
    out[:, :, :2] = [cls, sep]
    for number, row in enumerate(rounds):
        caption = next(tokens)
        history = [next(tokens) for _ in row.history]
        question = next(tokens)
        candidates = [next(tokens) for _ in row.candidates]
        room = max_length - 2 - max(map(len, candidates), default=0)  # beside [CLS] and [SEP]
        before, question = _fitting(caption, history, question[: max(room, 0)], room, sep)
        for place, candidate in enumerate(candidates):
            found = [cls, *before, *question, *candidate, sep]
            out[number, place, : len(found)] = found
            lengths[number, place] = len(found)
    return out, np.arange(max_length) < lengths[:, :, None]


def _fitting(
    caption: list[int], history: list[list[int]], question: list[int], room: int, sep: int
) -> tuple[list[int], list[int]]:
    """Returns what stands before the question, each part with its [SEP], and the question."""
    room -= len(question)
    caption = [*caption[: room - 1], sep] if caption and room > 1 else []
    room -= len(caption)
    kept: list[int] = []
    for part in reversed(history):
        if len(part) + 1 > room - len(kept):
            break
        kept = [*part, sep, *kept]
    return [*caption, *kept], question
