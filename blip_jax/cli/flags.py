"""The command line of the verbs that take a config: --config FILE.py [--config.field=value …]."""

import difflib
import re
import sys
from collections.abc import Callable

from absl import flags
from ml_collections import ConfigDict, config_flags

from blip_jax.runtime.errors import UserError


def workdir(values: flags.FlagValues) -> None:
    """The flag of what writes a run."""
    flags.DEFINE_string("workdir", None, "Folder of the run, local or gs://.", flag_values=values)


def processes(values: flags.FlagValues) -> None:
    """The flags of what may run as several processes, and of what writes a run."""
    workdir(values)
    flags.DEFINE_string(
        "coordinator", "", "HOST:PORT of process 0, for all to reach it.", flag_values=values
    )
    flags.DEFINE_integer("processes", 0, "How many there are.", flag_values=values)
    flags.DEFINE_integer("process", -1, "Which of them this is, from 0.", flag_values=values)


def parse(
    verb: str,
    argv: list[str],
    define: Callable[[flags.FlagValues], None] = workdir,
    required: tuple[str, ...] = ("--workdir DIR",),
) -> flags.FlagValues:
    """The flags of a verb's command line: `config`, and those that `define` adds.

    Args:
      required: of these flags, as they are written.

    Raises:
      UserError: whatever is wrong with it.
    """
    values = _define([verb, *argv], define)
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
    for flag in ("--config FILE.py", *required):
        if not values[flag.split()[0].lstrip("-")].value:
            raise UserError(f"{flag} is missing")
    return values


def _define(
    overrides: list[str], define: Callable[[flags.FlagValues], None] = workdir
) -> flags.FlagValues:
    """The flags of one call, with `overrides` of the config's fields (not those of sys.argv)."""
    values = flags.FlagValues()
    sys.modules.pop("config_config", None)  # the library's name for the file of an earlier call
    config_flags.DEFINE_config_file(
        "config", None, "A config file.", flag_values=values, sys_argv=overrides, lock_config=True
    )
    define(values)
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


def run(verb, argv, work):
    from blip_jax.runtime import processes as p

    parallel = verb in ("train", "capfilt", "evaluate")
    values = parse(verb, argv, processes if parallel else workdir)
    if parallel:
        p.initialize(values.coordinator, values.processes, values.process)
    try:
        work(values.config, values.workdir)
    except BaseException as error:
        if parallel and p.is_multiprocess():
            from blip_jax.cli.exit_status import EXPECTED_ERRORS, report_error

            known = isinstance(error, EXPECTED_ERRORS)
            p.exit_process(report_error(verb, error) if known else 1)
        raise
    return 0
