"""The verb `assemble`: selects texts by stored scores and writes mixture, statistics and card."""

import dataclasses
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from blip_jax.capfilt import (
    assembly_units,
    croissant,
    dataset_card,
    labels,
    mixture,
    provenance,
    statistics,
    text_measures,
)
from blip_jax.capfilt.config import AssembleConfig
from blip_jax.capfilt.configured_rules import calibration, selection_rules
from blip_jax.capfilt.counts import Scored
from blip_jax.capfilt.dataset_parts import Parts
from blip_jax.capfilt.gallery_entries import gallery_entries
from blip_jax.capfilt.score_reader import read_rows
from blip_jax.data.datasets import FEATURES, open_dataset
from blip_jax.data.mixture import Component
from blip_jax.models import Table
from blip_jax.models.notebook import MAX_ROWS
from blip_jax.reports import tables
from blip_jax.reports.gallery import write_gallery
from blip_jax.reports.publishing import public_command, public_path, public_values
from blip_jax.runtime.config import check_required, to_json, write_config
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write, write_json
from blip_jax.runtime.fingerprint import check_fingerprint, check_verb, path_digest
from blip_jax.runtime.lock import folder_lock
from blip_jax.runtime.terminal import printable
from blip_jax.runtime.work_units import Engine
from blip_jax.runtime.worker_pool import num_workers


@dataclasses.dataclass(frozen=True)
class Assembled:
    """What the selection found.

    Attributes:
      source: the images and their scores.
      images: their number.
      statistics: the content of statistics.json, without where it comes from.
      texts: those that are kept, by weight.
      sample: of the images.
    """

    source: mixture.ScoredDataset
    images: int
    statistics: dict[str, Any]
    texts: list[mixture.SelectedTexts]
    sample: statistics.Sample


def run(config: AssembleConfig, workdir: str) -> None:
    """Writes into `workdir`: the mixture with its lists, statistics, card, Croissant, report.

    Raises:
      UserError: a field that must be given is empty, names nothing, or is out of range.
    """
    source = _scored_images(config)
    if config.human_dataset:
        open_dataset(config.human_dataset, "train")
    with folder_lock(workdir, "assemble"):
        check_verb(workdir, "assemble")
        parts = Parts.of(source, workdir)
        _write(config, workdir, assemble(config, parts))
        parts.remove()


def gallery(config: AssembleConfig) -> Table:
    """Returns a table of some images, all their texts, and which are kept: for notebooks.

    They are a random sample of at most `config.gallery_images`, and no more than a table shows.

    Raises:
      UserError: as `run`.
    """
    source = _scored_images(config)
    with tempfile.TemporaryDirectory() as folder:
        found = assemble(config, Parts.of(source, folder))
    entries = list(_shown(config, found, min(config.gallery_images, MAX_ROWS))[1])
    texts = [entry["texts"] for entry in entries]
    headings = {"origin": "origin", "text": "text", "p_match": "P(match)", "decision": "decision"}
    return Table(
        {title: [[x[name] for x in row] for row in texts] for name, title in headings.items()},
        [entry["image"] for entry in entries],
        [[not x["kept"] for x in row] for row in texts],
    )


def _scored_images(config: AssembleConfig) -> mixture.ScoredDataset:
    """Returns the scores with the dataset and the split that they are about."""
    check_required(config)
    origin = provenance.read(config.scores)
    dataset = config.dataset or origin.get("dataset", "")
    if not (epath.Path(config.scores) / FEATURES).exists():
        inner = epath.Path(config.scores) / "scores"
        if (inner / FEATURES).exists():
            raise UserError(f"config.scores {config.scores} has no scores; did you mean {inner}?")
        if origin:
            raise UserError(
                f"config.scores {config.scores} is not complete; rerun its blip-jax capfilt first"
            )
    if not dataset:
        raise UserError(
            f"{config.scores} does not say what images it is about; give their folder with "
            "--config.dataset=FOLDER"
        )
    split = config.split or origin.get("split", "train")
    return mixture.ScoredDataset(dataset, split, config.scores)


def _shown(config: AssembleConfig, found: Assembled, most: int) -> tuple[int, Iterator[dict]]:
    """Returns the number of images in a random choice of the sample, and `gallery_entries`."""
    sample = found.sample
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(len(sample.rows))[:most])
    own = np.isin(sample.scored.table.row, chosen)
    entries = gallery_entries(
        found.source.dataset,
        found.source.split,
        sample.scored.table.take_rows(chosen),
        sample.rows[chosen],
        sample.scored.p_match[own],
        sample.scored.decision[own],
        sample.truth[own],
        sample.scored.rules.decisions,
    )
    return len(chosen), entries


def _write(config: AssembleConfig, workdir: str, assembled: Assembled) -> None:
    folder, source = epath.Path(workdir), assembled.source
    if not config.human_dataset and not assembled.texts:
        raise UserError(f"the rules keep no text: {_dropped(assembled.statistics)}")
    values = {"config": to_json(config)}
    values |= {"scores": path_digest(config.scores), "dataset": path_digest(source.dataset)}
    check_fingerprint(folder, "assemble", values, begun=False)
    origin = provenance.read(config.scores)
    prepared = provenance.manifest(source.dataset)
    write_config(folder, config)
    human = Component(name="human", dataset=config.human_dataset) if config.human_dataset else None
    path = str(folder / "mixture.json")
    mixture.write_selected(path, human, source, assembled.texts, config.human_fraction)
    found = dict(assembled.statistics)
    if "records_read" in prepared:
        found["prepared"] = {name: prepared[name] for name in ("records_read", "rows", "skipped")}
    commands = [public_command(x) for x in provenance.commands(source.dataset, prepared, origin)]
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
        print(f"\nreport: {report(config, workdir, assembled, found)}")
    print(f"mixture to train on: {folder / 'mixture.json'}")


def _dropped(statistics: dict[str, Any]) -> str:
    """Returns how many texts were dropped for which reason, the most frequent first."""
    counts = Counter(
        {
            row["decision"]: sum(value for name, value in row.items() if name != "decision")
            for row in statistics["decisions"]
        }
    )
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common() if count)


def assemble(config: AssembleConfig, parts: Parts) -> Assembled:
    """Returns the selection from a scored dataset; its `texts` are in the folder of the parts."""
    source = parts.source
    engine = Engine(num_workers(config.workers), config.beam)
    rules = selection_rules(config)
    parts.check_rules(rules)
    if config.identify_languages or rules.languages:
        text_measures.check_languages(rules.languages)
    rows = labels.sampled_rows(parts.images)
    table = read_rows(source.scores, source.split, rows.tolist())
    truth = labels.text_labels(source.dataset, source.split, table, rows)
    if config.selection.calibration:
        fits = calibration(config, rules, table, truth)
        rules = dataclasses.replace(rules, calibration=fits)
    others = [
        dataclasses.replace(rules, thresholds=dict.fromkeys(rules.thresholds, threshold))
        for threshold in config.threshold_sweep
    ]
    measured = assembly_units.measure_parts(parts, [rules, *others], engine)
    found = assembly_units.select_parts(
        parts, [rules, *others], measured, config.identify_languages, engine
    )
    scored = Scored(table, rules, found.sample_decision)
    sample = statistics.Sample(rows, scored, truth, found.sample_swept)
    counted = statistics.summarize(found.counts, measured.extra_ranges, sample)
    if others:
        counted["sweep"] = statistics.sweep(config.threshold_sweep, found.swept, sample)
    return Assembled(source, parts.images, counted, found.texts, sample)


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
    config: AssembleConfig, workdir: str, assembled: Assembled, found: Mapping[str, Any]
) -> str:
    """Writes the gallery of a sample of the images and returns the path of its page."""
    count, shown = _shown(config, assembled, config.gallery_images)
    measured = found.get("truth") or {"histogram": _by_origin(found["scores"]["p_match"])}
    texts, kept = (sum(row[name] for row in found["texts"]) for name in ("count", "kept"))
    summary = (
        f"{count:,} of {assembled.images:,} images of {public_path(assembled.source.dataset)}, "
        f"with all their texts. Of all {texts:,} texts, {kept:,} are kept."
    )
    rules = assembled.sample.scored.rules
    results = {
        "title": config.title,
        "summary": summary,
        "command": (found["commands"] or [""])[-1],
        "filter": {**measured, "threshold": dict(rules.thresholds)},
        "decisions": rules.decisions,
        "distributions": statistics.distributions_of(found, rules),
    }
    folder = str(epath.Path(workdir) / "report")
    return write_gallery(folder, results, shown, count, progress=True)


def _by_origin(counts: Mapping) -> dict[str, dict]:
    return {
        name: {"edges": counts["edges"], "texts": counts[name]}
        for name in counts
        if name != "edges" and any(counts[name])
    }
