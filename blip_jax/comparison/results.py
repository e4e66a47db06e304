"""Results of a comparison: the table on the terminal, results.json, table.md and report.html."""

from typing import Any

import numpy as np

from blip_jax.comparison.config import ComparisonConfig, TrainedTask
from blip_jax.reports import tables
from blip_jax.reports.publishing import public_command, public_values
from blip_jax.reports.tasks import write_task_report
from blip_jax.runtime.command_line import command_line
from blip_jax.runtime.config import to_json
from blip_jax.runtime.files import atomic_write, write_json
from blip_jax.train.logger import read_curves

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
    seeds = len(config.seeds)
    lead = (
        "Chance is what the texts of the training split say, without images. Models are fine-tuned "
        "from one pre-training, trained from scratch for as many steps, and fine-tuned and "
        "evaluated on blank images. "
    )
    spread = f"Mean and standard deviation over {seeds} seeds." if seeds > 1 else "One seed."
    texts = {
        "summary": "What pre-training and images contribute to each downstream task.",
        "lead": lead + spread,
        "command": public_command(command_line()),
    }
    path = write_task_report(
        f"{workdir}/report.html",
        config.title,
        texts,
        table,
        COLUMNS,
        losses(config, run),
        public_values(to_json(config)),
    )
    print(f"\nreport: {path}")
    return table


def losses(config: ComparisonConfig, run: Any) -> dict[str, dict[str, list]]:
    """Returns (step, loss) of the trainings of the first seed, by name of the task and arm."""
    found: dict[str, dict[str, list]] = {}
    for name in config.tasks:
        task = getattr(config, name)
        if isinstance(task, TrainedTask):
            curves = found.setdefault(NAMES.get(name, name), {})
            for arm in task.arms:
                path = run.path(name, f"{arm}-{config.seeds[0]}", "metrics.jsonl")
                curves[arm] = read_curves(path).get("loss", [])
    return found
