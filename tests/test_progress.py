"""Progress of long work: lines where there is no terminal, a bar where there is one."""

import sys
import time

from blip_jax.runtime.progress import WIDTH, Progress, track


def test_short_work_without_a_terminal_prints_nothing(capsys):
    assert list(track([1, 2], "export", 2, "image")) == [1, 2]
    assert capsys.readouterr().err == ""


def test_lines_come_while_nothing_moves(capsys):
    with Progress("prepare", 10, "unit", initial=4, interval=0.02):
        time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2 and lines[0] == "prepare: 4/10 units (40%)"
    assert lines[-1].startswith("prepare: 4/10 units (40%) in ")


def test_a_line_has_rate_time_left_and_notes():
    with Progress("prepare", 12_000, "unit", interval=100) as progress:
        start = progress._marks[0][0]
        progress.update(2000, rows="20,000")
        line = progress._line(start + 10)
        assert line == "prepare: 2,000/12,000 units (17%), 200 units/s, 00:50 left, rows 20,000"
        progress.update(0, rows="x" * 200)
        assert len(progress._line(start + 20)) == WIDTH


def test_the_rate_forgets_a_slow_start():
    with Progress("capfilt", 10_000, "image", interval=100) as progress:
        start = progress._marks[0][0]
        progress._line(start + 1000)  # compiling
        for number in range(1, 11):
            progress.update(100)
            line = progress._line(start + 1000 + 10 * number)
        assert line == "capfilt: 1,000/10,000 images (10%), 10 images/s, 15:00 left"


def test_slow_work_is_shown_in_seconds_a_unit():
    with Progress("prepare", 4, "unit", initial=1, interval=100) as progress:
        progress.update()
        line = progress._line(progress._marks[0][0] + 50)
        assert line == "prepare: 2/4 units (50%), 50.0 s/unit, 01:40 left"


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("prepare", 4, "unit") as progress:
        progress.update(4, rows=7)
    err = capsys.readouterr().err
    assert "prepare: 100%" in err and "4/4" in err and "rows=7" in err


def test_nothing_is_shown_where_it_is_disabled(capsys):
    with Progress("prepare", 4, "unit", enabled=False, interval=0.01) as progress:
        progress.update()
        time.sleep(0.05)
    assert capsys.readouterr().err == ""
