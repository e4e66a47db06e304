"""The verb `train`."""

from blip_jax.cli import flags


def work(config, workdir):
    from blip_jax.train.loop import train as run

    run(config, workdir)


def run(argv):
    return flags.run("train", argv, work)
