"""The queue of momentum features: a ring for any batch size, valid where it was written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax import losses


def numbered(first, count, **changes):
    """A batch whose features and groups are its pairs' numbers."""
    number = jnp.arange(first, first + count)
    feature = jnp.broadcast_to(number[:, None], (count, 2)).astype(jnp.float32)
    fields = {"image": feature, "text": -feature, "group": number, "valid": jnp.ones(count, bool)}
    return {**fields, **changes}


def filled(size, batches):
    queue = losses.init_queue(size, 2, jax.random.key(0))
    for batch in batches:
        queue = losses.enqueue(queue, **batch)
    return queue


def test_queue_starts_empty_or_with_random_unit_vectors():
    empty = losses.init_queue(5, 4, jax.random.key(0))
    assert not empty.valid.any() and empty.pointer == 0
    assert np.asarray(empty.group).tolist() == [-1] * 5
    random = losses.init_queue(5, 4, jax.random.key(0), random_init=True)
    assert random.valid.all()
    for side in (random.image, random.text):
        np.testing.assert_allclose(np.linalg.norm(side, axis=-1), np.ones(5), rtol=1e-6)
    assert not np.allclose(random.image, random.text)


def test_queue_wraps_around():
    queue = filled(4, [numbered(0, 3), numbered(3, 3)])  # 3 does not divide 4
    assert np.asarray(queue.group).tolist() == [4, 5, 2, 3]
    np.testing.assert_array_equal(queue.image[:, 0], [4, 5, 2, 3])
    np.testing.assert_array_equal(queue.text[:, 1], [-4, -5, -2, -3])
    assert queue.valid.all() and queue.pointer == 2


def test_queue_is_valid_only_where_it_was_written():
    queue = filled(5, [numbered(0, 3)])
    assert np.asarray(queue.valid).tolist() == [True, True, True, False, False]
    assert queue.pointer == 3


def test_queue_remembers_which_pairs_were_skipped():
    queue = filled(3, [numbered(0, 3), numbered(3, 2, valid=jnp.array([False, True]))])
    assert np.asarray(queue.valid).tolist() == [False, True, True]


@pytest.mark.parametrize("count", [4, 5, 11])
def test_queue_keeps_the_newest_of_a_batch_as_large_or_larger(count):
    queue = filled(4, [numbered(100, 3), numbered(0, count)])
    assert sorted(np.asarray(queue.group).tolist()) == list(range(count - 4, count))
    np.testing.assert_array_equal(queue.image[:, 0], queue.group)
    assert queue.pointer == (3 + count) % 4
    # The next pair goes over the oldest.
    after = losses.enqueue(queue, **numbered(50, 1))
    assert sorted(np.asarray(after.group).tolist()) == [*range(count - 3, count), 50]


def test_queue_is_a_ring_of_the_last_pairs_whatever_the_batches():
    sizes = [1, 3, 2, 7, 5, 4, 6]
    firsts = np.cumsum([0, *sizes])
    queue = filled(5, [numbered(int(first), size) for first, size in zip(firsts, sizes)])
    total = sum(sizes)
    assert sorted(np.asarray(queue.group).tolist()) == list(range(total - 5, total))
    assert [int(group) % 5 for group in queue.group] == list(range(5))


def test_queue_of_no_places_stays_empty():
    queue = jax.jit(losses.enqueue)(losses.init_queue(0, 2, jax.random.key(0)), **numbered(0, 3))
    assert queue.image.shape == (0, 2)
