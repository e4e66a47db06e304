"""Stages of a run: done once, never by half, and of one config."""

import pytest

from blip_jax.capfilt.bootstrap.stages import Stages
from blip_jax.runtime.errors import UserError


def test_a_stage_is_done_once(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"number": len(calls)}

    for _ in range(2):
        stages = Stages(str(tmp_path), {"a": 1})
        assert stages.run_stage("first", work, "a note") == {"number": 1}
    assert stages.run_stage("second", lambda: None) == {}
    assert [(t["name"], t["note"]) for t in stages.times()] == [("first", "a note"), ("second", "")]
    assert all(time["seconds"] >= 0 for time in stages.times())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_stage_that_does_not_end_leaves_no_marker(tmp_path, error):
    def work():
        raise error

    stages = Stages(str(tmp_path), {})
    with pytest.raises(error):
        stages.run_stage("first", work)
    assert stages.times() == []
    assert stages.run_stage("first", lambda: {"done": True}) == {"done": True}


def test_another_config_is_refused_by_the_names_that_differ(tmp_path):
    config = {"seed": 0, "pretrain": {"steps": 3, "lr": 0.1}, "arms": ["none"]}
    Stages(str(tmp_path), config)
    Stages(str(tmp_path), dict(reversed(config.items())))  # the order does not matter
    other = {"pretrain": {"steps": 4, "lr": 0.1, "b1": 0.9}, "seed": 0, "arms": ["both"]}
    with pytest.raises(UserError, match=r"it differs in arms, pretrain\.b1, pretrain\.steps\)"):
        Stages(str(tmp_path), other)
    Stages(str(tmp_path), config)  # and nothing was overwritten
