"""Verbs that take a config: --config FILE.py, --config.FIELD=VALUE, --workdir DIR, --help."""

import argparse
import functools
import inspect
import json
import shutil
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from blip_jax.cli import Parser, config_files, environment
from blip_jax.cli.exit_status import report_error
from blip_jax.runtime.arguments import check_fields
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import nearest


class ConfigVerb(NamedTuple):
    """What a verb takes.

    Attributes:
      name: on the command line.
      description: for --help.
      config_types: names of the dataclasses that it takes; named, since to import them takes
        seconds that only the verbs that need them should spend.
      default: the config (config_files.py) where none is given; "" if one has to be given.
      shown: the config that --help shows where none is given; "" is `default`.
      workdir: whether it writes to a folder.
      required: whether required fields have to be given.
      parallel: whether several processes can run it together.
      resumable: whether `work` takes `resume`, the value of --resume.
      add_arguments: adds options of its own to the parser.
    """

    name: str
    description: str
    config_types: tuple[str, ...]
    default: str = ""
    shown: str = ""
    workdir: bool = True
    required: bool = True
    parallel: bool = False
    resumable: bool = False
    add_arguments: Callable[[argparse.ArgumentParser], Any] = lambda parser: None


def run(verb: ConfigVerb, argv: Sequence[str], work: Callable[[Any, str], Any]) -> int:
    """Parses `argv` and calls `work(config, workdir)`, with other processes if there are any.

    Returns: the exit status.

    Raises:
      UserError: whatever is wrong with the arguments; or as `work`.
    """
    call = parse(verb, argv)
    if call is None:
        return 0
    config, arguments = call
    processes = None
    if verb.parallel:
        from blip_jax.runtime import processes

        processes.initialize(arguments.coordinator, arguments.processes, arguments.process)
        environment.keep_no_programs_of_several_cpus()
    environment.disable_tfds_progress()
    try:
        options = {"resume": arguments.resume} if verb.resumable else {}
        work(config, arguments.workdir, **options)
    except BaseException as error:
        if processes and processes.is_multiprocess():
            status = report_error(verb.name, error)
            if status is None or arguments.debug:
                traceback.print_exc()
            processes.exit_process(1 if status is None else status)
        raise
    return 0


def parse(verb: ConfigVerb, argv: Sequence[str]) -> tuple[Any, argparse.Namespace] | None:
    """Returns the config and the other arguments; None after --help or --print-config.

    Raises:
      UserError: whatever is wrong with the arguments.
    """
    from blip_jax.runtime.config import check_required, to_json
    from blip_jax.runtime.files import check_scheme
    from blip_jax.runtime.overrides import override

    arguments, rest = parser(verb).parse_known_args(list(argv))
    spec = arguments.config or verb.default or arguments.help * verb.shown
    if not spec:
        known = ", ".join(config_files.names())
        raise UserError(f"--config FILE.py is missing; give a file, or a name of {known}")
    config, docstring = config_files.load(spec)
    if not any(base.__name__ in verb.config_types for base in type(config).__mro__):
        expected = " or ".join(verb.config_types)
        raise UserError(
            f"config {spec} gives no config of {verb.name}: its get_config() returns "
            f"{_article(type(config).__name__)}, expected {_article(expected)}"
        )
    check_fields(config)
    config = override(config, _overrides(verb, rest))
    if arguments.help:
        print(help_text(verb, config, spec, docstring if arguments.config else ""))
        return None
    if arguments.print_config:
        print(json.dumps(to_json(config), indent=1))
        return None
    if verb.required:
        check_required(config)
    if verb.workdir and not arguments.workdir:
        raise UserError("--workdir DIR is missing")
    if verb.workdir:
        check_scheme(arguments.workdir)
    return config, arguments


def _article(name: str) -> str:
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


def parser(verb: ConfigVerb) -> Parser:
    """Returns the parser of all flags except --config.FIELD=VALUE."""
    usage = "blip-jax %s [--config FILE.py] [--config.FIELD=VALUE ...]%s [options]"
    made = Parser(
        verb.name,
        verb.description,
        add_help=False,
        usage=usage % (verb.name, " --workdir DIR" * verb.workdir),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = f" [{verb.default}]" if verb.default else ""
    made.add_argument(
        "--config", metavar="FILE.py[:VARIANT]",
        help=f"a config file, or the name of one that comes with the package: "
        f"{', '.join(config_files.names())}{default}",
    )  # fmt: skip
    if verb.workdir:
        made.add_argument("--workdir", metavar="DIR", help="folder of the run, local or gs://")
    if verb.parallel:
        made.add_argument(
            "--coordinator", metavar="HOST:PORT", default="",
            help="address of process 0 in a run of several; detected on clusters and TPUs",
        )  # fmt: skip
        made.add_argument(
            "--processes", type=int, default=0, metavar="N", help="number of processes"
        )
        made.add_argument(
            "--process", type=int, default=-1, metavar="N", help="number of this process, from 0"
        )
    if verb.resumable:
        made.add_argument(
            "--resume", choices=("same", "anyway"), default="same",
            help="anyway: also where fields changed that allow it (learning rate, steps) [same]",
        )  # fmt: skip
    verb.add_arguments(made)
    made.add_argument("--print-config", action="store_true", help="print all fields as JSON")
    made.add_argument("-h", "--help", action="store_true", help="show this help with all fields")
    return made


def _overrides(verb: ConfigVerb, rest: list[str]) -> list[str]:
    """Returns the arguments that set config fields.

    Raises:
      UserError: there is one that the verb does not have.
    """
    known = [name for action in parser(verb)._actions for name in action.option_strings]
    for argument in rest:
        name = argument.partition("=")[0]
        stem = name.lstrip("-").removeprefix("no")
        if argument.startswith("-") and name.lstrip("-")[:1].isalpha():
            if not stem.startswith("config."):
                near = nearest(name, known)
                raise UserError(
                    f"unknown option {name}; " + (f"did you mean {near}?" if near else "see --help")
                )
    return rest


def _heading(config: Any, group: str) -> list[str]:
    """Returns the name of a group of fields, with the first line of its docstring."""
    if not group:
        return []
    value = functools.reduce(getattr, group.split("."), config)
    return [f"  {group}: {inspect.getdoc(value).splitlines()[0]}"]


def help_text(verb: ConfigVerb, config: Any, spec: str, docstring: str) -> str:
    """Returns the text of --help: options, then every field with its type, value and comment."""
    from blip_jax.runtime.config import fields_table

    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    lines = [parser(verb).format_help()]
    if docstring:
        lines += [f"config {spec}:", "", textwrap.indent(docstring, "  "), ""]
    lines += [f"fields, with the values of config {spec}:", ""]
    group = ""
    for row in fields_table(config):
        name = row.path.rpartition(".")[0]
        if name != group:
            lines += ["", *_heading(config, name)]
        group = name
        value = row.example if row.example and row.value == "" else row.given
        needed = ", required" if row.example else ""
        lines.append(f"  --config.{row.path}={value}  ({row.type}{needed})")
        indent = " " * 6
        lines += textwrap.wrap(
            row.help,
            width - 8,
            initial_indent=indent,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
    return "\n".join(lines)
