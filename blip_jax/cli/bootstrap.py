"""The verb `bootstrap`."""

from typing import Any

from blip_jax.cli import config_verb

DESCRIPTION = """\
Runs the full pipeline: pre-train, fine-tune captioner and filter, CapFilt, pre-train again on each
selection of texts, evaluate. Writes DIR/report.html. After an interruption, rerun the same command
to resume."""


def work(config: Any, workdir: str) -> None:
    from blip_jax.capfilt.bootstrap import bootstrap

    bootstrap(config, workdir)


def run(argv: list[str]) -> int:
    verb = config_verb.ConfigVerb("bootstrap", DESCRIPTION, ("BootstrapConfig",), shown="shapes")
    return config_verb.run(verb, argv, work)
