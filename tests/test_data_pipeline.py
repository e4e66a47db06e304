"""Pipelines: what is read, in which order, and what is skipped."""

import collections
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from given_dataset import write

from blip_jax import nn
from blip_jax.data.augment import AugmentConfig
from blip_jax.data.images import decode
from blip_jax.data.mixture import Component
from blip_jax.data.pipeline import SKIP_REASONS, crc32_hash, eval_batches, train_batches
from blip_jax.data.synthetic.builder import ShapesConfig, make_record, prepare
from blip_jax.data.tokenizer import train_wordpiece
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.captioning import CaptioningConfig
from blip_jax.tasks.pairs import LmConfig

HUMAN = ShapesConfig(kind="human", train=30, val=0, test=10)
WEB = ShapesConfig(kind="web", train=50, val=0, test=0)
RECORDS = {
    "key": tfds.features.Text(),
    "image": tfds.features.Image(encoding_format="png"),
    "texts": tfds.features.Sequence(tfds.features.Text()),
    "truth": tfds.features.Text(),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Directories of two datasets, and a tokenizer of their texts."""
    folder = tmp_path_factory.mktemp("data")
    human, web = prepare(str(folder), HUMAN), prepare(str(folder), WEB)
    texts = [t for i in range(30) for t in make_record(i, "train", HUMAN)["texts"]]
    return human, web, train_wordpiece(texts, str(folder / "vocabulary"), 200)


def stream(world, parts=None, **changes):
    human, web, tokenizer = world
    parts = parts or [Component("human", human, weight=1), Component("web", web, weight=3)]
    task = {name: changes.pop(name) for name in set(changes) & {"size", "length", "prompt"}}
    task = make_task(tokenizer, plain=changes.pop("plain", False), **task)
    return train_batches(parts, task, changes.pop("batch_size", 8), **{"seed": 3, **changes})


def make_task(tokenizer, size=16, length=20, prompt="", plain=False):
    """A captioning task for images of `size` pixels; `plain`: without augmentation."""
    model = nn.preset("tiny", vit={"image_size": size}, med={"max_length": length})
    augment = AugmentConfig(min_crop_area=1.0, flip="none", randaugment=False) if plain else None
    config = CaptioningConfig(max_length=length, lm=LmConfig(prompt=prompt))
    return config.make(model, tokenizer, augment=augment)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_batches_have_the_stated_shapes_and_types(world):
    batch = next(stream(world))
    assert {name: (str(a.dtype), a.shape) for name, a in batch.items()} == {
        "image": ("uint8", (8, 16, 16, 3)),
        "ids": ("int32", (8, 20)),
        "mask": ("bool", (8, 20)),
        "group": ("int32", (8,)),
        "text_group": ("int32", (8,)),
        "valid": ("bool", (8,)),
        "skip_reason": ("int32", (8,)),
    }


def test_the_seed_decides_everything(world):
    first = take(stream(world), 5)
    same(first, take(stream(world), 5))
    other = take(stream(world, seed=4), 5)
    for name in ("image", "group"):  # augmentation and order
        assert any((a[name] != b[name]).any() for a, b in zip(first, other))


def test_two_parts_of_one_dataset_go_through_it_in_different_orders(world):
    twice = [Component("once", world[0]), Component("again", world[0])]
    groups = np.concatenate([batch["group"] for batch in take(stream(world, twice), 30)])
    once, again = (groups[first::2].tolist() for first in (0, 1))
    epochs = [once[start : start + 30] for start in (0, 30, 60)]
    assert sorted(epochs[0]) == sorted(again[:30]) and again[:30] not in epochs


def test_a_stream_resumes_in_mid_epoch_from_number_or_state(world):
    whole = take(stream(world), 12)
    same(whole[7:], take(stream(world, start=7), 5))
    iterator = stream(world)
    take(iterator, 7)
    state = iterator.get_state()
    assert state == {"next_index": 7}
    fresh = stream(world)
    fresh.set_state(json.loads(json.dumps(state)))
    same(whole[7:], take(fresh, 5))


@pytest.mark.parametrize("owner", [[0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 2, 3, 3, 2, 0]])
def test_processes_together_make_the_same_batches(world, owner):
    whole = take(stream(world), 4)
    rows = [np.flatnonzero(np.array(owner) == process) for process in range(max(owner) + 1)]
    parts = [take(stream(world, rows=own), 4) for own in rows]
    at = np.argsort(np.concatenate(rows))
    joined = [
        {k: np.concatenate([p[k] for p in step])[at] for k in step[0]} for step in zip(*parts)
    ]
    same(whole, joined)


def test_parts_are_mixed_by_weight_and_every_epoch_is_whole_and_shuffled_anew(world):
    batches = take(stream(world, plain=True), 50)
    groups = np.concatenate([batch["group"] for batch in batches])
    human = [crc32_hash(make_record(i, "train", HUMAN)["key"]) for i in range(30)]
    web = [crc32_hash(make_record(i, "train", WEB)["key"]) for i in range(50)]
    is_human = np.isin(groups, human)
    assert is_human.sum() == 100 and np.isin(groups[~is_human], web).all()
    epochs = groups[~is_human][:300].reshape(6, 50)
    assert all(sorted(epoch) == sorted(web) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6


def test_what_is_read_is_the_record_and_one_of_its_texts(world):
    human, _, tokenizer = world
    parts = [Component("human", human)]
    by_group = {
        crc32_hash(r["key"]): r for r in (make_record(i, "train", HUMAN) for i in range(30))
    }
    chosen = set()
    iterator = stream(world, parts, plain=True, size=32, length=40, prompt="a small ")
    for batch in take(iterator, 30):
        assert batch["valid"].all() and not batch["skip_reason"].any()
        for row, text in enumerate(tokenizer.decode(batch["ids"])):
            record = by_group[batch["group"][row]]
            assert (batch["image"][row] == decode(record["image"])).all()
            said = text.removeprefix("a small ")
            assert said != text and said in record["texts"]
            assert batch["text_group"][row] == crc32_hash(said)
            chosen.add(record["texts"].index(said))
    assert chosen == {0, 1, 2, 3, 4}


def test_unusable_records_are_skipped_and_say_why(world, tmp_path):
    _, _, tokenizer = world
    good = make_record(0, "train", HUMAN)
    rows = [
        good,
        {**good, "key": "broken", "image": good["image"][:60]},
        {**good, "key": "silent", "texts": ['"..."']},
        {**good, "key": "no texts", "texts": []},
    ]
    directory = write(tmp_path, rows, RECORDS)
    found = collections.Counter()
    for batch in take(stream(world, [Component("mixed", directory)], batch_size=4), 3):
        found.update(SKIP_REASONS[reason] for reason in batch["skip_reason"])
        for row in range(4):
            assert batch["valid"][row] == (batch["skip_reason"][row] == 0)
            if not batch["valid"][row]:
                assert not batch["image"][row].any()
                assert (
                    batch["ids"][row].tolist() == [tokenizer.ids.cls, tokenizer.ids.sep] + [0] * 18
                )
            else:
                assert batch["group"][row] == crc32_hash(good["key"])
    assert found == {"ok": 3, "undecodable image": 3, "empty text": 6}
    (batch,) = eval_batches(directory, "train", 6, 16)
    assert batch["valid"].tolist() == [True, False, True, True, False, False]
    assert len(batch["records"]) == 4


def test_evaluation_is_in_order_and_padded(world):
    human = world[0]
    batches = list(eval_batches(human, "test", 4, 32))
    assert [batch["index"].tolist() for batch in batches] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, -1, -1],
    ]
    assert [batch["valid"].sum() for batch in batches] == [4, 4, 2]
    expected = make_record(9, "test", HUMAN)
    assert (batches[2]["image"][1] == decode(expected["image"])).all()
    record = batches[2]["records"][1]
    assert record == {name: expected[name] for name in ("key", "texts", "truth")}
    assert sum(len(b["records"]) for b in eval_batches(human, "test", 4, 32, limit=5)) == 5


def test_the_batch_size_is_checked(world):
    with pytest.raises(UserError, match="batch_size is 0; it must be 1 or more"):
        stream(world, batch_size=0)
