"""Compiling for TPUs without one: presets, messages, and the compiler itself where it is there."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import types

import pytest

from blip_jax.cli import compile as command
from blip_jax.cli import config_files
from blip_jax.runtime.config import replace
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.captioning import PROMPT
from blip_jax.train.aot import compile, topology
from blip_jax.train.aot.roofline import Roofline
from blip_jax.train.mesh import check_batch
from blip_jax.train.recipes import captioning, retrieval

ROOT = pathlib.Path(__file__).parent.parent
CHIPS = {"v4-32": 16, "v5e-64": 64, "v5p-64": 32, "v6e-64": 64}
PRESETS = [
    (model, machine) for model in ("vit_b", "vit_l") for machine in ("v4-32", "v5e-64", "v5p-64",
    "v6e-64")
]  # fmt: skip
TINY = """
    from blip_jax import nn
    from blip_jax.runtime.config import replace
    from blip_jax.train.config import TrainConfig

    def get_config():
        model = nn.preset("tiny", med={"dropout": 0.1}, scan_unroll=1)
        task = {"itc": {"queue_size": 64}, "itm": {"group_size": 4}}
        return replace(
            TrainConfig(model=model), batch_size=32, task=task, mesh={"fsdp": 2}
        )
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(textwrap.dedent(TINY))
    return path


def pretrain(variant):
    return config_files.load(f"pretrain:{variant}")[0]


# Topologies


@pytest.mark.parametrize(
    ("machine", "wanted", "chips"),
    [
        ("v4-32", "v4:2x2x4", 16),  # two TensorCores a chip
        ("v5p-64", "v5p:2x4x4", 32),
        ("v5e-64", "v5e:8x8", 64),
        ("v6e-256", "v6e:16x16", 256),
        ("v5p:4x4x8", "v5p:4x4x8", 128),
    ],
)
def test_machines_have_the_chips_that_their_names_count(machine, wanted, chips):
    assert topology.resolve(machine) == wanted
    assert topology.chips(wanted) == chips


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:4x4", "unknown topology 'v9:4x4'; known: v4:2x2x4"),
        ("v5e:4by4", "unknown topology 'v5e:4by4'; known: "),
        ("v5e:0x4", "unknown topology 'v5e:0x4'"),
        ("v5e:4x4x4", "'v5e:4x4x4' has 3 axes, v5e has 2; known: "),
        ("pod", "unknown topology 'pod'; known: v4:2x2x4, .* or a machine type: v5p-64"),
        ("v4-33", "unknown machine type 'v4-33'; known: v4-8, v4-16, v4-32"),
        ("v5e-63", "unknown machine type 'v5e-63'; known: v5e-4, "),
    ],
)
def test_an_unknown_topology_is_a_line_with_the_known_ones(name, message):
    with pytest.raises(UserError, match=message) as error:
        topology.resolve(name)
    assert "\n" not in str(error.value)


def test_without_the_compiler_the_extra_is_named(monkeypatch, tiny, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in topology.ENVIRONMENT:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    from blip_jax.cli.main import main

    assert main(["compile", "--config", str(tiny), "--topology", "v5e:2x2"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1 and "`tpu` extra" in said.err


# Presets


@pytest.mark.parametrize(("model", "machine"), PRESETS)
def test_presets_are_the_papers_runs_and_go_with_their_machines(model, machine):
    run = pretrain(f"{model},{machine}")
    large = model == "vit_l"
    assert (run.batch_size, run.model.vit.width) == ((2400, 1024) if large else (2880, 768))
    assert run.optimizer.schedule.peak_lr == (2e-4 if large else 3e-4)
    chips = topology.chips(topology.resolve(run.topology))
    assert chips == CHIPS[machine]
    shards = chips // run.mesh.tensor
    group = run.task.itm.group_size
    assert group == (75 if large else 90 if chips < 64 else 45)
    assert run.mesh.tensor == (2 if large and chips == 64 else 1)
    mesh = types.SimpleNamespace(shape={"data": shards, "fsdp": 1})
    check_batch(run.batch_size, run.accumulate_steps, group, mesh)
    assert run.batch_size // shards % group == 0  # no group is on two chips


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("vit_b,v5e", "unknown topology 'v5e'; known: "),
        ("vit_m,v5e-64", "config pretrain has no variant 'vit_m'; did you mean 'vit_"),
        ("vit_l,v5p-512", "v5p-512 has 256 chips, among which a batch of 2400 cannot be divided"),
    ],
)
def test_an_unknown_preset_is_named(variant, message):
    with pytest.raises(UserError, match=message):
        pretrain(variant)


def test_64_chips_of_a_generation_that_counts_cores_split_vit_l(tmp_path):
    run = pretrain("vit_l,v5p-128")
    assert (run.mesh.tensor, run.task.itm.group_size) == (2, 75)


def test_no_vocabulary_is_loaded_for_bert(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = compile.load_tokenizer("google-bert/bert-base-uncased")
    assert (found.ids.vocab_size, found.ids.dec, found.ids.enc) == (30524, 30522, 30523)
    assert found.prompt(PROMPT).shape == (4,)  # [DEC] a picture of
    with pytest.raises(UserError, match="nowhere"):
        compile.load_tokenizer("./nowhere")


def test_capfilt_programs_have_the_recipes_of_fine_tuning():
    run = pretrain("vit_l,v5e-64")
    for recipe, length in ((captioning(), 40), (retrieval(), 35)):
        model = compile.abstract_model(compile.fine_tuning_config(run, recipe))
        assert (model.image_size, model.max_length) == (384, length)
        assert model.config.vit.width == 1024
    run = replace(pretrain("tiny"), **{"model.vit.image_size": 64})
    model = compile.abstract_model(compile.fine_tuning_config(run, captioning()))
    assert (model.image_size, model.max_length, model.model_type) == (64, 32, "captioner")


# The verb


PARTS = {f"forward: layer_{number}": (9 - number) * 10**9 for number in range(8)}


def cost(images_per_second, peak_bytes=2**30):
    roofline = Roofline(32 / images_per_second, 0.0, 0.0)
    return compile.CompiledCost(
        "step", 4, 32, "dots", 1, 1, peak_bytes, 1e12, 1e12, PARTS, 7 * 10**9,
        {"all-reduce": 10**6}, roofline,
    )  # fmt: skip


def called(monkeypatch, capsys, tiny, step, *flags):
    monkeypatch.setattr(command, "compiled_cost", lambda name, run, *_: step(run))
    monkeypatch.setattr(topology, "devices", lambda where: [])
    for name in topology.ENVIRONMENT:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    from blip_jax.cli.main import main

    line = ["compile", f"--config={tiny}", "--topology=v5e:2x2", "--programs=step", *flags]
    return main(line), capsys.readouterr()


def test_the_five_largest_parts_of_the_traffic_are_told(monkeypatch, capsys, tiny):
    status, said = called(monkeypatch, capsys, tiny, lambda run: cost(8))
    assert status == 0
    table = said.out.partition("the largest parts of the HBM traffic:")[2].split("\n")
    rows = [line.split() for line in table if "layer_" in line]
    assert rows == [["step", str(9 - n), "forward:", f"layer_{n}"] for n in range(5)]


def test_what_does_not_fit_is_status_1_and_says_what_would_mend_it(monkeypatch, capsys, tiny):
    def step(run):
        raise compile.OutOfMemory("step", 20 * 2**30)

    status, said = called(monkeypatch, capsys, tiny, step, "--config.model.remat=dots")
    assert status == 1
    assert (
        "step does not fit: needs 20.0 GiB or more of 16; try --config.model.remat=full, "
        in said.err
    )
    assert "--config.mesh.fsdp=4" in said.err and "=none" not in said.err


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        ("Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded", 20.5),
        ("the total memory required for HLO temporaries (512.00M) exceeds available HBM", 0.5),
    ],
)  # fmt: skip
def test_what_the_compiler_says_of_memory_is_read(message, gib):
    assert compile.required_bytes(message) == gib * 2**30


def test_the_sweep_prints_the_best_that_fits(monkeypatch, capsys, tiny):
    """A policy that did not fit is not tried with more pairs."""
    tried = []
    fits = {
        (32, "auto"): 90, (32, "none"): 80, (32, "dots"): 90, (32, "full"): 70,
        (64, "dots"): 110, (64, "full"): 150, (128, "full"): 120,
    }  # fmt: skip

    def step(run):
        tried.append((run.batch_size, run.model.remat))
        if tried[-1] not in fits:
            raise compile.OutOfMemory("step", float("nan"))
        return cost(fits[tried[-1]])

    flags = "--sweep", "--batches=128,32,64"
    status, said = called(monkeypatch, capsys, tiny, step, *flags)
    assert status == 0
    assert tried[1:] == [
        (32, "none"), (32, "dots"), (32, "full"), (64, "none"), (64, "dots"), (64, "full"),
        (128, "dots"), (128, "full"),
    ]  # fmt: skip
    assert "best: --config.batch_size=64 --config.model.remat=full" in said.out
    assert said.err.splitlines()[-1] == "-- compiling: step, batch 128, remat full"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--programs=step,writer"], "no program 'writer'; known: step, captioner, matcher"),
        (["--batches=12,many", "--sweep"], "'12,many' is not a comma-separated list"),
        (["--topology="], "--topology NAME is missing"),
        (["--config.mesh.fsdp=3"], "does not match the 4 devices"),
    ],
)
def test_a_wrong_command_line_is_one_line(monkeypatch, capsys, tiny, flags, message):
    def step(run):
        raise UserError("mesh data 1 x fsdp 3 x tensor 1 does not match the 4 devices")

    status, said = called(monkeypatch, capsys, tiny, step, *flags)
    assert status == 2 and message in said.err.splitlines()[-1]


def test_rows_name_the_limit_and_the_hours(tiny):
    run = pretrain("vit_b,v5e-64")
    row = command.cost_row(cost(images_per_second=64), run, "v5e:8x8")
    assert row["limit"] == "compute" and row["images/s, at best"] == 64
    assert row["hours for 98,000 steps"] == pytest.approx(98_000 * 0.5 / 3600)
    assert row["of HBM traffic GB: update of the state, at least"] == 7


# The compiler


needs_tpu_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="no TPU compiler"
)
# Meshes of several shapes on chips that lie in squares and in blocks.
MESHES = """
from blip_jax.train.aot import topology
topology.prepare()
from blip_jax.train.mesh import make_mesh
for where in ("v4:2x2x4", "v5e:8x8", "v5p:2x4x4", "v6e:8x8", "v6e:16x16"):
    for fsdp, tensor in ((1, 1), (1, 2), (8, 1), (4, 2)):
        mesh = make_mesh({"data": -1, "fsdp": fsdp, "tensor": tensor}, topology.devices(where))
        assert mesh.devices.shape == (topology.chips(where) // fsdp // tensor, fsdp, tensor)
        pairs = mesh.devices.reshape(-1, tensor)
        for chips in pairs:  # a tensor's are neighbours
            places = [chip.coords for chip in chips]
            assert sum(abs(a - b) for a, b in zip(places[0], places[-1])) == tensor - 1, places
print("all")
"""


def without_devices() -> dict[str, str]:
    """The environment, but for what the tests of other modules ask of jax."""
    return {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}


@pytest.mark.tpu_compile
@needs_tpu_compiler
def test_meshes_of_tpus_can_be_made():
    line = [sys.executable, "-c", MESHES]
    done = subprocess.run(line, cwd=ROOT, env=without_devices(), capture_output=True, text=True)
    assert done.stdout == "all\n", done.stderr


@pytest.mark.slow
@pytest.mark.tpu_compile
@needs_tpu_compiler
def test_the_programs_compile_for_tpus(tiny):
    """Processes of their own, as the environment must stand before jax is imported."""
    line = [sys.executable, "-m", "blip_jax", "compile", f"--config={tiny}"]
    tables = []
    for flags in (["--programs=step,captioner,matcher"], ["--programs=step", "--machine-code"]):
        done = subprocess.run(
            [*line, "--topology=v5e:2x2", *flags],
            cwd=ROOT,
            env=without_devices(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        table = done.stdout.partition("the largest parts")[0]
        cells = (re.split(r"  +", line.strip()) for line in table.splitlines())
        tables.append({name: values for name, *values in cells if values})
    rows, whole = tables
    assert rows["chips"] == ["4", "1", "1"]
    assert rows["fits"] == ["yes"] * 3
    for peak, arguments in zip(rows["peak GiB"], rows["arguments GiB"]):
        assert 0 < float(arguments) <= float(peak) < 16
    for formula, compiled in zip(rows["TFLOP, by formula"], rows["TFLOP, as compiled"]):
        assert float(compiled) == pytest.approx(float(formula), rel=0.02)
    for kind in ("all-gather MB", "all-reduce MB"):
        assert float(rows[kind][0]) > 0 and len(rows[kind]) == 1  # CapFilt asks no other chip
    # The machine code is only counted in the peak.
    different = {name for name, (first, *_) in rows.items() if [first] != whole[name]}
    assert different <= {"temporaries GiB", "peak GiB"}, (rows, whole)
    peak = float(rows["peak GiB"][0])
    assert peak <= float(whole["peak GiB"][0]) < peak + 0.1
