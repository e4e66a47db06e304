"""Stages of a run: done once, never by half, and of one config."""

import os

import pytest

from blip_jax.capfilt.bootstrap import BootstrapConfig, bootstrap
from blip_jax.cli.main import main
from blip_jax.data.datasets import open_dataset
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.fingerprint import FILE
from blip_jax.runtime.lock import folder_lock
from blip_jax.runtime.stages import Stages


def test_a_stage_is_done_once(tmp_path):
    calls = []

    def work():
        calls.append(1)
        return {"number": len(calls)}

    for _ in range(2):
        stages = Stages(str(tmp_path), "bootstrap", {"a": 1}, {})
        assert stages.run_stage("first", work, "a note") == {"number": 1}
    assert stages.run_stage("second", lambda: None) == {}
    assert [(t["name"], t["note"]) for t in stages.times()] == [("first", "a note"), ("second", "")]
    assert all(time["seconds"] >= 0 for time in stages.times())


@pytest.mark.parametrize(
    ("before", "after"),
    [('"number": 1', '"number": 9'), ('"number": 1', '"numbe": 1'), ('"first"', '"second"'),
     ('"seconds": ', '"seconds": null, "x": ')],
)  # fmt: skip
def test_a_marker_that_was_changed_is_refused(tmp_path, before, after):
    stages = Stages(str(tmp_path), "bootstrap", {}, {})
    stages.run_stage("first", lambda: {"number": 1, "unknown": float("nan")})
    marker = tmp_path / "stages" / "first.json"
    whole = marker.read_text()
    assert before in whole
    marker.write_text(whole.replace(before, after))
    with pytest.raises(UserError, match=r"first.json is damaged; delete it and rerun"):
        stages.run_stage("first", lambda: None)
    marker.write_text(whole.replace('"digest"', '"other"'))  # as before there was one
    assert stages.result("first")["number"] == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_stage_that_does_not_end_leaves_no_marker(tmp_path, error):
    def work():
        raise error

    stages = Stages(str(tmp_path), "bootstrap", {}, {})
    with pytest.raises(error):
        stages.run_stage("first", work)
    assert stages.times() == []
    assert stages.run_stage("first", lambda: {"done": True}) == {"done": True}


def test_another_run_is_refused_by_the_names_that_differ(tmp_path):
    config = {"seed": 0, "pretrain": {"steps": 3, "lr": 0.1}, "arms": ["none"]}
    inputs = {"web": "3 files"}
    Stages(str(tmp_path), "bootstrap", {"seed": 9}, inputs)  # nothing was done: it can be replaced
    Stages(str(tmp_path), "bootstrap", config, inputs).run_stage("data", dict)
    Stages(
        str(tmp_path), "bootstrap", dict(reversed(config.items())), inputs
    )  # the order does not matter
    other = {"pretrain": {"steps": 4, "lr": 0.1, "b1": 0.9}, "seed": 0, "arms": ["none"]}
    message = r"holds another run: config.pretrain.b1 was absent, now 0.9; config.pretrain.steps "
    with pytest.raises(UserError, match=message + "was 3, now 4; choose another"):
        Stages(str(tmp_path), "bootstrap", other, inputs)
    with pytest.raises(UserError, match='inputs.web was "3 files", now "4 files"; choose another'):
        Stages(str(tmp_path), "bootstrap", config, {"web": "4 files"})
    Stages(str(tmp_path), "bootstrap", config, inputs)  # and nothing was overwritten
    (tmp_path / FILE).unlink()
    with pytest.raises(UserError, match=f"{FILE} is missing, so that nothing tells"):
        Stages(str(tmp_path), "bootstrap", config, inputs)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "first"}', "[" * 200_000])
def test_a_damaged_marker_is_one_line(tmp_path, text):
    stages = Stages(str(tmp_path), "bootstrap", {}, {})
    stages.run_stage("first", dict)
    (tmp_path / "stages" / "first.json").write_text(text)
    for read in (lambda: stages.run_stage("first", dict), stages.times):
        with pytest.raises(UserError, match="first.json is ") as error:
            read()
        assert "\n" not in str(error.value)


def test_two_runs_do_not_use_one_folder(tmp_path):
    with folder_lock(tmp_path, "bootstrap"), pytest.raises(UserError, match="is in use by process"):
        bootstrap(BootstrapConfig(), str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_the_datasets_of_a_run_can_be_made_alone(tmp_path, capsys):
    world = {"human_images": 4, "web_images": 4, "test_images": 2, "image_size": 16}
    values = [f"--config.world.{name}={value}" for name, value in world.items()]
    argv = ["prepare", "--config=shapes", f"--workdir={tmp_path}", *values]
    assert main([*argv, "--config.vocab_size=120"]) == 0
    lines = capsys.readouterr().out.splitlines()
    made = dict(line.split(": ") for line in lines)
    assert list(made) == ["human", "web", "test", "tokenizer"]
    assert len(open_dataset(made["web"], "train")) == 4


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="no dataset in /nowhere"):
        bootstrap(BootstrapConfig(web_dataset="/nowhere"), str(tmp_path / "run"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seeds": ()}, "seeds is empty"),
        ({"arms": ()}, "arms is empty"),
        ({"seeds": (0, -1)}, r"seeds\[1\] is -1 \(int\); give a whole number from 0 to 4294967295"),
        ({"seeds": (1, 1)}, "seeds has a seed twice"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"human_fraction": float("nan")}, "human_fraction is nan"),
    ],
)
def test_fields_out_of_range_are_refused(changes, named):
    with pytest.raises(UserError, match=named):
        BootstrapConfig(**changes)
