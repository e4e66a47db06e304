"""A report as one HTML page that opens offline: numbers, pictures, charts, decisions.

`results` is a plain dict; every key but 'title' is optional, and its section is then left out:

  title, summary, command   str
  diagram   {'pretrain' | 'captioner' | 'filter' | 'capfilt' | 'dataset': short note in the box}
  columns   names of the comparison's columns, in order; best: 'max' | 'min', or one for each column
  arms      [{'arm': 'both', 'ITC R@1': 81.2 or (81.2, 0.6) for mean and spread, ...}]
  differences  rows as in arms, of differences from the arm `reference`: (mean, standard error)
  orders    [{'table', 'better', 'worse', COLUMN: (mean, standard error) of the difference of these
            arms, 'COLUMN, paper': the paper's, 'COLUMN, order': 'reproduced', ...}]
  gallery   [{'key', 'image': bytes, 'texts': [{'origin', 'text', 'p_match', 'cosine', 'kept',
            'true': bool or None}]}]
  filter    {'rows': [dict], 'threshold': 0.5, and 'curve', 'calibration', 'histogram' as
            `filtering` returns them, or a dict of these by origin}
  curves    {run: {metric: [(step, value), ...]}}
  stages    [{'name', 'seconds', 'note'}]
  config    any nested dict
"""

import json
from collections.abc import Mapping

import jinja2
from etils import epath

import blip_jax
from blip_jax.reports import sections
from blip_jax.reports.templates import template
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write

_BOXES = ("pretrain", "captioner", "filter", "capfilt", "dataset")


def write_report(path, results: Mapping[str, object]) -> epath.Path:
    """Writes the page, whole or not at all.

    Args:
      path: the `.html` file, local or `gs://`; its folder is created if missing.
      results: see the docstring of this module.

    Returns:
      The path written.

    Raises:
      UserError: `results` lacks 'title', or an arm, text, stage lacks a key listed above.
    """
    try:
        page = render(results)
    except (KeyError, jinja2.UndefinedError) as error:
        raise UserError(f"the report lacks the value {error}; add it to results") from error
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(page)
    return path


def render(results: Mapping[str, object]) -> str:
    """Returns the page as a string. Raises KeyError or UndefinedError for missing values."""
    gallery = [sections.picture(entry) for entry in results.get("gallery", ())]
    return template("report.html.j2").render(
        title=results["title"],
        summary=results.get("summary", ""),
        command=results.get("command", ""),
        diagram=dict.fromkeys(_BOXES, "") | dict(results.get("diagram", {})),
        comparison=sections.comparison(results),
        differences=sections.data_table(results.get("differences", ())),
        orders=sections.paper_orders(results.get("orders", ())),
        reference=results.get("reference", ""),
        gallery=gallery,
        gallery_counts=sections.count_tags(gallery),
        filter=sections.filter_quality(results.get("filter", {})),
        curves=sections.loss_curves(results.get("curves", {})),
        stages=sections.stage_times(results.get("stages", ())),
        config=json.dumps(results.get("config", {}), indent=2, default=str, ensure_ascii=False),
        has_config=bool(results.get("config")),
        version=blip_jax.__version__,
    )
