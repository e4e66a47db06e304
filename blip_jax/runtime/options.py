"""Functions whose keyword options are the fields of a dataclass."""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

from blip_jax.runtime.config import field_types
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint


def accepts(
    cls: type, advice: Mapping[str, str] = types.MappingProxyType({})
) -> Callable[[Callable], Callable]:
    """Decorates a function with **options, which are the fields of the dataclass `cls`.

    Unknown options are refused, and the signature that help() shows lists the fields.

    Args:
      advice: names of other programs, and what to give here.

    Raises (when the function is called):
      UserError: an option is no field.
    """
    known = field_types(cls)

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)
        named = [x for x in signature.parameters.values() if x.kind is not x.VAR_KEYWORD]
        taken = {parameter.name for parameter in named}
        defaults = {field.name: field.default for field in dataclasses.fields(cls)}
        options = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=annotation
            )
            for name, annotation in known.items()
            if name not in taken
        ]

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            for name in options:
                if name not in known and name not in taken:
                    near = advice.get(name) or hint(name, [*sorted(taken - {"self"}), *known])
                    raise UserError(f"{function.__name__} has no option {name!r}; {near}")
            return function(*args, **options)

        call.__signature__ = signature.replace(parameters=[*named, *options])
        return call

    return decorate
