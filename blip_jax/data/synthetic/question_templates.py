"""Forms of questions about a scene, with their answers and scenes that have a given answer."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import numpy as np

from blip_jax.data.synthetic.answers import NUMBERS, WORDS, YES_NO
from blip_jax.data.synthetic.conditional_scenes import (
    num_objects,
    sample_scene_with,
    scene_with,
    scene_without,
)
from blip_jax.data.synthetic.grammar import draw_word, indefinite_article
from blip_jax.data.synthetic.scenes import Scene, World, pick


@dataclasses.dataclass(frozen=True)
class Question:
    """A question without its answer.

    Attributes:
      text: in words.
      about: the concepts that it names, in the template's order.
      count: number of objects of its scenes; 0 if the answer says it.
    """

    text: str
    about: tuple[str, ...]
    count: int


class Template(abc.ABC):
    """A form of question: what it may name, its answers, and scenes that have a given answer.

    Attributes:
      answer_type: "yes/no", "number" or "other", as in VQA v2.
      needs: the worlds in which it can be asked, for messages; "" for all.
    """

    answer_type: ClassVar[str] = "other"
    needs: ClassVar[str] = ""

    def possible(self, world: World) -> bool:
        """Returns whether it can be asked in this world."""
        return True

    @abc.abstractmethod
    def answers(self, world: World) -> list[str]:
        """Returns the concepts of all its answers."""

    @abc.abstractmethod
    def ask(self, world: World, rng: np.random.Generator) -> Question:
        """Returns a random question."""

    @abc.abstractmethod
    def scene(
        self, question: Question, answer: str, world: World, rng: np.random.Generator
    ) -> Scene:
        """Returns a random scene in which the answer is right."""


def _word(concept: str, rng: np.random.Generator) -> str:
    return draw_word(WORDS[concept], rng)


@dataclasses.dataclass(frozen=True)
class AttributeTemplate(Template):
    """An attribute of the only object that has a value of another one."""

    known: str  # the attribute by which the object is named
    asked: tuple[str, ...]  # attributes that the answer names
    text: str

    def answers(self, world: World) -> list[str]:
        choices = world.choices()
        if len(self.asked) == 1:
            return choices[self.asked[0]]
        return [f"{row} {column}" for row in choices["row"] for column in choices["column"]]

    def ask(self, world: World, rng: np.random.Generator) -> Question:
        value = pick(world.choices()[self.known], rng)
        return self.about(value, rng, num_objects(world, rng))

    def about(self, value: str, rng: np.random.Generator, count: int = 0) -> Question:
        """Returns the question about the object with this value."""
        return Question(self.text.format(_word(value, rng)), (value,), count)

    def scene(
        self, question: Question, answer: str, world: World, rng: np.random.Generator
    ) -> Scene:
        (value,) = question.about
        target = {self.known: value, **dict(zip(self.asked, answer.split(), strict=True))}
        return sample_scene_with(
            [target], question.count, world, rng, avoid=lambda x: getattr(x, self.known) == value
        )

    def askable(self, scene: Scene) -> list[tuple[str, str]]:
        """Returns (value, answer) of all objects that can be named without ambiguity."""
        values = [getattr(item, self.known) for item in scene.objects]
        return [
            (value, " ".join(getattr(item, name) for name in self.asked))
            for value, item in zip(values, scene.objects, strict=True)
            if values.count(value) == 1
        ]


class BackgroundTemplate(Template):
    """The colour of the background."""

    def answers(self, world: World) -> list[str]:
        return world.choices()["background"]

    def ask(self, world: World, rng: np.random.Generator) -> Question:
        return self.about("", rng, num_objects(world, rng))

    def about(self, value: str, rng: np.random.Generator, count: int = 0) -> Question:
        """Returns the question; it names no object."""
        return Question("what colour is the background?", (), count)

    def scene(
        self, question: Question, answer: str, world: World, rng: np.random.Generator
    ) -> Scene:
        return sample_scene_with([], question.count, world, rng, background=answer)

    def askable(self, scene: Scene) -> list[tuple[str, str]]:
        """Returns the answer, as `AttributeTemplate.askable` does."""
        return [("", scene.background)]


class CountTemplate(Template):
    """The number of objects."""

    answer_type = "number"
    needs = "max_objects above min_objects"

    def possible(self, world: World) -> bool:
        return world.min_objects < world.max_objects

    def answers(self, world: World) -> list[str]:
        return list(NUMBERS[world.min_objects : world.max_objects + 1])

    def ask(self, world: World, rng: np.random.Generator) -> Question:
        return Question("how many objects are there?", (), 0)

    def scene(
        self, question: Question, answer: str, world: World, rng: np.random.Generator
    ) -> Scene:
        return sample_scene_with([], NUMBERS.index(answer), world, rng)


class CountOfShapeTemplate(Template):
    """The number of objects of a shape; there are always as many objects as the world allows."""

    answer_type = "number"

    def answers(self, world: World) -> list[str]:
        return list(NUMBERS[: world.max_objects + 1])

    def ask(self, world: World, rng: np.random.Generator) -> Question:
        shape = pick(world.choices()["shape"], rng)
        text = f"how many {_word(shape, rng)} objects are there?"
        return Question(text, (shape,), world.max_objects)

    def scene(
        self, question: Question, answer: str, world: World, rng: np.random.Generator
    ) -> Scene:
        (shape,) = question.about
        wanted = [{"shape": shape}] * NUMBERS.index(answer)
        return sample_scene_with(
            wanted, question.count, world, rng, avoid=lambda x: x.shape == shape
        )


class ExistsTemplate(Template):
    """Whether there is an object of a colour and shape; look-alikes are there if not."""

    answer_type = "yes/no"

    def answers(self, world: World) -> list[str]:
        return list(YES_NO)

    def ask(self, world: World, rng: np.random.Generator) -> Question:
        choices = world.choices()
        colour, shape = pick(choices["colour"], rng), pick(choices["shape"], rng)
        word = _word(colour, rng)
        text = f"is there {indefinite_article(word)} {word} {_word(shape, rng)}?"
        return Question(text, (colour, shape), num_objects(world, rng))

    def scene(
        self, question: Question, answer: str, world: World, rng: np.random.Generator
    ) -> Scene:
        sample = scene_with if answer == "yes" else scene_without
        return sample(*question.about, question.count, world, rng)


class LeftOfTemplate(Template):
    """Whether the only object of one shape is in a column left of the only one of another."""

    answer_type = "yes/no"
    needs = "max_objects of 2 or more, and shapes of 3 or more if min_objects is above 2"

    def possible(self, world: World) -> bool:
        return world.max_objects >= 2 and (world.shapes > 2 or world.min_objects <= 2)

    def answers(self, world: World) -> list[str]:
        return list(YES_NO)

    def ask(self, world: World, rng: np.random.Generator) -> Question:
        shapes = world.choices()["shape"]
        first, second = (shapes[i] for i in rng.permutation(len(shapes))[:2])
        text = f"is the {_word(first, rng)} left of the {_word(second, rng)}?"
        most = None if len(shapes) > 2 else 2  # further objects need a shape of their own
        return Question(text, (first, second), num_objects(world, rng, least=2, most=most))

    def scene(
        self, question: Question, answer: str, world: World, rng: np.random.Generator
    ) -> Scene:
        columns = world.choices()["column"]
        left, right = sorted(rng.permutation(len(columns))[:2].tolist())
        places = (left, right) if answer == "yes" else (right, left)
        wanted = [
            {"shape": shape, "column": columns[place]}
            for shape, place in zip(question.about, places, strict=True)
        ]
        return sample_scene_with(
            wanted, question.count, world, rng, avoid=lambda x: x.shape in question.about
        )


TEMPLATES: dict[str, Template] = {
    "colour_of_shape": AttributeTemplate("shape", ("colour",), "what colour is the {}?"),
    "shape_of_colour": AttributeTemplate("colour", ("shape",), "what shape is the {} object?"),
    "place_of_shape": AttributeTemplate("shape", ("row", "column"), "where is the {}?"),
    "size_of_shape": AttributeTemplate("shape", ("size",), "what size is the {}?"),
    "background": BackgroundTemplate(),
    "count": CountTemplate(),
    "count_of_shape": CountOfShapeTemplate(),
    "exists": ExistsTemplate(),
    "left_of": LeftOfTemplate(),
}
