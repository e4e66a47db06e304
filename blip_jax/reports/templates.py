"""Templates of HTML pages and Markdown files."""

from typing import Any

import jinja2
from markupsafe import Markup

from blip_jax.reports import tables
from blip_jax.runtime.terminal import page_text


def template(name: str) -> jinja2.Template:
    """Returns a template of this package; a missing value is an error.

    Texts are escaped, also controls and marks that turn the writing direction of what follows.
    """
    return _environment(autoescape=True, finalize=_finalized).get_template(name)


def markdown_template(name: str) -> jinja2.Template:
    """Returns a template of this package for Markdown; a missing value is an error.

    Values are put in as they are, but for its filters `table`, `text` and `code`.
    """
    environment = _environment()
    environment.filters |= {
        "table": tables.markdown,
        "text": tables.markdown_text,
        "code": tables.markdown_code,
    }
    return environment.get_template(name)


def _environment(**options: Any) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("blip_jax.reports"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


def _finalized(value: Any) -> Any:
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return page_text(value) if is_text else value
