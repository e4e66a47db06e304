"""Plug-ins: captioners, filters and scores of images that are no models of this package.

A plug-in is named PACKAGE.MODULE:FUNCTION?OPTION=VALUE&…. The function is called once, with the
options as keyword arguments, and returns what is then called with each batch of B images:

| role | is called with | returns |
|---|---|---|
| captioner | images | for each image its caption, or a list of captions |
| filter | images, texts: for each image a list | for each image a list: a score 0..1 a text |
| extra score | images | for each image a number, of any range |

`images` is a list of B pictures, uint8 [H, W, 3] in RGB, of different sizes. They are upright,
unless a model of the same run reads images as they are stored. Images that cannot be decoded and
texts without a word are left out. Numbers may be Python's, NumPy's or PyTorch's; none may be NaN or
infinite.
"""

import dataclasses
import hashlib
import importlib
import inspect
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import nearest

Images = Sequence[np.ndarray]
Captioner = Callable[[Images], Sequence[str | Sequence[str]]]
Filter = Callable[[Images, Sequence[Sequence[str]]], Sequence[Sequence[float]]]
ExtraScore = Callable[[Images], Sequence[float]]

_SPEC = re.compile(
    r"(?:(?P<name>[^=]*)=)?(?P<spec>(?P<module>[^\W\d][\w.]*):(?P<function>\w+)(?:\?(?P<options>.*))?)"
)
_CONSTANTS = {"True": True, "False": False, "None": None}


class Spec(NamedTuple):
    """A plug-in as it is named.

    Attributes:
      name: of its column; its module's last name where none is given.
      text: PACKAGE.MODULE:FUNCTION?OPTION=VALUE&….
      module, function: where it is.
      options: keyword arguments of the function.
    """

    name: str
    text: str
    module: str
    function: str
    options: dict[str, Any]


def parse(entry: str) -> Spec | None:
    """Returns the plug-in that an entry of a list of models names; None: it names a model.

    Raises:
      UserError: an option is no OPTION=VALUE.
    """
    found = _SPEC.fullmatch(entry)
    if not found:
        return None
    options = {}
    for part in filter(None, (found["options"] or "").split("&")):
        name, equals, value = part.partition("=")
        if not (name.isidentifier() and equals):
            raise UserError(
                f"plug-in {found['spec']!r} has the option {part!r}; expected OPTION=VALUE"
            )
        options[name] = _value(unquote(value))
    name = found["name"] or found["module"].rpartition(".")[2]
    return Spec(name, found["spec"], found["module"], found["function"], options)


def _value(text: str) -> Any:
    """Returns a value of JSON, or a constant of Python, as what it is; other text as text."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    try:
        return json.loads(text)
    except ValueError:
        return text


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A plug-in in memory, whose results are checked.

    Attributes:
      role: "captioner", "filter" or "extra score".
      name: of its column.
      text: as it was named.
      function: what is called; see the module.
      sha256: of the file of its module; "" if it has none.
    """

    role: str
    name: str
    text: str
    function: Captioner | Filter | ExtraScore
    sha256: str = ""

    def captions(self, keys: Sequence[str], images: Images) -> list[list[str]]:
        """Returns the captions of each image.

        Raises:
          UserError: the plug-in fails, or returns something else.
        """
        found = []
        for key, texts in zip(keys, self._call(keys, images), strict=True):
            texts = [texts] if isinstance(texts, str) else texts
            if not isinstance(texts, list | tuple | np.ndarray):
                raise self._wrong(texts, key, "a string or a list of strings per image")
            for text in texts:
                if not isinstance(text, str):
                    raise self._wrong(text, key, "a string or a list of strings per image")
            found.append([str(text) for text in texts])  # also NumPy's strings
        return found

    def scores(
        self, keys: Sequence[str], images: Images, texts: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Returns the score 0..1 of each text of each image.

        Raises:
          UserError: the plug-in fails, or returns something else.
        """
        found = []
        results = self._call(keys, images, texts)
        for key, own, scores in zip(keys, texts, results, strict=True):
            if not hasattr(scores, "__len__") or len(scores) != len(own):
                count = len(scores) if hasattr(scores, "__len__") else 1
                raise self._error(
                    f"gave {count} scores for the {len(own)} texts of image {key!r}; return a list "
                    "with one score per text, for each image"
                )
            found.append([self._number(x, key) for x in scores])
            if bad := [x for x in found[-1] if not 0 <= x <= 1]:
                raise self._error(
                    f"gave a text of image {key!r} the score {bad[0]:g}; return numbers from 0 to 1"
                )
        return found

    def image_scores(self, keys: Sequence[str], images: Images) -> list[float]:
        """Returns the score of each image.

        Raises:
          UserError: the plug-in fails, or returns something else.
        """
        results = self._call(keys, images)
        return [self._number(x, key) for key, x in zip(keys, results, strict=True)]

    def _call(self, keys: Sequence[str], images: Images, *more: Any) -> list:
        """Returns the plug-in's results, one for each image."""
        try:
            results = self.function(list(images), *more)
            if isinstance(results, str | bytes | Mapping) or not hasattr(results, "__iter__"):
                kind = type(results).__name__
                raise self._error(
                    f"gave a value of type {kind}; return a list with one entry per image"
                )
            results = list(results)
        except UserError:
            raise
        except Exception as error:
            raise self._error(
                f"failed on a batch of {len(keys)} images from {keys[0]!r} ({_reason(error)}); "
                "correct it and rerun the same command (--debug shows the traceback)"
            ) from error
        if len(results) != len(keys):
            raise self._error(
                f"gave {len(results)} results for {len(keys)} images; return one per image"
            )
        return results

    def _number(self, value: Any, key: str) -> float:
        """Returns a score as a float, in the precision in which it is stored."""
        try:
            found = float(np.float32(value))
        except (TypeError, ValueError, RuntimeError):
            raise self._wrong(value, key, "numbers") from None
        if not math.isfinite(found):
            raise self._error(f"gave {found:g} for image {key!r}; return finite numbers")
        return found

    def _wrong(self, value: Any, key: str, expected: str) -> UserError:
        kind = type(value).__name__
        return self._error(f"gave a value of type {kind} for image {key!r}; return {expected}")

    def _error(self, what: str) -> UserError:
        return _error(self.role, self.name, self.text, what)


def load(role: str, spec: Spec) -> Plugin:
    """Imports a plug-in's module, from the current folder too, and calls its function.

    Raises:
      UserError: there is no such module or function, or it fails.
    """
    if os.getcwd() not in sys.path:  # as `python -m` does, which console scripts do not
        sys.path.append(os.getcwd())
    error = lambda what: _error(role, spec.name, spec.text, what)  # noqa: E731
    try:
        module = importlib.import_module(spec.module)
    except ModuleNotFoundError as missing:
        if spec.module != missing.name and not spec.module.startswith(f"{missing.name}."):
            raise error(f"needs the module {missing.name!r}; install it") from missing
        raise error(
            f"is not found: there is no module {missing.name!r}; check its name, and that its "
            "folder is the current one or in PYTHONPATH"
        ) from missing
    except Exception as cause:
        raise error(f"cannot be imported ({_reason(cause)}); correct it") from cause
    function = getattr(module, spec.function, None)
    if function is None:
        near = nearest(spec.function, (x for x in vars(module) if not x.startswith("_")))
        advice = f"did you mean {near!r}?" if near else "check its name"
        raise error(f"is not found: {spec.module} has no function {spec.function!r}; {advice}")
    if not callable(function):
        kind = type(function).__name__
        raise error(f"is no function but a value of type {kind}; name a function")
    try:
        made = function(**spec.options)
    except Exception as cause:
        raise error(
            f"cannot be made: {spec.function}({_shown(spec.options)}) failed ({_reason(cause)}); "
            "correct its options, or the plug-in (--debug shows the traceback)"
        ) from cause
    if not callable(made):
        raise error(
            f"cannot be called: {spec.function}({_shown(spec.options)}) returned a value of type "
            f"{type(made).__name__}; return a function of images"
        )
    file = inspect.getsourcefile(module) if getattr(module, "__file__", None) else None
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return Plugin(role, spec.name, spec.text, made, digest)


def _shown(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def _reason(error: Exception) -> str:
    message = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _error(role: str, name: str, text: str, what: str) -> UserError:
    return UserError(f"{role} plug-in {name!r} ({text}) {what}")
