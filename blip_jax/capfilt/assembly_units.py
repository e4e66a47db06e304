"""Selects and counts the texts of a scored dataset in units of work, each a part of its images.

Where a rule needs to know of all texts (shares, histograms of extra scores), `measure_parts` reads
the parts once before; then `select_parts` decides on the texts of each part and counts them. What
the units found is in files of a folder, so that memory does not grow with the dataset.
"""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from blip_jax.capfilt import labels
from blip_jax.capfilt.counts import Scored, add_counts, count_texts, extra_score_ranges
from blip_jax.capfilt.dataset_parts import Parts
from blip_jax.capfilt.mixture import SelectedTexts, selected_texts
from blip_jax.capfilt.score_reader import read_rows
from blip_jax.capfilt.selection import KEPT, SelectionRules, rank_for_shares, select_texts
from blip_jax.capfilt.share_limits import Ranked, ShareLimit, find_limits
from blip_jax.capfilt.storage import ORIGINS
from blip_jax.capfilt.table import save_table
from blip_jax.runtime.beam import Work
from blip_jax.runtime.files import atomic_write, read_json, write_json
from blip_jax.runtime.work_units import Engine


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is known of all texts before any is selected.

    Attributes:
      limits: for each of the rules and each origin that has a share, the limits of the parts.
      extra_ranges: of `counts.extra_score_ranges`, of the whole dataset.
    """

    limits: list[dict[str, list[ShareLimit]]]
    extra_ranges: dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Selected:
    """What is known after the selection.

    Attributes:
      counts: of `counts.count_texts`, of the whole dataset.
      swept: for each of the other rules, by origin, the texts that they keep, and all.
      texts: those that are kept, by weight.
      sample_decision: int16 [M], of the texts of the sampled images (`labels.sampled_rows`).
      sample_swept: bool [T, M], whether the other rules keep these.
    """

    counts: dict[str, Any]
    swept: list[dict[str, list[int]]]
    texts: list[SelectedTexts]
    sample_decision: np.ndarray
    sample_swept: np.ndarray


def measure_parts(parts: Parts, rules: Sequence[SelectionRules], engine: Engine) -> Measured:
    """Reads all parts if rules need to know of all texts.

    Args:
      rules: those of the selection, and others that are compared with them.
    """
    nothing = read_rows(parts.source.scores, parts.source.split, [])
    if not (nothing.extra_names or any(x.shares for x in rules)):
        return Measured([{} for _ in rules], {})
    stage = parts.begin_stage("measured", [dataclasses.asdict(x) for x in rules])
    work = functools.partial(_measure_work, parts, rules, stage)
    parts.finish("read scores", work, f"{stage}.json", engine)
    ranges: dict[str, list[float]] = {}
    for number in parts.numbers:
        for name, (low, high) in read_json(parts.path(number, f"{stage}.json")).items():
            known = ranges.get(name, [low, high])
            ranges[name] = [min(known[0], low), max(known[1], high)]
    limits = [
        {
            origin: find_limits(functools.partial(_ranks, parts, stage, place, origin), share)
            for origin, share in x.shares.items()
        }
        for place, x in enumerate(rules)
    ]
    return Measured(limits, ranges)


def _measure_work(parts: Parts, rules: Sequence[SelectionRules], stage: str) -> Work:
    """Returns what a worker does to a part before the selection: reads, ranks, finds ranges."""

    def work(number: int, should_continue: Callable[[], bool]) -> None:
        table = parts.table(number, should_continue)
        index = parts.index(number)
        save_table(table, parts.path(number, "arrow"))
        arrays = {
            f"{place} {origin} {field}": value
            for place, x in enumerate(rules)
            for origin, ranked in rank_for_shares(table, x, index).items()
            for field, value in vars(ranked).items()
        }
        _save_arrays(parts.path(number, f"{stage}.npz"), arrays)
        write_json(parts.path(number, f"{stage}.json"), extra_score_ranges(table))

    return work


def _ranks(parts: Parts, stage: str, place: int, origin: str) -> Iterator[Ranked]:
    """Yields the ranked texts of each part."""
    fields = [field.name for field in dataclasses.fields(Ranked)]
    for number in parts.numbers:
        with _arrays(parts.path(number, f"{stage}.npz")) as arrays:
            yield Ranked(*(arrays[f"{place} {origin} {field}"] for field in fields))


def select_parts(
    parts: Parts,
    rules: Sequence[SelectionRules],
    measured: Measured,
    identify_languages: bool,
    engine: Engine,
) -> Selected:
    """Decides on the texts of all parts, and counts them.

    Args:
      rules: those of the selection, and others of which is counted what they would keep.
      measured: of `measure_parts`.
    """
    stage = parts.begin_stage(
        "selected", [[dataclasses.asdict(x) for x in rules], identify_languages]
    )
    work = functools.partial(_select_work, parts, rules, measured, identify_languages, stage)
    parts.finish("select texts", work, f"{stage}.json", engine)
    counts: dict[str, Any] = {}
    samples = []
    for number in parts.numbers:
        counts = add_counts(counts, read_json(parts.path(number, f"{stage}.json")))
        with _arrays(parts.path(number, f"{stage}.npz")) as arrays:
            samples.append(arrays["sample"])
    sample = np.concatenate(samples, axis=1)
    texts = [
        SelectedTexts(float(weight), number, functools.partial(_kept, parts, stage, weight))
        for weight, number in counts["weights"].items()
    ]
    return Selected(counts["part"], counts["swept"], texts, sample[0], sample[1:] == KEPT)


def select_parts_by_threshold(parts: Parts, threshold: float, engine: Engine) -> Selected:
    """Returns the selection by P(match) alone, as in the paper; extra scores are not counted."""
    rules = [SelectionRules(dict.fromkeys(ORIGINS, threshold))]
    return select_parts(parts, rules, Measured([{}], {}), False, engine)


def _select_work(
    parts: Parts,
    rules: Sequence[SelectionRules],
    measured: Measured,
    identify_languages: bool,
    stage: str,
) -> Work:
    """Returns what a worker does to a part: decides on its texts and counts them."""
    sampled = labels.sampled_rows(parts.images)

    def work(number: int, should_continue: Callable[[], bool]) -> None:
        table = parts.table(number, should_continue)
        index, first = parts.index(number), number * parts.size
        decisions = [
            select_texts(table, x, index, {name: found[number] for name, found in limits.items()})
            for x, limits in zip(rules, measured.limits, strict=True)
        ]
        kept = decisions[0] == KEPT
        weights = None if index is None else index.weights(rules[0].source_weights)
        texts = selected_texts(table, kept, weights, first)
        in_sample = np.isin(table.row + first, sampled)
        arrays = {f"kept {weight!r}": found for weight, found in texts.items()}
        arrays["sample"] = np.stack([decision[in_sample] for decision in decisions])
        _save_arrays(parts.path(number, f"{stage}.npz"), arrays)
        scored = Scored(table, rules[0], decisions[0], index)
        own = {name: table.where("origin", name) for name in ORIGINS}
        found = {
            "part": count_texts(scored, identify_languages, measured.extra_ranges),
            "swept": [
                {name: [int((x[own[name]] == KEPT).sum()), int(own[name].sum())] for name in own}
                for x in decisions[1:]
            ],
            "weights": {repr(weight): len(found) for weight, found in texts.items()},
        }
        write_json(parts.path(number, f"{stage}.json"), found)

    return work


def _kept(parts: Parts, stage: str, weight: str) -> Iterator[np.ndarray]:
    """Yields the texts of each part that are kept with this weight."""
    for number in parts.numbers:
        with _arrays(parts.path(number, f"{stage}.npz")) as arrays:
            if f"kept {weight}" in arrays:
                yield arrays[f"kept {weight}"]


def _save_arrays(path: epath.Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()  # files of buckets cannot be written at several places
    np.savez(buffer, **arrays)
    with atomic_write(path, "wb") as file:
        file.write(buffer.getvalue())


@contextlib.contextmanager
def _arrays(path: epath.Path) -> Iterator[Mapping[str, np.ndarray]]:
    with path.open("rb") as file:
        yield np.load(file)
