"""Texts of the web that do not describe their image, as CapFilt is to drop them."""

from __future__ import annotations

import dataclasses

import numpy as np

from blip_jax.data.synthetic import grammar
from blip_jax.data.synthetic.grammar import Statement
from blip_jax.data.synthetic.oracle import holds
from blip_jax.data.synthetic.scenes import Scene, World, draw_scene, pick, sample_statement

NOISE_KINDS = ("mismatch", "boilerplate", "filename", "half_true")
BOILERPLATE = (
    "click here to buy now",
    "click here for more",
    "stock photo",
    "stock photo free download",
    "royalty free stock image",
    "best price free shipping",
    "buy now free shipping",
    "image may contain text",
    "shop now best price",
    "download free image here",
    "home page photo gallery",
    "view more in the gallery",
)


def _alter(statement: Statement, world: World, rng: np.random.Generator) -> Statement:
    """Returns the statement with another value for one thing it says."""
    which = int(rng.integers(len(statement.phrases)))
    phrase = statement.phrases[which]
    said = [name for name, value in dataclasses.asdict(phrase).items() if value]
    name = pick(said + ["background"] * bool(statement.background), rng)
    owner = statement if name == "background" else phrase
    others = [value for value in world.choices()[name] if value != getattr(owner, name)]
    changed = dataclasses.replace(owner, **{name: pick(others, rng)})
    if owner is statement:
        return changed
    phrases = (*statement.phrases[:which], changed, *statement.phrases[which + 1 :])
    return dataclasses.replace(statement, phrases=phrases)


def _half_true(scene: Scene, world: World, rng: np.random.Generator, brief: bool) -> Statement:
    while True:
        # The statement is kept while alterations are tried: redrawing it each time would make
        # half-true texts differ from true ones in what they mention.
        statement = sample_statement(scene, rng, brief)
        for _ in range(100):
            altered = _alter(statement, world, rng)
            if not holds(altered, scene):
                return altered


def make_noise(
    kind: str, scene: Scene, world: World, rng: np.random.Generator, brief: bool = False
) -> str:
    """Returns a web text that does not describe the scene.

    Args:
      kind: "mismatch" (a text of another scene, untrue of this one), "boilerplate", "filename",
        or "half_true" (one attribute wrong).
      brief: as in `describe`; mismatched and half-true texts are as brief or as full as true
        ones, or a filter would learn fullness in place of truth.

    Raises:
      ValueError: no such kind.
    """
    if kind == "mismatch":
        while True:
            statement = sample_statement(draw_scene(rng, world), rng, brief)
            if not holds(statement, scene):
                return grammar.say(statement, rng)
    if kind == "half_true":
        return grammar.say(_half_true(scene, world, rng, brief), rng)
    if kind == "boilerplate":
        return pick(list(BOILERPLATE), rng)
    if kind == "filename":
        stem, ending = pick(["img", "dsc", "photo"], rng), pick(["jpg", "png"], rng)
        return f"{stem} {rng.integers(1000, 10000)} {ending}"
    raise ValueError(f"noise kind is {kind!r}; it must be one of {', '.join(NOISE_KINDS)}")
