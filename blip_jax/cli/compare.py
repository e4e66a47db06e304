"""The verb `compare`."""

from typing import Any

from blip_jax.cli import config_verb

DESCRIPTION = """\
Fine-tunes downstream tasks from one pre-training, from scratch and on blank images, and compares
them. Writes DIR/table.md, DIR/results.json and DIR/report.html. After an interruption, rerun the
same command to resume."""


def work(config: Any, workdir: str) -> None:
    from blip_jax.comparison import compare

    compare(config, workdir)


def run(argv: list[str]) -> int:
    verb = config_verb.ConfigVerb(
        "compare", DESCRIPTION, ("ComparisonConfig",), shown="shapes_tasks"
    )
    return config_verb.run(verb, argv, work)
