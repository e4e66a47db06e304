"""Examples of a task's predictions, with their images, as one HTML page that opens offline."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

import blip_jax
from blip_jax.data.pictures import embedded
from blip_jax.reports import tables
from blip_jax.reports.templates import template
from blip_jax.runtime.files import atomic_write


def write_examples(
    path: str,
    title: str,
    summary: str,
    metrics: Sequence[Mapping[str, Any]],
    sections: Sequence[Mapping[str, Any]],
) -> epath.Path:
    """Writes the page, whole or not at all; returns its path.

    Args:
      path: the `.html` file, local or `gs://`.
      metrics: rows of the table of results.
      sections: {"title", "cards"}; a card is {"key", "input", "history": lines, "prediction",
        "reference": texts, "score" and "metric": number or None, "metric_name", "pictures":
        [{"key", "is_right": bool or None, "pixels": uint8 [H, W, 3] or None}], "options": objects
        with text, score and is_right, "maps": [{"word", "pixels", "columns": pictures in a row}]}.
    """
    names = tables.columns_of(metrics)
    cells = [tables.format_column([row.get(name) for row in metrics]) for name in names]
    page = template("examples.html.j2").render(
        title=title,
        summary=summary,
        columns=[tables.heading(name) for name in names],
        rows=list(zip(*cells, strict=True)),
        sections=[
            {"title": section["title"], "cards": [_card(card) for card in section["cards"]]}
            for section in sections
        ],
        version=blip_jax.__version__,
    )
    with atomic_write(path) as file:
        file.write(page)
    return epath.Path(path)


def _card(card: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **card,
        "score": "" if card["score"] is None else f"{card['score']:.3g}",
        "metric": "" if card["metric"] is None else f"{card['metric']:.3g}",
        "pictures": [{**x, **embedded(x["pixels"])} for x in card["pictures"]],
        "options": [
            {"text": x.text, "score": f"{x.score:.3g}", "is_right": x.is_right}
            for x in card["options"]
        ],
        "maps": [{**x, **embedded(x["pixels"])} for x in card["maps"]],
    }
