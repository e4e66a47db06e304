"""Which texts are true of their images, where a dataset knows it; used for measuring only.

The field `truth` of a record is a scene of the Shapes dataset, against which any text is checked,
or says of the record's own texts whether they are true: JSON's true or false for all of them, or
a list with one value for each text. Legend: M texts.
"""

import json

import numpy as np

from blip_jax.capfilt.table import TextTable
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.synthetic.oracle import check, parse_truth

UNKNOWN, FALSE, TRUE = -1, 0, 1
MAX_SAMPLED_ROWS = 20_000  # images, evenly spaced; smaller datasets are read completely
PROBE_ROWS = 200  # evenly spaced among these; if none has a truth, the others are not read


def sampled_rows(images: int) -> np.ndarray:
    """Returns the rows whose truth is read: all, or evenly spaced ones of a large dataset."""
    return np.linspace(0, images, min(MAX_SAMPLED_ROWS, images), endpoint=False).astype(int)


def text_labels(dataset: str, split: str, table: TextTable, rows: np.ndarray) -> np.ndarray:
    """Returns int8 [M]: TRUE, FALSE, or UNKNOWN.

    Args:
      dataset, split: the images that were scored.
      table: the texts of some of them, N.
      rows: int [N], numbers of these images in the dataset, increasing.
    """
    source = open_dataset(dataset, split)
    found = np.full(len(table.row), UNKNOWN, np.int8)
    if not any(_truth(source, row) for row in rows[:: len(rows) // PROBE_ROWS + 1]):
        return found
    starts = np.searchsorted(table.row, np.arange(len(rows) + 1))
    own = table.where("origin", "web")
    for row, start, stop in zip(rows, starts[:-1], starts[1:], strict=True):
        truth = _truth(source, row)
        positions = np.arange(start, stop)
        if isinstance(truth, dict) and "scene" in truth:
            if (known := parse_truth(json.dumps(truth))) is None:
                continue
            scene, language = known
            clean = language.cleanup.caption
            texts = table.text[start:stop].to_pylist()
            found[positions] = [check(clean(text), scene, language).true for text in texts]
            continue
        positions = positions[own[positions]]
        if isinstance(truth, bool):
            found[positions] = truth
        elif isinstance(truth, list) and len(truth) == len(positions):
            found[positions] = [value if isinstance(value, bool) else UNKNOWN for value in truth]
    return found


def _truth(source, row: int):
    """Returns the truth of a record, parsed; None if it has none."""
    text = to_text(source[int(row)].get("truth", b""))
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
