"""Checks that the packages of an extra are installed."""

import importlib.util

from blip_jax.runtime.errors import UserError


def check_installed(extra: str, *packages: str) -> None:
    """Raises a UserError that names the packages which are missing, and the extra that has them."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise UserError(
            f'{", ".join(missing)} {are} not installed; run pip install "blip-jax[{extra}]", or '
            f'in a checkout pip install -e ".[{extra}]"'
        )
