"""Checks texts, for instance a model's output, against the scene that an image shows."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np

from blip_jax.data.synthetic.grammar import Phrase, Statement
from blip_jax.data.synthetic.languages import ENGLISH, LANGUAGES, Language
from blip_jax.data.synthetic.scenes import Scene


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What is known of a text about a scene.

    Attributes:
      true: it is of the grammar and all its claims are true.
      complete: it names every object with all its attributes, and the background (true or not).
      num_claims: the number of claims; 0 if it is not of the grammar.
    """

    true: bool
    complete: bool
    num_claims: int


def is_true_of(statement: Statement, scene: Scene) -> bool:
    """Returns whether each phrase has its own object in the scene and the background is right."""
    if statement.background not in ("", scene.background):
        return False

    def fits(phrase: Phrase, item: Phrase) -> bool:
        said = dataclasses.asdict(phrase)
        return all(value in ("", getattr(item, name)) for name, value in said.items())

    return any(
        all(map(fits, statement.phrases, objects))
        for objects in itertools.permutations(scene.objects, len(statement.phrases))
    )


def check(text: str, scene: Scene, language: Language = ENGLISH) -> Assessment:
    """Returns what is known of any text about the scene."""
    statement = language.parse(text)
    if statement is None:
        return Assessment(False, False, 0)
    textured = bool(scene.objects[0].texture)
    wanted = ("shape", "colour", "size", "row") + (("texture",) if textured else ())
    complete = (
        bool(statement.background)
        and len(statement.phrases) == len(scene.objects)
        and all(getattr(phrase, name) for phrase in statement.phrases for name in wanted)
    )
    return Assessment(is_true_of(statement, scene), complete, statement.num_claims())


def assess_texts(texts: list[str], truths: list[str]) -> dict[str, np.ndarray]:
    """Returns of each text whether it is true, complete, and both.

    Args:
      texts: of images, for instance a model's output.
      truths: the field `truth` of each image's record; the result is {} if one is no scene.

    Returns:
      `caption_truth`, `caption_completeness` and `caption_exact`, bool [texts] each.
    """
    known = [parse_truth(truth) for truth in truths]
    if not texts or not all(known):
        return {}
    found = [check(text, *truth) for text, truth in zip(texts, known, strict=True)]
    return {
        "caption_truth": np.array([x.true for x in found]),
        "caption_completeness": np.array([x.complete for x in found]),
        "caption_exact": np.array([x.true and x.complete for x in found]),
    }


def scene_of(truth: str) -> Scene:
    """Returns the scene in the field `truth` of a record of the Shapes dataset."""
    return Scene.from_dict(json.loads(truth)["scene"])


def parse_truth(truth: str) -> tuple[Scene, Language] | None:
    """Returns what the field `truth` of any record says: its scene, and its texts' language.

    None if it holds something else.
    """
    try:
        scene = scene_of(truth)
        language = LANGUAGES[json.loads(truth).get("language", ENGLISH.name)]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    words = [value for item in scene.objects for value in dataclasses.astuple(item)]
    is_scene = all(isinstance(word, str) for word in (*words, scene.background))
    return (scene, language) if scene.objects and is_scene else None
