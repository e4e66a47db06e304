"""Small commands of all verbs that write, and what they wrote: for kill_verbs.py, full_disk.py."""

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import conftest  # noqa: F401, as for the tests: CPU devices, no compilation cache
import jax
import malformed_files
import numpy as np
import processes
import scored_dataset
import task_datasets
import tiny_dataset

from blip_jax.capfilt import mixture, storage
from blip_jax.checkpoints.workdir import load_state_items
from blip_jax.cli import environment
from blip_jax.data.datasets import open_dataset
from blip_jax.data.synthetic.builder import ShapesConfig, prepare
from blip_jax.data.synthetic.scenes import World

BOOTSTRAP = """
from test_bootstrap import minute_config


def get_config():
    return minute_config(arms=("none", "both"))
"""
COMPARISON = """
from blip_jax import nn
from blip_jax.cli import config_files
from blip_jax.runtime.config import replace

MODEL = nn.preset(
    "tiny",
    vit=dict(image_size=16, patch_size=8, width=16, depth=1, heads=2),
    med=dict(width=16, depth=1, heads=2, mlp_dim=32, max_length=40),
    embed_dim=8, scan_unroll=1,
)


def get_config():
    config, _ = config_files.load("shapes_tasks")
    small = {"model": MODEL, "steps": 4, "batch_size": 8, "log_every": 1, "checkpoints.every": 2,
             "optimizer.schedule.warmup_steps": 1}
    places = ("pretraining", "vqa.train")
    changes = {f"{place}.{name}": value for place in places for name, value in small.items()}
    changes |= {f"{name}.train": 24 for name in ("full_captions", "short_captions")}
    changes |= {f"vqa.dataset.{split}": 16 for split in ("train", "val", "test")}
    # Without these two losses the step compiles in a fifth of the time.
    changes |= {"pretraining.task.itc": None, "pretraining.task.itm": None}
    changes |= {"vqa.arms": ("fine-tuned", "blank"), "tasks": ("vqa",), "seeds": (0,)}
    return replace(replace(config, **changes), **{"vqa.train.model.med.sharing": "none"})
"""
# Evaluations store the results of each batch at once, and batches have few rows.
EVERY_BATCH = "from blip_jax.tasks import eval_dataset, unfinished; "
EVERY_BATCH += "unfinished.SAVE_SECONDS = 0.0; eval_dataset.ROWS_PER_DEVICE = 2"
GALLERY = ShapesConfig(
    kind="human", world=World(image_size=16), train=0, val=0, test=48, captions_per_image=2
)
# What differs from run to run: times, and what is compared by its content instead.
TIMES = re.compile(r"\.lock$|/tensorboard/|/checkpoints/|\.html$")
STATE = ("step", "params", "extra", "opt_state")


class Verb(NamedTuple):
    """A command.

    Attributes:
      name: of the verb.
      flags: after it, for an output.
      is_folder: whether the output is a folder, else a file.
      resumes: whether it can be killed and run again.
      spread: the part of a whole run's time within which kills are drawn.
      setup: Python that runs before the command.
    """

    name: str
    flags: Callable[[pathlib.Path], list[str]]
    is_folder: bool = True
    resumes: bool = True
    spread: float = 1.0
    setup: str = ""

    def is_closed(self, out: pathlib.Path) -> bool:
        """Whether the output is complete, and refused by the same command from then on."""
        if self.is_folder:
            return out.exists() and self.name in ("export", "convert")
        return out.exists() and not pathlib.Path(f"{out}.unfinished").exists()

    def lock(self, out: pathlib.Path) -> pathlib.Path:
        """The lock file while the verb writes to `out`."""
        if self.name == "export":
            return pathlib.Path(f"{out}.unfinished") / ".lock"
        return out / ".lock" if self.is_folder else pathlib.Path(f"{out}.lock")

    def start(self, out: pathlib.Path, log: pathlib.Path, run_by=()) -> subprocess.Popen:
        """Starts a process that prints to `log`, by the command `run_by` if one is given."""
        # Configs may import what is beside this file.
        code = f"import sys; sys.path.append({str(processes.HERE)!r}); {self.setup or 'pass'}; "
        code += "from blip_jax.cli.main import main; "
        argv = [*run_by, sys.executable, "-c", code + "sys.exit(main())", self.name]
        with log.open("w") as printed:
            return subprocess.Popen(
                [*argv, *self.flags(out)],
                env=processes.environment(1),
                stdout=printed,
                stderr=printed,
            )


def verbs(folder: pathlib.Path, records: int = 400) -> dict[str, Verb]:
    """Makes what the verbs read in `folder`, and returns them by name."""
    environment.silence_libraries()
    environment.disable_tfds_progress()
    malformed_files.write_shards(folder / "tars", 8, records // 8)
    scored = scored_dataset.build(folder / "scored")
    (folder / "bootstrap.py").write_text(BOOTSTRAP)
    (folder / "compare.py").write_text(COMPARISON)
    gallery = prepare(str(folder / "gallery"), GALLERY)
    training = processes.build(folder / "train")
    world = tiny_dataset.build(folder / "world")
    models = {
        kind: tiny_dataset.save(
            tiny_dataset.trained(world, 1, tiny_dataset.PROMPT, kind), f"{folder}/{kind}"
        )
        for kind in ("captioner", "retrieval", "vqa")
    }
    (folder / "images").mkdir()
    for number in range(records // 10):
        (folder / "images" / f"{number:04d}.jpg").write_bytes(malformed_files.jpeg(number))
    table = storage.read(scored.scores, "train")
    kept = mixture.select_by_threshold(table, storage.ORIGINS, 0.5)
    source = mixture.ScoredDataset(scored.images, "train", scored.scores)
    mixture.write_mixture(str(folder / "mixture.json"), None, source, table, kept, 0.0)

    def of_images(name: str, model: str, *flags: str) -> Verb:
        common = [f"{folder}/images", "--batch-size=4", f"--model={models[model]}", *flags]
        return Verb(name, lambda out: [*common, f"--out={out}"], is_folder=False)

    def of_config(name: str, *flags: str, **values) -> Verb:
        return Verb(name, lambda out: [f"--workdir={out}", *flags], **values)

    found = [
        of_config("prepare", f"--config.source={folder}/tars/*.tar"),
        of_config(
            "capfilt", f"--config.captioners={models['captioner']}",
            f"--config.filters={models['retrieval']}", f"--config.dataset={world.web}",
            "--config.decoding.max_length=12", "--config.batch_size=2", "--config.shard_rows=4",
            resumes=False,
        ),
        of_config(
            "assemble", f"--config.scores={scored.scores}", f"--config.dataset={scored.images}"
        ),
        of_config("train", f"--config={training}/pretraining.py", spread=0.5),
        of_config(
            "evaluate", "--config=evaluate", f"--config.model={models['captioner']}",
            f"--config.dataset={world.human}", setup=EVERY_BATCH,
        ),
        of_images("caption", "captioner", "--top-p=0.9"),
        of_images("match", "retrieval", "--text=a red dog", "--text=a cat"),
        of_images("answer", "vqa", "--question=what is it?"),
        Verb("export", lambda out: [f"{folder}/mixture.json", str(out), "--to=webdataset",
                                    "--shard=20"]),
        Verb("convert", lambda out: [models["captioner"], str(out), "--to=hf"], resumes=False),
        of_config("bootstrap", f"--config={folder}/bootstrap.py", spread=0.25),
        of_config("compare", f"--config={folder}/compare.py", spread=0.4),
    ]  # fmt: skip
    reranking = of_config(
        "evaluate", "--config=evaluate:retrieval", f"--config.model={models['retrieval']}",
        f"--config.dataset={gallery}", "--config.task.rerank_k=24",
        "--config.task.rerank_memory_gib=1e-9", setup=EVERY_BATCH,
    )  # fmt: skip
    answers = of_config(
        "evaluate", "--config=evaluate:vqa", f"--config.model={models['vqa']}",
        f"--config.dataset={task_datasets.questions(world.folder)}", "--config.split=train",
        setup=EVERY_BATCH,
    )  # fmt: skip
    known = {verb.name: verb for verb in found}
    return known | {"evaluate-reranking": reranking, "evaluate-answers": answers}


def content(out: pathlib.Path) -> dict[str, object]:
    """What a run has written, by name: bytes, or values without the times in them."""
    if out.is_file():
        return {"": out.read_bytes()}
    return dict(_content(out))


def _content(out: pathlib.Path) -> Iterator[tuple[str, object]]:
    for path in sorted(out.rglob("*")):
        name = f"/{path.relative_to(out)}"
        if path.is_file() and not TIMES.search(name):
            is_shapes = path.name.startswith("shapes-")
            yield name, _records(path) if is_shapes else _without_times(path, out)
    for path in sorted(out.rglob("checkpoints")):
        state, _ = load_state_items(str(path.parent), STATE)
        yield str(path.relative_to(out)), [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]


def _records(path: pathlib.Path) -> list[str]:
    """The records of a Shapes dataset: TFDS writes their fields in another order each time."""
    split = path.name.split("-")[1].split(".")[0]
    return [str(sorted(record.items())) for record in open_dataset(str(path.parent), split)]


def _without_times(path: pathlib.Path, out: pathlib.Path) -> object:
    text = path.read_bytes().replace(str(out).encode(), b"OUT")
    if path.name != "metrics.jsonl":
        text = re.sub(rb"(\d+ files, )?\d+ bytes, sha256 \w+", b"", text)  # of Shapes datasets
        text = re.sub(rb'"owner": "[^"]+"', b"", text)  # the process that scored a shard
        if path.parent.name == "stages":  # of a result with paths in it
            text = re.sub(rb'"digest": "\w+"', b"", text)
        if path.name == "table.md":  # whose last column are minutes
            text = re.sub(rb"\|[^|]*\|$", b"", text, flags=re.MULTILINE)
        return re.sub(rb'"(\w*seconds\w*|minutes)": [0-9.e-]+', b"", text)
    lines = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if "/s" not in k and k != "mfu"} for line in lines]


def different(found: dict[str, object], wanted: dict[str, object]) -> list[str]:
    """The names of what differs or is missing."""
    return sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
