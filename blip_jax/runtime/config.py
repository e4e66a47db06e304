"""Settings as frozen dataclasses: changed by name, listed with their help, stored as JSON.

The dataclass is the only list of fields, and a field's help is the comment after or above it.
How the command line sets them is in overrides.py.
"""

import dataclasses
import functools
import inspect
import math
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar, Union

from etils import epath

from blip_jax.runtime.arguments import fits
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import write_json
from blip_jax.runtime.suggestions import hint

T = TypeVar("T")


def required(example: str) -> Any:
    """Declares a str field that has to be given, as in `dataset: str = required("FOLDER")`.

    It is "" until then, so that --help can show it; `check_required` refuses that.

    Args:
      example: placeholder of a value in messages and in --help.
    """
    return dataclasses.field(default="", metadata={"required": example})


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """Returns the annotations of the fields that a dataclass's constructor takes, by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def is_group(value: Any) -> bool:
    """Returns whether a value has fields of its own: an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def members(annotation: Any) -> tuple[Any, ...]:
    """Returns the types of a union without None; of another annotation, that annotation alone."""
    if typing.get_origin(annotation) not in (Union, types.UnionType):
        return (annotation,)
    return tuple(x for x in typing.get_args(annotation) if x is not types.NoneType)


def replace(config: T, **changes: Any) -> T:
    """Returns a copy of a dataclass with changes; a nested field by its path, or in a mapping.

    `replace(run, steps=10, **{"model.vit.image_size": 384})`, `replace(model, vit={"depth": 6})`.
    Several changes of one group are made at once, so that fields which must agree can change
    together.

    Raises:
      UserError: an unknown field, or a dataclass refuses a value.
    """
    return _replace(config, changes, "")


def _replace(config: T, changes: Mapping[str, Any], path: str) -> T:
    own, nested = {}, {}
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        known = field_types(type(config))
        if first not in known:
            raise UserError(f"there is no field {path + first!r}; {hint(first, known)}")
        group = is_group(getattr(config, first))
        if rest and not group:
            raise UserError(f"there is no field {path + name!r}: {path + first!r} is one value")
        if rest:
            nested.setdefault(first, {})[rest] = value
        elif group and isinstance(value, Mapping):
            nested.setdefault(first, {}).update(value)
        else:
            own[first] = value
    for name, values in nested.items():
        own[name] = _replace(own.get(name, getattr(config, name)), values, f"{path}{name}.")
    return dataclasses.replace(config, **own)


def write_config(folder: str | os.PathLike, config: Any, replace: bool = True) -> None:
    """Writes config.json into a folder, which is made if missing: the fields by `to_json`.

    Args:
      replace: whether to replace the file that an earlier call wrote.
    """
    path = epath.Path(folder) / "config.json"
    if replace or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, to_json(config))


def check_required(config: Any, path: str = "config") -> None:
    """Raises a UserError that names the first `required` field that is still "".

    A group whose field has the metadata {"required": False} is skipped: the program fills it.
    """
    for field in dataclasses.fields(config):
        value, where = getattr(config, field.name), f"{path}.{field.name}"
        needed = field.metadata.get("required")
        if needed and value == "":
            raise UserError(f"{where} is empty; give it with --{where}={needed}")
        if is_group(value) and needed is not False:
            check_required(value, where)


def to_json(value: Any) -> Any:
    """Returns a dataclass as nested JSON values; `from_json` is the inverse.

    A group whose annotation is not exactly its class (a union, a base class) says its class under
    "type". Paths become strings, tuples lists.
    """
    if is_group(value):
        return {
            name: _tagged(getattr(value, name), annotation)
            for name, annotation in field_types(type(value)).items()
        }
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(entry) for entry in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def _tagged(value: Any, annotation: Any) -> Any:
    if is_group(value) and members(annotation) != (type(value),):
        return {"type": type(value).__name__, **to_json(value)}
    return to_json(value)


def from_json(cls: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """Returns the `cls` dataclass of which `to_json` made `values`; missing fields are defaults.

    Raises:
      UserError: an unknown field or class, or a dataclass refuses a value.
    """
    known, found = field_types(cls), {}
    if not isinstance(values, Mapping):
        raise UserError(f"{path.rstrip('.') or cls.__name__} is {values!r:.80}; expected an object")
    for name, value in values.items():
        if name not in known:
            raise UserError(
                f"unknown field {path + name!r} of {cls.__name__}; was it written by another "
                "version?"
            )
        found[name] = _from_json(known[name], value, f"{path}{name}")
    try:
        return cls(**found)
    except UserError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:  # as of 10**400 for a float
        name = path.rstrip(".") or cls.__name__
        raise UserError(f"{name} cannot have these values ({error})") from error


def _from_json(annotation: Any, value: Any, path: str) -> Any:
    kinds = members(annotation)
    if not _fits(annotation, value):
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"{path} is nan; give a finite number")
        raise UserError(f"{path} is {value!r:.80}; expected {type_name(annotation)}")
    if isinstance(value, list):
        entry = (typing.get_args(kinds[0]) or (Any,))[0]
        return tuple(_from_json(entry, x, path) for x in value)
    if not isinstance(value, Mapping) or not any(map(dataclasses.is_dataclass, kinds)):
        return value
    kind, values = kinds[0], dict(value)
    if "type" in values and "type" not in field_types(kind):
        name = values.pop("type")
        classes = {cls.__name__: cls for kind in kinds for cls in _with_subclasses(kind)}
        if not isinstance(name, str) or name not in classes:
            raise UserError(f"{path} has the type {name!r:.80}; {hint(str(name), classes)}")
        kind = classes[name]
    elif inspect.isabstract(kind):
        names = ", ".join(cls.__name__ for cls in _with_subclasses(kind)[1:])
        raise UserError(f"{path} has no type; supported: {names}")
    return from_json(kind, values, f"{path}.")


def _fits(annotation: Any, value: Any) -> bool:
    """Returns whether JSON has a value for an annotation; of entries of lists, not."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return any(_fits(x, value) for x in typing.get_args(annotation))
    origin = typing.get_origin(annotation) or annotation
    if dataclasses.is_dataclass(origin) or origin is dict:
        return isinstance(value, Mapping)
    if origin is tuple:
        return isinstance(value, list | tuple)
    return fits(value, annotation)


def _with_subclasses(cls: type) -> list[type]:
    return [cls, *(x for sub in cls.__subclasses__() for x in _with_subclasses(sub))]


class FieldRow(NamedTuple):
    """A field in --help.

    Attributes:
      path: its name, after those of its groups, with dots.
      type: as "int" or "none | dots | full".
      value: of this config.
      help: its comment; "" without its source.
      example: placeholder of the value of a field that has to be given; else "".
    """

    path: str
    type: str
    value: Any
    help: str
    example: str = ""

    @property
    def given(self) -> str:
        """Returns the value as the command line takes it."""
        if isinstance(self.value, tuple):
            return ",".join(map(str, self.value))
        if isinstance(self.value, bool):
            return str(self.value).lower()
        return "none" if self.value is None else str(self.value)


def fields_table(config: Any, path: str = "") -> list[FieldRow]:
    """Returns a row for each field of a dataclass, then those of its groups, in their order."""
    rows, groups = [], []
    for name, annotation in field_types(type(config)).items():
        value = getattr(config, name)
        if is_group(value):
            groups += fields_table(value, f"{path}{name}.")
        else:
            example = type(config).__dataclass_fields__[name].metadata.get("required") or ""
            text = field_help(type(config), name)
            rows.append(FieldRow(f"{path}{name}", type_name(annotation), value, text, example))
    return rows + groups


def command_line_flags(config: Any) -> list[str]:
    """Returns --config.FIELD=VALUE of each field that differs from its dataclass's default."""
    usual = {row.path: row.value for row in fields_table(type(config)())}
    return [
        f"--config.{row.path}={row.given}"
        for row in fields_table(config)
        if row.value != usual.get(row.path)
    ]


def type_name(annotation: Any) -> str:
    """Returns how --help names a type: "int", "a | b" for choices, "int,..." for a tuple."""
    kinds = members(annotation)
    if len(kinds) > 1:
        return " | ".join(map(type_name, kinds))
    origin, arguments = typing.get_origin(kinds[0]), typing.get_args(kinds[0])
    if origin is Literal:
        return " | ".join(str(x) or '""' for x in arguments)
    if origin is tuple:
        ends = ",".join(type_name(x) for x in arguments if x is not Ellipsis)
        return f"{ends},..." if Ellipsis in arguments else ends
    return getattr(origin or kinds[0], "__name__", str(kinds[0]))


@functools.cache
def field_help(cls: type, name: str) -> str:
    """Returns a field's comment, after it or above it, on one line; "" without source."""
    from simple_parsing.docstring import get_attribute_docstring  # imported only for --help

    try:
        found = get_attribute_docstring(cls, name)
    except Exception:  # it parses source text; help must not fail if that does
        return ""
    lines = (found.comment_inline or found.help_string).splitlines()
    return " ".join(" ".join(line for line in lines if not line.startswith("fmt: ")).split())
