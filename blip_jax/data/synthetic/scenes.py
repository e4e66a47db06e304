"""Scenes of the Shapes dataset, their pictures, and true statements about them.

The dataset takes the place of all datasets of the paper, so that all of BLIP runs without a
download. Only numpy and PIL are needed. All randomness comes from the generator that is passed in.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image, ImageDraw

from blip_jax.data.synthetic import grammar
from blip_jax.data.synthetic.drawing import fill_shape, stripe
from blip_jax.data.synthetic.grammar import Phrase, Statement
from blip_jax.data.synthetic.languages import ENGLISH, Language
from blip_jax.runtime.arguments import check_fields
from blip_jax.runtime.errors import UserError

RGB = {
    "red": (215, 30, 35),
    "green": (40, 150, 50),
    "blue": (35, 70, 205),
    "yellow": (240, 215, 40),
    "purple": (125, 40, 160),
    "orange": (245, 135, 25),
    "pink": (250, 150, 195),
    "cyan": (50, 205, 215),
}
# All are darker than all objects. If objects could be brighter or darker than the background, a
# linear map of pixels would say little about shapes, and a small model would not learn for a
# thousand steps.
BACKGROUND_RGB = {
    "black": (15, 15, 20),
    "gray": (60, 60, 60),
    "brown": (65, 45, 20),
    "maroon": (65, 15, 25),
}
_OVERSAMPLE = 4  # shapes are drawn this much larger and averaged down, for smooth edges
_SIDE = {"small": 0.45, "large": 0.8}  # in parts of a cell


@dataclasses.dataclass(frozen=True)
class World:
    """Settings of the scenes.

    Raises:
      UserError: a setting is out of range.
    """

    image_size: int = 32  # side of the square picture in pixels
    cells: int = 2  # the grid is cells x cells, 2 or 3; an object is in one cell
    min_objects: int = 1  # least objects in a scene
    max_objects: int = 2  # most objects in a scene, up to 4
    shapes: int = 6  # number of different shapes, from the start of their list
    colours: int = 8  # number of different colours, from the start of their list
    backgrounds: int = 4  # number of different backgrounds, from the start of their list
    textures: int = 1  # 1: all plain, never mentioned. 2: also striped, part of a full caption
    # How far an object may be from the middle of its cell, as a share of the space around it. Large
    # values are hard for small models, which see a patch through one linear map.
    jitter: float = 0.2
    noise: float = 10.0  # standard deviation of the pixel noise in grey levels of 0 to 255

    def __post_init__(self):
        check_fields(self)
        limits = {
            "image_size": (8 * self.cells, 4096),
            "cells": (2, 3),
            "min_objects": (1, self.max_objects),
            "max_objects": (1, 4),
            "shapes": (2, len(grammar.SHAPES)),
            "colours": (2, len(grammar.COLOURS)),
            "backgrounds": (2, len(grammar.BACKGROUNDS)),
            "textures": (1, len(grammar.TEXTURES)),
            "jitter": (0, 1),
            "noise": (0, 128),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"world.{name} is {value}; it must be from {low} to {high}")

    def choices(self) -> dict[str, list[str]]:
        """Returns the concepts that are used for each attribute of an object or a scene."""
        middle = self.cells == 3
        return {
            "shape": list(grammar.SHAPES)[: self.shapes],
            "colour": list(grammar.COLOURS)[: self.colours],
            "size": list(grammar.SIZES),
            "texture": list(grammar.TEXTURES) if self.textures > 1 else [""],
            "row": ["top", "middle", "bottom"] if middle else ["top", "bottom"],
            "column": ["left", "centre", "right"] if middle else ["left", "right"],
            "background": list(grammar.BACKGROUNDS)[: self.backgrounds],
        }


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a picture shows. An object is a `Phrase` with all its fields.

    `texture` is '' for all objects if textures are not used.
    """

    objects: tuple[Phrase, ...]
    background: str

    def to_dict(self) -> dict:
        """Returns plain dicts, lists and strings, for JSON."""
        objects = [dataclasses.asdict(item) for item in self.objects]
        return {"objects": objects, "background": self.background}

    @classmethod
    def from_dict(cls, data: dict) -> Scene:
        """Returns the scene `to_dict` described."""
        return cls(tuple(Phrase(**item) for item in data["objects"]), data["background"])


def pick(options: list[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def sample_scene(rng: np.random.Generator, world: World) -> Scene:
    """Returns a random scene: objects in different cells, in reading order, else independent."""
    choices = world.choices()
    count = int(rng.integers(world.min_objects, world.max_objects + 1))
    objects = []
    for cell in sorted(rng.permutation(world.cells**2)[:count].tolist()):
        row, column = divmod(cell, world.cells)
        drawn = {name: pick(choices[name], rng) for name in ("shape", "colour", "size", "texture")}
        objects.append(Phrase(row=choices["row"][row], column=choices["column"][column], **drawn))
    return Scene(tuple(objects), pick(choices["background"], rng))


def render(scene: Scene, world: World, rng: np.random.Generator) -> np.ndarray:
    """Returns the picture, uint8 [image_size, image_size, 3].

    `rng` moves each object a little within its cell, varies its colour, and adds pixel noise.
    """
    side = world.image_size
    large = Image.new("RGB", (side * _OVERSAMPLE,) * 2, BACKGROUND_RGB[scene.background])
    choices = world.choices()
    cell = side * _OVERSAMPLE / world.cells
    for item in scene.objects:
        width = _SIDE[item.size] * cell
        slack = world.jitter * (cell - width) / 2
        # The mask covers only the object's cell; `corner` is its top left.
        corner = [
            int(choices[name].index(getattr(item, name)) * cell) for name in ("column", "row")
        ]
        centre = cell / 2 + rng.uniform(-slack, slack, 2)
        colour = np.clip(np.add(RGB[item.colour], rng.uniform(-8, 8, 3)), 0, 255)
        mask = Image.new("L", (int(cell) + 1,) * 2, 0)
        fill_shape(ImageDraw.Draw(mask), item.shape, centre.tolist(), width / 2)
        if item.texture == "striped":
            stripe(mask, max(2, int(cell / 8)))
        large.paste(tuple(colour.astype(int).tolist()), tuple(corner), mask)
    picture = np.asarray(large.reduce(_OVERSAMPLE), np.float32)
    picture = picture + world.noise * rng.standard_normal(picture.shape, np.float32)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def sample_statement(scene: Scene, rng: np.random.Generator, short: bool) -> Statement:
    if not short:
        order = rng.permutation(len(scene.objects))
        return Statement(tuple(scene.objects[i] for i in order), scene.background)
    # A short text always omits something: it never has size, position and background together.
    item = scene.objects[int(rng.integers(len(scene.objects)))]
    extra = ("", "", "size", "position", "background")[int(rng.integers(5))]
    phrase = Phrase(
        shape=item.shape,
        colour=item.colour,
        size=item.size if extra == "size" else "",
        row=item.row if extra == "position" else "",
        column=item.column if extra == "position" else "",
    )
    return Statement((phrase,), scene.background if extra == "background" else "")


def describe(
    scene: Scene, rng: np.random.Generator, short: bool = False, language: Language = ENGLISH
) -> str:
    """Returns a true text about the scene.

    Args:
      short: False names every object with size, colour, texture (if used), shape
        and position, and the background: at most 17 words for two objects without texture.
        True names one object by colour and shape, and at most one more attribute.
    """
    return language.render(sample_statement(scene, rng, short), rng)
