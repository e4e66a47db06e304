"""Images with all their texts, scores and decisions, as galleries show them."""

from collections.abc import Iterator, Sequence

import numpy as np

from blip_jax.capfilt.labels import TRUE, UNKNOWN
from blip_jax.capfilt.selection import DECISIONS, KEPT
from blip_jax.capfilt.table import TextTable, reduce_filters
from blip_jax.data.datasets import open_dataset, to_text


def gallery_entries(
    dataset: str,
    split: str,
    table: TextTable,
    rows: np.ndarray,
    p_match: np.ndarray,
    decision: np.ndarray,
    truth: np.ndarray,
    decisions: Sequence[str] = DECISIONS,
) -> Iterator[dict]:
    """Yields {'key', 'url', 'image': bytes, 'texts': [{'text', 'origin', 'model', 'method',
    'p_match', 'cosine', 'kept', 'decision', 'true'}]} of each image of a table.

    Args:
      dataset, split: the images.
      table: M scored texts of N images.
      rows: int [N], numbers of these images in the dataset, increasing.
      p_match: float [M], of the filter that decides.
      decision: int16 [M], of `selection.select_texts`.
      truth: int8 [M] (labels.py); 'true' is None where it is unknown.
      decisions: names of the decisions (`SelectionRules.decisions`).
    """
    source = open_dataset(dataset, split)
    cosine = reduce_filters(table, "cosine", "mean")
    ends = np.searchsorted(table.row, np.arange(len(rows)), side="right").tolist()
    for row, start, end in zip(rows.tolist(), [0, *ends], ends):
        record = source[row]
        texts = [
            {
                "text": table.text[i].as_py(),
                "origin": table.origin[i].as_py(),
                "model": table.model[i].as_py(),
                "method": table.method[i].as_py(),
                "p_match": float(p_match[i]),
                "cosine": float(cosine[i]),
                "kept": bool(decision[i] == KEPT),
                "decision": decisions[decision[i]],
                "true": None if truth[i] == UNKNOWN else bool(truth[i] == TRUE),
            }
            for i in range(start, end)
        ]
        yield {
            "key": to_text(record["key"]),
            "url": to_text(record.get("url", "")),
            "image": record["image"],
            "texts": texts,
        }
