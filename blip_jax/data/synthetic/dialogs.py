"""Dialogs about a scene of two objects, of the kind `dialog` of the Shapes dataset, as in VisDial.

The caption names an object by its place, and questions are about "it" or "the other object". The
attributes of both are independent, and no round asks what the caption or an earlier answer tells or
narrows, so all answers of a question stay equally likely. The options of a round are drawn alike
for every answer that is among them: which is right cannot be seen from the options.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blip_jax.data.synthetic.answers import WORDS, YES_NO, parse_answer, render_answer
from blip_jax.data.synthetic.conditional_scenes import sample_scene_with
from blip_jax.data.synthetic.grammar import Phrase, draw_word, indefinite_article
from blip_jax.data.synthetic.scenes import Scene, World, pick

SUBJECTS = ("it", "the other object")
# Attributes of each kind of question; "yes_no" asks whether one of its attributes has a value.
ASKED = {
    "colour": ("colour",),
    "shape": ("shape",),
    "phrase": ("colour", "shape"),  # "what is the other object?", "a red square"
    "size": ("size",),
    "yes_no": ("colour", "shape"),
}
DEFAULT_TEMPLATES = ("colour", "shape", "phrase")
Fact = tuple[str, str]  # a subject and an attribute
SYNONYM_RELEVANCE = 0.5


def max_rounds(templates: Sequence[str]) -> int:
    """Returns how many rounds every dialog can have; some could have more.

    A phrase tells the colour and the shape of the other object at once.
    """
    single = {name for kind in templates if kind != "phrase" for name in ASKED[kind]}
    facts = len(SUBJECTS) * len(single)
    return facts + 1 - len(single.intersection(ASKED["phrase"])) if "phrase" in templates else facts


def sample_dialog(
    templates: Sequence[str],
    num_rounds: int,
    num_options: int,
    synonyms: bool,
    world: World,
    rng: np.random.Generator,
) -> tuple[Scene, dict]:
    """Returns a scene and the dialog about it.

    Args:
      templates: names in ASKED. The kind of a round is drawn evenly from those that are possible.
      num_rounds: at most `max_rounds(templates)`.
      num_options: candidate answers a round, of which one is right.
      synonyms: whether options are filled with other words for the same answers, so that some are
        synonyms of the right one; else with answers to other kinds of questions.

    Returns:
      The scene, and a dict with 'caption' and 'rounds': a dict each with 'question', 'answer',
      'options', 'answer_index', 'relevance' (1 of the answer, SYNONYM_RELEVANCE of its synonyms,
      else 0) and 'template'.
    """
    scene = sample_scene_with([], 2, world, rng)
    first = int(rng.integers(2))
    objects = dict(zip(SUBJECTS, (scene.objects[first], scene.objects[1 - first]), strict=True))
    place = render_answer(f"{objects['it'].row} {objects['it'].column}", rng)
    known: set[Fact] = set()
    rounds = []
    for _ in range(num_rounds):
        kinds = [kind for kind in templates if askable_facts(kind, known)]
        kind = pick(kinds, rng)
        facts = askable_facts(kind, known)
        told = facts[int(rng.integers(len(facts)))]
        known.update(told)
        question, answer, answers = _ask(kind, told, objects, world, rng)
        rounds.append({
            "question": question,
            **_options(answer, answers, num_options, synonyms, world, rng),
            "template": kind,
        })  # fmt: skip
    return scene, {"caption": f"an object {place} and another object", "rounds": rounds}


def askable_facts(kind: str, known: set[Fact]) -> list[list[Fact]]:
    """Returns what a question of a kind may ask: a list of facts each, none of them known."""
    if kind == "phrase":
        facts = [(SUBJECTS[1], name) for name in ASKED[kind]]
        return [] if known.intersection(facts) else [facts]
    return [[(x, name)] for x in SUBJECTS for name in ASKED[kind] if (x, name) not in known]


def _ask(
    kind: str, told: list[Fact], objects: dict[str, Phrase], world: World, rng: np.random.Generator
) -> tuple[str, str, list[str]]:
    """Returns the question, the concepts of its answer, and those of all possible answers."""
    subject, name = told[0]
    value, values = getattr(objects[subject], name), world.choices()[name]
    if kind == "phrase":
        shapes = world.choices()["shape"]
        answers = [f"{colour} {shape}" for colour in values for shape in shapes]
        return f"what is {subject}?", f"{value} {objects[subject].shape}", answers
    if kind != "yes_no":
        return f"what {name} is {subject}?", value, values
    answer = pick(list(YES_NO), rng)
    if answer == "no":
        value = pick([x for x in values if x != value], rng)
    word = draw_word(WORDS[value], rng)
    if name == "shape":
        word = f"{indefinite_article(word)} {word}"
    return f"is {subject} {word}?", answer, list(YES_NO)


def _options(
    answer: str,
    answers: list[str],
    num_options: int,
    synonyms: bool,
    world: World,
    rng: np.random.Generator,
) -> dict:
    """Returns 'answer', 'options', 'answer_index' and 'relevance' of a round."""
    others = _other_answers(answer, answers, num_options - 1, world, rng)
    options = [_in_words(concepts, rng) for concepts in (answer, *others)]
    same_kind = [word for concept in answers for word in WORDS.get(concept, ())]
    elsewhere = [
        concept
        for values in (*world.choices().values(), YES_NO)
        for concept in values
        if concept and concept not in answers
    ]
    fill = _shuffled(same_kind, rng) if synonyms else []
    fill += _shuffled(elsewhere, rng)
    fill = [text for text in fill if text not in options]
    right = options[0]
    options = _shuffled((options + fill)[:num_options], rng)
    index = options.index(right)
    relevance = [SYNONYM_RELEVANCE * (parse_answer(text) == answer) for text in options]
    relevance[index] = 1.0
    return {"answer": right, "options": options, "answer_index": index, "relevance": relevance}


def _other_answers(
    answer: str, answers: list[str], count: int, world: World, rng: np.random.Generator
) -> list[str]:
    """Returns at most `count` of the other answers.

    Phrases are taken from a grid of colours and shapes in which the right one is as likely to be
    anywhere: among variations of the right phrase, it would be the one that all others are like.
    """
    if " " in answer:
        colour, shape = answer.split()
        choices = world.choices()
        num_colours = min(len(choices["colour"]), -(-(count + 1) // 2))
        colours = _some_with(colour, choices["colour"], num_colours, rng)
        shapes = _some_with(shape, choices["shape"], -(-(count + 1) // num_colours), rng)
        answers = [f"{colour} {shape}" for colour in colours for shape in shapes]
    return _shuffled([x for x in answers if x != answer], rng)[:count]


def _some_with(value: str, values: list[str], count: int, rng: np.random.Generator) -> list[str]:
    """Returns a value and others, `count` in all if there are as many."""
    return [value, *_shuffled([x for x in values if x != value], rng)[: count - 1]]


def _in_words(concepts: str, rng: np.random.Generator) -> str:
    text = render_answer(concepts, rng)
    return f"{indefinite_article(text)} {text}" if " " in text else text


def _shuffled(values: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [values[i] for i in rng.permutation(len(values))]
