"""The verb `capfilt`."""

from blip_jax.cli import flags


def work(config, workdir):
    from blip_jax.capfilt.command import run

    run(config, workdir)


def run(argv):
    return flags.run("capfilt", argv, work)
