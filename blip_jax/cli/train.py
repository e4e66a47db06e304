"""The verb `train`."""

from typing import Any

from blip_jax.cli import config_verb

DESCRIPTION = """\
Trains one task. DIR holds the checkpoints, metrics.jsonl, TensorBoard events and config.json.
After an interruption, rerun the same command to resume; several hosts may run it together."""


def work(config: Any, workdir: str, resume: str) -> None:
    from blip_jax.train.loop import train

    train(config, workdir, resume=resume)


def run(argv: list[str]) -> int:
    verb = config_verb.ConfigVerb(
        "train", DESCRIPTION, ("TrainConfig",), shown="pretrain", parallel=True, resumable=True
    )
    return config_verb.run(verb, argv, work)
