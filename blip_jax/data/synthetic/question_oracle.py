"""Answers questions and checks statements of the Shapes dataset by reading their text.

It shares no code with what draws them but the words, so it can check them, and also the output of
a model.
"""

from __future__ import annotations

import re

from blip_jax.data.synthetic.answers import CONCEPTS, NUMBERS, parse_answer
from blip_jax.data.synthetic.grammar import Phrase
from blip_jax.data.synthetic.scenes import Scene

_KNOWN_BY = ("shape", "colour", "size")


def answer_question(question: str, scene: Scene, caption: str = "") -> str:
    """Returns the concepts of the right answer, as `answers.parse_answer` reads them.

    Args:
      question: a question of the kinds `vqa`, `dialog` or `clips`.
      scene: what the image shows.
      caption: of a dialog; it says which object "it" is.

    Returns:
      For instance "red", "top left" or "none". "" if the question cannot be read, or if what it
      asks about is not exactly one object.
    """
    text = " ".join(question.lower().replace("?", " ").split())
    if text == "what colour is the background":
        return scene.background
    if text == "how many objects are there":
        return NUMBERS[len(scene.objects)]
    if found := re.fullmatch(r"how many (\w+) objects are there", text):
        return NUMBERS[len(_matching(found[1], scene))] if found[1] in CONCEPTS else ""
    if found := re.fullmatch(r"is there (an? .+)", text):
        return _yes(bool(_matching(found[1], scene)))
    if found := re.fullmatch(r"what (colour|shape|size) is (.+)", text):
        return _of_one(scene, caption, found[2], found[1])
    if found := re.fullmatch(r"where is (.+)", text):
        return _of_one(scene, caption, found[1], "row", "column")
    if found := re.fullmatch(r"what is (.+)", text):
        return _of_one(scene, caption, found[1], "colour", "shape")
    if found := re.fullmatch(r"is the (\w+) left of the (\w+)", text):
        items = [_referent(f"the {name}", scene, caption) for name in found.groups()]
        if None in items:
            return ""
        first, second = (("left", "centre", "right").index(item.column) for item in items)
        return _yes(first < second) if first != second else ""
    if found := re.fullmatch(r"is (it|the other object) (.+)", text):
        item = _referent(found[1], scene, caption)
        return _yes(bool(_matching(found[2], Scene((item,), "")))) if item else ""
    return ""


def is_right_answer(question: str, answer: str, scene: Scene, caption: str = "") -> bool:
    """Returns whether an answer, in any of its words, is right; arguments as `answer_question`."""
    expected = answer_question(question, scene, caption)
    return expected != "" and parse_answer(answer) == expected


def is_true_of_pair(statement: str, left: Scene, right: Scene) -> bool | None:
    """Returns whether a statement of the kind `pairs` is true; None if it cannot be read."""
    text = " ".join(statement.lower().split())
    counts = {"left": len(left.objects), "right": len(right.objects)}
    if text == "the background of both images is the same":
        return left.background == right.background
    if found := re.fullmatch(r"the (left|right) image has more objects than the (\w+) image", text):
        return counts[found[1]] > counts[found[2]] if found[2] in counts else None
    if found := re.fullmatch(r"there are (\w+) objects in all", text):
        return NUMBERS.index(found[1]) == sum(counts.values()) if found[1] in NUMBERS else None
    found = re.fullmatch(r"(.+ images?) shows? (.+)|there is (.+) in (both images)", text)
    if not found:
        return None
    which, named = found[1] or found[4], found[2] or found[3]
    shown = [bool(_matching(named, scene)) for scene in (left, right)]
    return {
        "both images": all(shown),
        "neither image": not any(shown),
        "the left image": shown[0],
        "the right image": shown[1],
        "exactly one image": sum(shown) == 1,
    }.get(which)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _matching(named: str, scene: Scene) -> list[Phrase]:
    """Returns the objects that have all values which words such as "a red box" name."""
    words = [word for word in named.split() if word not in ("a", "an", "the", "object")]
    concepts = [CONCEPTS.get(word, "") for word in words]
    return [
        item
        for item in scene.objects
        if all(any(getattr(item, name) == x for name in _KNOWN_BY) for x in concepts)
    ]


def _referent(named: str, scene: Scene, caption: str) -> Phrase | None:
    """Returns the object that is named; None if there is none, or more than one."""
    found = re.fullmatch(r"an object (\w+ \w+) and another object", caption)
    items = _matching(named, scene)
    if named in ("it", "the other object"):
        place = parse_answer(found[1]) if found else ""
        is_it = [f"{item.row} {item.column}" == place for item in scene.objects]
        if sum(is_it) != 1:
            return None
        items = [x for x, it in zip(scene.objects, is_it, strict=True) if it == (named == "it")]
    return items[0] if len(items) == 1 else None


def _of_one(scene: Scene, caption: str, named: str, *attributes: str) -> str:
    item = _referent(named, scene, caption)
    return " ".join(getattr(item, name) for name in attributes) if item else ""
