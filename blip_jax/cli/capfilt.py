"""The verb `capfilt`: captions every image of a dataset and scores all texts."""

import functools
import shlex
import sys
from typing import TYPE_CHECKING, Any

from blip_jax.cli import config_verb
from blip_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from blip_jax.capfilt.config import CapFiltConfig
    from blip_jax.capfilt.mixture import ScoredDataset
    from blip_jax.capfilt.plugins import Plugin
    from blip_jax.models import Model

MIXTURE = "mixture.json"  # in the workdir
DESCRIPTION = """\
Captions every image of a dataset and scores all texts, those that came with the images too.
Writes DIR/scores, a TFDS dataset, and with config.human_dataset DIR/mixture.json to train on.
After an interruption, rerun the same command to resume; several hosts may run it together."""


def work(config: "CapFiltConfig", workdir: str) -> None:
    """Scores the dataset, prints counts, and writes the mixture.

    Of several hosts that are done at the same time one counts and writes; all write the same.
    """
    import jax
    from etils import epath

    from blip_jax.capfilt import mixture
    from blip_jax.capfilt.inputs import CapFiltInput
    from blip_jax.capfilt.run import run as run_scoring
    from blip_jax.data.datasets import open_dataset
    from blip_jax.runtime.command_line import command_line
    from blip_jax.runtime.config import write_config
    from blip_jax.runtime.lock import InUseError, file_lock
    from blip_jax.runtime.terminal import print_note

    output = str(epath.Path(workdir) / "scores")
    # Raises for a missing dataset before models are loaded.
    source = CapFiltInput(config.dataset, config.split, 1)
    if config.human_dataset:
        open_dataset(config.human_dataset, "train")
    captioners, filters, extra_scores = load_roles(config)
    is_main = jax.process_index() == 0
    begin = (lambda: write_config(workdir, config)) if is_main else lambda: None
    load = functools.partial(load_roles, config)
    scoring = config.scoring(output, command_line())
    run_scoring(scoring, captioners, filters, begin, config.beam, load, extra_scores)
    if not is_main:
        return
    scored = mixture.ScoredDataset(source.dataset, source.split, output)
    writes_mixture = bool(config.human_dataset)
    try:
        with file_lock(epath.Path(workdir) / MIXTURE, "capfilt"):
            select(config, workdir, scored)
    except InUseError:  # a host that shares the work
        print_note("another process counts the texts" + " and writes the mixture" * writes_mixture)
    print(f"\nscores of all texts: {output}")
    if not config.human_dataset:
        argv = ["blip-jax", "assemble", "--workdir=DIR", f"--config.scores={output}"]
        print(f"to select texts, run: {shlex.join(argv)}")


def select(config: "CapFiltConfig", workdir: str, scored: "ScoredDataset") -> None:
    """Prints how many texts are kept by `config.threshold`, and writes the mixture of these."""
    from etils import epath

    from blip_jax.capfilt import assembly_units, mixture
    from blip_jax.capfilt.dataset_parts import Parts
    from blip_jax.capfilt.statistics import skipped_reasons
    from blip_jax.data.mixture import Component
    from blip_jax.reports import tables
    from blip_jax.runtime.terminal import printable
    from blip_jax.runtime.work_units import Engine
    from blip_jax.runtime.worker_pool import num_workers

    parts = Parts.of(scored, workdir)
    engine = Engine(num_workers(0), config.beam)
    found = assembly_units.select_parts_by_threshold(parts, config.threshold, engine)
    print(tables.plain(summary(found.counts)))
    for reason, count in skipped_reasons(found.counts).items():
        print(f"skipped {count}: {printable(reason)}", file=sys.stderr)
    if config.human_dataset:
        path = str(epath.Path(workdir) / MIXTURE)
        human = Component(name="human", dataset=config.human_dataset)
        mixture.write_selected(path, human, scored, found.texts, config.human_fraction)
        print(f"\nmixture to train on: {path}")
    parts.remove()


def load_roles(config: "CapFiltConfig") -> "tuple[dict, dict, dict]":
    """Returns the captioners, the filters and the extra scores, see `load_models`.

    Raises:
      UserError: one cannot be loaded, or two columns would have one name.
    """
    from blip_jax.capfilt.text_measures import RANGES

    extra = load_models(config.extra_scores, config, "extra score")
    captioners = load_models(config.captioners, config, "captioner")
    filters = load_models(config.filters, config, "filter")
    if both := sorted(filters.keys() & extra.keys()):
        raise UserError(
            f"a filter and an extra score are called {both[0]!r}; name them: A=MODULE:FUNCTION"
        )
    if taken := sorted((filters.keys() | extra.keys()) & RANGES.keys()):
        raise UserError(f"{taken[0]!r} is the name of a measure of texts; give another: A=MODEL")
    return captioners, filters, extra


def load_models(
    named: str, config: "CapFiltConfig", role: str
) -> "dict[str, tuple[str, Model | Plugin]]":
    """Returns the models and plug-ins of a list by name: the given one, else the path's last part.

    Args:
      role: "captioner", "filter" or "extra score".

    Raises:
      UserError: one cannot be loaded, or two have one name.
    """
    from etils import epath

    from blip_jax.capfilt import plugins
    from blip_jax.models import load

    found = {}
    for part in filter(None, (part.strip() for part in named.split(","))):
        if spec := plugins.parse(part):
            if spec.name in found:
                raise UserError(
                    f"two {role}s are called {spec.name!r}; name them: A={spec.text},B=…"
                )
            found[spec.name] = spec.text, plugins.load(role, spec)
            continue
        if role == "extra score":
            raise UserError(
                f"extra_scores has {part!r}; expected a plug-in, PACKAGE.MODULE:FUNCTION"
            )
        name, _, path = part.rpartition("=")
        name = name or epath.Path(path).name
        if name in found:
            raise UserError(f"two models are called {name!r}; name them: A={path},B=…")
        found[name] = path, load(path, dtype=config.dtype, image_size=config.image_size or None)
    return found


def summary(counts: dict[str, Any]) -> list[dict]:
    """Returns the number of texts, kept texts and unscored texts of each origin (counts.py)."""
    from blip_jax.capfilt.counts import TALLY
    from blip_jax.capfilt.storage import ORIGINS

    tallies = [counts["groups"]["texts"].get(x, dict.fromkeys(TALLY, 0)) for x in ORIGINS]
    return [
        {
            "origin": origin,
            "count": int(tally["count"]),
            "kept": int(tally["kept"]),
            "not_scored": int(tally["count"] - tally["scored"]),
        }
        for origin, tally in zip(ORIGINS, tallies, strict=True)
    ]


def run(argv: list[str]) -> int:
    verb = config_verb.ConfigVerb(
        "capfilt", DESCRIPTION, ("CapFiltConfig",), default="capfilt", parallel=True
    )
    return config_verb.run(verb, argv, work)
