"""The verb `assemble`: selects texts by stored scores and writes mixture, statistics and card."""

import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from blip_jax.capfilt import (
    dataset_card,
    filter_quality,
    image_index,
    labels,
    mixture,
    provenance,
    statistics,
    storage,
)
from blip_jax.capfilt.gallery_entries import gallery_entries
from blip_jax.capfilt.selection import DECISIONS, SelectionConfig, probability, select_texts
from blip_jax.capfilt.table import TextTable
from blip_jax.data.mixture import Component
from blip_jax.reports import tables
from blip_jax.reports.gallery import write_gallery
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write, write_json


def defaults() -> ConfigDict:
    """The fields of an assembly. Its rules are the paper's (rules.py says what each means)."""
    return ConfigDict({
        "scores": "",  # folder that `capfilt` wrote, with features.json
        "dataset": "",  # folder of its images; "": as its provenance.json says
        "split": "",  # "": as there
        "human": "",  # folder of human pairs to mix in; "": none
        "human_share": 0.25,  # of each batch
        "origins": storage.ORIGINS,  # which texts are asked for
        "threshold": ConfigDict({"web": 0.5, "synthetic": 0.5}),  # least P(match)
        "best": 0,  # texts an image at most; 0: all
        "cosine": -1.0,  # least cosine; -1: any
        "judge": "mean",  # of several filters: a name, "mean" or "min"
        "duplicates": "keep",  # or "exact", "near": only the first of such images
        # What P(match) means: "" as the filter says; "fit" as often as it is right where the truth
        # is known; or a statistics.json from which to take such a fit.
        "calibration": "",
        "weights": "",  # of sources, against 1 of the others: "laion=0.5,cc12m=2"
        "sweep": (),  # thresholds to count by, besides: (0.3, 0.5, 0.7)
        "report": 2000,  # images in report/index.html; 0: no report
        "seed": 0,  # which they are
        "title": "Image-text pairs by CapFilt",
        "license": "",  # Hugging Face's name; "": as was found beside the images
    }).lock()  # fmt: skip


def run(config: ConfigDict, workdir: str) -> None:
    """Writes `workdir/mixture.json` with its lists, statistics.json, README.md, and report/.

    Raises:
      UserError: a field that must be given is empty, names nothing, or is out of range.
    """
    if not config.scores:
        raise UserError("config.scores is empty; give it with --config.scores=FOLDER")
    origin = provenance.read(config.scores)
    dataset = config.dataset or origin.get("dataset", "")
    split = config.split or origin.get("split", "train")
    if not dataset:
        raise UserError(
            f"{config.scores} does not say what images it is about; give their folder with "
            "--config.dataset=FOLDER"
        )
    scored = select(config, dataset, split)
    folder = epath.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    human = Component(name="human", dataset=config.human) if config.human else None
    index = scored.images
    mixture.write_mixture(
        str(folder / "mixture.json"),
        human,
        mixture.ScoredDataset(dataset, split, config.scores),
        scored.table,
        scored.kept,
        config.human_share,
        None if index is None else index.weights(scored.config.source_weights),
    )
    found = statistics.gather(scored)
    if config.sweep:
        found["sweep"] = statistics.sweep(scored, config.sweep)
    prepared = provenance.manifest(dataset)
    if "records_read" in prepared:
        found["prepared"] = {name: prepared[name] for name in ("records_read", "rows", "skipped")}
    commands = provenance.commands(dataset, prepared, origin)
    found |= {"provenance": origin, "commands": commands}
    write_json(folder / "statistics.json", found)
    with atomic_write(folder / "README.md") as file:
        file.write(dataset_card.render(config.title, found, config.license))
    _tell(found)
    if config.report:
        print(f"\nreport: {report(config, workdir, dataset, split, scored, found)}")
    print(f"mixture to train on: {folder / 'mixture.json'}")


def select(config: ConfigDict, dataset: str, split: str) -> statistics.Scored:
    """Reads the scores and decides on each text."""
    table = storage.read(config.scores, split)
    truth = labels.text_labels(dataset, split, table)
    rules = selection_config(config)
    if config.calibration:
        fits = calibration(config, rules, table, truth)
        rules = dataclasses.replace(rules, calibration=fits)
    index = image_index.read(dataset, len(table.key))
    decision = select_texts(table, rules, index)
    return statistics.Scored(table, rules, decision, truth, index)


def selection_config(config: ConfigDict) -> SelectionConfig:
    """Returns the rules of a config.

    Raises:
      UserError: one is out of range.
    """
    weights = {}
    for entry in filter(None, config.weights.split(",")):
        source, _, weight = entry.rpartition("=")
        try:
            weights[source.strip()] = float(weight)
        except ValueError:
            raise UserError(
                f"config.weights has {entry!r}; expected SOURCE=NUMBER, as in laion=0.5"
            ) from None
    return SelectionConfig(
        thresholds={name: config.threshold.get(name, 0.5) for name in config.origins},
        max_texts_per_image=config.best,
        min_cosine=None if config.cosine <= -1 else config.cosine,
        filter_reduction=config.judge,
        duplicates=config.duplicates,
        source_weights=weights,
    )


def calibration(
    config: ConfigDict, rules: SelectionConfig, table: TextTable, known: np.ndarray
) -> dict[str, dict]:
    """Returns the fit of each origin: of the texts with a known label, or from a statistics.json.

    Raises:
      UserError: no truth is known of an origin, or the file holds no fit of it.
    """
    if config.calibration == "fit":
        nothing = np.zeros(len(known), bool)
        fits = filter_quality.filter_quality_by_origin(
            table, probability(table, rules), nothing, known
        ).get("fit", {})
        lacking = "needs texts of known truth, and the images have no field truth"
    else:
        path = epath.Path(config.calibration)
        try:
            found = json.loads(path.read_text())
            fits = found["selection"]["calibration"] or found["truth"]["fit"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'config.calibration: {path} holds no fit ({type(error).__name__}); "fit", or '
                "the statistics.json of a dataset with known truth is wanted"
            ) from error
        lacking = f"has no fit in {path}"
    for origin, threshold in rules.thresholds.items():
        if threshold is not None and origin not in fits:
            raise UserError(f"config.calibration of {origin} texts {lacking}")
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
        print(f"skipped {count}: {reason}", file=sys.stderr)


def report(
    config: ConfigDict,
    workdir: str,
    dataset: str,
    split: str,
    scored: statistics.Scored,
    found: Mapping[str, Any],
) -> str:
    """Writes the gallery of a sample of the images and returns the path of its page."""
    rows = labels.sampled_rows(len(scored.table.key))
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(rows)[: config.report])
    shown = gallery_entries(
        dataset, split, scored.table, chosen, scored.p_match, scored.decision, scored.truth
    )
    measured = found.get("truth") or {"histogram": _by_origin(found["scores"]["p_match"])}
    summary = (
        f"{len(chosen):,} of {len(scored.table.key):,} images of {dataset}, with all their "
        f"texts. Of all {len(scored.table.row):,} texts, {int(scored.kept.sum()):,} are kept."
    )
    results = {
        "title": config.title,
        "summary": summary,
        "command": found["commands"][-1],
        "filter": {**measured, "threshold": dict(scored.config.thresholds)},
        "decisions": DECISIONS,
    }
    folder = str(epath.Path(workdir) / "report")
    return write_gallery(folder, results, shown, len(chosen), progress=True)


def _by_origin(counts: Mapping) -> dict[str, dict]:
    return {
        name: {"edges": counts["edges"], "texts": counts[name]}
        for name in counts
        if name != "edges" and any(counts[name])
    }
