"""Writes mixture files, which name the texts that training reads; images are not copied."""

import dataclasses
import hashlib
import io
import re
from collections.abc import Collection, Sequence

import numpy as np
from etils import epath

from blip_jax.capfilt import selection, storage
from blip_jax.data.mixture import Component, save_mixture
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write, relative_path


def select_by_threshold(
    table: storage.TextTable,
    origins: Sequence[str],
    threshold: float | None = selection.THRESHOLD,
    filter_reduction: str = "mean",
) -> np.ndarray:
    """Returns bool [M]: the texts of `origins` with P(match) >= threshold, as in the paper.

    P(match) is the softmax of the ITM head. None keeps all texts that have a score; texts without
    one (empty texts, undecodable images) are never kept.

    Args:
      filter_reduction: of several filters; see `selection.SelectionRules`.
    """
    thresholds = dict.fromkeys(origins, threshold)
    config = selection.SelectionRules(thresholds, filter_reduction=filter_reduction)
    return selection.select_texts(table, config) == selection.KEPT


@dataclasses.dataclass(frozen=True)
class ScoredDataset:
    """Folder and split of the images, and folder of their scores."""

    dataset: str
    split: str
    scores: str


def write_mixture(
    path: str,
    human: Component | None,
    source: ScoredDataset,
    table: storage.TextTable,
    kept: np.ndarray,
    human_fraction: float,
    weights: np.ndarray | None = None,
) -> dict[str, int]:
    """Writes a mixture of human pairs and kept texts, and .npy lists of the latter next to it.

    Lists are named by their content, so that a mixture that is replaced stays whole until the new
    one is; those that it no longer names are then removed.

    Args:
      path: of the mixture file, ending in .json.
      human: the human pairs, whose weight is set here; None for kept texts alone.
      kept: bool [M] over `table`.
      human_fraction: fraction of human pairs in a batch, so that arms are compared at an equal
        fraction; the rest are kept texts. 1 if no text is kept.
      weights: float64 [N], how often a text of an image is sampled relative to others; None: all
        equally often. Images of equal weight form one component of the mixture.

    Returns: the number of kept texts of each origin.

    Raises:
      UserError: no text is kept and there are no human pairs.
    """
    if human is None and not kept.any():
        raise UserError("the rules keep no text; lower the threshold")
    file = epath.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    of_text = np.ones(len(kept)) if weights is None else weights[table.row]
    total = of_text[kept].sum()
    human_fraction = 0.0 if human is None else human_fraction if total else 1.0
    components = []
    if human is not None:
        dataset = relative_path(human.dataset, file.parent)
        components.append(dataclasses.replace(human, dataset=dataset, weight=human_fraction))
    whole = Component(
        name="web",
        dataset=relative_path(source.dataset, file.parent),
        split=source.split,
        scores=relative_path(source.scores, file.parent),
    )
    weight_levels = np.unique(of_text[kept])[::-1]
    names = [f"web x {level:g}" for level in weight_levels]
    if len(set(names)) < len(names):
        names = [f"web x {float(level)!r}" for level in weight_levels]
    for number, level in enumerate(weight_levels):
        own = kept & (of_text == level)
        selected = _save_selected(file, table, own)
        components.append(
            dataclasses.replace(
                whole,
                name="web" if len(weight_levels) == 1 else names[number],
                weight=(1 - human_fraction) * float(level * own.sum() / total),
                selected=selected,
            )
        )
    save_mixture(path, components)
    _remove_lists(file, {component.selected for component in components})
    return {name: int((kept & table.where("origin", name)).sum()) for name in storage.ORIGINS}


def _save_selected(mixture: epath.Path, table: storage.TextTable, kept: np.ndarray) -> str:
    """Writes the list of kept texts beside a mixture and returns its name."""
    selected = np.stack([table.row[kept], table.index[kept]], axis=1)
    buffer = io.BytesIO()
    np.save(buffer, selected.astype(np.int32))
    name = f"{mixture.stem}-{hashlib.sha256(buffer.getvalue()).hexdigest()[:12]}.npy"
    with atomic_write(mixture.parent / name, "wb") as file:
        file.write(buffer.getvalue())
    return name


def _remove_lists(mixture: epath.Path, used: Collection[str]) -> None:
    """Removes the lists of earlier mixtures of the same name."""
    pattern = re.compile(rf"{re.escape(mixture.stem)}-[0-9a-f]{{12}}\.npy")
    for path in mixture.parent.glob("*.npy"):
        if pattern.fullmatch(path.name) and path.name not in used:
            path.unlink()


def write_plain_mixture(
    path: str, human: Component, web: Component | None, human_fraction: float
) -> None:
    """Writes a mixture of whole datasets, with `human_fraction` of a batch from `human`."""
    file = epath.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    weighted = (
        [(human, human_fraction)]
        if web is None
        else [(human, human_fraction), (web, 1 - human_fraction)]
    )
    components = [
        dataclasses.replace(x, dataset=relative_path(x.dataset, file.parent), weight=weight)
        for x, weight in weighted
    ]
    save_mixture(path, components)
