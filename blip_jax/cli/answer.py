"""The verb `answer`."""

from blip_jax.cli import files


def run(argv):
    return files.run("answer", argv)
