"""Tables as literal text."""

import math

import numpy as np

from blip_jax.reports import tables

ROWS = [
    {"arm": "none", "R@1": 22.57, "share": 0.5, "texts": 12000},
    {"arm": "both | b", "R@1": math.nan, "share": 0.25, "ok": True},
]


def test_plain():
    assert tables.plain(ROWS) == "\n".join(
        [
            "arm         R@1    share    texts  ok",
            "--------  -----  -------  -------  ----",
            "none       22.6    0.500   12,000",
            "both | b      –    0.250           yes",
        ]
    )


def test_markdown_escapes_bars_and_keeps_the_order_asked_for():
    assert tables.markdown(ROWS, ["R@1", "arm"]) == "\n".join(
        [
            "|   R@1 | arm       |",
            "|------:|:----------|",
            r"|  22.6 | none      |",
            r"|     – | both \| b |",
        ]
    )


def test_cells():
    assert tables.format_column([(81.234, 0.61), 7, None]) == ["81.2 ± 0.6", "7", ""]
    assert tables.format_column([np.float32(99.96), np.int64(3), np.True_]) == ["100.0", "3", "yes"]
    assert tables.format_column([1e-5, 0.0]) == ["1.0e-05", "0.000"]
    assert tables.format_column([(46.0, 5e-15), (0.01, 2.0)]) == ["46.0 ± 0.0", "0.0 ± 2.0"]


def test_a_text_that_looks_like_a_number_stays_as_it_is():
    assert "007" in tables.plain([{"key": "007"}])


def test_nothing():
    assert tables.plain([]) == tables.markdown([]) == ""
    assert tables.plain([], ["a", "b"]).split() == ["a", "b", "---", "---"]
