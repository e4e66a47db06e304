"""The verb `assemble`: selects texts by stored scores and writes mixture, statistics and card."""

import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from blip_jax.capfilt import (
    croissant,
    dataset_card,
    filter_quality,
    image_index,
    labels,
    mixture,
    provenance,
    statistics,
    storage,
)
from blip_jax.capfilt.config import AssembleConfig
from blip_jax.capfilt.gallery_entries import gallery_entries
from blip_jax.capfilt.selection import SelectionRules, probability, select_texts
from blip_jax.capfilt.table import TextTable
from blip_jax.data.datasets import open_dataset
from blip_jax.data.mixture import Component
from blip_jax.models import Table
from blip_jax.models.notebook import MAX_ROWS
from blip_jax.reports import tables
from blip_jax.reports.gallery import write_gallery
from blip_jax.reports.publishing import public_command, public_path, public_values
from blip_jax.runtime.config import check_required, to_json, write_config
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write, read_json, write_json
from blip_jax.runtime.fingerprint import check_fingerprint, path_digest
from blip_jax.runtime.lock import folder_lock
from blip_jax.runtime.terminal import printable
from blip_jax.runtime.work_units import Engine
from blip_jax.runtime.worker_pool import num_workers


def run(config: AssembleConfig, workdir: str) -> None:
    """Writes into `workdir`: the mixture with its lists, statistics, card, Croissant, report.

    Raises:
      UserError: a field that must be given is empty, names nothing, or is out of range.
    """
    dataset, split = _scored_images(config)
    if config.human_dataset:
        open_dataset(config.human_dataset, "train")
    with folder_lock(workdir, "assemble"):
        scored = select(config, dataset, split, _parts_folder(workdir, config.scores))
        _write(config, workdir, mixture.ScoredDataset(dataset, split, config.scores), scored)


def _parts_folder(workdir: str, scores: str) -> str:
    """Returns a folder for what is read of these scores, and removes those of others."""
    folder = epath.Path(workdir) / f"scores-{path_digest(scores)[:12]}"
    for other in epath.Path(workdir).glob("scores-*"):
        if other.name != folder.name:
            other.rmtree()
    return os.fspath(folder)


def gallery(config: AssembleConfig) -> Table:
    """Returns a table of some images, all their texts, and which are kept: for notebooks.

    They are a random sample of at most `config.gallery_images`, and no more than a table shows.

    Raises:
      UserError: as `run`.
    """
    dataset, split = _scored_images(config)
    scored = select(config, dataset, split)
    entries = list(_sample(config, dataset, split, scored, min(config.gallery_images, MAX_ROWS))[1])
    texts = [entry["texts"] for entry in entries]
    headings = {"origin": "origin", "text": "text", "p_match": "P(match)", "decision": "decision"}
    return Table(
        {title: [[x[name] for x in row] for row in texts] for name, title in headings.items()},
        [entry["image"] for entry in entries],
        [[not x["kept"] for x in row] for row in texts],
    )


def _scored_images(config: AssembleConfig) -> tuple[str, str]:
    """Returns the dataset and the split that the scores are about."""
    check_required(config)
    origin = provenance.read(config.scores)
    dataset = config.dataset or origin.get("dataset", "")
    if not dataset:
        raise UserError(
            f"{config.scores} does not say what images it is about; give their folder with "
            "--config.dataset=FOLDER"
        )
    return dataset, config.split or origin.get("split", "train")


def _sample(
    config: AssembleConfig, dataset: str, split: str, scored: statistics.Scored, most: int
) -> tuple[int, Iterator[dict]]:
    """Returns the number of images in a random sample, and these as `gallery_entries`."""
    rows = labels.sampled_rows(len(scored.table.key))
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(rows)[:most])
    found = scored.p_match, scored.decision, scored.truth, scored.config.decisions
    return len(chosen), gallery_entries(dataset, split, scored.table, chosen, *found)


def _write(
    config: AssembleConfig,
    workdir: str,
    source: mixture.ScoredDataset,
    scored: statistics.Scored,
) -> None:
    folder, dataset, split = epath.Path(workdir), source.dataset, source.split
    values = {"config": to_json(config)}
    values |= {"scores": path_digest(config.scores), "dataset": path_digest(dataset)}
    check_fingerprint(folder, "assemble", values, begun=False)
    origin = provenance.read(config.scores)
    prepared = provenance.manifest(dataset)
    write_config(folder, config)
    human = Component(name="human", dataset=config.human_dataset) if config.human_dataset else None
    index = scored.images
    mixture.write_mixture(
        str(folder / "mixture.json"),
        human,
        source,
        scored.table,
        scored.kept,
        config.human_fraction,
        None if index is None else index.weights(scored.config.source_weights),
    )
    found = statistics.gather(scored, config.identify_languages)
    if config.threshold_sweep:
        found["sweep"] = statistics.sweep(scored, config.threshold_sweep)
    if "records_read" in prepared:
        found["prepared"] = {name: prepared[name] for name in ("records_read", "rows", "skipped")}
    commands = [public_command(x) for x in provenance.commands(dataset, prepared, origin)]
    published = public_values(origin)
    if "command" in published:
        published["command"] = public_command(published["command"])
    found |= {"provenance": published, "commands": commands}
    write_json(folder / "statistics.json", found)
    with atomic_write(folder / "README.md") as file:
        file.write(dataset_card.render(config.title, found, config.license))
    with atomic_write(folder / croissant.FILE) as file:
        file.write(croissant.text_of(croissant.assembled(config, found, folder)))
    _tell(found)
    if config.gallery_images:
        print(f"\nreport: {report(config, workdir, dataset, split, scored, found)}")
    print(f"mixture to train on: {folder / 'mixture.json'}")


def select(config: AssembleConfig, dataset: str, split: str, folder: str = "") -> statistics.Scored:
    """Reads the scores and decides on each text; what was read is kept in `folder` meanwhile."""
    engine = Engine(num_workers(config.workers), config.beam, folder)
    table = storage.read(config.scores, split, engine)
    truth = labels.text_labels(dataset, split, table)
    rules = selection_rules(config)
    if config.selection.calibration:
        fits = calibration(config, rules, table, truth)
        rules = dataclasses.replace(rules, calibration=fits)
    index = image_index.read(dataset, len(table.key))
    decision = select_texts(table, rules, index)
    return statistics.Scored(table, rules, decision, truth, index)


def selection_rules(config: AssembleConfig) -> SelectionRules:
    """Returns the rules of a config.

    Raises:
      UserError: one is out of range.
    """
    selection = config.selection
    thresholds = dataclasses.asdict(selection.thresholds)
    shares = {name: share for name, share in dataclasses.asdict(selection.shares).items() if share}
    return SelectionRules(
        thresholds={
            name: None if name in shares else thresholds.get(name, 0.5) for name in config.origins
        },
        shares=shares,
        max_texts_per_image=selection.max_texts_per_image,
        min_cosine=None if selection.min_cosine <= -1 else selection.min_cosine,
        filter_reduction=selection.filter_reduction,
        duplicates=selection.duplicates,
        source_weights=selection.numbers("source_weights"),
        minimums=selection.numbers("minimums"),
        maximums=selection.numbers("maximums"),
        languages=selection.languages,
    )


def calibration(
    config: AssembleConfig, rules: SelectionRules, table: TextTable, known: np.ndarray
) -> dict[str, dict]:
    """Returns the fit of each origin: of the texts with a known label, or from a statistics.json.

    Raises:
      UserError: no truth is known of an origin, or the file holds no fit of it.
    """
    if config.selection.calibration == "fit":
        nothing = np.zeros(len(known), bool)
        fits = filter_quality.filter_quality_by_origin(
            table, probability(table, rules), nothing, known
        ).get("fit", {})
        lacking = "needs texts of known truth, and the images have no field truth"
    else:
        path = epath.Path(config.selection.calibration)
        try:
            found = read_json(path)
            fits = found["selection"]["calibration"] or found["truth"]["fit"]
            fits = dict(fits)
        except (UserError, KeyError, TypeError, ValueError) as error:
            reason = error if isinstance(error, UserError) else f"{path} holds no fit"
            raise UserError(
                f"config.selection.calibration: {reason}; give "
                '"fit", or the statistics.json of a dataset with known truth'
            ) from error
        lacking = f"has no fit in {path}"
    for origin, threshold in rules.thresholds.items():
        if threshold is not None and origin not in fits:
            raise UserError(f"config.selection.calibration of {origin} texts {lacking}")
    return fits


def _tell(found: Mapping[str, Any]) -> None:
    print(tables.plain(found["texts"]))
    print()
    print(tables.plain(found["decisions"]))
    for title, rows in (
        ("Other thresholds:", found.get("sweep")),
        ("Against the truth:", found.get("truth", {}).get("rows")),
    ):
        if rows:
            print(f"\n{title}\n\n{tables.plain(rows)}")
    for reason, count in found["images"]["skipped"].items():
        print(f"skipped {count}: {printable(reason)}", file=sys.stderr)


def report(
    config: AssembleConfig,
    workdir: str,
    dataset: str,
    split: str,
    scored: statistics.Scored,
    found: Mapping[str, Any],
) -> str:
    """Writes the gallery of a sample of the images and returns the path of its page."""
    count, shown = _sample(config, dataset, split, scored, config.gallery_images)
    measured = found.get("truth") or {"histogram": _by_origin(found["scores"]["p_match"])}
    summary = (
        f"{count:,} of {len(scored.table.key):,} images of {public_path(dataset)}, with all "
        f"their texts. Of all {len(scored.table.row):,} texts, {int(scored.kept.sum()):,} are kept."
    )
    results = {
        "title": config.title,
        "summary": summary,
        "command": (found["commands"] or [""])[-1],
        "filter": {**measured, "threshold": dict(scored.config.thresholds)},
        "decisions": scored.config.decisions,
        "distributions": statistics.distributions_of(found, scored.config),
    }
    folder = str(epath.Path(workdir) / "report")
    return write_gallery(folder, results, shown, count, progress=True)


def _by_origin(counts: Mapping) -> dict[str, dict]:
    return {
        name: {"edges": counts["edges"], "texts": counts[name]}
        for name in counts
        if name != "edges" and any(counts[name])
    }
