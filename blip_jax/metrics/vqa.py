"""Visual question answering: VQA's soft accuracy, exact match, and the submission file.

The values are those of the official tool (GT-Vision-Lab/VQA, vqaEvaluation/vqaEval.py), its
surprises included: a comment marks each.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from blip_jax.metrics import uncertainty
from blip_jax.metrics.uncertainty import Estimate
from blip_jax.runtime.errors import UserError

# Answers that match this many of the other annotators' are fully right.
_FULL_SCORE = 3
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"[0-9],[0-9]")
_PERIOD = re.compile(r"\.(?![0-9])")
# The tool passes a flag where `sub` expects a count: later periods stay.
_MAX_PERIODS = 32
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}
# Contractions whose spellings with any one apostrophe missing are corrected.
_CONTRACTIONS = """
ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't
needn't oughtn't shan't shouldn't wasn't weren't won't wouldn't
couldn't've hadn't've mightn't've shouldn't've wouldn't've
could've might've must've not've should've they've we've what've where've who've would've you've
he'd how'd it'd someone'd something'd there'd they'd where'd who'd you'd
he'd've it'd've she'd've somebody'd've someone'd've something'd've there'd've they'd've we'd've
who'd've you'd've y'all'd've
how'll it'll somebody'll someone'll something'll they'll what'll who'll why'll you'll y'all'll
there're they're what're why're you're
he's how's somebody's someone's that's there's what's when's where's who's why's
ma'am o'clock y'all 'twas 'ow's'at
"""
_MISSPELT = {
    word[:i] + word[i + 1 :]: word
    for word in _CONTRACTIONS.split()
    for i, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the wrong way round, in the tool too


@functools.lru_cache(maxsize=2**16)
def normalize_answer(text: str) -> str:
    """Returns an answer as the official tool compares it: "The two cats." is "2 cats".

    Punctuation becomes a space, or nothing if it has a space beside it anywhere in the answer, and
    nothing in an answer with a comma between digits; periods go unless a digit follows. Then
    lower case, number words to digits, articles removed, apostrophes of contractions restored.
    """
    joined = _DIGIT_COMMA_DIGIT.search(text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        if mark in text:
            bare = joined or f"{mark} " in text or f" {mark}" in text
            cleaned = cleaned.replace(mark, "" if bare else " ")
    cleaned = _PERIOD.sub("", cleaned, count=_MAX_PERIODS)
    words = (_NUMBERS.get(word, word) for word in cleaned.lower().split())
    return " ".join(_MISSPELT.get(word, word) for word in words if word not in _ARTICLES)


def soft_accuracy(answer: str, annotations: Sequence[str]) -> float:
    """Returns VQA's accuracy of one answer, from 0 to 1.

    The answer is compared with those of all annotators but one: matching 3 of the others scores 1,
    fewer score a third each; this is averaged over whom is left out. If all annotators agree to the
    letter nothing is normalised: "Yes" does not match ten times "yes".

    Args:
      annotations: an answer an annotator, 10 in VQA v2. From 4 on the value is the official tool's.
        Of 2 or 3 annotators matching all of the others scores 1, where the tool gives 1/3 or 2/3;
        one annotator is compared with, where the tool gives 0. Without any the value is nan.
    """
    answer, given = _one_line(answer), [_one_line(text) for text in annotations]
    if not given:
        return float("nan")
    if len(set(given)) > 1:
        answer, given = normalize_answer(answer), [normalize_answer(text) for text in given]
    same = [text == answer for text in given]
    if len(given) == 1:
        return float(same[0])
    full = min(_FULL_SCORE, len(given) - 1)
    # Summed in the tool's order, so that values equal the tool's to the last digit.
    return sum(min(1.0, (sum(same) - left_out) / full) for left_out in same) / len(given)


def vqa_accuracy(
    answers: Sequence[str],
    annotations: Sequence[Sequence[str]],
    answer_types: Sequence[str] | None = None,
) -> dict[str, Estimate]:
    """Returns VQA's accuracy in percent, overall and by type of answer.

    Args:
      answers: of Q questions.
      annotations: of each question the annotators' answers; questions without any do not count.
      answer_types: of each question "yes/no", "number", "other", or any other; "": unknown.

    Returns:
      `accuracy`, and `accuracy/TYPE` of each type in alphabetical order, "yes/no" written "yes-no".

    Raises:
      UserError: lists of different lengths, or a string where a list of answers belongs.
    """
    types = [""] * len(answers) if answer_types is None else answer_types
    _check_lengths(answers=answers, annotations=annotations, answer_types=types)
    if any(isinstance(given, str) for given in annotations):
        raise UserError("the annotations of a question are a text; give a list, one an annotator")
    scores = [soft_accuracy(*pair) for pair in zip(answers, annotations)]
    groups = {"accuracy": scores}
    for name in sorted({name for name in types if name}):
        of_type = [score for score, other in zip(scores, types) if other == name]
        groups[f"accuracy/{name.replace('/', '-')}"] = of_type
    return {name: _percent(values) for name, values in groups.items()}


def exact_match(
    answers: Sequence[str], annotations: Sequence[Sequence[str]]
) -> dict[str, Estimate]:
    """Returns the share of answers that are equal to one of the right ones, in percent: `accuracy`.

    This is the accuracy of MSRVTT-QA and MSVD-QA, which have one right answer a question. Case and
    spaces do not count; nothing else is normalised. Questions without an annotation do not count.

    Raises:
      UserError: lists of different lengths, or a string where a list of answers belongs.
    """
    _check_lengths(answers=answers, annotations=annotations)
    if any(isinstance(given, str) for given in annotations):
        raise UserError("the annotations of a question are a text; give a list of right answers")
    same = [
        float(_plain(answer) in map(_plain, given)) if given else np.nan
        for answer, given in zip(answers, annotations)
    ]
    return {"accuracy": uncertainty.mean(same, scale=100)}


def submission(question_ids: Sequence[Any], answers: Sequence[str]) -> list[dict[str, Any]]:
    """Returns what VQA's evaluation server takes: [{"question_id": int, "answer": text}, …].

    Args:
      question_ids: integers, or texts of digits.

    Raises:
      UserError: lists of different lengths, an id that is no integer or occurs twice.
    """
    _check_lengths(question_ids=question_ids, answers=answers)
    entries, seen = [], set()
    for given, answer in zip(question_ids, answers):
        try:
            number = int(str(given))
        except ValueError:
            raise UserError(
                f"question id {given!r} is not an integer, which VQA's submission needs"
            ) from None
        if number in seen:
            raise UserError(f"question {number} has two answers; give one")
        seen.add(number)
        entries.append({"question_id": number, "answer": answer})
    return entries


def _percent(scores: Sequence[float]) -> Estimate:
    estimate = uncertainty.mean(scores, scale=100)
    counted = [score for score in scores if not np.isnan(score)]
    if not counted:
        return estimate
    # In the tool's order of operations; NumPy's mean may differ in the last digit.
    return Estimate(100 * sum(counted) / len(counted), estimate.n, estimate.standard_error)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _check_lengths(**lists: Sequence[Any]) -> None:
    if len({len(values) for values in lists.values()}) > 1:
        counts = ", ".join(f"{len(values)} {name}" for name, values in lists.items())
        raise UserError(f"{counts}: give one of each for each question")
