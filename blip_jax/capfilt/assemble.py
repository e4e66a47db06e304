"""From scores to what training reads: a view file, with no inference and no copy of images."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from etils import epath

from blip_jax.capfilt import scores
from blip_jax.data.sources import Part, save_view
from blip_jax.errors import UserError

THRESHOLD = 0.5


def keep(
    columns: scores.Columns, origins: Sequence[str], threshold: float | None = THRESHOLD
) -> np.ndarray:
    """bool [M]: the texts of `origins` that the filter lets pass.

    The rule is the author's: keep where ITM's softmax says P(match) >= threshold. None keeps all
    that could be scored. What has no score (empty texts, undecodable images) is never kept.
    """
    unknown = sorted(set(origins) - set(scores.ORIGINS))
    if unknown:
        raise UserError(f"unknown origin {unknown[0]!r}; known: {', '.join(scores.ORIGINS)}")
    chosen = np.isin(np.asarray(columns.origin), list(origins))
    passed = columns.p_match >= (-np.inf if threshold is None else threshold)
    return chosen & passed  # comparisons with NaN are False


@dataclasses.dataclass(frozen=True)
class Source:
    """The scored dataset and what it was made from."""

    dataset: str
    split: str
    scores: str


def write_view(
    path: str, human: Part, source: Source, columns: scores.Columns, kept: np.ndarray, share: float
) -> dict[str, int]:
    """Writes the view of human pairs and kept texts, and the list of these beside it.

    Args:
      path: of the view file, ending in .json.
      human: its dataset; the weight is set here.
      kept: bool [M] over `columns`.
      share: of human pairs in a batch, so that arms compare at equal dilution; the rest are kept
        texts, each as likely as any other. Without kept texts all pairs are human.

    Returns: counts of kept texts by origin.
    """
    file = epath.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    parts = [
        dataclasses.replace(
            human,
            dataset=beside(human.dataset, file.parent),
            weight=share if kept.any() else 1.0,
        )
    ]
    if kept.any():
        pairs = np.stack([columns.row[kept], columns.index[kept]], axis=1)
        name = f"{file.stem}.npy"
        with (file.parent / name).open("wb") as stream:
            np.save(stream, pairs.astype(np.int32))
        parts.append(
            Part(
                name="web",
                dataset=beside(source.dataset, file.parent),
                split=source.split,
                weight=1 - share,
                scores=beside(source.scores, file.parent),
                pairs=name,
            )
        )
    save_view(path, parts)
    origin = np.asarray(columns.origin)[kept]
    return {name: int((origin == name).sum()) for name in scores.ORIGINS}


def write_plain_view(path: str, human: Part, web: Part | None, share: float) -> None:
    """Writes the view of two datasets as they are, `share` of a batch from `human`."""
    file = epath.Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    weighted = [(human, share)] if web is None else [(human, share), (web, 1 - share)]
    parts = [
        dataclasses.replace(part, dataset=beside(part.dataset, file.parent), weight=weight)
        for part, weight in weighted
    ]
    save_view(path, parts)


def beside(target: str, folder: epath.Path) -> str:
    """`target` as seen from `folder`, so that a workdir can be moved; a URL stays as it is."""
    if "://" in target:
        return target
    return os.path.relpath(os.path.abspath(target), os.path.abspath(folder))
