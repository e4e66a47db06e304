"""The command line.

blip-jax VERB --config configs/X.py [--config.field=value …] --workdir DIR   for runs
blip-jax VERB ARGUMENTS …                                                    for files
"""

import contextlib
import ctypes
import difflib
import os
import re
import signal
import sys
from collections.abc import Callable

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from blip_jax.errors import UserError


def bootstrap(config: ConfigDict, workdir: str) -> None:
    """walk the whole circle, from pre-training to the report"""
    from blip_jax.bootstrap import bootstrap as walk

    walk(config, workdir)


def train(config: ConfigDict, workdir: str) -> None:
    """train one task; goes on at the newest checkpoint in the workdir"""
    from blip_jax.train.loop import train as run

    run(config, workdir)


def capfilt(config: ConfigDict, workdir: str) -> None:
    """caption every image of a dataset, score all texts, and write the view to train on"""
    from blip_jax.capfilt.command import run

    run(config, workdir)


def evaluate(config: ConfigDict, workdir: str) -> None:
    """measure a trained model on a dataset; writes metrics.json"""
    from blip_jax.evaluate import run

    run(config, workdir)


def prepare(config: ConfigDict, workdir: str) -> None:
    """build the datasets and the tokenizer of the embedded world"""
    from blip_jax.bootstrap.circle import Circle

    for name, path in Circle(config, workdir, config.seeds[0]).prepare().items():
        print(f"{name}: {path}")


VERBS: dict[str, Callable[[ConfigDict, str], None]] = {
    verb.__name__: verb for verb in (bootstrap, train, capfilt, evaluate, prepare)
}


def caption(argv: list[str]) -> int:
    """write captions for image files"""
    from blip_jax.commands import files

    return files.run("caption", argv)


def match(argv: list[str]) -> int:
    """score how well texts go with image files"""
    from blip_jax.commands import files

    return files.run("match", argv)


def answer(argv: list[str]) -> int:
    """answer a question about image files"""
    from blip_jax.commands import files

    return files.run("answer", argv)


def convert(argv: list[str]) -> int:
    """turn a checkpoint into another format"""
    from blip_jax.commands import convert as command

    return command.run(argv)


# Verbs without a config: they take the rest of the command line and give the exit status.
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    verb.__name__: verb for verb in (caption, match, answer, convert)
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
      person can mend, said in one line on stderr; 130 after Ctrl-C or SIGTERM, when what was done
      is saved, and in training the same command goes on.
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
        config, workdir = _flags(verb, argv[1:])
        _keep_memory()
        _quiet()
        _no_bars()
        VERBS[verb](config, workdir)
    except UserError as error:
        print(f"blip-jax {verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"blip-jax {verb}: {str(error) or 'stopped'}", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # what reads our output has had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python flushes again
        return 128 + signal.SIGPIPE
    return 0


def _command(verb: str, argv: list[str]) -> int:
    _keep_memory()
    _quiet()
    try:
        return COMMANDS[verb](argv)
    except SystemExit as end:  # argparse, after --help
        return end.code or 0


def _flags(verb: str, argv: list[str]) -> tuple[ConfigDict, str]:
    """The config and workdir of a command line; whatever is wrong with it becomes a UserError."""
    values = _define([verb, *argv])
    try:
        rest = values([verb, *argv])
        config = values.config
        if config is not None and not isinstance(config, ConfigDict):
            getattr(config, "lock", None)  # raises what kept the library from loading the file
            raise TypeError(f"get_config() gives a {type(config).__name__}, not a ConfigDict")
    except Exception as error:  # absl and ml_collections raise many kinds
        raise UserError(_reason(error, argv)) from error
    if rest[1:]:
        raise UserError(f"unexpected argument {rest[1]!r}")
    if config is None or not values.workdir:
        missing = "--config FILE.py" if config is None else "--workdir DIR"
        raise UserError(f"{missing} is missing")
    return config, values.workdir


def _define(overrides: list[str]) -> flags.FlagValues:
    """The flags of one call, with `overrides` of the config's fields (not those of sys.argv)."""
    values = flags.FlagValues()
    sys.modules.pop("config_config", None)  # the library's name for the file of an earlier call
    config_flags.DEFINE_config_file(
        "config", None, "A config file.", flag_values=values, sys_argv=overrides, lock_config=True
    )
    flags.DEFINE_string("workdir", None, "Folder of the run, local or gs://.", flag_values=values)
    return values


def _reason(error: Exception, argv: list[str]) -> str:
    """What was wrong with a command line or its config file, in one line."""
    if unknown := "" if isinstance(error, flags.Error) else _unknown_field(argv):
        return unknown
    # Several lines are a traceback through the file; the last one says what happened.
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, flags.Error) and len(lines) == 1:
        return lines[0]
    return f"the config file gives no config: {lines[-1].strip()}"


def _unknown_field(argv: list[str]) -> str:
    """What to say of the first override that names no field of the config; "" if all name one."""
    values = _define([])
    try:
        values(["", *argv], known_only=True)
    except Exception:  # not about a field
        return ""
    if not isinstance(values.config, ConfigDict):
        return ""
    for path in re.findall(r"^--?config\.([\w.]+)", "\n".join(argv), re.MULTILINE):
        node, where = values.config, "config"
        for name in path.split("."):
            fields = list(node) if isinstance(node, ConfigDict) else []
            if name not in fields:
                near = difflib.get_close_matches(name, fields, 1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(fields)}"
                return f"{where} has no field {name!r}; {hint if fields else 'it has none'}"
            node, where = node[name], f"{where}.{name}"
    return ""


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


if __name__ == "__main__":
    sys.exit(main())
