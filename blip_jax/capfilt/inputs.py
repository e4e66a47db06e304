"""The input of CapFilt: a dataset, or a mixture that was assembled from an earlier round."""

from collections import defaultdict
from typing import Any

from blip_jax.capfilt.generate import entry
from blip_jax.data.datasets import open_dataset, split_digest, to_text
from blip_jax.data.mixture import (
    Component,
    check_scored,
    check_selected_texts,
    load_mixture,
    load_selected,
)
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.fingerprint import file_digest


class CapFiltInput:
    """Random access to images with their existing texts.

    Of a mixture only the texts selected from a scored dataset are used, with their origin, model
    and log probability; human pairs and datasets without scores are ignored. Rows are those of the
    images' dataset, so that row i of the output again describes row i of it.

    Args:
      dataset: folder of a dataset, or a mixture file (.json).
      split: a whole split of the dataset; ignored for a mixture, which names its own.
      filters: the number of filters that score the texts.

    Attributes:
      dataset, split: of the images.

    Raises:
      UserError: a dataset or file is missing, or the mixture names several scored datasets.
    """

    def __init__(self, dataset: str, split: str, filters: int):
        self._filters = filters
        self._scores, self._selected = None, None
        self._components: list[Component] = []
        if dataset.endswith(".json"):
            dataset, split = self._open_mixture(dataset)
        if set(split) & set("[]:+"):  # row i of the scores is row i of the split
            raise UserError(f"split is {split!r}; capfilt takes a whole split: give its name alone")
        self.dataset, self.split = dataset, split
        self._rows = open_dataset(dataset, split, ("key", "image", "texts"))
        if self._scores is not None and len(self._scores) != len(self._rows):
            raise UserError(
                f"scores {self._components[0].scores} have {len(self._scores)} rows, dataset "
                f"{dataset} has {len(self._rows)}; score this dataset"
            )

    def _open_mixture(self, path: str) -> tuple[str, str]:
        self._components = components = [x for x in load_mixture(path) if x.scores]
        sources = sorted({(x.dataset, x.split, x.scores) for x in components})
        if len(sources) != 1:
            raise UserError(
                f"mixture {path} names {len(sources)} scored datasets; capfilt takes exactly one"
            )
        dataset, split, scores = sources[0]
        self._scores = open_dataset(scores, split, ("key", "texts"))
        check_scored(self._scores, scores)
        if all(x.selected for x in components):
            self._selected = defaultdict(set)
            for component in components:
                for row, index in load_selected(component, len(self._scores)).tolist():
                    self._selected[row].add(index)
        return dataset, split

    def digests(self) -> dict[str, Any]:
        """Returns digests of all files that the rows are read from."""
        found: dict[str, Any] = {"images": split_digest(self.dataset, self._rows, self.split)}
        if self._scores is not None:
            scores = self._components[0].scores
            found["texts"] = split_digest(scores, self._scores, self.split)
            found["selected"] = sorted(
                file_digest(x.selected) if x.selected else "all" for x in self._components
            )
        return found

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> dict:
        """Returns {'key', 'image': bytes, 'texts': list of `generate.entry`}."""
        record = self._rows[row]
        texts = [entry(to_text(text), "web", self._filters) for text in record["texts"]]
        if self._scores is not None:
            texts = self._previous_round(row, to_text(record["key"]))
        return {"key": to_text(record["key"]), "image": record["image"], "texts": texts}

    def _previous_round(self, row: int, key: str) -> list[dict]:
        """Returns the selected texts of the previous round as entries without scores."""
        scored, component = self._scores[row], self._components[0]
        if (found := to_text(scored["key"])) != key:
            raise UserError(
                f"row {row} is {key!r} in {self.dataset} and {found!r} in its scores "
                f"{component.scores}; score this dataset"
            )
        texts = scored["texts"]
        numbers = range(len(texts["text"]))
        if self._selected is not None:
            count, numbers = len(numbers), sorted(self._selected.get(row, ()))
            check_selected_texts(component, row, numbers, count)
        made = []
        for n in numbers:
            text, origin = (to_text(texts[name][n]) for name in ("text", "origin"))
            known = {name: to_text(texts[name][n]) for name in ("model", "method")}
            log = float(texts["log_probability"][n])
            made.append(entry(text, origin, self._filters) | known | {"log_probability": log})
        return made
