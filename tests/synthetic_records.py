"""Records of the Shapes dataset for tests, and what text alone could tell of their answers."""

import functools
import json
import math
from collections import Counter, defaultdict
from typing import NamedTuple
from unittest import mock

from blip_jax.data.synthetic.config import ShapesConfig
from blip_jax.data.synthetic.records import make_record
from blip_jax.data.synthetic.scenes import Scene, World

DEMO = World(image_size=16, shapes=4, colours=5, jitter=0)
LARGE = World(image_size=24, cells=3, min_objects=2, max_objects=4, shapes=3, colours=3, textures=2)
SMALL = World(image_size=16, shapes=2, colours=2, backgrounds=2, min_objects=2)


class Record(NamedTuple):
    """A record with its JSON parsed. `second` is the right scene of `pairs`."""

    fields: dict
    scene: Scene
    second: Scene | None
    raw: dict


@functools.cache
def records(kind: str, split: str = "train", count: int = 2000, world: World = DEMO, **settings):
    """Returns records 0 to count - 1 without pictures; they are made once for all tests."""
    config = ShapesConfig(kind=kind, world=world, **settings)
    with mock.patch("blip_jax.data.synthetic.records._png", return_value=b""):
        return [_parsed(make_record(index, split, config)) for index in range(count)]


def _parsed(raw: dict) -> Record:
    truth = json.loads(raw["truth"])
    second = truth.get("second_scene")
    return Record(
        json.loads(raw["fields"]),
        Scene.from_dict(truth["scene"]),
        second and Scene.from_dict(second),
        raw,
    )


def assert_even(counts: Counter, num_values: int) -> None:
    """Asserts that all values are there, each within 3.5 standard errors of its equal share."""
    total = counts.total()
    error = math.sqrt(total / num_values * (1 - 1 / num_values))
    assert len(counts) == num_values
    for value, count in counts.items():
        assert abs(count - total / num_values) < 3.5 * error, (value, counts)


def majority_accuracy(train: list[tuple], test: list[tuple]) -> tuple[float, float]:
    """Returns how often the most frequent answer to the same text is right, and chance.

    A text that is not in `train` gets the most frequent answer of its template.

    Args:
      train, test: (template, text, answer).

    Returns:
      The number of right answers above chance, in standard errors, and the mean chance, where that
      of a template is 1 / the number of its answers.
    """
    of_text, of_template = defaultdict(Counter), defaultdict(Counter)
    for template, text, answer in train:
        of_text[text][answer] += 1
        of_template[template][answer] += 1
    guesses = [(of_text.get(text) or of_template[name]).most_common(1) for name, text, _ in test]
    right = sum(guess[0][0] == answer for guess, (*_, answer) in zip(guesses, test))
    chances = [1 / len(of_template[template]) for template, _, _ in test]
    error = math.sqrt(sum(chance * (1 - chance) for chance in chances))
    return (right - sum(chances)) / error, sum(chances) / len(test)
