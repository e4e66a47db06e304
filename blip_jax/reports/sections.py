"""Turns `results` into the cells, pictures and charts of each section of the report.

`results` is described in page.py; the templates only lay these values out.
"""

import math
from collections.abc import Mapping, Sequence

from blip_jax.data.images import ImageError, decode
from blip_jax.data.pictures import embedded
from blip_jax.metrics import filtering
from blip_jax.reports import charts, tables

ARM_NAMES = {
    "none": "no CapFilt",
    "filter": "filter only",
    "captioner": "captioner only",
    "both": "captioner + filter",
    "random": "random subset of the same size",
    "human": "human captions only",
    "perfect": "true, full texts of all web images",
    "both_beam": "captioner + filter, beam search",
    "both_shared": "one model for both roles",
    "both_continued": "captioner + filter, training continued",
    "share_none": "no CapFilt, no layer shared",
    "share_all": "no CapFilt, all layers shared",
    "share_all_but_cross_attention": "no CapFilt, all but cross-attention shared",
    "both_three": "captioner + filter, three captions an image",
    "filter_round2": "filter only, second round",
    "both_round2": "second round",
    "both_beam_round2": "second round, beam search",
    "both_ensemble": "three captioners + filters, beam search",
    "first_half": "no CapFilt, first half of the web pairs",
    "second_half": "no CapFilt, second half of the web pairs",
    "both_beam_cross_fitted": "models of the other half of the web, beam search",
    "filter_perturbed": "strict filter only",
    "both_perturbed": "captioner + strict filter",
    "both_beam_perturbed": "captioner + strict filter, beam search",
    "both_three_perturbed": "captioner + strict filter, three captions an image",
    "both_beam_perturbed_round2": "second round, strict filter, beam search",
}


def comparison(results: Mapping) -> dict | None:
    """Returns the arms as rows of cells: text, difference to the first arm, best of its column."""
    arms = list(results.get("arms", ()))
    if not arms:
        return None
    columns = list(results.get("columns") or [c for c in tables.columns_of(arms) if c != "arm"])
    best = results.get("best", "max")
    wanted = {c: best if isinstance(best, str) else best.get(c, "max") for c in columns}
    cells = [[] for _ in arms]
    for column in columns:
        values = [arm.get(column) for arm in arms]
        means = [_mean(value) for value in values]
        finite = [mean for mean in means if math.isfinite(mean)]
        top = (min if wanted[column] == "min" else max)(finite, default=math.nan)
        texts = tables.format_column(values)
        digits = 3 if finite and max(map(abs, finite)) <= 1 else 1
        for row, text, mean in zip(cells, texts, means, strict=True):
            gain = mean - means[0]
            row.append(
                {
                    "text": text or "–",
                    "best": mean == top and len(arms) > 1,
                    "gain": f"{gain:+.{digits}f}".replace("-", "−") if math.isfinite(gain) else "",
                    "good": (gain < 0) == (wanted[column] == "min"),
                }
            )
    rows = [
        {"name": ARM_NAMES.get(arm["arm"], arm["arm"]), "cells": row, "first": i == 0}
        for i, (arm, row) in enumerate(zip(arms, cells, strict=True))
    ]
    return {"columns": columns, "rows": rows, "headline": _headline(arms, columns)}


def _headline(arms: list, columns: list) -> dict | None:
    """Returns the first column's values without and with CapFilt, if both arms were run."""
    by_name = {arm["arm"]: arm for arm in arms}
    if not columns or not {"none", "both"} <= by_name.keys():
        return None
    before, after = (_mean(by_name[name].get(columns[0])) for name in ("none", "both"))
    if not (math.isfinite(before) and math.isfinite(after)):
        return None
    texts = tables.format_column([before, after])
    return {"column": columns[0], "before": texts[0], "after": texts[1]}


def _mean(value: object) -> float:
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def picture(entry: Mapping) -> dict:
    try:
        pixels = decode(entry["image"])
    except ImageError:  # what cannot be drawn must not prevent the report of a long run
        pixels = None
    return {
        "key": entry["key"],
        **embedded(pixels),
        "texts": [_text(text) for text in entry["texts"]],
    }


def _text(text: Mapping) -> dict:
    kept, true = bool(text["kept"]), text.get("true")
    wrong = true is not None and bool(true) != kept
    mistake = "kept, but not true" if kept else "dropped, but true"
    p_match, cosine = text.get("p_match"), text.get("cosine")
    known = p_match is not None and math.isfinite(p_match)
    return {
        "origin": text["origin"],
        "text": text["text"],
        "kept": kept,
        "mistake": mistake if wrong else "",
        "tags": " ".join(
            [text["origin"], "kept" if kept else "dropped"] + (["wrong"] if wrong else [])
        ),
        "p_match": f"{p_match:.2f}" if known else "–",
        "percent": f"{100 * min(max(p_match, 0), 1):.0f}" if known else "0",
        "cosine": "" if cosine is None else f"{cosine:.2f}",
    }


def count_tags(gallery: list[dict]) -> dict[str, int]:
    """Returns the number of texts for each button of the gallery, without zeros."""
    tags = [text["tags"].split() for picture in gallery for text in picture["texts"]]
    names = ("web", "synthetic", "kept", "dropped", "wrong")
    counts = {"all": len(tags)} | {name: sum(name in t for t in tags) for name in names}
    return {name: count for name, count in counts.items() if count}


def data_table(rows: Sequence[Mapping]) -> dict:
    """Returns the headings, whether columns are numbers, and the cells of rows, all as text."""
    names = tables.columns_of(rows)
    columns = [tables.format_column([row.get(name) for row in rows]) for name in names]
    return {
        "columns": [tables.heading(name) for name in names],
        "numeric": [tables.is_numeric([row.get(name) for row in rows]) for name in names],
        "rows": [list(row) for row in zip(*columns, strict=True)],
    }


def paper_orders(rows: Sequence[Mapping]) -> dict | None:
    """Returns the table of the paper's orders and a chart for each measured column."""
    if not rows:
        return None
    drawn = []
    for column in (name for name, value in rows[0].items() if isinstance(value, tuple)):
        gaps = {f"{row['better']} – {row['worse']}": row[column] for row in rows}
        title = f"{column}: the arm that the paper has above, less the other one"
        drawn.append((title, charts.bars(gaps, title)))
    return {"table": data_table(rows), "charts": drawn}


def filter_quality(found: Mapping) -> dict | None:
    if not found:
        return None
    chosen = found.get("threshold", filtering.THRESHOLD)
    curve = _by_origin(found.get("curve"), "thresholds")
    calibration = _by_origin(found.get("calibration"), "edges")
    calibrated = _by_origin(found.get("calibrated"), "edges")
    histogram = _by_origin(found.get("histogram"), "edges")
    origins = dict.fromkeys([*curve, *calibration, *histogram])
    groups = [
        {
            "name": f"{origin} texts".capitalize() if origin else "",
            "charts": _filter_charts(
                [part.get(origin) for part in (curve, calibration, calibrated, histogram)],
                chosen.get(origin) if isinstance(chosen, Mapping) else chosen,
                origin,
            ),
        }
        for origin in origins
    ]
    rows = list(found.get("rows", ()))
    has_truth = bool(curve or calibration or rows)
    if not has_truth:  # one histogram for each origin, side by side
        groups = [{"name": "", "charts": [chart for group in groups for chart in group["charts"]]}]
    return {
        "table": data_table(rows),
        "groups": groups,
        "has_truth": has_truth,
        "calibrated": bool(calibrated),
        "threshold": _thresholds(chosen),
    }


def distributions(found: Mapping) -> dict | None:
    """Returns a chart for each histogram and its origin, and the table of languages."""
    if not found:
        return None
    drawn = []
    for name, counted in found["histograms"].items():
        parts = {key: values for key, values in counted.items() if key != "edges" and any(values)}
        for part, values in parts.items():
            unit = "images" if part == "images" else "texts"
            title = f"{part} by {name}" if part == "images" else f"{part} texts by {name}"
            histogram = {"edges": counted["edges"], unit: values}
            svg = charts.counts(histogram, found["limits"].get(name, ()), title, name)
            drawn.append({"title": title.capitalize(), "svg": svg})
    return {"charts": drawn, "languages": data_table(found["languages"])}


def _thresholds(chosen: float | Mapping[str, float | None]) -> str:
    if not isinstance(chosen, Mapping):
        return f"{chosen}"
    told = {name: "any" if value is None else f"{value}" for name, value in chosen.items()}
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return ", ".join(f"{threshold} ({origin})" for origin, threshold in told.items())


def _filter_charts(measured: list, threshold: float | None, origin: str) -> list[dict]:
    """Returns the charts of one origin; `measured`: curve, calibration, calibrated, histogram."""
    curve, calibration, calibrated, histogram = measured
    of = f" of {origin} texts" if origin else ""
    drawn = []
    if curve:
        title = "Precision, recall, kept share"
        legend = charts.legend(["precision", "recall", "kept share"])
        svg = charts.thresholds(curve, threshold, title + of)
        drawn.append({"title": title, "svg": svg, "legend": legend})
    if calibration:
        series = [calibration, calibrated] if calibrated else [calibration]
        errors = [f"{x.get('ece', math.nan):.3f}" for x in series]
        title = f"Reliability: calibration error {', calibrated '.join(errors)}"
        legend = charts.legend(["as scored", "calibrated"]) if calibrated else []
        svg = charts.reliability(series, f"{title}{of}; dots grow with the count")
        drawn.append({"title": title, "svg": svg, "legend": legend})
    if histogram and "texts" in histogram:
        title = f"{origin.capitalize()} texts by P(match)".strip()
        svg = charts.counts(histogram, [] if threshold is None else [threshold], title)
        drawn.append({"title": title, "svg": svg, "legend": []})
    elif histogram:
        title = "Scores of true texts and of noise"
        svg = charts.histogram(histogram, threshold, title + of)
        drawn.append({"title": title, "svg": svg, "legend": charts.histogram_legend()})
    return drawn


def _by_origin(value: Mapping | None, key: str) -> dict:
    """Returns {origin: measurement}; a single measurement has the origin ''."""
    if not value:
        return {}
    return {"": value} if key in value else dict(value)


def loss_curves(curves: Mapping) -> dict | None:
    if not curves:
        return None
    runs = list(curves)
    metrics = list(dict.fromkeys(metric for found in curves.values() for metric in found))
    drawn = []
    for metric in metrics:
        series = {run: curves[run][metric] for run in runs if metric in curves[run]}
        drawn.append((metric, charts.lines(series, f"{metric} by step", runs)))
    return {"legend": charts.legend([ARM_NAMES.get(run, run) for run in runs]), "charts": drawn}


def stage_times(stages) -> dict | None:
    stages = list(stages)
    if not stages:
        return None
    total = sum(stage["seconds"] for stage in stages)
    rows = [
        {
            "name": stage["name"],
            "time": duration(stage["seconds"]),
            "percent": f"{100 * stage['seconds'] / total if total else 0:.1f}",
            "note": stage.get("note", ""),
        }
        for stage in stages
    ]
    return {"rows": rows, "total": duration(total)}


def duration(seconds: float) -> str:
    """Returns seconds as '0.4 s', '1 min 08 s', '2 h 05 min'."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"
