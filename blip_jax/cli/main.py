"""The command line.

blip-jax VERB --config configs/X.py [--config.field=value …] --workdir DIR   for runs
blip-jax VERB ARGUMENTS …                                                    for files

train, capfilt and evaluate run on many hosts as well, by the same command on each of them.
"""

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable

from absl import logging
from ml_collections import ConfigDict

from blip_jax.cli import flags
from blip_jax.runtime.command_line import called_with
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.signals import Interrupted


def bootstrap(config: ConfigDict, workdir: str) -> None:
    """walk the whole circle, from pre-training to the report"""
    from blip_jax.capfilt.bootstrap import bootstrap as walk

    walk(config, workdir)


def train(config: ConfigDict, workdir: str) -> None:
    """train one task; goes on at the newest checkpoint in the workdir"""
    from blip_jax.train.loop import train as run

    run(config, workdir)


def capfilt(config: ConfigDict, workdir: str) -> None:
    """caption every image of a dataset, score all texts, and write the mixture to train on"""
    from blip_jax.capfilt.command import run

    run(config, workdir)


def assemble(config: ConfigDict, workdir: str) -> None:
    """choose from stored scores the texts to train on; describe and show them"""
    from blip_jax.capfilt.assemble import run

    run(config, workdir)


def evaluate(config: ConfigDict, workdir: str) -> None:
    """measure a trained model on a dataset; writes metrics.json"""
    from blip_jax.tasks.evaluate import run

    run(config, workdir)


def prepare(config: ConfigDict, workdir: str) -> None:
    """import images and texts as a dataset, or build the datasets of the embedded world"""
    if "source" in config:
        from blip_jax.data import ingest

        return ingest.run(config, workdir)
    from blip_jax.capfilt.bootstrap.run import BootstrapRun

    for name, path in BootstrapRun(config, workdir, config.seeds[0]).prepare().items():
        print(f"{name}: {path}")


VERBS: dict[str, Callable[[ConfigDict, str], None]] = {
    verb.__name__: verb for verb in (bootstrap, train, capfilt, assemble, evaluate, prepare)
}

PARALLEL = ("train", "capfilt", "evaluate")  # those that several processes can run together


def caption(argv: list[str]) -> int:
    """write captions for image files"""
    from blip_jax.cli import files

    return files.run("caption", argv)


def match(argv: list[str]) -> int:
    """score how well texts go with image files"""
    from blip_jax.cli import files

    return files.run("match", argv)


def answer(argv: list[str]) -> int:
    """answer a question about image files"""
    from blip_jax.cli import files

    return files.run("answer", argv)


def convert(argv: list[str]) -> int:
    """turn a checkpoint into another format"""
    from blip_jax.cli import convert as command

    return command.run(argv)


def export(argv: list[str]) -> int:
    """write what a mixture names, images and texts, for other programs"""
    from blip_jax.cli import export as command

    return command.run(argv)


def compile(argv: list[str]) -> int:
    """compile a config for TPUs without one: memory, time, what travels"""
    from blip_jax.cli import compile as command

    return command.run(argv)


# Verbs that take the rest of the command line and give the exit status.
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    verb.__name__: verb for verb in (caption, match, answer, export, convert, compile)
}


def usage() -> str:
    runs, commands = (
        [f"  {name:10} {verb.__doc__}" for name, verb in verbs.items()]
        for verbs in (VERBS, COMMANDS)
    )
    return "\n".join([
        "usage: blip-jax VERB --config FILE.py [--config.field=value ...] --workdir DIR",
        "", *runs, "",
        "       blip-jax VERB ARGUMENTS ... (blip-jax VERB --help names them)",
        "", *commands,
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Runs one verb.

    Returns: the exit status: 0; 1 where files were left out, each named on stderr; 2 for what a
      person can mend, said in one line on stderr; 130 after Ctrl-C. SIGTERM, with which machines
      are taken back, ends training and CapFilt with 0: what was done is saved, and the same
      command goes on.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    verb = argv[0]
    try:
        if verb in COMMANDS:
            return _command(verb, argv[1:])
        if verb not in VERBS:
            raise UserError(f"unknown verb {verb!r}; known: {', '.join([*VERBS, *COMMANDS])}")
        with called_with(argv):
            _run(verb, argv[1:])
    except TOLD as error:
        return _told(verb, error)
    return 0


TOLD = (UserError, KeyboardInterrupt, BrokenPipeError)


def _told(verb: str, error: BaseException) -> int:
    """Says what ended a verb, and gives the exit status."""
    if isinstance(error, BrokenPipeError):  # what reads our output has had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python flushes again
        return 128 + signal.SIGPIPE
    print(f"blip-jax {verb}: {str(error) or 'stopped'}", file=sys.stderr)
    if isinstance(error, UserError):
        return 2
    return error.status if isinstance(error, Interrupted) else 128 + signal.SIGINT


def _run(verb: str, argv: list[str]) -> None:
    """A verb with a config, together with the other processes if there are any."""
    define = flags.processes if verb in PARALLEL else flags.workdir
    values = flags.parse(verb, argv, define)
    _keep_memory()
    _quiet()
    if verb not in PARALLEL:
        _no_bars()
        return VERBS[verb](values.config, values.workdir)
    from blip_jax.runtime import processes

    processes.initialize(values.coordinator, values.processes, values.process)
    _no_bars()
    try:
        VERBS[verb](values.config, values.workdir)
    except BaseException as error:
        if processes.is_multiprocess():
            status = _told(verb, error) if isinstance(error, TOLD) else traceback.print_exc()
            processes.exit_process(1 if status is None else status)
        raise


def _command(verb: str, argv: list[str]) -> int:
    _keep_memory()
    _quiet()
    try:
        return COMMANDS[verb](argv)
    except SystemExit as end:  # argparse, after --help
        return end.code or 0


def _keep_memory() -> None:
    """Has glibc keep what is freed.

    On CPUs every step takes and frees its buffers; large ones would go back to the system each
    time, and a quarter of a small model's step went to getting them again.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc: nothing to set
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((-4, 0), (-1, 2**31 - 1)):  # M_MMAP_MAX, M_TRIM_THRESHOLD
            libc.mallopt(option, value)


def _quiet() -> None:
    """Libraries' chatter off; warnings and errors stay."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.WARNING)


def _no_bars() -> None:
    """tensorflow-datasets' own progress bars off."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
