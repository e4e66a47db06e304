"""The TFDS builder of the Shapes dataset: the same records every time, whole or built again."""

import json
import pathlib
import sys

import numpy as np
import pytest

from blip_jax.data.datasets import open_dataset
from blip_jax.data.images import decode
from blip_jax.data.synthetic.builder import ShapesConfig, make_record, prepare
from blip_jax.data.synthetic.oracle import check
from blip_jax.data.synthetic.records import NOISE_MIX
from blip_jax.data.synthetic.scenes import Scene, World
from blip_jax.runtime.errors import UserError


def small(**changes):
    return ShapesConfig(**{"kind": "web", "train": 12, "val": 0, "test": 5, **changes})


def records(directory, split):
    source = open_dataset(directory, split)
    return [source[i] for i in range(len(source))]


def test_records_lie_in_order_and_equal_those_made_alone(tmp_path):
    config = small()
    directory = prepare(str(tmp_path), config)
    assert (pathlib.Path(directory) / "features.json").is_file()
    for split, count in (("train", 12), ("test", 5)):
        stored = records(directory, split)
        assert len(stored) == count
        for index, record in enumerate(stored):
            made = make_record(index, split, config)
            assert record["key"].decode() == made["key"] == f"web-{split}-{index:07d}"
            assert record["image"] == made["image"]
            assert [text.decode() for text in record["texts"]] == made["texts"]
            assert json.loads(record["truth"]) == json.loads(made["truth"])
    assert "tensorflow" not in sys.modules


def test_a_finished_build_is_kept_and_a_broken_one_made_again(tmp_path):
    config = small()
    directory = pathlib.Path(prepare(str(tmp_path), config))
    before = {file.name: file.stat().st_mtime_ns for file in directory.iterdir()}
    assert prepare(str(tmp_path), config) == str(directory)
    assert {file.name: file.stat().st_mtime_ns for file in directory.iterdir()} == before
    expected = records(str(directory), "train")
    next(directory.glob("*-train*")).unlink()
    leftover = directory.parent / "incomplete.ABC_1.0.0"
    leftover.mkdir()
    prepare(str(tmp_path), config)
    assert not leftover.exists()
    again = records(str(directory), "train")
    assert [r["image"] for r in again] == [r["image"] for r in expected]


def test_other_settings_get_their_own_directory(tmp_path):
    first = prepare(str(tmp_path), small())
    other = prepare(str(tmp_path), small(noise_share=0.25))
    assert first != other and len(records(first, "test")) == len(records(other, "test"))


def test_no_scene_is_shared_between_kinds_splits_and_seeds():
    pictures = {
        make_record(index, split, config)["image"]
        for config in (small(), small(kind="human"), small(seed=1))
        for split in ("train", "val", "test")
        for index in range(10)
    }
    assert len(pictures) == 3 * 3 * 10


def test_human_records_are_true_and_full():
    config = small(kind="human")
    for index in range(50):
        record = make_record(index, "train", config)
        truth = json.loads(record["truth"])
        scene = Scene.from_dict(truth["scene"])
        found = [check(text, scene) for text in record["texts"]]
        assert len(found) == 5 and all(v.true and v.complete for v in found)
        assert (truth["noise"], truth["short"]) == ("", False)
        assert decode(record["image"]).shape == (32, 32, 3)


def test_web_noise_has_the_stated_shares_and_is_recorded():
    config = small(noise_share=0.4, world=World(image_size=16))
    kinds, shorts = [], []
    for index in range(1500):
        record = make_record(index, "train", config)
        truth = json.loads(record["truth"])
        found = check(record["texts"][0], Scene.from_dict(truth["scene"]))
        assert found.true == (truth["noise"] == "") and len(record["texts"]) == 1
        kinds.append(truth["noise"])
        if truth["noise"] in ("", "one_attribute_wrong"):
            assert found.complete == (not truth["short"])
            shorts.append(truth["short"])
    assert kinds.count("") / 1500 == pytest.approx(0.6, abs=0.04)
    noise = len(kinds) - kinds.count("")
    for kind, share in NOISE_MIX.items():
        assert kinds.count(kind) / noise == pytest.approx(share, abs=0.06)
    assert np.mean(shorts) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "cats"}, "kind is 'cats'; it must be one of human, web"),
        ({"train": -1}, "train is -1"),
        ({"noise_share": 1.5}, "noise_share is 1.5"),
        ({"train": 0, "test": 0}, "at least one must hold images"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        small(**wrong)
