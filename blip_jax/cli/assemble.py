"""The verb `assemble`."""

from blip_jax.cli import flags


def work(config, workdir):
    from blip_jax.capfilt.assemble import run

    run(config, workdir)


def run(argv):
    return flags.run("assemble", argv, work)
