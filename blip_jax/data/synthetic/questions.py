"""Questions about a scene, of the kind `vqa` of the Shapes dataset.

Two consecutive records are twins: the same question, asked of two scenes with different answers.
The question, the two answers (all answers of its template being equally likely) and the number of
objects are drawn first, then a scene for each answer. So the text says nothing about the answer,
and neither does the number of objects, unless it is what is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blip_jax.data.synthetic.answers import render_answer
from blip_jax.data.synthetic.question_templates import (
    TEMPLATES,
    Question,
)
from blip_jax.data.synthetic.scenes import Scene, World, pick

NUM_ANNOTATORS = 10
# Their answers stay equally likely in scenes that were drawn for another question, as the scenes
# treat all colours, shapes, places, sizes and backgrounds alike. This is not so of numbers and of
# yes and no.
FOR_ANY_SCENE = (
    "colour_of_shape",
    "shape_of_colour",
    "place_of_shape",
    "size_of_shape",
    "background",
)


def sample_questions(
    templates: Sequence[str],
    num_questions: int,
    twin: int,
    world: World,
    pair_rng: np.random.Generator,
    rng: np.random.Generator,
) -> tuple[Scene, list[dict]]:
    """Returns a scene and the questions about it.

    Args:
      templates: names in TEMPLATES that are possible in this world.
      num_questions: at most this many; further ones than the first are of FOR_ANY_SCENE.
      twin: 0 or 1. Two calls that differ in `twin`, with the same state of `pair_rng`, give twins.
      pair_rng: draws what twins share.
      rng: draws the scene, the further questions and the annotators' words.

    Returns:
      The scene, and a dict a question: 'question', 'answers' (NUM_ANNOTATORS texts), 'type' and
      'template'.
    """
    name = pick(list(templates), pair_rng)
    template = TEMPLATES[name]
    question = template.ask(world, pair_rng)
    answers = template.answers(world)
    answer = answers[int(pair_rng.permutation(len(answers))[twin])]
    scene = template.scene(question, answer, world, rng)
    found = [_as_dict(name, question, answer, rng)]
    more = [
        (name, value, answer)
        for name in templates
        if name in FOR_ANY_SCENE
        for value, answer in TEMPLATES[name].askable(scene)
        if (name, (value,) if value else ()) != (found[0]["template"], question.about)
    ]
    while more and len(found) < num_questions:
        # The template first: those that can be asked of more objects would come more often.
        name = pick(sorted({x[0] for x in more}), rng)
        candidates = [x for x in more if x[0] == name]
        _, value, answer = drawn = candidates[int(rng.integers(len(candidates)))]
        more.remove(drawn)
        found.append(_as_dict(name, TEMPLATES[name].about(value, rng), answer, rng))
    return scene, found


def _as_dict(name: str, question: Question, answer: str, rng: np.random.Generator) -> dict:
    return {
        "question": question.text,
        "answers": [render_answer(answer, rng) for _ in range(NUM_ANNOTATORS)],
        "type": TEMPLATES[name].answer_type,
        "template": name,
    }
