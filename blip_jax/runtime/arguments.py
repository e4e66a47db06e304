"""Arguments and fields that are checked against their annotations, so that bad ones are named.

| annotation | accepts |
|---|---|
| bool, str, None, a class | an instance |
| int | a whole number, of NumPy or JAX too; no bool |
| float | a number but NaN; no bool |
| Annotated[int, Range(a, b)] | a whole number from a to b, or of a or more; likewise with float |
| Literal["a", "b"] | one of the values |
| Sequence[T], tuple[T, ...] | a sequence of T, of any class but str and bytes |
| tuple[T, T] | a pair, of any class |
| Mapping[K, T] | a mapping |
| A or B | what A or B accepts |
| anything else | everything |
"""

import dataclasses
import functools
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import nearest

UNIONS = (Union, types.UnionType)


class Range(NamedTuple):
    """The least and the highest value of a number, as metadata of an annotation."""

    lowest: int
    highest: float = math.inf


Positive = Annotated[int, Range(1)]
NonNegative = Annotated[int, Range(0)]
Share = Annotated[float, Range(0, 1)]

# JAX without 64-bit types takes the lowest 32 bits: 2**32 would be seed 0 again. NumPy takes no
# negative ones.
Seed = Annotated[int, Range(0, 2**32 - 1)]
# Of an image in a list, which its sampled captions follow from.
RowIndex = Annotated[int, Range(0, 2**31 - 1)]


def check_arguments(function: Callable) -> Callable:
    """Decorates a function: arguments that do not fit their annotations raise a UserError.

    An iterator where a sequence is wanted is made a list. `*args` and `**options` are not checked.
    """
    original = inspect.unwrap(function)
    parameters = inspect.signature(original).parameters.values()
    positional = [x.name for x in parameters if x.kind < x.VAR_POSITIONAL]
    variadic = {x.name for x in parameters if x.kind in (x.VAR_POSITIONAL, x.VAR_KEYWORD)}

    def checked(name: str, value: Any) -> Any:
        # Found at the first call: annotations may name what is defined later.
        annotation = Any if name in variadic else annotations_of(original).get(name, Any)
        if isinstance(value, Iterator) and not fits(value, annotation):
            value = list(value)
        check_value(name, value, annotation)
        return value

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        known = [checked(*pair) for pair in zip(positional, args, strict=False)]
        options = {name: checked(name, value) for name, value in options.items()}
        return function(*known, *args[len(known) :], **options)

    return call


def check_methods(cls: type) -> None:
    """Puts `check_arguments` around each public method that a class itself defines."""
    for name, member in list(vars(cls).items()):
        if inspect.isfunction(member) and not name.startswith("_"):
            setattr(cls, name, check_arguments(member))


def check_fields(config: Any, path: str = "") -> None:
    """Raises a UserError if a field of a dataclass, or of one in it, does not fit its annotation.

    Args:
      path: of the dataclass in another, with a dot at its end.
    """
    for name, annotation in annotations_of(type(config)).items():
        if name in type(config).__dataclass_fields__:
            value = getattr(config, name)
            check_value(path + name, value, annotation)
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                check_fields(value, f"{path}{name}.")


@functools.cache
def annotations_of(owner: Any) -> dict[str, Any]:
    """Returns the annotations of a function's arguments or a class's fields, by name."""
    return typing.get_type_hints(owner, include_extras=True)


def check_value(name: str, value: Any, annotation: Any) -> None:
    """Raises a UserError if a value does not fit an annotation; names the entry of a sequence."""
    if fits(value, annotation):
        return
    entries = [_entry(x) for x in _members(annotation) if _is_sequence_type(x)]
    if entries and _is_sequence(value):
        for index, entry in enumerate(value):
            check_value(f"{name}[{index}]", entry, _union(entries))
    if (minimum := _minimum(annotation)) is not None and fits(value, int):
        raise UserError(f"{name} is {_shown(value)}; it must be {minimum} or more")
    if isinstance(value, float) and math.isnan(value) and fits(0.0, annotation):
        raise UserError(f"{name} is nan; give a finite number")
    advice = f"give {describe(annotation)}"
    literals = [x for x in _members(annotation) if typing.get_origin(x) is Literal]
    choices = [y for x in literals for y in typing.get_args(x) if isinstance(y, str)]
    if isinstance(value, str) and (near := nearest(value, choices)):
        advice = f"did you mean {near!r}?"
    raise UserError(f"{name} is {_shown(value)} ({type(value).__name__}); {advice}")


def _minimum(annotation: Any) -> int | None:
    """Returns the least value of a whole number that has no highest one; None: it is another."""
    ranges = [x for x in typing.get_args(annotation)[1:] if isinstance(x, Range)]
    return ranges[0].lowest if ranges and math.isinf(ranges[0].highest) else None


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.40}"
    except ValueError:  # Python shows no number of more than 4,300 digits
        return "a number of too many digits"


def fits(value: Any, annotation: Any) -> bool:
    """Returns whether a value fits an annotation; see the table above."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if _is_traced(value):
        return True
    if origin in UNIONS:
        return any(fits(value, x) for x in arguments)
    if origin is Annotated:
        ranges = [x for x in arguments[1:] if isinstance(x, Range)]
        return fits(value, arguments[0]) and all(
            x.lowest <= _scalar(value) <= x.highest for x in ranges
        )
    if origin is Literal:
        return any(type(value) is type(x) and value == x for x in arguments)
    if _is_sequence_type(annotation):
        if not _is_sequence(value) or (_is_fixed(annotation) and len(value) != 2):
            return False
        entry = _entry(annotation)
        return entry is Any or all(fits(x, entry) for x in value)
    if origin is not None and isinstance(origin, type):
        return isinstance(value, origin)
    if annotation is None or annotation is types.NoneType:
        return value is None
    if annotation is Any or not isinstance(annotation, type):
        return True
    if annotation in (bool, int, float):
        scalar = _scalar(value)
        if annotation is bool or isinstance(scalar, bool):
            return annotation is bool and isinstance(scalar, bool)
        whole = isinstance(scalar, int)
        return whole or (
            annotation is float and isinstance(scalar, float) and not math.isnan(scalar)
        )
    return isinstance(value, annotation)


def describe(annotation: Any, many: bool = False) -> str:
    """Returns what fits an annotation in words: "a string or a list of strings"."""
    *first, last = dict.fromkeys(_words(annotation, many))
    return f"{', '.join(first)} or {last}" if first else last


def _words(annotation: Any, many: bool) -> list[str]:
    """Returns what fits each member of a union, in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return [repr(x) for x in arguments]
    if origin in UNIONS:
        return [word for x in arguments for word in _words(x, many)]
    if origin is Annotated:
        lowest, highest = next(x for x in arguments[1:] if isinstance(x, Range))
        limits = f"of {lowest} or more" if math.isinf(highest) else f"from {lowest} to {highest}"
        return [f"{describe(arguments[0], many)} {limits}"]
    if _is_sequence_type(annotation):
        one, several = ("a pair", "pairs") if _is_fixed(annotation) else ("a list", "lists")
        entry = _entry(annotation)
        words = several if many else one
        return [words if entry is Any else f"{words} of {describe(entry, many=True)}"]
    words = {
        bool: ("True or False", "truth values"), int: ("a whole number", "whole numbers"),
        float: ("a number", "numbers"), str: ("a string", "strings"),
        types.NoneType: ("None", "None"), None: ("None", "None"),
    }  # fmt: skip
    kind = origin or annotation
    name = getattr(kind, "__name__", str(kind)).rpartition(".")[2]
    one, several = words.get(kind, (f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}", name))
    return [several if many else one]


def _members(annotation: Any) -> Sequence[Any]:
    is_union = typing.get_origin(annotation) in UNIONS
    return typing.get_args(annotation) if is_union else (annotation,)


def _is_sequence_type(annotation: Any) -> bool:
    return (typing.get_origin(annotation) or annotation) in (Sequence, list, tuple)


def _is_fixed(annotation: Any) -> bool:
    """Returns whether it is tuple[T, T], a pair."""
    arguments = typing.get_args(annotation)
    return typing.get_origin(annotation) is tuple and len(arguments) == 2 and ... not in arguments


def _entry(annotation: Any) -> Any:
    """Returns what the entries of a sequence fit: of tuple[T, U] either."""
    arguments = [x for x in typing.get_args(annotation) if x is not ...]
    return _union(arguments) if arguments else Any


def _union(annotations: Sequence[Any]) -> Any:
    return functools.reduce(operator.or_, annotations)


def _is_sequence(value: Any) -> bool:
    """Returns whether a value is a sequence, an array too; an iterator, a set, a mapping is not."""
    is_other = isinstance(value, str | bytes | bytearray | Mapping)
    sized = hasattr(value, "__len__") and hasattr(value, "__iter__")
    return sized and not is_other and getattr(value, "ndim", 1) > 0


def _is_traced(value: Any) -> bool:
    """Returns whether a value is a scalar within `jax.jit`, which cannot be read."""
    try:
        _scalar(value)
    except TypeError:
        return True
    return False


def _scalar(value: Any) -> Any:
    """Returns a scalar of NumPy, JAX or PyTorch as one of Python, and anything else as it is."""
    if not hasattr(value, "item") or getattr(value, "ndim", 1) > 0:
        return value
    try:
        return value.item()
    except NotImplementedError:  # a key of jax.random
        return value
