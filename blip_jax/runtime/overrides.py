"""Fields of a config dataclass from the command line: --config.FIELD=VALUE.

| annotation | as it is given |
|---|---|
| int, float, str, bool | 3, 0.5, text, true |
| Literal["a", "b"] | one of the values |
| tuple[T, ...] | values with commas between, or the flag repeated |
| T or None | as T; None cannot be given |
| a dataclass, or a union of them | field by field; the class stays that of the default |

A group that is None, and fields of other types, can be changed in a config file only.

ml_collections reads the flags. It can set neither frozen dataclasses nor Literal, so a ConfigDict
carries the values there and back, and the dataclasses are made anew from it.
"""

import re
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from blip_jax.runtime.config import field_types, is_group, members
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint, nearest

T = TypeVar("T")
EXPECTED = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text",
    tuple: "values with commas between",
}  # fmt: skip


def override(config: T, argv: Sequence[str]) -> T:
    """Returns `config` with the fields that the flags in `argv` set.

    Args:
      argv: --config.FIELD=VALUE, --config.FIELD VALUE, and --noconfig.FIELD of a bool.

    Raises:
      UserError: an unknown field, or a value that it cannot have, named in one line.
    """
    for argument in argv:
        if match := re.match(r"--?(?:no)?config\.([^=]*)", argument):
            _check_path(config, match[1])
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", to_config_dict(config), flag_values=values, sys_argv=["", *argv]
        )
        rest = values(["", *argv])
    except flags.Error as error:
        raise UserError(_reason(config, str(error))) from error
    if rest[1:]:
        raise UserError(f"unexpected argument {rest[1]!r}; see --help")
    return from_config_dict(config, values["config"].value)


def to_config_dict(config: Any) -> ConfigDict:
    """Returns the fields that the command line can set as a locked, nested ConfigDict.

    A field that is None becomes a placeholder of its type.
    """
    content = {}
    for name, annotation in field_types(type(config)).items():
        value, kind = getattr(config, name), value_type(annotation)
        if is_group(value):
            content[name] = to_config_dict(value)
        elif kind is not None:
            # With an int as the default of a float field ml_collections would reject 0.5.
            content[name] = config_dict.placeholder(kind) if value is None else kind(value)
    return ConfigDict(content).lock()


def from_config_dict(template: T, config: ConfigDict, path: str = "config") -> T:
    """Returns the dataclass `template` with the values of `config`; rebuilds and checks all groups.

    Raises:
      UserError: a value is not of its field's type or choices, or a dataclass refuses it.
    """
    values = {}
    for name, annotation in field_types(type(template)).items():
        old, where = getattr(template, name), f"{path}.{name}"
        new = config.get(name)
        if is_group(old) and name in config:
            if not isinstance(new, ConfigDict):
                raise _given_whole(where, old)
            values[name] = from_config_dict(old, new, where)
        else:
            values[name] = old if new is None else _converted(annotation, new, where)
    try:
        return type(template)(**values)
    except UserError as error:
        raise UserError(f"{path}: {error}" if "." in path else str(error)) from error


def value_type(annotation: Any) -> type | None:
    """Returns the type of a field's values on the command line; None: they cannot be given."""
    kinds = members(annotation)
    origin, arguments = typing.get_origin(kinds[0]), typing.get_args(kinds[0])
    if len(kinds) > 1:
        return None
    if origin is Literal:
        return type(arguments[0])
    kind = origin or kinds[0]
    return kind if kind in EXPECTED else None


def _converted(annotation: Any, value: Any, where: str) -> Any:
    """Converts `value` to the type of its field; a tuple's entries one by one."""
    (annotation,) = members(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        if value not in arguments:
            choices = ", ".join(str(x) or '""' for x in arguments)
            raise UserError(f"{where} is {value!r}; choose one of {choices}")
        return value
    if tuple in (origin, annotation):
        entries = [part for entry in value for part in _split(entry)]
        kinds = [x for x in arguments if x is not Ellipsis] or [str]
        kinds *= len(entries) if Ellipsis in arguments or not arguments else 1
        if len(kinds) != len(entries):
            raise UserError(f"{where} has {len(entries)} values; expected {len(kinds)}")
        return tuple(_converted(kind, entry, where) for kind, entry in zip(kinds, entries))
    try:
        if annotation is int and isinstance(value, float):
            raise ValueError
        return annotation(value)
    except ValueError:
        raise UserError(f"{where} has {value!r}; expected {EXPECTED[annotation]}") from None


def _split(entry: Any) -> list[Any]:
    """Splits "a,b", which ml_collections takes for one value; other entries stay."""
    if not isinstance(entry, str):
        return [entry]
    return [part.strip() for part in entry.strip("()[] ").split(",") if part.strip()]


def _given_whole(path: str, group: Any) -> UserError:
    name = next(iter(field_types(type(group))), "FIELD")
    return UserError(
        f"{path} is a group of fields; give them one by one, as in --{path}.{name}=VALUE"
    )


def _check_path(config: Any, path: str) -> None:
    """Raises a UserError unless `path`, as "model.vit.depth", is a field that can be set."""
    where, value, annotation = "config", config, type(config)
    for name in path.split("."):
        if not is_group(value):
            why = "has no fields" if value_type(annotation) or value is not None else "is off"
            raise UserError(f"{where} {why}: {name!r} cannot be set{_in_file(annotation)}")
        known = field_types(type(value))
        if name not in known:
            raise UserError(f"{where} has no field {name!r}; {_hint(value, where, name)}")
        where, value, annotation = f"{where}.{name}", getattr(value, name), known[name]
    if is_group(value):
        raise _given_whole(where, value)
    if value_type(annotation) is None:
        raise UserError(f"{where} cannot be set on the command line{_in_file(annotation)}")


def _in_file(annotation: Any) -> str:
    return "" if value_type(annotation) else "; change it in a config file"


def _hint(group: Any, path: str, name: str) -> str:
    """Returns the hint after an unknown name: the nearest of its group, or else of those in it."""
    known = field_types(type(group))
    below = dict(_leaves(group))
    if name in below or not nearest(name, known):
        if near := nearest(name, below):
            return f"did you mean '{path}.{below[near]}'?"
    return hint(name, known)


def _leaves(config: Any, path: str = "") -> list[tuple[str, str]]:
    """Returns (name, path) of each field; of equal names the least deep comes last."""
    found = []
    for name in field_types(type(config)):
        value = getattr(config, name)
        own = [(name, f"{path}{name}")]
        found += _leaves(value, f"{path}{name}.") + own if is_group(value) else own
    return sorted(found, key=lambda leaf: -leaf[1].count("."))


def _reason(config: Any, message: str) -> str:
    """Rewords absl's message about a flag for the user."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", message, re.DOTALL)
    if not match:
        return message.strip().splitlines()[-1]
    value, annotation = config, types.NoneType
    for name in match[1].split("."):
        annotation = field_types(type(value))[name]
        value = getattr(value, name)
    return f"config.{match[1]} is {match[2]!r}; expected {EXPECTED[value_type(annotation)]}"
