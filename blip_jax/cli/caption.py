"""The verb `caption`."""

from blip_jax.cli import files


def run(argv):
    return files.run("caption", argv)
