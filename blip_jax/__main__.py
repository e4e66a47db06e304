"""`python -m blip_jax` is the command line."""

import sys

from blip_jax.cli.main import command

sys.exit(command())
