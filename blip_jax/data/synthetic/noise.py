"""Web texts that do not describe their image, which CapFilt should remove."""

from __future__ import annotations

import dataclasses

import numpy as np

from blip_jax.data.synthetic.grammar import Statement
from blip_jax.data.synthetic.languages import ENGLISH, Language
from blip_jax.data.synthetic.oracle import is_true_of
from blip_jax.data.synthetic.scenes import Scene, World, pick, sample_scene, sample_statement

NOISE_KINDS = ("mismatch", "boilerplate", "filename", "one_attribute_wrong")


def _change_one_attribute(
    statement: Statement, world: World, rng: np.random.Generator
) -> Statement:
    """Returns the statement with another value of one attribute."""
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


def _one_attribute_wrong(
    scene: Scene, world: World, rng: np.random.Generator, short: bool
) -> Statement:
    while True:
        # The statement is kept while changes are tried: with a new one each time these texts would
        # differ from true ones in what they mention.
        statement = sample_statement(scene, rng, short)
        for _ in range(100):
            altered = _change_one_attribute(statement, world, rng)
            if not is_true_of(altered, scene):
                return altered


def make_noise(
    kind: str,
    scene: Scene,
    world: World,
    rng: np.random.Generator,
    short: bool = False,
    language: Language = ENGLISH,
) -> str:
    """Returns a web text that does not describe the scene.

    Args:
      kind: "mismatch" (a text of another scene, false of this one), "boilerplate", "filename", or
        "one_attribute_wrong".
      short: as in `describe`, for the first and the last kind: they must be short as often as true
        texts, or a filter would learn to recognise length instead of truth.

    Raises:
      ValueError: no such kind.
    """
    if kind == "mismatch":
        while True:
            statement = sample_statement(sample_scene(rng, world), rng, short)
            if not is_true_of(statement, scene):
                return language.render(statement, rng)
    if kind == "one_attribute_wrong":
        return language.render(_one_attribute_wrong(scene, world, rng, short), rng)
    if kind == "boilerplate":
        return pick(list(language.boilerplate), rng)
    if kind == "filename":
        stem, ending = pick(["img", "dsc", "photo"], rng), pick(["jpg", "png"], rng)
        return f"{stem} {rng.integers(1000, 10000)} {ending}"
    raise ValueError(f"noise kind is {kind!r}; it must be one of {', '.join(NOISE_KINDS)}")
