"""Which texts are true of their images, where a dataset knows it; for measuring only.

The field `truth` of a record is that of the Shapes dataset (a scene, against which any text can be
checked), or says whether the record's own texts are true: JSON's true or false for all of them, or
a list with one for each text. Legend: M texts.
"""

import json

import numpy as np

from blip_jax.capfilt.table import Columns
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.synthetic.oracle import check
from blip_jax.data.synthetic.scenes import Scene
from blip_jax.data.text import clean_caption

UNKNOWN, FALSE, TRUE = -1, 0, 1
LOOKED_AT = 20_000  # images at most; of larger datasets so many, evenly spread
_FIRST = 200  # of them, evenly spread; if none of these knows a truth, no other is asked


def looked_at(images: int) -> np.ndarray:
    """The rows, increasing, of which the truth is asked; a sample from large datasets."""
    return np.linspace(0, images, min(LOOKED_AT, images), endpoint=False).astype(int)


def of_texts(
    dataset: str, split: str, columns: Columns, rows: np.ndarray | None = None
) -> np.ndarray:
    """int8 [M]: TRUE, FALSE, or UNKNOWN.

    Args:
      dataset, split: the images that the columns are about.
      rows: images to look at, increasing; None: `looked_at`.
    """
    source = open_dataset(dataset, split)
    found = np.full(len(columns.row), UNKNOWN, np.int8)
    rows = looked_at(len(source)) if rows is None else rows
    if not any(_truth(source, row) for row in rows[:: len(rows) // _FIRST + 1]):
        return found
    starts = np.searchsorted(columns.row, np.arange(len(source) + 1))
    own = columns.where("origin", "web")
    for row in rows:
        truth = _truth(source, row)
        places = np.arange(starts[row], starts[row + 1])
        if isinstance(truth, dict) and "scene" in truth:
            scene = Scene.from_dict(truth["scene"])
            texts = columns.text[starts[row] : starts[row + 1]].to_pylist()
            found[places] = [check(clean_caption(text), scene).true for text in texts]
            continue
        places = places[own[places]]
        if isinstance(truth, bool):
            found[places] = truth
        elif isinstance(truth, list) and len(truth) == len(places):
            found[places] = [value if isinstance(value, bool) else UNKNOWN for value in truth]
    return found


def _truth(source, row: int):
    """What a record says about its truth; None where that is nothing."""
    text = to_text(source[int(row)].get("truth", b""))
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None
