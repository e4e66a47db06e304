"""The commands and the code of the documentation, as tests read them."""

import ast
import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

import yaml

ROOT = pathlib.Path(__file__).parents[1]
READMES = [
    ROOT / "README.md",
    *sorted(ROOT.glob("blip_jax/*/README.md")),
    ROOT / "configs" / "README.md",
    ROOT / "launch" / "README.md",
]
CONFIGS = sorted(ROOT.glob("configs/*.py"))
SCRIPTS = [*sorted(ROOT.glob("launch/*.sh")), ROOT / "launch" / "jobset.yaml"]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`(blip-jax [^`]+)`")
START = re.compile(r"(?:^|\s)blip-jax (.*)")
ELLIPSIS = "…"  # alone: arguments are left out


class Command(NamedTuple):
    """A command line of the documentation.

    Attributes:
      file: where it is, below the repository.
      argv: the verb and its arguments.
      complete: whether it can be run as it is, but for names of files.
    """

    file: str
    argv: tuple[str, ...]
    complete: bool

    @property
    def name(self) -> str:
        """What a test is called."""
        return f"{self.file}: {' '.join(self.argv)}"


def code_of(file: str, title: str, language: str) -> list[str]:
    """Returns the code of a language in a chapter of a README."""
    text = (ROOT / file).read_text("utf-8")
    rest = re.split(rf"^## {re.escape(title)}\n", text, flags=re.MULTILINE)[1]
    rest = re.split(r"^## ", rest, flags=re.MULTILINE)[0]
    return [code for found, code in FENCED.findall(rest) if found == language]


def commands() -> list[Command]:
    """Returns all commands of the documentation, each once for a file."""
    found = []
    for path in READMES:
        text = path.read_text("utf-8")
        for language, code in FENCED.findall(text):
            if language == "bash":
                found += _of_text(path, code, complete=True)
        for span in CODE_SPAN.findall(FENCED.sub("", text)):
            found += _of_text(path, " ".join(span.split()), complete=False)
    for path in CONFIGS:
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        found += _of_text(path, CODE_SPAN.sub("", docstring), complete=True)
    for path in SCRIPTS:
        lines = path.read_text("utf-8").splitlines()
        comments = [line.lstrip("#") if line.startswith("#") else "" for line in lines]
        found += _of_text(path, "\n".join(comments), complete=True)
        if path.suffix == ".yaml":
            found += [
                Command(_name(path), x, True) for x in _of_yaml(yaml.safe_load("\n".join(lines)))
            ]
    return list(dict.fromkeys(found))


def _name(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def _of_text(path: pathlib.Path, text: str, complete: bool) -> Iterator[Command]:
    """Commands of a shell's text; a line that starts with … goes with the verb before it."""
    verb = ""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if verb and line.strip().startswith(f"{ELLIPSIS} --"):
            line = f"blip-jax {verb} {line.strip()}"
        match = START.search(line)
        if not match:
            continue
        argv = shlex.split(match[1].partition(" > ")[0], comments=True)
        if argv[:1] in ([], [ELLIPSIS]):
            continue
        verb = argv[0]
        whole = complete and ELLIPSIS not in argv
        yield Command(_name(path), tuple(x for x in argv if x != ELLIPSIS), whole)


def _of_yaml(value) -> Iterator[tuple[str, ...]]:
    """Arguments of containers that run blip-jax."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        if value and value[0] == "blip-jax":
            yield tuple(value[1:])
            return
        for entry in value:
            yield from _of_yaml(entry)
