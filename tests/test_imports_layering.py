"""Which folder of blip_jax may import which: the rules as data, held against every import.

Imports inside functions count too. A folder may always import from itself.
"""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "blip_jax"

# A nested folder ("train/aot") has a rule of its own; its parent may not import it.
MAY_IMPORT: dict[str, set[str]] = {
    "runtime": set(),
    "losses": {"runtime"},
    "nn": {"runtime"},
    "data": {"runtime"},
    "data/ingest": {"runtime", "data"},
    "data/synthetic": {"runtime", "data"},
    "metrics": {"runtime", "data"},
    "decoding": {"runtime", "losses"},
    "checkpoints": {"runtime", "nn", "losses", "data"},
    "models": {"runtime", "checkpoints", "decoding", "nn", "data", "losses"},
    "model_export": {"runtime", "models", "checkpoints", "nn", "data"},
    "serving": {"runtime", "models", "decoding", "data"},
    "demo": {"runtime", "models", "decoding", "data"},
    "tasks": {
        "runtime", "models", "metrics", "losses", "nn", "data", "data/synthetic", "decoding",
        "checkpoints",
    },
    "reports": {"runtime", "metrics", "data"},
    "train": {"runtime", "tasks", "models", "checkpoints", "losses", "nn", "data", "decoding"},
    "train/aot": {
        "runtime", "train", "tasks", "models", "checkpoints", "losses", "nn", "data", "decoding",
    },
    "capfilt": {
        "runtime", "models", "metrics", "reports", "data", "data/ingest", "data/synthetic",
        "decoding", "nn",
    },
    "capfilt/bootstrap": {
        "runtime", "capfilt", "train", "tasks", "models", "checkpoints", "metrics", "reports",
        "data", "data/synthetic", "decoding", "nn", "losses",
    },
    "comparison": {
        "runtime", "train", "tasks", "models", "checkpoints", "metrics", "reports", "data",
        "data/synthetic", "decoding", "nn", "losses",
    },
}  # fmt: skip
MAY_IMPORT["cli"] = set(MAY_IMPORT)
# The package itself, and what only names the version.
ANY = {"", "__init__"}


def folder_of(module: str) -> str:
    """The rule that a module falls under: "blip_jax.train.aot.hlo" -> "train/aot"."""
    parts = module.split(".")[1:]
    for length in (2, 1):
        name = "/".join(parts[:length])
        if name in MAY_IMPORT:
            return name
    return "/".join(parts[:1])


def module_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.AST, package: str) -> set[str]:
    """Modules of blip_jax that a file imports; of `from x import y` x.y where that is a module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                path = ROOT.parent.joinpath(*base.split("."), alias.name)
                is_module = path.with_suffix(".py").exists() or path.is_dir()
                found.add(f"{base}.{alias.name}" if is_module else base)
    return {name for name in found if name.split(".")[0] == "blip_jax"}


def arrows() -> dict[tuple[str, str], set[str]]:
    """(importing folder, imported folder) -> the files that do it."""
    found: dict[tuple[str, str], set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        module = module_of(path)
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for name in imported_modules(ast.parse(path.read_text("utf-8")), package):
            pair = folder_of(module), folder_of(name)
            if pair[0] != pair[1]:
                found.setdefault(pair, set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_folder_has_a_rule():
    folders = {folder_of(module_of(path)) for path in ROOT.rglob("*.py")} - ANY - {"__main__"}
    assert folders == set(MAY_IMPORT)


def test_imports_go_downwards():
    wrong = {
        f"{source} imports {target}": sorted(files)
        for (source, target), files in arrows().items()
        if source in MAY_IMPORT and target not in ANY and target not in MAY_IMPORT[source]
    }
    assert not wrong


def test_the_rules_have_no_cycle():
    order, left = [], dict(MAY_IMPORT)
    while left:
        free = [name for name, below in left.items() if not below & set(left) - {name}]
        assert free, f"a cycle among {sorted(left)}"
        order += free
        left = {name: below for name, below in left.items() if name not in free}
    assert order[-1] == "cli"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from blip_jax import nn, __version__", {"blip_jax.nn", "blip_jax"}),
        ("def f():\n    from blip_jax.data.mixture import Component", {"blip_jax.data.mixture"}),
        ("import blip_jax.losses as losses\nimport numpy", {"blip_jax.losses"}),
        ("from . import configs", {"blip_jax.nn.configs"}),
        ("from .configs import preset", {"blip_jax.nn.configs"}),
    ],
)
def test_imports_are_found(text, found):
    names = imported_modules(ast.parse(text), "blip_jax.nn")
    expected = {name for name in found if name != "blip_jax.data.mixture"}
    assert expected <= names and len(names) == len(found)


def test_models_import_no_datasets_and_no_checkpoint_manager():
    """They would take a third of the time that a notebook waits for the import."""
    code = """
import sys
from blip_jax import models
slow = "tensorflow_datasets", "orbax.checkpoint", "torch"
print([name for name in slow if name in sys.modules])
"""
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True
    )
    assert printed.stdout == "[]\n"
