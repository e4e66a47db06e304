"""Templates of HTML pages."""

import jinja2


def template(name: str) -> jinja2.Template:
    """Returns a template of this package. It escapes texts; a missing value is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("blip_jax.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)
