"""Kills a training of 2 processes x 4 devices again and again, at moments drawn by chance.

python tests/kill_training.py [--kills 20] [--seed 0]

Every time one of them gets SIGKILL (the other, which JAX would end a minute later, too) or, each
fifth time, SIGTERM; then both start again. In the end state, losses and the pairs of every batch
are compared with a run that nothing stopped. Prints what it found; its exit status is 1 if they
differ. A quarter of an hour on two idle cores.
"""

import argparse
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

import conftest  # noqa: F401, as for the tests: CPU devices, no compilation cache

SAVE_EVERY = 3


def interrupted(running, workdir, draw, terminate: bool) -> str:
    """Ends a run at a moment of its first steps, or before them; how, in words."""
    begun, target = time.monotonic(), draw.random()
    wanted = at(workdir) + draw.randint(0, 2 * SAVE_EVERY)
    if target < 0.2 and not terminate:  # while it starts: reads, restores, compiles
        time.sleep(draw.uniform(0, 25))
    else:
        while at(workdir) < wanted and all(process.poll() is None for process in running):
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.5))  # in a step, or in a save
    seconds = time.monotonic() - begun
    if any(process.poll() is not None for process in running):
        return f"had ended after {seconds:.1f} s: {processes.end(running)}"
    victim = draw.randrange(len(running))
    if terminate:
        running[victim].send_signal(signal.SIGTERM)
        return f"SIGTERM to {victim} after {seconds:.1f} s: {processes.end(running)}"
    running[victim].kill()
    processes.kill(running)
    return f"SIGKILL to {victim} after {seconds:.1f} s"


def at(workdir) -> int:
    """Steps that the run has reported."""
    return len(processes.reports(workdir)) if (workdir / "metrics.jsonl").exists() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    folder = pathlib.Path(tempfile.mkdtemp())
    world = processes.build(folder / "world")
    config = [f"--config={world}/captioning.py", f"--config.checkpoints.every={SAVE_EVERY}"]
    config.append(f"--config.steps={3 * SAVE_EVERY * options.kills}")
    workdir, folders = folder / "killed", []
    for number in range(options.kills):
        folders.append(folder / f"start-{number}")
        running = processes.start(folders[-1], [[*config, f"--workdir={workdir}"]], pause=0.2)
        how = interrupted(running, workdir, draw, terminate=number % 5 == 4)
        saved = sorted(os.listdir(workdir / "checkpoints")) if workdir.exists() else []
        print(f"{number + 1}: {how}; step {at(workdir)}, checkpoints {saved}", flush=True)
    for name, target in (("last", workdir), ("whole", folder / "whole")):
        running = processes.start(folder / name, [[*config, f"--workdir={target}"]])
        print(f"{name}: {processes.end(running)}", flush=True)
    equal = processes.reports(workdir) == processes.reports(folder / "whole")
    found = processes.seen(*folders, folder / "last")
    processes.assert_each_once(found)
    pairs = found == processes.seen(folder / "whole")
    processes.assert_same_state(workdir, folder / "whole")
    print(f"{len(found)} steps: losses equal: {equal}, pairs equal: {pairs}, state equal: True")
    return 0 if equal and pairs else 1


if __name__ == "__main__":
    import processes

    sys.exit(main())
