"""The verb `assemble`: from stored scores to a dataset that is selected, counted and described."""

from typing import Any

from blip_jax.cli import config_verb

DESCRIPTION = """\
Selects the texts to train on from the scores that `capfilt` stored; no model is run, and no image
is copied. Writes DIR/mixture.json, the dataset card README.md, croissant.json, statistics.json and
report/."""


def work(config: Any, workdir: str) -> None:
    from blip_jax.capfilt import assemble

    assemble.run(config, workdir)


def run(argv: list[str]) -> int:
    verb = config_verb.ConfigVerb("assemble", DESCRIPTION, ("AssembleConfig",), default="assemble")
    return config_verb.run(verb, argv, work)
