"""From scores to what training reads: a mixture file, with no inference and no copy of images."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from etils import epath

from blip_jax.capfilt import selection, storage
from blip_jax.data.mixture import Component, save_mixture
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import relative_path


def keep(
    columns: storage.Columns, origins: Sequence[str], threshold: float | None = selection.THRESHOLD
) -> np.ndarray:
    """bool [M]: the texts of `origins` that the filter lets pass, by the author's rule.

    That is: where ITM's softmax says P(match) >= threshold. None keeps all that could be scored.
    What has no score (empty texts, undecodable images) is never kept.
    """
    plain = selection.Rules(dict.fromkeys(origins, threshold))
    return selection.decide(columns, plain) == selection.KEPT


@dataclasses.dataclass(frozen=True)
class Source:
    """The scored dataset and what it was made from."""

    dataset: str
    split: str
    scores: str


def write_mixture(
    path: str,
    human: Component | None,
    source: Source,
    columns: storage.Columns,
    kept: np.ndarray,
    share: float,
    weights: np.ndarray | None = None,
) -> dict[str, int]:
    """Writes the mixture of human pairs and kept texts, and the lists of these beside it.

    Args:
      path: of the mixture file, ending in .json.
      human: its dataset, whose weight is set here; None for kept texts alone.
      kept: bool [M] over `columns`.
      share: of human pairs in a batch, so that arms compare at equal dilution; the rest are kept
        texts. Without kept texts all pairs are human.
      weights: float64 [N], how often a text of an image is drawn against those of others; None:
        each as likely as any other. Images of one weight make a component of the mixture.

    Returns: counts of kept texts by origin.

    Raises:
      UserError: there is neither a kept text nor a human one.
    """
    if human is None and not kept.any():
        raise UserError("the rules keep no text at all: lower the threshold")
    file = epath.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    of_text = np.ones(len(kept)) if weights is None else weights[columns.row]
    total = of_text[kept].sum()
    share = 0.0 if human is None else share if total else 1.0
    components = []
    if human is not None:
        beside_human = relative_path(human.dataset, file.parent)
        components.append(dataclasses.replace(human, dataset=beside_human, weight=share))
    whole = Component(
        name="web",
        dataset=relative_path(source.dataset, file.parent),
        split=source.split,
        scores=relative_path(source.scores, file.parent),
    )
    levels = np.unique(of_text[kept])[::-1]
    for number, level in enumerate(levels):
        own = kept & (of_text == level)
        name = file.stem if number == 0 else f"{file.stem}-{number}"
        _save_selected(file.parent / f"{name}.npy", columns, own)
        components.append(
            dataclasses.replace(
                whole,
                name="web" if len(levels) == 1 else f"web x {level:g}",
                weight=(1 - share) * float(level * own.sum() / total),
                selected=f"{name}.npy",
            )
        )
    save_mixture(path, components)
    return {name: int((kept & columns.where("origin", name)).sum()) for name in storage.ORIGINS}


def _save_selected(path: epath.Path, columns: storage.Columns, kept: np.ndarray) -> None:
    selected = np.stack([columns.row[kept], columns.index[kept]], axis=1)
    with path.open("wb") as stream:
        np.save(stream, selected.astype(np.int32))


def write_plain_mixture(path: str, human: Component, web: Component | None, share: float) -> None:
    """Writes the mixture of two datasets as they are, `share` of a batch from `human`."""
    file = epath.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    weighted = [(human, share)] if web is None else [(human, share), (web, 1 - share)]
    components = [
        dataclasses.replace(
            component, dataset=relative_path(component.dataset, file.parent), weight=weight
        )
        for component, weight in weighted
    ]
    save_mixture(path, components)
