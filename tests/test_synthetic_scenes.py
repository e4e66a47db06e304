"""Scenes of the Shapes dataset, their texts, and the oracle that checks these."""

import dataclasses

import numpy as np
import pytest

from blip_jax.data.synthetic import grammar
from blip_jax.data.synthetic.grammar import Phrase
from blip_jax.data.synthetic.noise import NOISE_KINDS, make_noise
from blip_jax.data.synthetic.oracle import check
from blip_jax.data.synthetic.scenes import Scene, World, describe, render, sample_scene
from blip_jax.runtime.errors import UserError

WORLDS = [
    World(),
    World(image_size=48, cells=3, max_objects=4, textures=2),
    World(max_objects=4, shapes=2, colours=2, backgrounds=2),
]
SCENE = Scene(
    (
        Phrase("circle", "red", "small", "", "top", "left"),
        Phrase("square", "orange", "large", "", "bottom", "right"),
    ),
    "black",
)


@pytest.mark.parametrize("world", WORLDS)
def test_true_texts_are_judged_true(world):
    longest = 0
    for seed in range(700):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, world)
        assert Scene.from_dict(scene.to_dict()) == scene
        full, short = describe(scene, rng), describe(scene, rng, short=True)
        claims = (5 if world.textures > 1 else 4) * len(scene.objects) + 1
        found = check(full, scene)
        assert (found.true, found.complete, found.num_claims) == (True, True, claims), full
        found = check(short, scene)
        assert found.true and not found.complete and found.num_claims in (2, 3), short
        longest = max(longest, len(full.split()))
    assert longest <= 18 or world.max_objects > 2  # with [CLS] and [SEP], 20 tokens


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_noise_is_judged_untrue(world, kind):
    for seed in range(300):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, world)
        short = seed % 2 == 0
        found = check(make_noise(kind, scene, world, rng, short), scene)
        assert not found.true
        # Web noise about a scene reads like a true text; the rest says nothing of any scene.
        assert (found.num_claims > 1) == (kind in ("mismatch", "one_attribute_wrong"))
        if kind == "one_attribute_wrong":
            assert found.complete == (not short)


def test_half_true_texts_mention_as_much_as_true_ones():
    world, told, claims = World(), {"true": [], "half": []}, {"true": [], "half": []}
    for seed in range(1500):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, world)
        pair = {
            "true": describe(scene, rng, short=True),
            "half": make_noise("one_attribute_wrong", scene, world, rng, short=True),
        }
        for name, text in pair.items():
            told[name].append(bool(grammar.parse_text(text).background))
            claims[name].append(check(text, scene).num_claims)
    assert np.mean(claims["true"]) == pytest.approx(2.6, abs=0.05)
    assert np.mean(claims["half"]) == pytest.approx(2.6, abs=0.05)
    assert np.mean(told["half"]) == pytest.approx(np.mean(told["true"]), abs=0.04)


@pytest.mark.parametrize(
    ("text", "true", "complete", "claims"),
    [
        ("a red circle", True, False, 2),
        ("The CRIMSON  dot upper left", True, False, 3),
        ("a red circle and a small red circle", False, False, 5),  # only one is there
        ("an orange box over a dark backdrop", True, False, 3),
        ("a red circle on a brown background", False, False, 3),
        (
            "dark background with a tiny red dot top left and a big orange box lower right",
            True,
            True,
            9,
        ),
        (
            "dark background with a tiny red dot top left and a big orange box lower left",
            False,
            True,
            9,
        ),
        ("a orange box", False, False, 0),
        ("a red circle and", False, False, 0),
        ("a red circle top", False, False, 0),
        ("a circle red", False, False, 0),
        ("a red red circle", False, False, 0),
        ("red circle", False, False, 0),
        ("a red circle near a tree", False, False, 0),
        ("a red circle on a dark", False, False, 0),
        ("dark background with", False, False, 0),
        ("a red striped circle", False, False, 3),  # of the grammar, but not of this world
        ("a striped red circle", False, False, 0),
        ("a red circle on a dark background on a dark background", False, False, 0),
        ("", False, False, 0),
    ],
)
def test_literal_judgements(text, true, complete, claims):
    assert dataclasses.astuple(check(text, SCENE)) == (true, complete, claims)


def test_words_have_one_meaning():
    kinds = [*grammar.FIELDS.values(), grammar.BACKGROUNDS]
    words = [word for table in kinds for group in table.values() for word in group]
    assert len(words) == len(set(words)) and set(words) < set(grammar.vocabulary())


def test_pictures_show_the_scene():
    world = World(noise=0)
    picture = render(SCENE, world, np.random.default_rng(0)).astype(int)
    assert picture.shape == (32, 32, 3)
    np.testing.assert_allclose(picture[2, 30], (15, 15, 20), atol=2)  # background, top right
    np.testing.assert_allclose(picture[24, 24], (245, 135, 25), atol=10)  # the large square
    red = (picture[:, :, 0] > 150) & (picture[:, :, 1] < 60)
    assert red[:16, :16].sum() == red.sum() and 20 < red.sum() < 60  # the small circle
    orange = np.abs(picture - (245, 135, 25)).max(-1) < 12
    assert orange[16:, 16:].sum() == orange.sum() > 100
    noisy = render(SCENE, World(noise=10), np.random.default_rng(0)).astype(int)
    assert 5 < (noisy - picture)[4:28, 17:30].std() < 15


def test_settings_out_of_range_are_named():
    with pytest.raises(UserError, match="world.colours is 9; it must be from 2 to 8"):
        World(colours=9)
