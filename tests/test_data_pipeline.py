"""Views, sources and pipelines: what is read, in which order, and what is set aside."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from blip_jax.data.augment import TrainTransform
from blip_jax.data.datasets import open_dataset
from blip_jax.data.images import decode
from blip_jax.data.mixture import Component, RecordSource, load_mixture, save_mixture
from blip_jax.data.pipeline import SKIP_REASONS, crc32_hash, eval_batches, train_batches
from blip_jax.data.synthetic.builder import ShapesConfig, make_record, prepare
from blip_jax.data.tokenizer import train_wordpiece
from blip_jax.runtime.errors import UserError

HUMAN = ShapesConfig(kind="human", train=30, val=0, test=10)
WEB = ShapesConfig(kind="web", train=50, val=0, test=0)
SCORES = {
    "key": tfds.features.Text(),
    "status": tfds.features.Text(),
    "texts": tfds.features.Sequence(
        {"text": tfds.features.Text(), "p_match": tfds.features.Scalar(np.float32)}
    ),
}
RECORDS = {
    "key": tfds.features.Text(),
    "image": tfds.features.Image(encoding_format="png"),
    "texts": tfds.features.Sequence(tfds.features.Text()),
    "truth": tfds.features.Text(),
}


class Given(tfds.core.GeneratorBasedBuilder):
    """A dataset of the records handed in, split train."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = epath.Path(__file__)

    def __init__(self, *, records, features, **kwargs):
        self.records, self.given = records, features
        super().__init__(file_format="array_record", **kwargs)

    def _info(self):
        features = tfds.features.FeaturesDict(self.given)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": enumerate(self.records)}

    def _generate_examples(self):
        raise AssertionError("the split is given")


def write(directory, records, features):
    builder = Given(records=records, features=features, data_dir=str(directory))
    builder.download_and_prepare()
    return str(builder.data_dir)


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
    settings = {"batch_size": 8, "image_size": 16, "max_length": 20, "seed": 3, **changes}
    return train_batches(parts, tokenizer, **settings)


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
        "reason": ("int32", (8,)),
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
    batches = take(stream(world, transform=TrainTransform.plain(16)), 50)
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
    plain = TrainTransform.plain(32)
    settings = {"image_size": 32, "max_length": 40, "prompt": "a small "}
    iterator = stream(world, parts, transform=plain, **settings)
    for batch in take(iterator, 30):
        assert batch["valid"].all() and not batch["reason"].any()
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
    found = {}
    for batch in take(stream(world, [Component("mixed", directory)], batch_size=4), 3):
        for row in range(4):
            found[int(batch["group"][row])] = SKIP_REASONS[batch["reason"][row]]
            assert batch["valid"][row] == (batch["reason"][row] == 0)
            if not batch["valid"][row]:
                assert not batch["image"][row].any()
                assert (
                    batch["ids"][row].tolist() == [tokenizer.ids.cls, tokenizer.ids.sep] + [0] * 18
                )
    assert found == {
        crc32_hash(good["key"]): "ok",
        crc32_hash("broken"): "undecodable image",
        crc32_hash("silent"): "empty text",
        crc32_hash("no texts"): "empty text",
    }
    (batch,) = eval_batches(directory, "train", 6, 16)
    assert batch["valid"].tolist() == [True, False, True, True, False, False]
    assert len(batch["records"]) == 4


def scored(world, tmp_path, keys=None):
    rows = [make_record(i, "train", HUMAN)["key"] for i in range(30)] if keys is None else keys
    texts = [
        [{"text": f"{side} {i}", "p_match": 0.5} for side in ("web", "new")] for i in range(30)
    ]
    records = [
        {"key": key, "status": "ok", "texts": text} for key, text in zip(rows, texts, strict=False)
    ]
    return write(tmp_path / "scores", records, SCORES)


def test_a_mixture_selects_texts_of_a_scored_dataset(world, tmp_path):
    human, web, _ = world
    scores = scored(world, tmp_path)
    np.save(tmp_path / "kept.npy", np.array([[4, 1], [29, 0], [4, 0]], np.int32))
    relative = str(pathlib.Path(scores).relative_to(tmp_path))
    mixture = str(tmp_path / "mixture.json")
    save_mixture(
        mixture,
        [Component("kept", human, scores=relative, selected="kept.npy"), Component("web", web)],
    )
    kept, plain = load_mixture(mixture)
    assert kept.scores == scores and plain == Component("web", web)
    pairs = RecordSource(kept)
    assert [(r["key"], r["texts"]) for r in map(pairs.__getitem__, range(len(pairs)))] == [
        ("human-train-0000004", ["new 4"]),
        ("human-train-0000029", ["web 29"]),
        ("human-train-0000004", ["web 4"]),
    ]
    assert pairs[1]["image"] == make_record(29, "train", HUMAN)["image"]
    everything = RecordSource(Component("all", human, scores=scores))
    assert len(everything) == 30 and everything[7]["texts"] == ["web 7", "new 7"]
    assert next(stream(world, mixture))["valid"].all()


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


def test_what_is_missing_or_does_not_fit_is_named(world, tmp_path):
    human, web, tokenizer = world
    with pytest.raises(UserError, match="no dataset in .*nothing: features.json is missing"):
        open_dataset(str(tmp_path / "nothing"), "train")
    with pytest.raises(UserError, match="has no split 'val'; it has test, train"):
        open_dataset(human, "val")
    with pytest.raises(UserError, match="mixture file .*none.json does not exist"):
        load_mixture(str(tmp_path / "none.json"))
    mixture = tmp_path / "mixture.json"
    for content, message in (
        ("{", "is not a mixture"),
        ('{"components": [{"name": "a", "dataset": "b", "wieght": 1}]}', "wieght"),
        (
            '{"components": [{"name": "a", "dataset": "b", "weight": -1}]}',
            "weight of component 'a' is -1",
        ),
        ('{"components": []}', "no component with a weight above 0"),
    ):
        mixture.write_text(content)
        with pytest.raises(UserError, match=message):
            load_mixture(str(mixture))
    with pytest.raises(UserError, match="batch_size is 0; it must be 1 or more"):
        stream(world, batch_size=0)
    selected = tmp_path / "selected.npy"
    for array, message in (
        (np.zeros((2, 3), np.int32), r"int32 \[2, 3\]; expected int32 \[P, 2\]"),
        (np.array([[30, 0]], np.int32), "rows outside 0 to 29"),
        (np.zeros((0, 2), np.int32), "has nothing to train on"),
    ):
        np.save(selected, array)
        with pytest.raises(UserError, match=message):
            RecordSource(Component("a", human, selected=str(selected)))
    np.save(selected, np.array([[0, 5]], np.int32))
    with pytest.raises(UserError, match="selects text 5 of row 0, which has 5"):
        RecordSource(Component("a", human, selected=str(selected)))[0]


def test_scores_of_another_dataset_are_refused(world, tmp_path):
    human, web, _ = world
    scores = scored(world, tmp_path, keys=[f"other-{i}" for i in range(30)])
    with pytest.raises(UserError, match="have 30 rows, dataset .* has 50"):
        RecordSource(Component("a", web, scores=scores))
    with pytest.raises(UserError, match="'human-train-0000000' in the dataset and 'other-0'"):
        RecordSource(Component("a", human, scores=scores))[0]
