"""Every command in the documentation is one that the program takes; none is run."""

import importlib
import re

import documented
import pytest

from blip_jax.capfilt.bootstrap import BootstrapConfig
from blip_jax.capfilt.config import AssembleConfig, CapFiltConfig
from blip_jax.cli import Parser, config_files, config_verb
from blip_jax.cli.main import RUNS, VERBS
from blip_jax.comparison import ComparisonConfig
from blip_jax.data.ingest import IngestConfig
from blip_jax.data.synthetic.dataset import ShapesDatasetConfig
from blip_jax.runtime.config import fields_table
from blip_jax.runtime.errors import UserError
from blip_jax.tasks.evaluate import EvaluateConfig

COMMANDS = documented.commands()
# Prefixes of fields that texts name without `--config.`.
GROUPS = (
    "task", "model", "data", "init", "optimizer", "mesh", "checkpoints", "eval", "selection",
    "decoding", "columns",
)  # fmt: skip


class Parsed(Exception):
    """Raised in place of running: the arguments were understood."""


@pytest.fixture
def only_parse(monkeypatch):
    """Makes verbs stop once their arguments are parsed; called with False, less is required."""
    real_parse, real_parse_args = config_verb.parse, Parser.parse_args
    monkeypatch.chdir(documented.ROOT)

    def stop_after(complete: bool) -> None:
        def parse(verb, argv):
            if not complete:
                verb = verb._replace(required=False)
                argv = [*argv, *["--workdir=DIR"] * verb.workdir]
            raise Parsed(real_parse(verb, argv))

        def parse_args(self, *args):
            raise Parsed(real_parse_args(self, *args))

        monkeypatch.setattr(config_verb, "parse", parse)
        monkeypatch.setattr(Parser, "parse_args", parse_args)

    return stop_after


def run(argv, only_parse, complete: bool = True) -> None:
    """Parses a command.

    Raises:
      UserError: the program would refuse it.
    """
    only_parse(complete)
    verb, *rest = argv
    if verb not in VERBS:
        raise UserError(f"{verb} is no verb")
    if not complete and (verb not in RUNS or not rest):
        return  # a text that names a verb, or some of its arguments
    with pytest.raises(Parsed):
        importlib.import_module(f"blip_jax.cli.{verb}").run(rest)


@pytest.mark.parametrize("command", COMMANDS, ids=[command.name for command in COMMANDS])
def test_the_program_takes_it(command, only_parse, capsys):
    if command.argv[0] == "VERB":
        pytest.skip("stands for any verb")
    run(command.argv, only_parse, command.complete)


def test_all_places_are_read():
    files = {command.file for command in COMMANDS}
    assert {documented._name(path) for path in documented.CONFIGS} <= files
    assert {"README.md", "configs/README.md", "launch/README.md"} <= files
    assert {"launch/tpu_run.sh", "launch/pod.sh", "launch/jobset.yaml"} <= files
    assert {
        f"blip_jax/{x}/README.md" for x in ("capfilt", "data", "models", "tasks", "train")
    } <= files
    assert set(VERBS) <= {command.argv[0] for command in COMMANDS if command.complete}


@pytest.mark.parametrize(
    "line, message",
    [
        ("train --config configs/pretrain.py --workdir gs://BUCKET/pretrain", "data.mixture"),
        ("train --config pretrain --config.data.mixture=MIXTURE.json", "--workdir"),
        ("train --config pretrain --workdir DIR --config.view=FILE", "view"),
        ("train --config pretrain:huge --workdir DIR", "huge"),
        ("capfilt --workdir DIR --config.captioner=A", "captioner"),
        ("caption photos/ --model DIR --beams 3", "--beams"),
        ("export MIXTURE.json OUT", "--to"),
        ("embed photos/", "embed"),
    ],
)
def test_a_wrong_command_is_found(line, message, only_parse):
    with pytest.raises(UserError, match=message):
        run(line.split(), only_parse)


def paths(config) -> set[str]:
    """All fields and groups of fields of a config."""
    found = {row.path for row in fields_table(config)}
    return found | {path.rpartition(".")[0] for path in found}


@pytest.fixture(scope="module")
def fields() -> set[str]:
    """Fields of all configs, by their paths."""
    recipes = ("pretrain", "captioning", "retrieval", "vqa", "nlvr", "visdial", "video_qa")
    trained = [config_files.load(name)[0] for name in recipes]
    others = [
        AssembleConfig(),
        CapFiltConfig(),
        IngestConfig(),
        EvaluateConfig(),
        BootstrapConfig(),
        ComparisonConfig(),
        ShapesDatasetConfig(),
    ]
    found = set().union(*(paths(config) for config in (*trained, *others)))
    schedules = {"optimizer.schedule.peak_lr", "optimizer.schedule.warmup_steps"}
    return found | schedules


@pytest.mark.parametrize("path", documented.READMES, ids=documented._name)
def test_texts_name_fields_that_exist(path, fields):
    text = path.read_text("utf-8")
    prose = documented.FENCED.sub("", text)
    named = set(re.findall(r"--config\.([a-z0-9_.]*[a-z0-9_])", text))
    named |= set(re.findall(r"`config\.(?!json)([a-z0-9_.]*[a-z0-9_])", prose))
    named |= set(re.findall(rf"`((?:{'|'.join(GROUPS)})\.[a-z0-9_.]*[a-z0-9_])", prose))
    assert sorted(named - fields) == []


@pytest.mark.parametrize("path", documented.READMES, ids=documented._name)
def test_links_and_files_exist(path):
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (path.parent / target).exists(), target
    for file in re.findall(r"`((?:blip_jax|tests|configs|launch)/[\w/.-]+)`", text):
        assert (documented.ROOT / file).exists(), file


def test_the_readme_is_short():
    assert len((documented.ROOT / "README.md").read_text("utf-8").splitlines()) <= 120
