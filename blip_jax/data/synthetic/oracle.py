"""What is true of a scene: any text, for instance a model's output, against the ground truth."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np

from blip_jax.data.synthetic import grammar
from blip_jax.data.synthetic.grammar import Phrase, Statement
from blip_jax.data.synthetic.scenes import Scene


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What is to be said of a text about a scene.

    Attributes:
      true: it is of the grammar and everything it claims holds.
      complete: it names every object with all its attributes, and the background (true or not).
      claims: how many things it claims; 0 where it is not of the grammar.
    """

    true: bool
    complete: bool
    claims: int


def holds(statement: Statement, scene: Scene) -> bool:
    """Whether distinct objects of the scene can be found for all phrases, and the background."""
    if statement.background not in ("", scene.background):
        return False

    def fits(phrase: Phrase, item: Phrase) -> bool:
        said = dataclasses.asdict(phrase)
        return all(value in ("", getattr(item, name)) for name, value in said.items())

    return any(
        all(map(fits, statement.phrases, objects))
        for objects in itertools.permutations(scene.objects, len(statement.phrases))
    )


def judge(text: str, scene: Scene) -> Judgement:
    """Judges any text, for instance a model's output, against the scene. See `Judgement`."""
    statement = grammar.read(text)
    if statement is None:
        return Judgement(False, False, 0)
    textured = bool(scene.objects[0].texture)
    wanted = ("shape", "colour", "size", "row") + (("texture",) if textured else ())
    complete = (
        bool(statement.background)
        and len(statement.phrases) == len(scene.objects)
        and all(getattr(phrase, name) for phrase in statement.phrases for name in wanted)
    )
    return Judgement(holds(statement, scene), complete, statement.claims())


def truthfulness(texts: list[str], truths: list[str]) -> dict[str, float]:
    """Shares in percent of texts that are true, complete, and both; {} where truth is unknown."""
    if not texts or not all(truths):
        return {}
    found = [judge(text, scene_of(truth)) for text, truth in zip(texts, truths, strict=True)]
    return {
        "true": 100 * float(np.mean([x.true for x in found])),
        "complete": 100 * float(np.mean([x.complete for x in found])),
        "right": 100 * float(np.mean([x.true and x.complete for x in found])),
    }


def scene_of(truth: str) -> Scene:
    """The scene of a record's `truth`."""
    return Scene.from_dict(json.loads(truth)["scene"])
