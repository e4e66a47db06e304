"""Templates of HTML pages."""

from typing import Any

import jinja2
from markupsafe import Markup

from blip_jax.runtime.terminal import page_text


def template(name: str) -> jinja2.Template:
    """Returns a template of this package; a missing value is an error.

    Texts are escaped, also controls and marks that turn the writing direction of what follows.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader("blip_jax.reports"),
        autoescape=True,
        finalize=_finalized,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def _finalized(value: Any) -> Any:
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return page_text(value) if is_text else value
