"""Results of a bootstrap run: tables on the terminal, results.json and report.html."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from blip_jax.capfilt import labels, mixture, selection, storage
from blip_jax.capfilt.bootstrap.config import BootstrapConfig
from blip_jax.capfilt.bootstrap.paper import compare_orders
from blip_jax.capfilt.filter_quality import filter_quality_by_origin
from blip_jax.capfilt.gallery_entries import gallery_entries
from blip_jax.capfilt.table import reduce_filters
from blip_jax.reports import tables
from blip_jax.reports.page import write_report
from blip_jax.reports.publishing import public_command, public_values
from blip_jax.runtime.command_line import command_line
from blip_jax.runtime.config import to_json
from blip_jax.runtime.files import write_json
from blip_jax.runtime.terminal import printable
from blip_jax.train.logger import read_curves

# Column of the comparison: metric of `tasks.evaluate`.
COLUMNS = {
    "ITC R@1": "itc/r@1",
    "ITM R@1": "itm/r@1",
    "CIDEr": "cider",
    "BLEU-4": "bleu4",
    "true %": "caption_truth",
    "complete %": "caption_completeness",
    "right %": "caption_exact",
}
REFERENCE = "filter"  # arm that others are compared with, seed by seed
TRAINING_IMAGES = "training_images"  # of an arm's evaluation: images that it was trained on
CURVES = ("loss", "itc", "itm", "lm", "itm_accuracy", "positive_similarity", "negative_similarity")


def measure_filter(folder: str, dataset: str, threshold: float) -> dict[str, Any]:
    """Measures the filter on the training texts, if their truth is known.

    Returns: 'threshold', 'rows' (one dict per origin), and 'curve', 'calibration', 'histogram' by
      origin; {} if the dataset has no truth.
    """
    table = storage.read(folder, "train")
    for reason, count in storage.skipped(table).items():
        print(f"skipped {count}: {printable(reason)}", file=sys.stderr)
    rows = labels.sampled_rows(len(table.key))
    table = table.take_rows(rows)
    truth = labels.text_labels(dataset, "train", table, rows)
    if (truth == labels.UNKNOWN).all():
        return {}
    p_match = reduce_filters(table, "p_match", "mean")
    kept = mixture.select_by_threshold(table, storage.ORIGINS, threshold)
    return {
        "threshold": threshold,
        **filter_quality_by_origin(table, p_match, kept, truth),
    }


def rows(config: BootstrapConfig, runs: list) -> list[dict]:
    """Returns one row for each arm; with several seeds (mean, standard deviation)."""
    table = []
    for arm in config.arms:
        row: dict[str, Any] = {"arm": arm}
        for column, name in COLUMNS.items():
            values = [run.found[arm][name] for run in runs if name in run.found[arm]]
            if values:
                row[column] = tables.spread(values)
        for origin in storage.ORIGINS:
            row[f"{origin} texts"] = round(np.mean([run.kept[arm][origin] for run in runs]))
        table.append(row)
    return table


def write(config: BootstrapConfig, workdir: str, runs: list) -> list[dict]:
    """Prints the tables, writes `results.json` and `report.html` into `workdir`."""
    arms, first = rows(config, runs), runs[0]
    quality = _filter_rows(runs)
    differences = paired_differences(config.arms, runs)
    orders = compare_orders([run.found for run in runs])
    columns = [name for name in COLUMNS if name in arms[0]]
    print(tables.plain(arms))
    if differences:
        print(f"\nDifference from the arm {REFERENCE} of the same seed, mean ± standard error:\n")
        print(tables.plain(differences))
    if orders:
        print("\nOrders of the paper; ours are mean ± standard error of differences in a seed:\n")
        print(tables.plain(orders))
    if quality:
        print("\nFilter decisions on the training texts against the truth:\n")
        print(tables.plain(quality))
    found = {"arms": arms, "differences": differences, "orders": orders, "filter": quality}
    write_json(f"{workdir}/results.json", found)
    marked = max(found.get(TRAINING_IMAGES, 0) for run in runs for found in run.found.values())
    test_images = f"{config.evaluation.split} images that are in no training set"
    if marked:
        test_images = f"{config.evaluation.split} images, of which {marked:,} were trained on"
    summary = (
        f"Each arm is trained from scratch for {config.pretraining.steps:,} steps and evaluated "
        f"without fine-tuning on {test_images}; "
        f"human pairs are {config.human_fraction:.0%} of every batch in each arm with web texts."
    )
    path = write_report(
        f"{workdir}/report.html",
        {
            "title": config.title,
            "summary": summary,
            "command": public_command(command_line()),
            "diagram": _diagram_notes(config, first),
            "columns": columns,
            "best": "max",
            "arms": arms,
            "differences": differences,
            "reference": REFERENCE,
            "orders": orders,
            "gallery": gallery(first, config),
            "filter": {**first.measured[""], "rows": quality} if quality else {},
            "curves": curves(first, config.arms),
            "stages": first.stages.times(),
            "config": public_values(to_json(config)),
        },
    )
    print(f"\nreport: {path}")
    return arms


def paired_differences(arms: Sequence[str], runs: list) -> list[dict]:
    """Returns for each other arm its differences from REFERENCE, (mean, standard error) over seeds.

    Arms of one seed share images, tokenizer and initial weights, so that much of the spread between
    seeds is in both and drops out. [] for a single seed, or without that arm.
    """
    if len(runs) < 2 or REFERENCE not in arms:
        return []
    table = []
    for arm in arms:
        row: dict[str, Any] = {"arm": arm}
        for column, name in COLUMNS.items():
            if name in runs[0].found[REFERENCE]:
                gaps = [run.found[arm][name] - run.found[REFERENCE][name] for run in runs]
                row[column] = (np.mean(gaps), np.std(gaps, ddof=1) / len(gaps) ** 0.5)
        if arm != REFERENCE:
            table.append(row)
    return table


def _filter_rows(runs: list) -> list[dict]:
    """Returns the filters' rows: mean over the seeds, and spread if there are several."""
    found = []
    for scores in runs[0].measured:
        of_seeds = [run.measured[scores].get("rows", []) for run in runs]
        for same in zip(*of_seeds, strict=True):
            numbers = {
                name: tables.spread([row[name] for row in same])
                for name in same[0]
                if name != "origin"
            }
            numbers["count"] = same[0]["count"]
            origin = " ".join([same[0]["origin"], *filter(None, [scores.strip("-")])])
            found.append({"origin": origin, **numbers})
    return found


def _diagram_notes(config: BootstrapConfig, run: Any) -> dict[str, str]:
    kept = run.kept.get("both")
    return {
        "pretrain": f"{config.pretraining.steps:,} steps",
        "captioner": f"{config.captioner.steps:,} steps",
        "filter": f"{config.filter.steps:,} steps",
        "capfilt": f"P(match) ≥ {config.threshold}",
        "dataset": f"{sum(kept.values()):,} texts" if kept else "",
    }


def curves(run: Any, arms: tuple[str, ...]) -> dict[str, dict]:
    """Returns the metrics of the pre-trainings by arm."""
    found = {}
    for arm in arms:
        metrics = read_curves(run.path(f"pretrain-{arm}", "metrics.jsonl"))
        found[arm] = {name: metrics[name] for name in CURVES if name in metrics}
    return found


def gallery(run: Any, config: BootstrapConfig) -> list[dict]:
    """Returns images chosen at random with all their texts, scores and decisions."""
    table = storage.read(run.path("scores"), "train")
    usable = np.flatnonzero(table.where("status", "ok"))
    rng = np.random.default_rng(run.seed)
    chosen = np.sort(rng.permutation(usable)[: config.gallery_images])
    table = table.take_rows(chosen)
    p_match = reduce_filters(table, "p_match", "mean")
    rules = selection.SelectionRules(dict.fromkeys(storage.ORIGINS, config.threshold))
    decision = selection.select_texts(table, rules)
    web = run.data["web"]
    truth = labels.text_labels(web, "train", table, chosen)
    return list(gallery_entries(web, "train", table, chosen, p_match, decision, truth))
