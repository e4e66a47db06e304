"""Kills each verb that can be resumed again and again, at moments drawn by chance.

python tests/kill_verbs.py [VERB ...] [--kills 20] [--seed 0]

A process runs the verb. At a moment drawn by chance it is halted; a second call of the same command
must be refused if the first holds its lock; then the first gets SIGKILL and the command is run
again. Whenever a run comes to its end, its files are compared byte for byte with those of a run
that nothing stopped, and a new one begins.

Trainings and CapFilt of several processes: kill_training.py and kill_capfilt.py.
"""

import argparse
import json
import pathlib
import random
import shutil
import signal
import tempfile
import time

import verb_runs

from blip_jax.cli.main import main as blip_jax


class Runs:
    """Runs of one verb in `folder`, of which one after the other is killed."""

    def __init__(self, verb: verb_runs.Verb, folder: pathlib.Path, draw: random.Random):
        whole, killed = folder / "whole", folder / "killed"  # outputs have one name, as it is told
        for place in (whole, killed):
            place.mkdir(parents=True)
        self.verb, self.draw = verb, draw
        self.out, self.log_file = killed / "out", folder / "log"
        self.ends, self.refused = 0, 0
        whole /= "out"
        process, begun = verb.start(whole, self.log_file), time.monotonic()
        while not verb.lock(whole).exists() and process.poll() is None:
            time.sleep(0.002)
        self.startup = time.monotonic() - begun
        assert process.wait() == 0, self.log()
        self.seconds = time.monotonic() - begun - self.startup
        self.wanted = verb_runs.content(whole)

    def holds_lock(self, pid: int) -> bool:
        try:
            return json.loads(self.verb.lock(self.out).read_text())["pid"] == pid
        except (OSError, ValueError):
            return False

    def kill(self) -> str:
        """Runs the command and kills it; returns what happened, "" if it had ended before."""
        process, begun = self.verb.start(self.out, self.log_file), time.monotonic()
        if self.draw.random() < 0.1:  # before it has begun
            time.sleep(self.draw.uniform(0, self.startup))
        else:
            while not self.holds_lock(process.pid) and process.poll() is None:
                time.sleep(0.001)
            time.sleep(self.draw.uniform(0, self.seconds * self.verb.spread))
        process.send_signal(signal.SIGSTOP)
        seconds = time.monotonic() - begun
        if process.poll() is not None:
            assert process.returncode == 0, self.log()
            self.compare()
            return ""
        second = ""
        if self.holds_lock(process.pid):
            status = blip_jax([self.verb.name, *self.verb.flags(self.out)])
            assert status == 2, f"a second writer ended with status {status}"
            self.refused += 1
            second = ", a second writer was refused"
        process.kill()
        process.wait()
        if self.verb.is_closed(self.out):
            second += ", behind its end"
            self.compare()
        return f"killed after {seconds:.1f} s{second}"

    def finish(self) -> None:
        """Runs the command to its end."""
        assert self.verb.start(self.out, self.log_file).wait() == 0, self.log()
        self.compare()

    def compare(self) -> None:
        """Compares a run that came to its end, and removes it."""
        different = verb_runs.different(verb_runs.content(self.out), self.wanted)
        assert not different, f"{self.verb.name}: {different} are not those of a run left alone"
        self.ends += 1
        shutil.rmtree(self.out) if self.verb.is_folder else self.out.unlink()

    def log(self) -> str:
        return self.log_file.read_text()[-3000:]


def run(folder: pathlib.Path, names: list[str], kills: int, seed: int, records: int = 400) -> dict:
    """Kills each verb `kills` times; returns {verb: (ends compared, second writers refused)}."""
    known = verb_runs.verbs(folder, records)
    found = {}
    resumed = [name for name, verb in known.items() if verb.resumes]
    if unknown := sorted(set(names) - set(resumed)):
        raise SystemExit(f"not among {', '.join(resumed)}: {', '.join(unknown)}")
    for name in names or resumed:
        runs = Runs(known[name], folder / f"{name}-runs", random.Random(f"{seed} {name}"))
        print(f"{name}: {runs.seconds:.1f} s behind a start of {runs.startup:.1f} s", flush=True)
        killed = 0
        while killed < kills:
            told = runs.kill()
            killed += bool(told)
            print(f"{name} {killed}: {told or 'had ended'}", flush=True)
        runs.finish()
        found[name] = runs.ends, runs.refused
        print(f"{name}: {killed} kills, {runs.ends} ends equal, {runs.refused} refused", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verbs", nargs="*", metavar="VERB", help="default: all that can be resumed")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run(pathlib.Path(tempfile.mkdtemp()), options.verbs, options.kills, options.seed)


if __name__ == "__main__":
    main()
