"""What a bootstrap run found, as a table and as a page."""

import json
import math
import sys
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from blip_jax.capfilt import filter_quality, gallery_entries, labels, mixture, selection, storage
from blip_jax.reports import tables
from blip_jax.reports.page import write_report
from blip_jax.runtime.command_line import command_line
from blip_jax.train.logger import read_metrics

# Column of the comparison: value of `evaluate.evaluate`.
COLUMNS = {
    "ITC R@1": "itc r@1",
    "ITM R@1": "itm r@1",
    "CIDEr": "cider",
    "BLEU-4": "bleu4",
    "true %": "true",
    "complete %": "complete",
    "right %": "right",
}
CURVES = ("loss", "itc", "itm", "lm", "itm_accuracy", "positive_similarity", "negative_similarity")


def judge_scores(folder: str, dataset: str, threshold: float) -> dict[str, Any]:
    """Measures the filter on the training texts, where the truth about them is known.

    Returns: 'threshold', 'rows' (a dict an origin), and 'curve', 'calibration', 'histogram' by
      origin; {} where the dataset knows no truth.
    """
    columns = storage.read(folder, "train")
    for reason, count in storage.skipped(columns).items():
        print(f"set aside: {count}, {reason}", file=sys.stderr)
    found = labels.of_texts(dataset, "train", columns)
    if (found == labels.UNKNOWN).all():
        return {}
    p_match = selection.judged(columns, "p_match", "mean")
    kept = mixture.keep(columns, storage.ORIGINS, threshold)
    return {"threshold": threshold, **filter_quality.measure(columns, p_match, kept, found)}


def rows(config: ConfigDict, circles: list) -> list[dict]:
    """The comparison, an arm a row; with several seeds (mean, standard deviation)."""
    table = []
    for arm in config.arms:
        row: dict[str, Any] = {"arm": arm}
        for column, name in COLUMNS.items():
            values = [circle.found[arm][name] for circle in circles if name in circle.found[arm]]
            if values:
                row[column] = _spread(values)
        for origin in storage.ORIGINS:
            row[f"{origin} texts"] = round(np.mean([c.kept[arm][origin] for c in circles]))
        table.append(row)
    return table


def _spread(values: list[float]) -> float | tuple[float, float]:
    if len(values) == 1:
        return values[0]
    return float(np.mean(values)), float(np.std(values, ddof=1))


def write(config: ConfigDict, workdir: str, circles: list) -> list[dict]:
    """Prints the tables, writes `results.json` and `report.html` under `workdir`."""
    table, first = rows(config, circles), circles[0]
    measured = [circle.stages.result("capfilt") for circle in circles]
    quality = _average_rows(measured)
    columns = [name for name in COLUMNS if name in table[0]]
    print(tables.plain(table))
    if quality:
        print("\nThe filter on the training texts, against the truth:\n")
        print(tables.plain(quality))
    with open(f"{workdir}/results.json", "w") as file:
        json.dump(_strict({"arms": table, "filter": quality}), file, indent=1)
    summary = (
        f"Each arm is trained from scratch for {config.pretrain.steps:,} steps and evaluated as "
        f"it is on {config.evaluation.split} images that no training has seen; human pairs are "
        f"{config.human_share:.0%} of every batch in each arm that has web texts."
    )
    path = write_report(
        f"{workdir}/report.html",
        {
            "title": config.title,
            "summary": summary,
            "command": command_line(),
            "circle": _circle_notes(config, first),
            "columns": columns,
            "best": "max",
            "arms": table,
            "gallery": gallery(first, config),
            "filter": {**measured[0], "rows": quality} if quality else {},
            "curves": curves(first, config.arms),
            "stages": first.stages.times(),
            "config": json.loads(config.to_json_best_effort()),
        },
    )
    print(f"\nreport: {path}")
    return table


def _strict(value: Any) -> Any:
    """With None for what is not a number, which JSON has no word for."""
    if isinstance(value, dict):
        return {name: _strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _average_rows(measured: list[dict]) -> list[dict]:
    """The filter's rows over the seeds: mean, and spread where there are several."""
    found = []
    for same in zip(*(m.get("rows", []) for m in measured), strict=True):
        numbers = {
            name: _spread([row[name] for row in same]) for name in same[0] if name != "texts"
        }
        numbers["count"] = same[0]["count"]
        found.append({"texts": same[0]["texts"], **numbers})
    return found


def _circle_notes(config: ConfigDict, circle: Any) -> dict[str, str]:
    kept = circle.kept.get("both")
    return {
        "pretrain": f"{config.pretrain.steps:,} steps",
        "captioner": f"{config.captioner.steps:,} steps",
        "filter": f"{config.filter.steps:,} steps",
        "capfilt": f"P(match) ≥ {config.threshold}",
        "dataset": f"{sum(kept.values()):,} texts" if kept else "",
    }


def curves(circle: Any, arms: tuple[str, ...]) -> dict[str, dict]:
    """The metrics of the pre-trainings, by arm."""
    found = {}
    for arm in arms:
        metrics = read_metrics(circle.path(f"pretrain-{arm}", "metrics.jsonl"))
        found[arm] = {name: metrics[name] for name in CURVES if name in metrics}
    return found


def gallery(circle: Any, config: ConfigDict) -> list[dict]:
    """Images by lot with all their texts, scores, and what became of them."""
    columns = storage.read(circle.path("scores"), "train")
    usable = np.flatnonzero(columns.where("status", "ok"))
    rng = np.random.default_rng(circle.seed)
    chosen = np.sort(rng.permutation(usable)[: config.gallery])
    p_match = selection.judged(columns, "p_match", "mean")
    chosen_by = selection.Rules(dict.fromkeys(storage.ORIGINS, config.threshold))
    verdict = selection.decide(columns, chosen_by)
    web = circle.data["web"]
    found = labels.of_texts(web, "train", columns, chosen)
    return list(gallery_entries.of_rows(web, "train", columns, chosen, p_match, verdict, found))
