"""The report of a comparison of tasks (`blip-jax compare`) as one HTML page that opens offline."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

import blip_jax
from blip_jax.reports import charts, tables
from blip_jax.reports.templates import template
from blip_jax.runtime.files import atomic_write


def write_task_report(
    path: str,
    title: str,
    texts: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    arms: Sequence[str],
    losses: Mapping[str, Mapping[str, Sequence]],
    config: Mapping[str, Any],
) -> epath.Path:
    """Writes the page, whole or not at all; returns its path.

    Args:
      path: the `.html` file, local or `gs://`.
      texts: "summary", "lead" (under the heading of the table) and "command".
      rows: of the table, one a task: "task", "metric", and a number or (mean, spread) by arm.
      arms: columns that are drawn as bars.
      losses: (step, value) pairs by arm, by name of the task.
      config: of the run.
    """
    names = tables.columns_of(rows)
    cells = [tables.format_column([row.get(name) for row in rows]) for name in names]
    bars = []
    for row in rows:
        caption = f"{row['task']}: {row['metric']}"
        bars.append((caption, charts.bars({arm: row.get(arm) for arm in arms}, caption)))
    curves = [
        (task, charts.lines(found, f"loss of {task} by step", arms))
        for task, found in losses.items()
        if found
    ]
    page = template("tasks.html.j2").render(
        title=title,
        columns=[tables.heading(name) for name in names],
        numeric=[tables.is_numeric([row.get(name) for row in rows]) for name in names],
        rows=list(zip(*cells, strict=True)),
        bars=bars,
        curves=curves,
        curve_legend=charts.legend(arms),
        config=json.dumps(config, indent=2, ensure_ascii=False),
        version=blip_jax.__version__,
        **texts,
    )
    with atomic_write(path) as file:
        file.write(page)
    return epath.Path(path)
