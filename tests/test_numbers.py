"""Values of JSON files that are taken for numbers, and those that are not."""

import math

import pytest

from blip_jax.runtime.numbers import is_digits, is_number


@pytest.mark.parametrize("value", [0, -3, 2.5, 1e308, 10**300])
def test_numbers(value):
    assert is_number(value)


@pytest.mark.parametrize("value", [True, None, "1", [1], math.nan, -math.inf, 10**400])
def test_what_is_no_number(value):
    assert not is_number(value)


def test_digits_of_an_id():
    assert is_digits("262148000") and is_digits("0")
    # The last but one is a digit by str.isdigit, which int() refuses.
    assert not any(map(is_digits, ["", "-1", "1.0", " 1", "\u0661", "\u00b2", "9" * 5000]))
