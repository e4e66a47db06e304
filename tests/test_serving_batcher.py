"""Batches: who shares one, how long rows wait, how many may."""

import threading
import time
from concurrent.futures import wait

import pytest

from blip_jax.serving.batch_sizes import BatchSizes
from blip_jax.serving.batcher import Batcher, QueueFull


class Recorder:
    """Doubles rows; notes its batches; waits for `gate` before each."""

    def __init__(self, *sizes, open_gate=True):
        self.batch_sizes = BatchSizes(sizes)
        self.batches, self.gate = [], threading.Event()
        self.entered = threading.Event()
        if open_gate:
            self.gate.set()

    def __call__(self, rows):
        self.entered.set()
        assert self.gate.wait(60)
        self.batches.append(list(rows))
        if "bad" in rows:
            raise ValueError("bad row")
        return [2 * row for row in rows]


@pytest.fixture
def batcher():
    """A function that starts a batcher, which is closed behind the test."""
    made = []

    def make(functions, max_wait=0.0, max_rows=100, **options):
        made.append(Batcher(functions, max_wait, max_rows, **options))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_what_comes_together_is_one_batch_in_order(batcher):
    double = Recorder(8)
    futures = batcher({"double": double}, 0.2).submit([("double", n) for n in range(5)])
    assert [future.result(60) for future in futures] == [0, 2, 4, 6, 8]
    assert double.batches == [[0, 1, 2, 3, 4]]


def test_a_full_batch_does_not_wait(batcher):
    double = Recorder(2)
    futures = batcher({"double": double}, 3600).submit([("double", n) for n in range(4)])
    assert [future.result(60) for future in futures] == [0, 2, 4, 6]
    assert double.batches == [[0, 1], [2, 3]]


def test_a_lone_row_waits_as_long_as_is_said(batcher):
    reports = []
    double = Recorder(8)
    made = batcher({"double": double}, 0.1, report=reports.append)
    made.submit([("double", 1)])[0].result(60)
    (report,) = reports
    assert report.function == "double" and 0.1 <= report.waits[0] and report.duration >= 0


def test_rows_that_come_while_a_batch_is_computed_share_the_next(batcher):
    double = Recorder(8, open_gate=False)
    made = batcher({"double": double})
    first = made.submit([("double", 1)])
    assert double.entered.wait(60)
    later = [made.submit([("double", n)])[0] for n in (2, 3, 4)]
    double.gate.set()
    wait([*first, *later])
    assert double.batches == [[1], [2, 3, 4]]


def test_the_function_with_the_oldest_row_is_next(batcher):
    one, two = Recorder(8, open_gate=False), Recorder(8)
    made = batcher({"one": one, "two": two})
    futures = made.submit([("one", 1)])
    assert one.entered.wait(60)
    order = []
    for name, row in (("two", 5), ("one", 2), ("two", 6)):
        (future,) = made.submit([(name, row)])
        future.add_done_callback(lambda _, row=row: order.append(row))
        futures.append(future)
    one.gate.set()
    wait(futures)
    assert order == [5, 6, 2]


def test_more_rows_than_may_wait_are_refused_whole(batcher):
    double = Recorder(2, open_gate=False)
    made = batcher({"double": double}, max_rows=3)
    futures = made.submit([("double", 0), ("double", 1)])
    assert double.entered.wait(60)
    futures += made.submit([("double", 2), ("double", 3)])
    with pytest.raises(QueueFull):
        made.submit([("double", 4), ("double", 5)])
    assert made.waiting == 2
    futures += made.submit([("double", 6)])
    double.gate.set()
    assert [future.result(60) for future in futures] == [0, 2, 4, 6, 12]


def test_a_cancelled_row_is_not_computed(batcher):
    double = Recorder(8, open_gate=False)
    made = batcher({"double": double})
    made.submit([("double", 1)])
    assert double.entered.wait(60)
    gone, kept = made.submit([("double", 2), ("double", 3)])
    assert gone.cancel()
    double.gate.set()
    assert kept.result(60) == 6
    assert double.batches == [[1], [3]]


def test_a_failed_batch_fails_alone(batcher):
    double = Recorder(1)
    bad, good = batcher({"double": double}).submit([("double", "bad"), ("double", 1)])
    with pytest.raises(ValueError, match="bad row"):
        bad.result(60)
    assert good.result(60) == 2


def test_close_computes_what_waits():
    double = Recorder(8)
    made = Batcher({"double": double}, 3600, 100)
    made.start()
    futures = made.submit([("double", 1), ("double", 2)])
    start = time.monotonic()
    made.close()
    assert [future.result(0) for future in futures] == [2, 4] and time.monotonic() - start < 600


def test_a_batch_takes_what_computes_more_rows_a_second():
    sizes = BatchSizes([1, 4, 16])
    assert [sizes.rows(n) for n in (1, 3, 5, 16, 40)] == [1, 3, 5, 16, 16]  # nothing is known yet
    for rows, seconds in ((1, 1.0), (4, 2.0), (13, 6.0)):  # 1, 2 and, of 16 rows, 2.7 rows/s
        sizes.record(rows, seconds)
    expected = {1: 1, 2: 2, 3: 3, 4: 4, 5: 4, 11: 4, 12: 12, 13: 13, 16: 16}
    assert {n: sizes.rows(n) for n in expected} == expected


def test_padding_costs_nothing_where_batches_of_all_sizes_take_as_long():
    sizes = BatchSizes([1, 4, 16])
    for rows in (1, 4, 16):
        sizes.record(rows, 1.0)
    assert [sizes.rows(n) for n in (2, 5, 9)] == [2, 5, 9]


def test_the_size_of_a_batch_follows_from_those_before():
    double = Recorder(1, 4)
    for rows, seconds in ((1, 0.001), (4, 100.0)):
        double.batch_sizes.record(rows, seconds)
    made = Batcher({"double": double}, 0.0, 100)
    futures = made.submit([("double", n) for n in range(3)])
    made.start()
    wait(futures)
    made.close()
    assert double.batches == [[0], [1], [2]]
