"""Writes mixture files, which name the texts that training reads; images are not copied."""

import dataclasses
import hashlib
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

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


@dataclasses.dataclass(frozen=True)
class SelectedTexts:
    """Texts that are sampled equally often.

    Attributes:
      weight: how often, relative to others.
      count: their number.
      parts: returns them in parts, int32 [P, 2], of (row, index of the row's text).
    """

    weight: float
    count: int
    parts: Callable[[], Iterable[np.ndarray]]


def selected_texts(
    table: storage.TextTable, kept: np.ndarray, weights: np.ndarray | None = None, first: int = 0
) -> dict[float, np.ndarray]:
    """Returns the kept texts by weight, int32 [P, 2] of (row, index of the row's text).

    Args:
      kept: bool [M] over `table`.
      weights: float64 [N], how often a text of an image is sampled relative to others; None: all
        equally often. 0: not at all.
      first: row of the table's first image.
    """
    texts = np.stack([table.row[kept] + first, table.index[kept]], axis=1).astype(np.int32)
    of_text = np.ones(len(texts)) if weights is None else weights[table.row[kept]]
    return {weight: texts[of_text == weight] for weight in np.unique(of_text).tolist()}


def write_mixture(
    path: str,
    human: Component | None,
    source: ScoredDataset,
    table: storage.TextTable,
    kept: np.ndarray,
    human_fraction: float,
    weights: np.ndarray | None = None,
) -> dict[str, int]:
    """Writes the mixture of a table's kept texts: `write_selected` of `selected_texts`.

    Returns: the number of kept texts of each origin.
    """
    texts = [
        SelectedTexts(weight, len(found), lambda found=found: [found])
        for weight, found in selected_texts(table, kept, weights).items()
    ]
    write_selected(path, human, source, texts, human_fraction)
    return {name: int((kept & table.where("origin", name)).sum()) for name in storage.ORIGINS}


def write_selected(
    path: str,
    human: Component | None,
    source: ScoredDataset,
    texts: Sequence[SelectedTexts],
    human_fraction: float,
) -> None:
    """Writes a mixture of human pairs and selected texts, and .npy lists of the latter next to it.

    Lists are named by their content, so that a mixture that is replaced stays whole until the new
    one is; those that it no longer names are then removed.

    Args:
      path: of the mixture file, ending in .json.
      human: the human pairs, whose weight is set here; None for selected texts alone.
      texts: those of each weight form one component of the mixture.
      human_fraction: fraction of human pairs in a batch, so that arms are compared at an equal
        fraction; the rest are selected texts. 1 if there are none.

    Raises:
      UserError: no text is selected and there are no human pairs.
    """
    texts = sorted(texts, key=lambda found: -found.weight)
    if human is None and not texts:
        raise UserError("no text is selected, and there are no human pairs; lower the threshold")
    file = epath.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    total = sum(found.weight * found.count for found in texts)
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
    names = [f"web x {found.weight:g}" for found in texts]
    if len(set(names)) < len(names):
        names = [f"web x {found.weight!r}" for found in texts]
    for name, found in zip(names, texts, strict=True):
        components.append(
            dataclasses.replace(
                whole,
                name="web" if len(texts) == 1 else name,
                weight=(1 - human_fraction) * (found.weight * found.count / total),
                selected=_save_selected(file, found),
            )
        )
    save_mixture(path, components)
    _remove_lists(file, {component.selected for component in components})


def _save_selected(mixture: epath.Path, texts: SelectedTexts) -> str:
    """Writes the list of selected texts beside a mixture and returns its name."""
    digest = hashlib.sha256()
    for chunk in _npy_chunks(texts):
        digest.update(chunk)
    name = f"{mixture.stem}-{digest.hexdigest()[:12]}.npy"
    with atomic_write(mixture.parent / name, "wb") as file:
        for chunk in _npy_chunks(texts):
            file.write(chunk)
    return name


def _npy_chunks(texts: SelectedTexts) -> Iterator[bytes]:
    """Yields the content of the .npy file of texts, which never are in memory together."""
    header = io.BytesIO()
    described = {"descr": "<i4", "fortran_order": False, "shape": (texts.count, 2)}
    np.lib.format.write_array_header_1_0(header, described)
    yield header.getvalue()
    for part in texts.parts():
        yield part.astype("<i4").tobytes()


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
