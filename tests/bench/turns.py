"""The speed of this checkout beside another one's, with processes of both that take turns.

    python tests/bench/turns.py OTHER [step] [caption-beam] [caption-nucleus] [prepare] [capfilt]
        [--turns 40]

OTHER is a checkout of the repository, such as a worktree of an older commit. A machine that other
work shares is now fast and now slow; work that is done in turns is slowed alike. For each piece of
work it prints the median over the turns of the ratio of the wall times, this checkout's by OTHER's,
and its quartiles; and those of the CPU times of the process.
"""

import argparse
import contextlib
import functools
import io
import os
import pathlib
import statistics
import sys
import tempfile

from turn_taking import Worker, ratios, serve, take_turns

HERE = pathlib.Path(__file__).resolve()
ROOT = HERE.parents[2]
VIT = {"image_size": 64, "patch_size": 8, "width": 128, "depth": 4, "heads": 4, "drop_path": 0.1}
MED = {"width": 128, "depth": 4, "heads": 4, "mlp_dim": 512, "max_length": 24, "dropout": 0.1}
WORKS = ("step", "caption-beam", "caption-nucleus", "prepare", "capfilt")
SHARDS, RECORDS = 4, 150  # of the tars that are imported, and of each
WARMUP = 3  # turns that are not counted


def model_config():
    from blip_jax import nn

    return nn.preset("tiny", vit=VIT, med=MED, embed_dim=64)


def step(world: pathlib.Path):
    """A training step on 32 pairs."""
    import jax

    from blip_jax.runtime.config import replace
    from blip_jax.train import recipes
    from blip_jax.train.mesh import put_batch
    from blip_jax.train.setup import TrainSetup

    run = replace(
        recipes.pretraining(),
        model=model_config(), tokenizer=f"{world}/tokenizer", batch_size=32,
        **{"data.mixture": f"{world}/mixture.json", "task.max_length": 16,
           "task.itc.queue_size": 256, "task.itm.group_size": 16},
    )  # fmt: skip
    setup = TrainSetup(run)
    state, batch = setup.init_state(), dict(next(setup.batches(0)))
    batch = {name: value for name, value in batch.items() if name != "skip_reason"}
    batch, key = put_batch(batch, setup.mesh, 32), jax.random.key(0)

    def work():
        nonlocal state
        state, _ = setup.functions.step(state, batch, key)
        jax.block_until_ready(state)

    return work


def load_model(world: pathlib.Path, model_type: str):
    """A model with random weights."""
    import tiny

    from blip_jax.data.tokenizer import Tokenizer
    from blip_jax.models import Model
    from blip_jax.runtime.config import replace

    tokenizer = Tokenizer.load(f"{world}/tokenizer")
    config = replace(model_config(), **{"med.vocab_size": tokenizer.ids.vocab_size})
    params = tiny.init(config, 0, model_type)
    return Model(params, config, tokenizer, model_type=model_type, prompt="", max_length=20)


def dataset_folder(world: pathlib.Path) -> str:
    (features,) = world.glob("shapes/*/*/features.json")
    return str(features.parent)


def caption(world: pathlib.Path, **options):
    """The captions of 64 images, decoded from bytes."""
    from blip_jax.data.datasets import open_dataset

    model, records = load_model(world, "captioner"), open_dataset(dataset_folder(world), "train")
    images = [bytes(records[row % len(records)]["image"]) for row in range(64)]
    return lambda: model.caption(images, **options)


def prepare(world: pathlib.Path):
    """The import of small pictures in tars, by one process."""
    from blip_jax.data import ingest

    config = ingest.IngestConfig(source=f"{world}/tars/*.tar", workers=1)
    return lambda: in_new_folder(lambda folder: ingest.run(config, folder))


def capfilt(world: pathlib.Path):
    """A caption and two scored texts for each of 24 images, in three shards."""
    from blip_jax.capfilt.config import ScoringConfig
    from blip_jax.capfilt.run import run
    from blip_jax.decoding import Decoding

    captioner, scorer = (load_model(world, x) for x in ("captioner", "retrieval"))
    dataset, decodings = dataset_folder(world), (Decoding(max_length=20),)

    def work(folder: str) -> None:
        settings = ScoringConfig(dataset, "train", folder, decodings, batch_size=8, shard_rows=8)
        run(settings, {"captioner": ("captioner", captioner)}, {"filter": ("filter", scorer)})

    return lambda: in_new_folder(work)


def in_new_folder(work) -> None:
    """Calls `work` with a folder that is removed; what it prints is not shown."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        work(f"{folder}/out")


def worker(name: str, world: pathlib.Path) -> None:
    """Does the work once for each line on stdin."""
    works = {
        "step": step, "prepare": prepare, "capfilt": capfilt,
        "caption-beam": functools.partial(caption, num_beams=3),
        "caption-nucleus": functools.partial(caption, top_p=0.9, seed=0),
    }  # fmt: skip
    serve(lambda: (works[name](world), None))


def compare(name: str, other: pathlib.Path, world: pathlib.Path, turns: int) -> None:
    workers = []
    for root in (ROOT, other):
        path = {"PYTHONPATH": f"{root}{os.pathsep}{ROOT / 'tests'}"}
        argv = [sys.executable, HERE, root, name, "--world", world]
        workers.append(Worker(argv, path, cwd=root))
    ours, theirs = take_turns(workers, turns, WARMUP)
    for each in workers:
        each.end()
    for kind in ("wall", "cpu"):
        seconds = [[getattr(turn, kind) for turn in side] for side in (ours, theirs)]
        low, middle, high = ratios(*seconds)
        print(
            f"{name}: {statistics.median(seconds[0]):.3f} {kind} seconds, {middle:.3f} of the "
            f"other's (quartiles {low:.3f} and {high:.3f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=pathlib.Path)
    parser.add_argument("works", nargs="*", help=f"of {', '.join(WORKS)}")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--world", type=pathlib.Path, help="of a worker; not for use by hand")
    args = parser.parse_args()
    if args.world:
        return worker(args.works[0], args.world)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import malformed_files
    import processes

    from blip_jax.cli import environment

    environment.disable_tfds_progress()
    with tempfile.TemporaryDirectory() as folder:
        world = processes.build(folder)
        malformed_files.write_shards(world / "tars", SHARDS, RECORDS)
        for name in args.works or WORKS:
            compare(name, args.other.resolve(), world, args.turns)


if __name__ == "__main__":
    main()
