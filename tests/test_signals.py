"""Ctrl-C and SIGTERM: heard between steps, told in one line, each with its exit status."""

import os
import signal

import pytest

from blip_jax.cli import train
from blip_jax.cli.main import main
from blip_jax.runtime.signals import SIGNALS, Interrupted, SignalHandler


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_waits_for_the_step(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with SignalHandler() as signals:
        assert not signals.should_stop(1)
        os.kill(os.getpid(), number)
        assert signals.requested and signals.should_stop(2) and signals.number == number
        assert [signal.getsignal(each) for each in SIGNALS] == before  # a second acts at once
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_synchronized_sigterm_is_left_to_jax_and_ctrl_c_becomes_one(monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with SignalHandler(synchronized=True) as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == [signal.SIGTERM] and not signals.requested
            os.kill(os.getpid(), signal.SIGINT)
            assert heard == [signal.SIGTERM] * 2 and signals.number == signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_exit_status(capsys, monkeypatch, number, status):
    def run(argv):
        raise Interrupted("stopped at step 3; rerun the same command to resume", number)

    monkeypatch.setattr(train, "run", run)
    assert main(["train", "--config=x.py", "--workdir=x"]) == status
    line = "blip-jax train: stopped at step 3; rerun the same command to resume\n"
    assert capsys.readouterr().err == line
