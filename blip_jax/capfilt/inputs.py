"""What CapFilt reads: a dataset, or the mixture that an earlier round was assembled to."""

from collections import defaultdict

import numpy as np

from blip_jax.capfilt.generate import entry
from blip_jax.data.datasets import open_dataset, to_text
from blip_jax.data.mixture import load_mixture, load_selected
from blip_jax.runtime.errors import UserError


class Input:
    """Rows of images and of the texts that are there already, by number.

    Of a mixture only what was chosen of a scored dataset goes in: its texts, with what is known of
    them; human pairs and datasets without scores stay out. Rows are those of the images' dataset,
    so that row i of what comes out describes row i of it again.

    Args:
      dataset: folder of a dataset, or a mixture file (.json).
      split: a whole split of the dataset; of a mixture, that of its components.
      filters: how many score the texts.

    Attributes:
      dataset, split: of the images.

    Raises:
      UserError: a dataset or file is missing, or the mixture is of several datasets.
    """

    def __init__(self, dataset: str, split: str, filters: int):
        self._filters = filters
        self._scores, self._chosen = None, None
        if dataset.endswith(".json"):
            dataset, split = self._open_view(dataset)
        if set(split) & set("[]:+"):  # row i of the scores is row i of the split
            raise UserError(f"split is {split!r}; capfilt takes a whole split, by its name")
        self.dataset, self.split = dataset, split
        self._rows = open_dataset(dataset, split)

    def _open_view(self, path: str) -> tuple[str, str]:
        components = [entry for entry in load_mixture(path) if entry.scores]
        sources = sorted({(entry.dataset, entry.split, entry.scores) for entry in components})
        if len(sources) != 1:
            raise UserError(
                f"mixture {path} is of {len(sources)} scored datasets; capfilt takes one at a time"
            )
        dataset, split, scores = sources[0]
        self._scores = open_dataset(scores, split)
        if all(component.selected for component in components):
            self._chosen = defaultdict(set)
            for component in components:
                for row, index in load_selected(component, len(self._scores)).tolist():
                    self._chosen[row].add(index)
        return dataset, split

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict:
        """{'key', 'image': bytes, 'texts': entries (work.py)}."""
        record = self._rows[row]
        texts = [entry(to_text(text), "web", self._filters) for text in record["texts"]]
        if self._scores is not None:
            texts = self._earlier(self._scores[row]["texts"], row)
        return {"key": to_text(record["key"]), "image": record["image"], "texts": texts}

    def _earlier(self, texts: dict[str, np.ndarray], row: int) -> list[dict]:
        """Entries of the chosen texts, as the round before left them but for their scores."""
        numbers = range(len(texts["text"]))
        if self._chosen is not None:
            numbers = sorted(self._chosen.get(row, ()))
        made = []
        for n in numbers:
            text, origin = (to_text(texts[name][n]) for name in ("text", "origin"))
            known = {name: to_text(texts[name][n]) for name in ("model", "method")}
            log = float(texts["log_probability"][n])
            made.append(entry(text, origin, self._filters) | known | {"log_probability": log})
        return made
