"""The speed of this checkout beside another one's, with processes of both that take turns.

    python tests/bench/turns.py OTHER [step] [caption-beam] [caption-nucleus] [--turns 40]

OTHER is a checkout of the repository, such as a worktree of an older commit. A machine that other
work shares is now fast and now slow; work that is done in turns is slowed alike. For each piece of
work it prints the median over the turns of the ratio of the times, this checkout's by OTHER's, and
its quartiles.
"""

import argparse
import functools
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
WORKS = ("step", "caption-beam", "caption-nucleus")
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


def caption(world: pathlib.Path, **options):
    """The captions of 64 images, decoded from bytes."""
    import tiny

    from blip_jax.data.datasets import open_dataset
    from blip_jax.data.tokenizer import Tokenizer
    from blip_jax.models import Model
    from blip_jax.runtime.config import replace

    tokenizer = Tokenizer.load(f"{world}/tokenizer")
    config = replace(model_config(), **{"med.vocab_size": tokenizer.ids.vocab_size})
    params = tiny.init(config, 0, "captioner")
    model = Model(params, config, tokenizer, model_type="captioner", prompt="", max_length=20)
    (features,) = world.glob("shapes/*/*/features.json")
    records = open_dataset(str(features.parent), "train")
    images = [bytes(records[row % len(records)]["image"]) for row in range(64)]
    return lambda: model.caption(images, **options)


def worker(name: str, world: pathlib.Path) -> None:
    options = {"caption-beam": {"num_beams": 3}, "caption-nucleus": {"top_p": 0.9, "seed": 0}}
    make = step if name == "step" else functools.partial(caption, **options[name])
    serve(lambda: (make(world), None))


def compare(name: str, other: pathlib.Path, world: pathlib.Path, turns: int) -> None:
    workers = []
    for root in (ROOT, other):
        path = {"PYTHONPATH": f"{root}{os.pathsep}{ROOT / 'tests'}"}
        argv = [sys.executable, HERE, root, name, "--world", world]
        workers.append(Worker(argv, path, cwd=root))
    ours, theirs = ([turn.wall for turn in x] for x in take_turns(workers, turns, WARMUP))
    for each in workers:
        each.end()
    low, middle, high = ratios(ours, theirs)
    print(
        f"{name}: {statistics.median(ours):.3f} s, {middle:.3f} of the other's "
        f"(quartiles {low:.3f} and {high:.3f})",
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
    import processes

    from blip_jax.cli import environment

    environment.disable_tfds_progress()
    with tempfile.TemporaryDirectory() as folder:
        world = processes.build(folder)
        for name in args.works or WORKS:
            compare(name, args.other.resolve(), world, args.turns)


if __name__ == "__main__":
    main()
