"""The verb `bootstrap`."""

from blip_jax.cli import flags


def work(config, workdir):
    from blip_jax.capfilt.bootstrap import bootstrap as run

    run(config, workdir)


def run(argv):
    return flags.run("bootstrap", argv, work)
