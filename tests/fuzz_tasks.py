"""Valid small files of benchmarks, predictions, clips and comparisons, and what reads each.

For fuzz.py, with the formats of fuzz_formats.py. What is read is used as its tasks use it.
"""

import contextlib
import io
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator

import benchmark_folders
import numpy as np
import task_datasets
import tiny_dataset
import video_files
from etils import epath
from fuzz_formats import Format

from blip_jax import tasks
from blip_jax.checkpoints import training_data
from blip_jax.cli import environment
from blip_jax.comparison import ComparisonConfig, compare
from blip_jax.comparison.config import TrainedTask
from blip_jax.data import ingest
from blip_jax.data.fields import dialog_caption, questions_of, rounds_of, statements_of
from blip_jax.data.image_digests import image_digests
from blip_jax.data.ingest import IngestConfig
from blip_jax.data.synthetic.builder import prepare
from blip_jax.data.video import frames
from blip_jax.runtime.config import replace, to_json
from blip_jax.runtime.stages import Stages
from blip_jax.tasks.contamination import check_contamination
from blip_jax.tasks.evaluate import EvaluateConfig, evaluate, read_records
from blip_jax.tasks.unfinished import StoredResults

# Files of benchmarks: the benchmark, the split, the function that makes its folder if it is not the
# usual one, and the file.
BENCHMARK_FILES = {
    "coco karpathy": ("coco", "train", None, "dataset_coco.json"),
    "coco captions": ("coco", "val2014", benchmark_folders.coco_official,
                      "annotations/captions_val2014.json"),
    "flickr30k": ("flickr30k", "test", None, "karpathy/dataset_flickr30k.json"),
    "nocaps": ("nocaps", "val", None, "nocaps_val_4500_captions.json"),
    "vqa questions": ("vqa_v2", "val", None, "v2_OpenEnded_mscoco_val2014_questions.json"),
    "vqa annotations": ("vqa_v2", "val", None, "v2_mscoco_val2014_annotations.json"),
    "nlvr2": ("nlvr2", "train", None, "data/train.json"),
    "visdial": ("visdial", "val", None, "visdial_1.0_val.json"),
    "visdial relevance": ("visdial", "val", None, "visdial_1.0_val_dense_annotations.json"),
    "genome images": ("visual_genome", "train", None, "image_data.json"),
    "genome regions": ("visual_genome", "train", None, "region_descriptions.json"),
    "genome questions": ("visual_genome_vqa", "train", None, "question_answers.json"),
    "msrvtt": ("msrvtt", "train", None, "train_val_videodatainfo.json"),
    "msrvtt 1k-a csv": ("msrvtt", "test_1k_a", benchmark_folders.msrvtt_1k_a,
                        "annotation/MSRVTT_JSFUSION_test.csv"),
    "msrvtt questions": ("msrvtt_qa", "test", None, "test_qa.json"),
    "msvd questions": ("msvd_qa", "test", None, "test_qa.json"),
    "msvd mapping": ("msvd_qa", "test", None, "youtube_mapping.txt"),
}  # fmt: skip
VIDEOS = {"mp4": {"group": 4, "rotation": 90}, "avi": {"format": "avi", "codec": "mpeg4"},
          "mkv": {"format": "matroska", "audio": True}}  # fmt: skip


def formats(root: pathlib.Path) -> dict[str, Format]:
    """Writes a valid file of each format below a folder, and returns them by name."""
    environment.silence_libraries()
    environment.disable_tfds_progress()
    root.mkdir(parents=True)
    found = {name: _benchmark(root / name, *file) for name, file in BENCHMARK_FILES.items()}
    for name, options in VIDEOS.items():
        path = root / f"clip.{name}"
        path.write_bytes(video_files.make(12, **options))
        found[name] = Format(path, lambda path: frames(path.read_bytes(), 4, 32))
    found |= dict(_predictions(root / "predictions"))
    found["trained_on"] = _trained_on(root / "trained")
    found |= _comparison(root / "compare")
    stored = StoredResults(epath.Path(root / "unfinished.npz"), "a" * 64, 50)
    stored.add(np.arange(30), [np.linspace(-1, 1, 30, dtype=np.float32), np.ones((30, 4), int)])
    stored.save(now=True)
    found["unfinished"] = Format(root / "unfinished.npz", _stored_results)
    return found


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _benchmark(
    folder: pathlib.Path, name: str, split: str, make: Callable | None, file: str
) -> Format:
    (make or benchmark_folders.FOLDERS[name][0])(folder)
    config = IngestConfig(source=str(folder), benchmark=name, split=split, workers=1)

    def read(path: pathlib.Path) -> None:
        with tempfile.TemporaryDirectory() as out, silence():
            ingest.run(config, f"{out}/dataset")
            for record in read_records(f"{out}/dataset", config.output_split):
                questions_of(record), statements_of(record), rounds_of(record)
                dialog_caption(record)

    is_json = not file.endswith((".csv", ".txt"))
    return Format(folder / file, read, is_json=is_json, lines=name == "nlvr2")


def _predictions(folder: pathlib.Path) -> Iterator[tuple[str, Format]]:
    """Yields the predictions of each task, as `evaluate --config.predictions` scores them."""
    folder.mkdir()
    ranks = {f"hit@{k}": 1.0 for k in (1, 5, 10)} | {"rank": 1.0, "top": ["a#0"], "scores": [0.5]}
    human = prepare(str(folder), tiny_dataset.HUMAN)
    keys = [record["key"] for record in read_records(human, "test")]
    asked = task_datasets.questions(folder)
    pairs, dialogs = task_datasets.pairs(folder), task_datasets.dialogs(folder)
    both = ("i2t", "t2i")
    known = {
        "captions": (tasks.CaptioningConfig(), human, "test",
                     [{"key": key, "caption": "a red square"} for key in keys]),
        "rankings": (tasks.RetrievalConfig(), human, "test",
                     [{"key": key, "direction": direction, "gallery": 0, "itc": ranks}
                      for key in keys[:3] for direction in both]),
        "answers": (tasks.VqaConfig(), asked, "train",
                    [{"key": f"{row}-{n}", "answer": "2"} for row in range(3) for n in range(2)]),
        "judgements": (tasks.NlvrConfig(), pairs, "train",
                       [{"key": f"{row}-{n}", "answer": True} for row in range(3)
                        for n in range(2)]),
        "dialog scores": (tasks.VisdialConfig(), dialogs, "train",
                          [{"key": f"{row}#{n}", "scores": [0.5, 0.25, 0.0, -1.0]}
                           for row in range(3) for n in (1, 2)]),
    }  # fmt: skip
    for name, (task, dataset, split, lines) in known.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        config = EvaluateConfig(dataset=dataset, split=split, task=task)

        def read(path: pathlib.Path, config: EvaluateConfig = config) -> None:
            with tempfile.TemporaryDirectory() as out, silence():
                evaluate(replace(config, predictions=str(path)), f"{out}/run")

        yield name, Format(path, read, is_json=True, lines=True)


def _trained_on(folder: pathlib.Path) -> Format:
    """What a model was trained on, as an evaluation compares it with its images."""
    dataset = prepare(str(folder), tiny_dataset.HUMAN)
    digests = image_digests(dataset, "train")
    entries = [
        training_data.TrainingDataset(dataset, "train", "", len(digests), digests, complete=True),
        training_data.TrainingDataset("data/web", "train[:50%]", "ab" * 32, 3),
    ]
    training_data.write(folder, entries)

    def read(path: pathlib.Path) -> None:
        found = training_data.read(path.parent)
        with silence():
            check_contamination(found, dataset, "test", allow=True)
        training_data.to_json(training_data.merge(found, found), public=True)

    return Format(folder / training_data.FILE, read, is_json=True)


def _comparison(folder: pathlib.Path) -> dict[str, Format]:
    """The files of a comparison whose stages are done, from which its results are written."""
    task = TrainedTask(metric="accuracy", arms=("fine-tuned",))
    config = replace(ComparisonConfig(), seeds=(0, 1), tasks=("vqa",), vqa=task)
    settings = to_json(config)
    names = ("pretrained", "vocab_size", "full_captions", "short_captions", "pretraining")
    own = Stages(str(folder), "compare", {name: settings[name] for name in names}, {})
    of_task = Stages(str(folder / "vqa"), "compare", settings["vqa"], {})
    for stage in ("tokenizer", "pretrain"):
        with silence():
            own.run_stage(stage, lambda: None)
    for seed in config.seeds:
        for arm in ("fine-tuned", "chance"):
            with silence():
                of_task.run_stage(f"{arm}-seed-{seed}", lambda: {"accuracy": 50.0, "n": 8.0})
    run = folder / "vqa" / "fine-tuned-0"
    run.mkdir()
    lines = [{"step": step, "loss": 2.0 / step, "lr": 1e-3} for step in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def read(path: pathlib.Path) -> None:
        with silence():
            compare(config, str(folder))

    stages = folder / "vqa" / "stages"
    return {
        "stage": Format(stages / "fine-tuned-seed-0.json", read, is_json=True),
        "stage of chance": Format(stages / "chance-seed-1.json", read, is_json=True),
        "metrics": Format(run / "metrics.jsonl", read, is_json=True, lines=True),
    }


def _stored_results(path: pathlib.Path) -> None:
    stored = StoredResults(epath.Path(path), "a" * 64, 50)
    if not stored.done.any():  # all is computed again
        return
    assert stored.done.tolist() == [True] * 30 + [False] * 20
    scores, tokens = stored.arrays
    wanted = np.linspace(-1, 1, 30, dtype=np.float32)
    assert np.array_equal(scores[:30], wanted), "damaged results were used"
    assert tokens.shape == (50, 4) and np.all(tokens[:30] == 1), "damaged results were used"
