"""Re-ranking: every pair once, the scores of `match` on any number of devices."""

import jax
import numpy as np
import pytest
import tiny_dataset

from blip_jax.data.text import clean_caption
from blip_jax.models.pmapped import PmappedFunction
from blip_jax.models.reranking import context_bytes
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.eval_dataset import EvalDataset
from blip_jax.tasks.image_blocks import plan_blocks, texts_per_row
from blip_jax.tasks.reranking import PairScorer

IMAGES, TEXTS = 10, 20  # of the test split


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize(("per_device", "rows", "texts"), [(1, 1, 1), (2, 4, 8), (5, 3, 4)])
def test_blocks_hold_every_pair_once_with_its_image(devices, per_device, rows, texts):
    rng = np.random.default_rng(0)
    image_index = np.sort(rng.choice([2, 3, 5, 8, 13, 21, 34], 300, p=[0.4] + [0.1] * 6))
    seen, total = [], 0
    for block in plan_blocks(image_index, devices, per_device, rows, texts):
        assert block.images.shape == (devices * per_device,)
        assert block.pairs.shape == (*block.places.shape, texts)
        assert block.places.shape[1] % rows == 0
        images = block.images.reshape(devices, per_device)
        of_rows = np.take_along_axis(images, block.places, axis=1)[..., None]
        is_pair = block.pairs >= 0
        expected = np.where(is_pair, image_index[block.pairs], of_rows)
        np.testing.assert_array_equal(expected, np.broadcast_to(of_rows, is_pair.shape))
        seen += block.pairs[is_pair].tolist()
        total += 1
    assert sorted(seen) == list(range(300))
    assert total == -(-7 // (devices * per_device))


def test_devices_get_nearly_equal_numbers_of_rows():
    """Images of 8, 4, 3, 1 rows for two devices that hold two each: 9 and 7, not 12 and 4."""
    image_index = np.repeat([0, 1, 2, 3], [8, 4, 3, 1])
    (block,) = plan_blocks(image_index, 2, 2, 1, 1)
    assert (block.pairs >= 0).sum(axis=(1, 2)).tolist() == [9, 7]


@pytest.mark.parametrize(("pairs", "images", "texts"), [(700, 1, 32), (64, 2, 8), (7, 1, 1)])
def test_texts_of_a_row(pairs, images, texts):
    assert texts_per_row(pairs, images) == texts


@pytest.fixture(scope="module")
def dataset(world, model):
    return EvalDataset.load(world.human, "test", model("retrieval").image_size)


def scorer(model, dataset, memory_gib=1.0):
    texts = [clean_caption(text) for record in dataset.records for text in record["texts"]]
    return PairScorer(model, dataset, *model.tokenizer.encode(texts, model.max_length), memory_gib)


def some_pairs():
    """All texts of image 4, and about a third of the others' texts."""
    chosen = np.random.default_rng(1).random((IMAGES, TEXTS)) < 0.3
    chosen[4], chosen[7] = True, False
    return np.nonzero(chosen)


def one_device(monkeypatch):
    device = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda *unused, **more: device)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setattr(PmappedFunction, "_mapped", {})  # programs of one device are not kept


def test_scores_are_those_of_match_on_any_number_of_devices(world, model, dataset, monkeypatch):
    images, texts = some_pairs()
    assert jax.local_device_count() == 8
    found = scorer(model("retrieval"), dataset)(images, texts)
    every = [text for record in dataset.records for text in record["texts"]]
    match = model("retrieval").match(dataset.images, [every] * IMAGES, batch_size=16)
    assert found.dtype == np.float32 and found.std() > 0.1
    np.testing.assert_allclose(found, match.logits[images, texts, 1], atol=1e-5)
    # Memory for one image at a time; one device.
    bytes_of_one = context_bytes(model("retrieval").config) / 2**30
    np.testing.assert_allclose(
        scorer(model("retrieval"), dataset, bytes_of_one)(images, texts), found, atol=1e-5
    )
    one_device(monkeypatch)
    alone = tiny_dataset.trained(world, 2, "", "retrieval")
    np.testing.assert_allclose(scorer(alone, dataset)(images, texts), found, atol=1e-5)


def test_keys_and_values_of_an_image(model):
    """2 of [layers, tokens, width] floats: 2 x 2 x 5 x 16 x 4 bytes."""
    assert context_bytes(model("retrieval").config) == 1280


def test_memory_must_be_above_zero(model, dataset):
    with pytest.raises(UserError, match="task.rerank_memory_gib is 0; it must be above 0"):
        scorer(model("retrieval"), dataset, 0)
