"""The verb `match`."""

from blip_jax.cli import files


def run(argv):
    return files.run("match", argv)
