"""Verbs with a config: what --help lists, what is refused before anything is loaded."""

import json
import os
import subprocess
import sys

import pytest

from blip_jax.cli import config_verb, environment, prepare
from blip_jax.cli.main import RUNS, VERBS, main
from blip_jax.data.ingest import IngestConfig
from blip_jax.runtime.config import fields_table, replace

# A field of each group of each verb's config, and a value that is not its default.
DECODING = {"decoding.top_p": 0.5, "decoding.num_beams": 5}
TASK = {
    "task.max_length": 9, "task.itc.queue_size": 8, "task.itm.group_size": 2,
    "task.lm.label_smoothing": 0.5, "task.decoding.num_beams": 5,
}  # fmt: skip
TRAIN = {
    "steps": 5, "model.embed_dim": 8, "model.vit.depth": 3, "model.med.sharing": "all",
    "data.mixture": "x", "data.augment.min_crop_area": 0.5, "init.run": "x", "mesh.fsdp": 2,
    "optimizer.clip_norm": 1.0, "optimizer.schedule.peak_lr": 0.5, "checkpoints.keep": 2,
    "eval.split": "test", "nonfinite.action": "skip",
}  # fmt: skip
BEAM = {"beam.runner": "FlinkRunner"}
OVERRIDES = {
    "prepare": {"source": "x", "columns.image": "photo", "opt_out_fields": ("a", "b"),
                **BEAM},
    "capfilt": {"dataset": "x", "dtype": "bfloat16", **DECODING, **BEAM},
    "assemble": {
        "origins": ("web",), "threshold_sweep": (0.3, 0.7), "selection.duplicates": "near",
        "selection.thresholds.web": 0.6, "selection.shares.synthetic": 0.5,
        **BEAM,
    },
    "evaluate": {"split": "val", **TASK},
    "compare": {
        "seeds": (3,), "tasks": ("vqa", "nlvr"), "vocab_size": 300, "full_captions.train": 9,
        "vqa.dataset.world.cells": 3, "vqa.train.optimizer.clip_norm": 2.0, "nlvr.arms": ("blank",),
        "video_retrieval.task.num_frames": 3,
    },
    "train": {**TRAIN, **TASK},
    "compile": {**TRAIN, **TASK},
    "bootstrap": {
        "seeds": (1, 2), "arms": ("none", "human"), "world.cells": 3, "capfilt.seed": 3,
        "evaluation.split": "val",
        **{f"capfilt.{name}": value for name, value in (DECODING | BEAM).items()},
        **{f"evaluation.{name}": value for name, value in TASK.items()},
        **{
            f"{run}.{name}": value
            for run in ("pretraining", "captioner", "filter", "captioner_and_filter")
            for name, value in (TRAIN | TASK).items()
            if not (run == "captioner" and name.startswith("task.it"))
            and not (run == "filter" and name.startswith(("task.lm", "task.dec")))
        },
    },
}  # fmt: skip
CONFIGS = {"train": ["--config=pretrain"], "compile": ["--config=pretrain"],
           "bootstrap": ["--config=shapes"], "compare": ["--config=shapes_tasks"]}  # fmt: skip


@pytest.fixture
def called(monkeypatch):
    """The configs that `prepare` was called with."""
    configs = []
    monkeypatch.setattr(prepare, "work", lambda config, workdir: configs.append((config, workdir)))
    return configs


def fails(capsys, *argv):
    """The one line that a wrong call ends with."""
    assert main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, err
    return err


def printed(capsys, *argv):
    """What a call that ends well prints."""
    assert main(list(argv)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.parametrize("columns", [72, 79, 100])
@pytest.mark.parametrize("verb", OVERRIDES)
def test_help_lists_every_field_with_its_comment(capsys, monkeypatch, verb, columns):
    configs = []
    monkeypatch.setattr(
        config_verb, "help_text", lambda *args: configs.append(args) or real(*args)
    )  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(columns))
    out = printed(capsys, verb, "--help")
    assert out.startswith(f"usage: blip-jax {verb} ")
    words = " ".join(out.split())
    for row in fields_table(configs[0][1]):
        assert f"  --config.{row.path}=" in out and row.help, row.path
        assert row.help in words, row.path
    for flag in ("--config FILE.py[:VARIANT]", "--print-config", "--verbose"):
        assert flag in out


real = config_verb.help_text


def test_help_with_a_file_shows_its_values_and_docstring(capsys, tmp_path):
    (tmp_path / "mine.py").write_text(
        '"""What I import."""\nfrom blip_jax.data.ingest import IngestConfig\n\n\n'
        "def get_config():\n    return IngestConfig(source='mine', min_side=7)\n"
    )
    config = f"--config={tmp_path / 'mine.py'}"
    out = printed(capsys, "prepare", config, "--config.resize=9", "--help")
    assert "  What I import.\n" in out
    for field in ("source=mine  (str, required)", "min_side=7  (int)", "resize=9  (int)"):
        assert f"  --config.{field}\n" in out
    shown = json.loads(printed(capsys, "prepare", config, "--config.resize=9", "--print-config"))
    assert (shown["source"], shown["min_side"], shown["resize"]) == ("mine", 7, 9)


@pytest.mark.parametrize("verb", OVERRIDES)
def test_a_field_of_each_group_is_set(capsys, verb):
    argv = [
        f"--config.{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in OVERRIDES[verb].items()
    ]
    call = [verb, *CONFIGS.get(verb, [])]
    before = json.loads(printed(capsys, *call, "--print-config"))
    after = json.loads(printed(capsys, *call, *argv, "--print-config"))
    groups = {name.rpartition(".")[0] for name in OVERRIDES[verb]}
    known = set(all_groups(before))
    # Each task of "compare" has the groups of "train".
    assert groups < known if verb == "compare" else groups == known
    for name, value in OVERRIDES[verb].items():
        node = after
        for part in name.split("."):
            node = node[part]
        assert node == (list(value) if isinstance(value, tuple) else value)
    assert after != before


def all_groups(values, path=""):
    own = {name for name, value in values.items() if not isinstance(value, dict)} - {"type"}
    found = [path] if own else []
    for name, value in values.items():
        if isinstance(value, dict):
            found += all_groups(value, f"{path}.{name}" if path else name)
    return found


def test_a_verb_gets_its_config_and_workdir(called, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--config.min_side=99"])  # of no account
    argv = ["prepare", "--config=prepare", "--config.source=x", "--config.columns.image=photo"]
    assert main([*argv, "--workdir", "here"]) == 0
    assert main(["prepare", "--workdir=other", "--config.source", "y", "--verbose"]) == 0
    usual = IngestConfig(source="x")
    assert called == [
        (replace(usual, **{"columns.image": "photo"}), "here"),
        (replace(usual, source="y"), "other"),
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "config.source is empty; give it with --config.source=PATH"),
        (["--config.source=x"], "--workdir DIR is missing"),
        (["--config", "none.py"], "config file none.py does not exist"),
        (["--config=capfil"], "there is no config 'capfil'; did you mean 'capfilt'?"),
        (["--config=FILE"], "its get_config() returns a dict, expected an IngestConfig"),
        (["--wrkdir=y"], "unknown option --wrkdir; did you mean --workdir?"),
        (["--flag"], "unknown option --flag; see --help"),
        (["source=4"], "unexpected argument 'source=4'; see --help"),
        (["--config.source=x", "4"], "unexpected argument '4'; see --help"),
        (["--config.sorce", "4"], "config has no field 'sorce'; did you mean 'source'?"),
        (["--config.min_side=big"], "config.min_side is 'big'; expected a whole number"),
        (["--config.min_side=-1"], "min_side is -1; it must be 0 or more"),
    ],
)
def test_a_wrong_call_is_one_line(capsys, called, tmp_path, argv, message):
    (tmp_path / "some.py").write_text("def get_config():\n    return {}\n")
    argv = [argument.replace("FILE", str(tmp_path / "some.py")) for argument in argv]
    line = fails(capsys, "prepare", *argv)
    assert line.startswith("blip-jax prepare: ") and message in line and not called


def test_usage_and_version(capsys):
    for argv in ([], ["-h"], ["--help"], ["help"]):
        out = printed(capsys, *argv)
        assert out.startswith("usage: blip-jax VERB --config FILE.py")
        for verb, what in VERBS.items():
            assert f"  {verb:10} {what}\n" in out
    assert printed(capsys, "--version").startswith("blip-jax 0.")
    assert fails(capsys, "trian") == "blip-jax trian: unknown verb 'trian'; did you mean 'train'?\n"
    assert set(RUNS) | {"compile"} == set(OVERRIDES)


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from blip_jax.cli.main import main\n"
        "assert main(['--help']) == main(['--version']) == 0\n"
        "print(*sorted({'jax', 'numpy', 'absl', 'tensorflow_datasets'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.splitlines()[-1] == ""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="no /proc: threads unknown")
@pytest.mark.parametrize(("given", "threads"), [({}, 1), ({"OPENBLAS_NUM_THREADS": "2"}, 2)])
def test_numpy_starts_no_threads_unless_the_environment_says_so(given, threads):
    code = (
        "import os; from blip_jax.cli.main import main\n"
        "assert main(['match', '--help']) == 0\n"
        "import numpy; print(len(os.listdir('/proc/self/task')))"
    )
    kept = {name: x for name, x in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=kept | given
    )
    assert int(out.stdout.splitlines()[-1]) == min(threads, os.cpu_count())


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HOME": "/h"}, "/h/.cache/blip_jax"),
        ({"HOME": "/h", "BLIP_JAX_CACHE": "/c"}, "/c"),
        ({"BLIP_JAX_CACHE": ""}, None),
        ({"BLIP_JAX_CACHE": "/c", "JAX_COMPILATION_CACHE_DIR": "/own"}, "/own"),
        ({"BLIP_JAX_CACHE": "/c", "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}, "/c"),
        ({"BLIP_JAX_CACHE": "/c", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}, None),
        ({"BLIP_JAX_CACHE": "/c", "JAX_NUM_CPU_DEVICES": "2"}, None),
    ],
)
def test_where_compiled_programs_are_kept(monkeypatch, variables, folder):
    for name in ("BLIP_JAX_CACHE", "JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS", "JAX_NUM_CPU_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    environment.cache_compiled_programs()
    assert os.environ.get("JAX_COMPILATION_CACHE_DIR") == folder


def test_a_workdir_of_an_unknown_kind_is_one_line(capsys):
    assert main(["prepare", "--config.source=x", "--workdir=https://a.b/c"]) == 2
    line = "blip-jax prepare: https://a.b/c is neither a local nor a gs:// path; give one "
    assert capsys.readouterr().err.startswith(line)


def test_libraries_are_quiet_but_for_verbose(called, monkeypatch):
    from absl import logging

    logging.set_verbosity(logging.INFO)
    argv = ["prepare", "--config.source=x", "--workdir=y"]
    assert main([*argv, "--verbose"]) == 0 and logging.get_verbosity() == logging.INFO
    assert main(argv) == 0 and logging.get_verbosity() == logging.ERROR
