"""Images with all their texts, scores, and what became of them: what the galleries show."""

from collections.abc import Iterator

import numpy as np

from blip_jax.capfilt.labels import TRUE, UNKNOWN
from blip_jax.capfilt.selection import KEPT, VERDICTS
from blip_jax.capfilt.table import Columns
from blip_jax.data.datasets import open_dataset, to_text


def of_rows(
    dataset: str,
    split: str,
    columns: Columns,
    rows: np.ndarray,
    p_match: np.ndarray,
    verdict: np.ndarray,
    truth: np.ndarray,
) -> Iterator[dict]:
    """Yields {'key', 'url', 'image': bytes, 'texts': [{'text', 'origin', 'model', 'method',
    'p_match', 'cosine', 'kept', 'verdict', 'true'}]} of some rows.

    Args:
      dataset, split: the images.
      columns: M scored texts.
      rows: which images, increasing.
      p_match: float [M], of the filter that decides.
      verdict: int8 [M], of `rules.decide`.
      truth: int8 [M]; 'true' is None where it is not known.
    """
    source = open_dataset(dataset, split)
    starts = np.searchsorted(columns.row, rows)
    ends = np.searchsorted(columns.row, rows, side="right")
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        record = source[row]
        texts = [
            {
                "text": columns.text[place].as_py(),
                "origin": columns.origin[place].as_py(),
                "model": columns.model[place].as_py(),
                "method": columns.method[place].as_py(),
                "p_match": float(p_match[place]),
                "cosine": float(columns.cosine[place].mean()),
                "kept": bool(verdict[place] == KEPT),
                "verdict": VERDICTS[verdict[place]],
                "true": None if truth[place] == UNKNOWN else bool(truth[place] == TRUE),
            }
            for place in range(start, end)
        ]
        yield {
            "key": to_text(record["key"]),
            "url": to_text(record.get("url", "")),
            "image": record["image"],
            "texts": texts,
        }
