"""The verb `assemble`: from stored scores to a dataset that is chosen, counted and described."""

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
    gallery_entries,
    history,
    image_index,
    labels,
    mixture,
    provenance,
    storage,
)
from blip_jax.capfilt import statistics as counted
from blip_jax.capfilt.selection import VERDICTS, Rules, decide, probability
from blip_jax.capfilt.table import Columns
from blip_jax.data.mixture import Component
from blip_jax.reports import tables
from blip_jax.reports.gallery import write_gallery
from blip_jax.runtime.errors import UserError


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
    scored = choose(config, dataset, split)
    folder = epath.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    human = Component(name="human", dataset=config.human) if config.human else None
    index = scored.images
    mixture.write_mixture(
        str(folder / "mixture.json"),
        human,
        mixture.Source(dataset, split, config.scores),
        scored.columns,
        scored.kept,
        config.human_share,
        None if index is None else index.weights(scored.rules.weights),
    )
    found = counted.gather(scored)
    if config.sweep:
        found["sweep"] = counted.sweep(scored, config.sweep)
    prepared = history.manifest(dataset)
    if "records_read" in prepared:
        found["prepared"] = {name: prepared[name] for name in ("records_read", "rows", "skipped")}
    commands = history.commands(dataset, prepared, origin)
    found |= {"provenance": origin, "commands": commands}
    (folder / "statistics.json").write_text(json.dumps(found, indent=1) + "\n")
    written = dataset_card.render(config.title, found, config.license)
    (folder / "README.md").write_text(written)
    _tell(found)
    if config.report:
        print(f"\nreport: {report(config, workdir, dataset, split, scored, found)}")
    print(f"mixture to train on: {folder / 'mixture.json'}")


def choose(config: ConfigDict, dataset: str, split: str) -> counted.Scored:
    """Reads the scores and decides about each text."""
    columns = storage.read(config.scores, split)
    found = labels.of_texts(dataset, split, columns)
    rules = rules_of(config)
    if config.calibration:
        rules = dataclasses.replace(rules, calibration=calibration(config, rules, columns, found))
    index = image_index.read(dataset, len(columns.key))
    verdict = decide(columns, rules, index)
    return counted.Scored(columns, rules, verdict, found, index)


def rules_of(config: ConfigDict) -> Rules:
    """The rules that a config asks for.

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
                f"config.weights has {entry!r}; SOURCE=NUMBER is wanted, as in laion=0.5"
            ) from None
    return Rules(
        thresholds={name: config.threshold.get(name, 0.5) for name in config.origins},
        best=config.best,
        cosine=None if config.cosine <= -1 else config.cosine,
        judge=config.judge,
        duplicates=config.duplicates,
        weights=weights,
    )


def calibration(
    config: ConfigDict, rules: Rules, columns: Columns, known: np.ndarray
) -> dict[str, dict]:
    """The fit of each origin: from what is known of these texts, or as another run found it.

    Raises:
      UserError: nothing is known of an origin, or the file holds no fit of it.
    """
    if config.calibration == "fit":
        nothing = np.zeros(len(known), bool)
        fits = filter_quality.measure(columns, probability(columns, rules), nothing, known).get(
            "fit", {}
        )
        lacking = "needs some whose truth is known, and the images' field truth says nothing"
    else:
        path = epath.Path(config.calibration)
        try:
            found = json.loads(path.read_text())
            fits = found["rules"]["calibration"] or found["truth"]["fit"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'config.calibration: {path} holds no fit ({type(error).__name__}); "fit", or '
                "the statistics.json of a dataset with known truth is wanted"
            ) from error
        lacking = f"finds none in {path}"
    for origin, threshold in rules.thresholds.items():
        if threshold is not None and origin not in fits:
            raise UserError(f"config.calibration of {origin} texts {lacking}")
    return fits


def _tell(found: Mapping[str, Any]) -> None:
    print(tables.plain(found["texts"]))
    print()
    print(tables.plain(found["verdicts"]))
    for title, rows in (
        ("Other thresholds:", found.get("sweep")),
        ("Against the truth:", found.get("truth", {}).get("rows")),
    ):
        if rows:
            print(f"\n{title}\n\n{tables.plain(rows)}")
    for reason, count in found["images"]["skipped"].items():
        print(f"set aside: {count}, {reason}", file=sys.stderr)


def report(
    config: ConfigDict,
    workdir: str,
    dataset: str,
    split: str,
    scored: counted.Scored,
    found: Mapping[str, Any],
) -> str:
    """Writes the gallery of a sample; returns its page's path."""
    rows = labels.looked_at(len(scored.columns.key))
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(rows)[: config.report])
    shown = gallery_entries.of_rows(
        dataset, split, scored.columns, chosen, scored.p_match, scored.verdict, scored.truth
    )
    measured = found.get("truth") or {"histogram": _by_origin(found["scores"]["p_match"])}
    summary = (
        f"{len(chosen):,} of {len(scored.columns.key):,} images of {dataset}, with all their "
        f"texts. Of all {len(scored.columns.row):,} texts {int(scored.kept.sum()):,} are kept."
    )
    results = {
        "title": config.title,
        "summary": summary,
        "command": found["commands"][-1],
        "filter": {**measured, "threshold": dict(scored.rules.thresholds)},
        "verdicts": VERDICTS,
    }
    folder = str(epath.Path(workdir) / "report")
    return write_gallery(folder, results, shown, len(chosen), progress=True)


def _by_origin(counts: Mapping) -> dict[str, dict]:
    return {
        name: {"edges": counts["edges"], "texts": counts[name]}
        for name in counts
        if name != "edges" and any(counts[name])
    }
