"""The templates of HTML pages."""

import jinja2


def template(name: str) -> jinja2.Template:
    """A template of this package; a value that it lacks is an error, and texts are escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("blip_jax.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)
