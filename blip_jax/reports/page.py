"""One HTML page about a run that opens offline: numbers, pictures, charts, decisions.

`results` is a plain dict; every key but 'title' may be missing, and its section then is too:

  title, summary, command   str
  circle    {'pretrain' | 'captioner' | 'filter' | 'capfilt' | 'dataset': short note under the box}
  columns   names of the comparison's columns, in order; best: 'max' | 'min', or one a column
  arms      [{'arm': 'both', 'ITC R@1': 81.2 or (81.2, 0.6) for mean and spread, ...}]
  gallery   [{'key', 'image': bytes, 'texts': [{'origin', 'text', 'p_match', 'cosine', 'kept',
            'true': bool or None}]}]
  filter    {'rows': [dict], 'threshold': 0.5, and 'curve', 'calibration', 'histogram' as
            `filtering` returns them, or a dict of such by origin}
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

_BOXES = ("pretrain", "captioner", "filter", "capfilt", "dataset")


def write_report(path, results: Mapping[str, object]) -> epath.Path:
    """Writes the page, whole or not at all.

    Args:
      path: the `.html` file, local or `gs://`; its folder is made if need be.
      results: see the head of this file.

    Returns:
      The path written.

    Raises:
      UserError: `results` lacks 'title', or an arm, text, stage lacks a key listed above.
    """
    try:
        page = render(results)
    except (KeyError, jinja2.UndefinedError) as error:
        raise UserError(f"the report lacks a value: {error}") from error
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_bytes(page.encode())
    return unfinished.replace(path)


def render(results: Mapping[str, object]) -> str:
    """The page as one string; arguments and errors as `write_report`, but errors come raw."""
    gallery = [sections.picture(entry) for entry in results.get("gallery", ())]
    return template("report.html.j2").render(
        title=results["title"],
        summary=results.get("summary", ""),
        command=results.get("command", ""),
        circle=dict.fromkeys(_BOXES, "") | dict(results.get("circle", {})),
        comparison=sections.comparison(results),
        gallery=gallery,
        gallery_counts=sections.count_tags(gallery),
        filter=sections.filter_quality(results.get("filter", {})),
        curves=sections.loss_curves(results.get("curves", {})),
        stages=sections.stage_times(results.get("stages", ())),
        config=json.dumps(results.get("config", {}), indent=2, default=str, ensure_ascii=False),
        has_config=bool(results.get("config")),
        version=blip_jax.__version__,
    )
