"""The verb `evaluate`."""

from typing import Any

from blip_jax.cli import config_verb

DESCRIPTION = """\
Measures a trained model on a dataset, or scores a file of predictions. Prints a table and writes
DIR/metrics.json, DIR/predictions.jsonl and DIR/examples.html, a page of the best, the worst and
random examples; and for VQA v2 and VisDial DIR/submission.json for their evaluation servers;
several hosts may run it together."""


def work(config: Any, workdir: str) -> None:
    import jax

    from blip_jax.reports import tables
    from blip_jax.reports.examples import write_examples
    from blip_jax.runtime.config import write_config
    from blip_jax.tasks.evaluate import PREDICTIONS, SUBMISSION, evaluate

    metrics = evaluate(config, workdir, write_page=write_examples)
    if jax.process_index() == 0:
        write_config(workdir, config)
        if rows := metrics.rows():
            print(tables.plain(rows))
        else:
            print(f"no answers are known; wrote {workdir}/{PREDICTIONS} and {SUBMISSION}")


def run(argv: list[str]) -> int:
    verb = config_verb.ConfigVerb(
        "evaluate", DESCRIPTION, ("EvaluateConfig",), default="evaluate", parallel=True
    )
    return config_verb.run(verb, argv, work)
