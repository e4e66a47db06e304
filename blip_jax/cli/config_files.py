"""Config files: Python files whose `get_config()` returns a dataclass.

`--config FILE.py`, or `--config NAME` for one that comes with the package (configs/NAME.py), each
with `:VARIANT` at its end where `get_config` takes one.
"""

import importlib.util
import inspect
import pathlib
import sys
from typing import Any

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.suggestions import hint

PACKAGE = pathlib.Path(__file__).parents[1]
# Folder of the config files in an installed package, and in a checkout.
FOLDERS = (PACKAGE / "configs", PACKAGE.parent / "configs")
MODULE = "blip_jax_config_file"  # name of the config file in sys.modules


def names() -> list[str]:
    """Returns the names of the package's config files, without .py."""
    return sorted(x.stem for x in _folder().glob("*.py") if not x.stem.startswith("_"))


def _folder() -> pathlib.Path:
    return next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])


def find(name: str) -> pathlib.Path:
    """Returns the config file of a name or path.

    Raises:
      UserError: there is none.
    """
    if name.endswith(".py") or "/" in name:
        path = pathlib.Path(name)
        if not path.is_file():
            raise UserError(f"config file {name} does not exist")
        return path
    if name not in names():
        raise UserError(f"there is no config {name!r}; {hint(name, names())}; or give FILE.py")
    return _folder() / f"{name}.py"


def load(spec: str) -> tuple[Any, str]:
    """Returns what `get_config` of "FILE.py", "NAME" or either with ":VARIANT" returns.

    Returns: the config, and the file's docstring.

    Raises:
      UserError: there is no such file, or it fails.
    """
    path, _, variant = _split(spec)
    file = find(path)
    try:
        module = _module(file)
        make = module.get_config
        if variant and not inspect.signature(make).parameters:
            raise UserError(f"config file {path} has no variants; leave out :{variant}")
        return make(*[variant] if variant else []), inspect.getdoc(module) or ""
    except UserError:
        raise
    except Exception as error:  # a config file can raise anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"config file {path} gives no config: {lines[-1]}") from error


def _split(spec: str) -> tuple[str, str, str]:
    """Returns path and variant; a Windows drive or URL in the path may contain a colon itself."""
    start = spec.find(".py:") + 3 if ".py:" in spec else spec.rfind(":")
    return (spec[:start], ":", spec[start + 1 :]) if start >= 0 else (spec, "", "")


def _module(path: pathlib.Path) -> Any:
    """Runs a config file, which may import files of its own folder."""
    spec = importlib.util.spec_from_file_location(MODULE, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module  # dataclasses look up their module there
    folder = path.parent.absolute()
    if folder == _folder().absolute():  # whose files have names of other packages, as evaluate
        spec.loader.exec_module(module)
        return module
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module
