"""Results of a comparison: the table on the terminal, results.json, table.md and report.html."""

from typing import Any

import numpy as np

from blip_jax.comparison.config import ComparisonConfig, TrainedTask
from blip_jax.reports import tables
from blip_jax.runtime.files import atomic_write, write_json

NAMES = {
    "retrieval": "retrieval",
    "captioning": "captioning",
    "vqa": "VQA",
    "nlvr": "NLVR2",
    "visdial": "VisDial",
    "video_retrieval": "video retrieval, zero-shot",
    "video_qa": "video QA",
}
COLUMNS = ("chance", "blank", "scratch", "fine-tuned")


def rows(config: ComparisonConfig, run: Any) -> list[dict[str, Any]]:
    """Returns one row for each task; with several seeds (mean, standard deviation)."""
    table = []
    for name in config.tasks:
        task = getattr(config, name)
        row: dict[str, Any] = {"task": NAMES.get(name, name), "metric": task.metric}
        for arm in COLUMNS:
            found = [run.found.get((name, arm, seed), {}) for seed in config.seeds]
            values = [metrics[task.metric] for metrics in found if task.metric in metrics]
            row[arm] = tables.spread(values) if values else None
        if isinstance(task, TrainedTask):
            row["steps"] = task.train.steps
            times = {x["name"]: x["seconds"] for x in run.task_stages[name].times()}
            minutes = [times[f"fine-tuned-seed-{seed}"] / 60 for seed in config.seeds]
            row["minutes"] = float(np.mean(minutes))
        table.append(row)
    return table


def write(config: ComparisonConfig, workdir: str, run: Any) -> list[dict[str, Any]]:
    """Prints the table, and writes it to the workdir."""
    table = rows(config, run)
    print(tables.plain(table))
    values = {f"{name}/{arm}/seed-{seed}": found for (name, arm, seed), found in run.found.items()}
    write_json(f"{workdir}/results.json", {"rows": table, "metrics": values})
    with atomic_write(f"{workdir}/table.md") as file:
        file.write(tables.markdown(table) + "\n")
    return table
