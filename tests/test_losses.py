"""Losses and hard negatives against values worked by hand, and PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from blip_jax import losses


def unit_rows(count, width, seed):
    x = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# ITC

FEATURE = jnp.array([[1.0, 0.0]])
KEYS = jnp.array([[1.0, 0.0], [0.0, 1.0]])  # similarities 1 and 0


def itc(feature=FEATURE, teacher=FEATURE, keys=KEYS, positive=((True, False),), **changes):
    valid = changes.pop("valid", jnp.ones(keys.shape[0], bool))
    options = {"temperature": 1.0, "alpha": 0.0, **changes}
    return losses.itc_loss(feature, teacher, keys, jnp.array(positive), valid, **options)


def test_itc_of_the_docstring():
    np.testing.assert_allclose(itc(), [0.313262], rtol=1e-5)  # log(1 + e^-1)


def test_itc_divides_by_the_temperature():
    np.testing.assert_allclose(itc(temperature=0.5), [0.126928], rtol=1e-5)  # log(1 + e^-2)


def test_itc_spreads_evenly_over_several_positives():
    # The mean of log(1 + e^-1) and log(1 + e).
    np.testing.assert_allclose(itc(positive=((True, True),)), [0.813262], rtol=1e-5)


def test_itc_leaves_out_keys_that_are_not_valid():
    keys = jnp.concatenate([KEYS, jnp.array([[1.0, 0.0]])])
    valid = jnp.array([True, True, False])
    loss = itc(keys=keys, valid=valid, positive=((True, False, True),))
    np.testing.assert_allclose(loss, [0.313262], rtol=1e-5)
    # The only key left is the positive: nothing to tell apart.
    np.testing.assert_allclose(itc(valid=jnp.array([True, False]), alpha=0.4), [0.0], atol=1e-7)


def test_itc_soft_targets_are_the_teachers():
    # The teacher finds the second key at 1, the first at 0: softmax 1 / (1 + e), e / (1 + e).
    teacher = jnp.array([[0.0, 1.0]])
    near, far = 0.313262, 1.313262
    soft = near / (1 + np.e) + far * np.e / (1 + np.e)
    expected = 0.4 * soft + 0.6 * near
    np.testing.assert_allclose(itc(teacher=teacher, alpha=0.4), [expected], rtol=1e-5)


def test_itc_targets_carry_no_gradient():
    feature, teacher = unit_rows(3, 4, 0), unit_rows(3, 4, 1)
    keys, positive = unit_rows(5, 4, 2), np.eye(3, 5, dtype=bool)
    options = jnp.asarray(positive), jnp.ones(5, bool)

    def total(feature, teacher, temperature):
        return losses.itc_loss(feature, teacher, keys, *options, temperature, 0.4).sum()

    online, soft, temperature = jax.grad(total, (0, 1, 2))(feature, teacher, 0.07)
    assert np.abs(online).max() > 0.1 and not np.any(soft)
    # The temperature's gradient is that of a cross-entropy with constant targets.
    logits = np.float64(feature @ keys.T)
    targets = 0.4 * jax.nn.softmax(teacher @ keys.T / 0.07) + 0.6 * positive
    chance = jax.nn.softmax(logits / 0.07)
    expected = ((targets - chance) * logits).sum() / 0.07**2
    np.testing.assert_allclose(temperature, expected, rtol=1e-4)


def test_itc_is_torchs_cross_entropy_at_the_coldest_temperature():
    torch = pytest.importorskip("torch")
    feature, keys = unit_rows(4, 8, 0), unit_rows(6, 8, 1)
    found = itc(feature, feature, keys, np.eye(4, 6, dtype=bool), temperature=0.001)
    logits = torch.tensor(feature @ keys.T / 0.001)
    wanted = torch.nn.functional.cross_entropy(logits, torch.arange(4), reduction="none")
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


# ITM

LABELS = jnp.array([0, 1, 1])


def test_itm_of_even_logits_is_log_2():
    np.testing.assert_allclose(losses.itm_loss(jnp.zeros((3, 2)), LABELS), [np.log(2)] * 3)


def test_itm_of_uneven_logits():
    logits = jnp.array([[0.0, 1.0], [0.0, 1.0], [3.0, 3.0]])
    found = losses.itm_loss(logits, LABELS)  # log(1 + e), log(1 + e^-1), log 2
    np.testing.assert_allclose(found, [1.313262, 0.313262, 0.693147], rtol=1e-5)


def test_itm_takes_leading_axes():
    assert losses.itm_loss(jnp.zeros((4, 3, 2)), jnp.zeros((4, 3), int)).shape == (4, 3)


# Hard negatives


def draw(similarity, possible, draws, **changes):
    """[draws, b]: the same rows drawn again and again, as so many groups."""
    shape = (draws, *similarity.shape)
    return np.asarray(
        losses.draw_hard_negatives(
            jax.random.key(3),
            jnp.broadcast_to(similarity, shape),
            jnp.broadcast_to(possible, shape),
            **changes,
        )
    )


def test_negatives_follow_softmax_plus_floor():
    draws, floor = 20_000, 0.05
    rng = np.random.default_rng(0)
    similarity = 1.5 * rng.normal(size=(4, 4)).astype(np.float32)
    possible = ~np.eye(4, dtype=bool)
    possible[2, 0] = False
    found = draw(similarity, possible, draws, floor=floor)
    weights = np.exp(similarity) / np.exp(similarity).sum(-1, keepdims=True) + floor
    weights = np.where(possible, weights, 0)
    for row in range(4):
        counts = np.bincount(found[:, row], minlength=4)
        assert not counts[~possible[row]].any()
        wanted = (draws * weights[row] / weights[row].sum())[possible[row]]
        statistic = ((counts[possible[row]] - wanted) ** 2 / wanted).sum()
        # 0.999 quantile of chi-square with 2 degrees of freedom; the key is fixed.
        assert statistic < 13.8
        # Without the floor the same draws would be far from what is wanted.
        bare = np.where(possible[row], weights[row] - floor, 0)
        bare = (draws * bare / bare.sum())[possible[row]]
        assert ((counts[possible[row]] - bare) ** 2 / bare).sum() > 13.8


def test_negatives_are_never_impossible_however_alike():
    similarity = np.full((5, 5), -1000.0, np.float32)
    np.fill_diagonal(similarity, 1000.0)
    possible = ~np.eye(5, dtype=bool)
    possible[0] = [False, False, False, True, False]
    for floor in (0.0, 1e-4):
        found = draw(similarity, possible, 500, floor=floor)
        assert np.take_along_axis(possible[None], found[..., None], -1).all()
        assert (found[:, 0] == 3).all()
        # What underflows is still drawn, evenly: nothing tells one from another.
        share = np.bincount(found[:, 1], minlength=5) / 500
        np.testing.assert_allclose(share, [0.25, 0, 0.25, 0.25, 0.25], atol=0.08)


def test_a_weight_that_does_not_underflow_wins_without_a_floor():
    similarity = np.array([[0.0, 0.0, -200.0]] * 3, np.float32)
    found = draw(similarity, ~np.eye(3, dtype=bool), 300, floor=0.0)
    assert (found[:, 0] == 1).all() and (found[:, 1] == 0).all()
    assert set(found[:, 2].tolist()) == {0, 1}


def test_a_row_without_candidates_gets_0_and_leaves_the_others_alone():
    possible = ~np.eye(3, dtype=bool)
    possible[1] = False
    found = draw(np.zeros((3, 3), np.float32), possible, 300)
    assert (found[:, 1] == 0).all()
    assert set(found[:, 0].tolist()) == {1, 2} and set(found[:, 2].tolist()) == {0, 1}


def test_negatives_of_groups_differ_and_follow_the_key():
    possible = jnp.broadcast_to(~jnp.eye(8, dtype=bool), (2, 8, 8))
    one, again, other = (
        losses.draw_hard_negatives(jax.random.key(k), jnp.zeros((2, 8, 8)), possible)
        for k in (0, 0, 1)
    )
    assert one.dtype == jnp.int32 and (one == again).all() and (one != other).any()
    assert (one[0] != one[1]).any()


# LM


def test_lm_of_even_logits_is_log_v():
    ids, mask = jnp.array([[7, 2, 3, 4]]), jnp.ones((1, 4), bool)
    loss, weight = losses.lm_loss(jnp.zeros((1, 4, 9)), ids, mask)
    np.testing.assert_allclose(loss, [[np.log(9)] * 3], rtol=1e-6)
    assert weight.tolist() == [[1, 1, 1]]


def test_lm_predicts_the_next_token():
    # Position 0 favours token 2 by 1 over one other: log(1 + e^-1); position 1 disfavours 1.
    logits = jnp.array([[[-1e9, 0.0, 1.0], [-1e9, 0.0, 1.0], [5.0, 0.0, 0.0]]])
    ids, mask = jnp.array([[0, 2, 1]]), jnp.ones((1, 3), bool)
    loss, _ = losses.lm_loss(logits, ids, mask, smoothing=0.0)
    np.testing.assert_allclose(loss, [[0.313262, 1.313262]], rtol=1e-5)


def test_lm_label_smoothing_of_two_words():
    # 0.9 + 0.05 of the target's log(1 + e^-1), 0.05 of the other's log(1 + e).
    logits = jnp.array([[[0.0, 1.0], [0.0, 0.0]]])
    loss, _ = losses.lm_loss(logits, jnp.array([[0, 1]]), jnp.ones((1, 2), bool))
    np.testing.assert_allclose(loss, [[0.95 * 0.313262 + 0.05 * 1.313262]], rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_lm_is_torchs_cross_entropy(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(3, 6, 11)).astype(np.float32)
    ids = rng.integers(1, 11, (3, 6))
    mask = np.arange(6) < np.array([[6], [3], [2]])
    ids = np.where(mask, ids, 0)
    loss, weight = losses.lm_loss(logits, ids, mask, smoothing=smoothing)
    labels = np.where(mask, ids, -100)[:, 1:]
    wanted = torch.nn.functional.cross_entropy(
        torch.tensor(logits[:, :-1].reshape(-1, 11)),
        torch.tensor(labels.reshape(-1)),
        label_smoothing=smoothing,
    )
    np.testing.assert_allclose((loss * weight).sum() / weight.sum(), wanted, rtol=1e-5)


def test_lm_leaves_the_prompt_and_pads_out():
    mask = jnp.array([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]], bool)
    options = jnp.zeros((2, 6, 4)), jnp.zeros((2, 6), int), mask
    weight = lambda prompt: losses.lm_loss(*options, prompt_length=prompt)[1].tolist()  # noqa: E731
    assert weight(0) == [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0]]
    assert weight(1) == weight(0)  # [DEC] alone is never a target
    assert weight(3) == [[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]


def test_lm_of_nothing_but_pads_weighs_nothing():
    loss, weight = losses.lm_loss(
        jnp.zeros((2, 4, 5)), jnp.zeros((2, 4), int), jnp.zeros((2, 4), bool)
    )
    assert np.isfinite(loss).all() and not weight.any()
