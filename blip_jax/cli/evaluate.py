"""The verb `evaluate`."""

from blip_jax.cli import flags


def work(config, workdir):
    from blip_jax.tasks.evaluate import run

    run(config, workdir)


def run(argv):
    return flags.run("evaluate", argv, work)
