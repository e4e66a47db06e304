"""Statements about two images, of the kind `pairs` of the Shapes dataset, in place of NLVR2.

Two consecutive records are twins: the same statement, once true and once false, of images with the
same numbers of objects unless it is these that the statement is about. An image that must not show
an object shows look-alikes of it.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from blip_jax.data.synthetic.answers import NUMBERS, WORDS
from blip_jax.data.synthetic.conditional_scenes import (
    num_objects,
    sample_scene_with,
    scene_with,
    scene_without,
)
from blip_jax.data.synthetic.grammar import draw_word, indefinite_article
from blip_jax.data.synthetic.scenes import Scene, World, pick

Pair = tuple[Scene, Scene]  # left and right


@dataclasses.dataclass(frozen=True)
class PairStatement:
    """A statement without its label.

    Attributes:
      text: in words.
      about: the concepts that it names.
      counts: numbers of objects of the left and the right scene; (0, 0) if the label decides them.
    """

    text: str
    about: tuple[str, ...]
    counts: tuple[int, int] = (0, 0)


class Template(abc.ABC):
    """A form of statement, and pairs of scenes of which it is true or false.

    Attributes:
      needs: the worlds in which it can be made, for messages; "" for all.
    """

    needs: ClassVar[str] = ""

    def possible(self, world: World) -> bool:
        """Returns whether it can be true and false in this world."""
        return True

    @abc.abstractmethod
    def state(self, world: World, rng: np.random.Generator) -> PairStatement:
        """Returns a random statement."""

    @abc.abstractmethod
    def scenes(
        self, statement: PairStatement, label: bool, world: World, rng: np.random.Generator
    ) -> Pair:
        """Returns random scenes of which it is true or, if not `label`, false."""


def _counts(world: World, rng: np.random.Generator) -> tuple[int, int]:
    return num_objects(world, rng), num_objects(world, rng)


def _any_scenes(counts: Sequence[int], world: World, rng: np.random.Generator) -> Pair:
    left, right = (sample_scene_with([], count, world, rng) for count in counts)
    return left, right


@dataclasses.dataclass(frozen=True)
class ShowsTemplate(Template):
    """Which images show an object of a colour and shape, or of a shape.

    Attributes:
      text: with {} for the object.
      true_of: (left shows it, right shows it) where the statement is true. The true cases are
        equally likely, and so are the false ones.
      colour: whether the object is named by colour and shape.
    """

    text: str
    true_of: frozenset[tuple[bool, bool]]
    colour: bool = True

    def state(self, world: World, rng: np.random.Generator) -> PairStatement:
        choices = world.choices()
        names = ("colour", "shape") if self.colour else ("shape",)
        about = tuple(pick(choices[name], rng) for name in names)
        words = [draw_word(WORDS[concept], rng) for concept in about]
        named = " ".join([indefinite_article(words[0]), *words])
        return PairStatement(self.text.format(named), about, _counts(world, rng))

    def scenes(
        self, statement: PairStatement, label: bool, world: World, rng: np.random.Generator
    ) -> Pair:
        cases = [(left, right) for left in (False, True) for right in (False, True)]
        cases = [case for case in cases if (case in self.true_of) == label]
        shown = cases[int(rng.integers(len(cases)))]
        left, right = (
            self._scene(statement.about, shows, count, world, rng)
            for shows, count in zip(shown, statement.counts, strict=True)
        )
        return left, right

    def _scene(self, about: tuple[str, ...], shows: bool, count: int, world: World, rng) -> Scene:
        if self.colour:
            return (scene_with if shows else scene_without)(*about, count, world, rng)
        (shape,) = about
        if shows:
            return sample_scene_with([{"shape": shape}], count, world, rng)
        return sample_scene_with([], count, world, rng, avoid=lambda x: x.shape == shape)


@dataclasses.dataclass(frozen=True)
class NumbersTemplate(Template):
    """About the numbers of objects of the two images; a subclass says what is true of them."""

    needs = "max_objects above min_objects"

    def possible(self, world: World) -> bool:
        return world.min_objects < world.max_objects

    @abc.abstractmethod
    def value(self, left: int, right: int, about: tuple[str, ...]) -> int:
        """Returns 0 for numbers of which the statement is true, else a number for each case."""

    def scenes(
        self, statement: PairStatement, label: bool, world: World, rng: np.random.Generator
    ) -> Pair:
        numbers = range(world.min_objects, world.max_objects + 1)
        cases: dict[int, list[tuple[int, int]]] = {}
        for left in numbers:
            for right in numbers:
                case = self.value(left, right, statement.about)
                if (case == 0) == label:
                    cases.setdefault(case, []).append((left, right))
        drawn = cases[list(cases)[int(rng.integers(len(cases)))]]
        return _any_scenes(drawn[int(rng.integers(len(drawn)))], world, rng)


@dataclasses.dataclass(frozen=True)
class MoreTemplate(NumbersTemplate):
    """The left (or right) image has more objects; if false, as many or fewer."""

    def state(self, world: World, rng: np.random.Generator) -> PairStatement:
        more, fewer = ("left", "right") if rng.random() < 0.5 else ("right", "left")
        return PairStatement(f"the {more} image has more objects than the {fewer} image", (more,))

    def value(self, left: int, right: int, about: tuple[str, ...]) -> int:
        excess = left - right if about == ("left",) else right - left
        return 0 if excess > 0 else 1 if excess == 0 else 2


@dataclasses.dataclass(frozen=True)
class TotalTemplate(NumbersTemplate):
    """The number of objects of both images together; if false, any other total."""

    def state(self, world: World, rng: np.random.Generator) -> PairStatement:
        total = int(rng.integers(2 * world.min_objects, 2 * world.max_objects + 1))
        return PairStatement(f"there are {NUMBERS[total]} objects in all", (NUMBERS[total],))

    def value(self, left: int, right: int, about: tuple[str, ...]) -> int:
        return left + right - NUMBERS.index(about[0])


class SameBackgroundTemplate(Template):
    """Both backgrounds are the same. Small models learn it late or never."""

    def state(self, world: World, rng: np.random.Generator) -> PairStatement:
        return PairStatement("the background of both images is the same", (), _counts(world, rng))

    def scenes(
        self, statement: PairStatement, label: bool, world: World, rng: np.random.Generator
    ) -> Pair:
        left, right = _any_scenes(statement.counts, world, rng)
        others = [x for x in world.choices()["background"] if x != left.background]
        background = left.background if label else pick(others, rng)
        return left, dataclasses.replace(right, background=background)


_BOTH, _NEITHER = frozenset({(True, True)}), frozenset({(False, False)})
TEMPLATES: dict[str, Template] = {
    "more": MoreTemplate(),
    "shape_in_both": ShowsTemplate("there is {} in both images", _BOTH, colour=False),
    "both": ShowsTemplate("both images show {}", _BOTH),
    "neither": ShowsTemplate("neither image shows {}", _NEITHER),
    "left": ShowsTemplate("the left image shows {}", frozenset({(True, True), (True, False)})),
    "right": ShowsTemplate("the right image shows {}", frozenset({(True, True), (False, True)})),
    "exactly_one": ShowsTemplate(
        "exactly one image shows {}", frozenset({(True, False), (False, True)})
    ),
    "total": TotalTemplate(),
    "same_background": SameBackgroundTemplate(),
}
DEFAULT_TEMPLATES = tuple(name for name in TEMPLATES if name != "same_background")


def sample_statement_about_pair(
    templates: Sequence[str],
    twin: int,
    world: World,
    pair_rng: np.random.Generator,
    rng: np.random.Generator,
) -> tuple[Pair, dict]:
    """Returns two scenes and a statement about them.

    Args:
      templates: names in TEMPLATES that are possible in this world.
      twin: 0 or 1. Two calls that differ in `twin`, with the same state of `pair_rng`, give twins.
      pair_rng: draws what twins share.
      rng: draws the scenes.

    Returns:
      (left, right), and a dict with 'statement', 'label' (bool) and 'template'.
    """
    name = pick(list(templates), pair_rng)
    statement = TEMPLATES[name].state(world, pair_rng)
    label = bool(pair_rng.random() < 0.5) == (twin == 0)
    scenes = TEMPLATES[name].scenes(statement, label, world, rng)
    return scenes, {"statement": statement.text, "label": label, "template": name}
