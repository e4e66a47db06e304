"""Random scenes that hold objects which a question, a statement or a dialog needs.

What is not asked for is drawn as in `sample_scene`. The number of objects is always an argument:
if it depended on the answer, counting objects would be enough to guess it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from blip_jax.data.synthetic.grammar import Phrase
from blip_jax.data.synthetic.scenes import Scene, World, pick


def num_objects(
    world: World, rng: np.random.Generator, least: int = 1, most: int | None = None
) -> int:
    """Returns a random number of objects that the world allows, at least `least`, at most `most`.

    A `most` of None is the world's maximum.
    """
    high = world.max_objects if most is None else min(world.max_objects, most)
    return int(rng.integers(max(world.min_objects, least), high + 1))


def sample_scene_with(
    wanted: Sequence[Mapping[str, str]],
    count: int,
    world: World,
    rng: np.random.Generator,
    *,
    avoid: Callable[[Phrase], bool] = lambda item: False,
    background: str = "",
) -> Scene:
    """Returns a random scene of `count` objects in different cells, in reading order.

    Args:
      wanted: attributes of an object each; what is left out is random. Places must not collide.
      count: number of objects, at least len(wanted).
      avoid: which objects may not be among those that are not wanted. Some object must remain.
      background: "" draws one.
    """
    choices = world.choices()
    grounds = choices.pop("background")
    objects: list[Phrase] = []
    cells: set[tuple[str, str]] = set()
    for number in range(count):
        given = wanted[number] if number < len(wanted) else {}
        while True:
            item = Phrase(**{x: given.get(x) or pick(choices[x], rng) for x in choices})
            refused = number >= len(wanted) and avoid(item)
            if not refused and (item.row, item.column) not in cells:
                break
        cells.add((item.row, item.column))
        objects.append(item)

    def reading_order(item: Phrase) -> tuple[int, int]:
        return choices["row"].index(item.row), choices["column"].index(item.column)

    return Scene(tuple(sorted(objects, key=reading_order)), background or pick(grounds, rng))


def scene_with(
    colour: str, shape: str, count: int, world: World, rng: np.random.Generator
) -> Scene:
    """Returns a scene with an object of this colour and shape; more of them may be there."""
    return sample_scene_with([{"colour": colour, "shape": shape}], count, world, rng)


def scene_without(
    colour: str, shape: str, count: int, world: World, rng: np.random.Generator
) -> Scene:
    """Returns a scene without such an object, but with look-alikes of it.

    It has the colour on another shape, the shape in another colour, or both on different objects.
    Without the last, colour and shape could be looked for separately.
    """
    choices = world.choices()
    of_colour = {"colour": colour, "shape": pick([x for x in choices["shape"] if x != shape], rng)}
    other_colours = [x for x in choices["colour"] if x != colour]
    of_shape = {"colour": pick(other_colours, rng), "shape": shape}
    options = [[of_colour], [of_shape]]
    if count > 1:
        options.append([of_colour, of_shape])
    wanted = options[int(rng.integers(len(options)))]
    return sample_scene_with(
        wanted, count, world, rng, avoid=lambda x: (x.colour, x.shape) == (colour, shape)
    )
