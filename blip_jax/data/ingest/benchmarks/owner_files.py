"""The annotation files of a benchmark, under the names that its owner gave them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from blip_jax.data.ingest.text import check_utf8, parse_json
from blip_jax.runtime.errors import UserError

LAST_CHARACTERS = 6  # an error so near to the end of a file is of a value that was cut off


@dataclasses.dataclass(frozen=True)
class OwnerFile:
    """A file of a benchmark.

    Attributes:
      path: where it is.
      url: where its owner publishes it.
    """

    path: str
    url: str

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def load(self) -> Any:
        """Returns the value of a JSON file.

        Raises:
          UserError: it is not JSON, or not whole.
        """
        return self._parsed(self._bytes(), "")

    def load_lines(self) -> list[Any]:
        """Returns the values of a file that has JSON in each line; raises as `load`."""
        lines = self._bytes().splitlines()
        return [
            self._parsed(line, f"line {number}")
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]

    def load_text(self) -> str:
        """Returns the text of a file.

        Raises:
          UserError: it is empty.
        """
        text = self._bytes().decode("utf-8-sig", "replace")
        if not text.strip():
            raise UserError(f"{self.path} is cut off; download it again from {self.url}")
        return text

    def load_csv(self, columns: tuple[str, ...]) -> list[dict[str, str]]:
        """Returns the lines of a CSV file that has a header.

        Raises:
          UserError: it has no such columns, or a line that lacks one.
        """
        reader = csv.DictReader(io.StringIO(self.load_text(), newline=""), strict=True)
        try:
            found = list(reader)
        except csv.Error as error:
            raise self.wrong(f"is not CSV ({error})") from error
        if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise self.wrong(f"has no column {missing[0]!r}")
        for number, row in enumerate(found, start=2):
            if not all(row[name] for name in columns):
                raise self.wrong(f"has a line {number} that is cut off or lacks a column")
        if not found:
            raise self.wrong("has no line below its header")
        return found

    def rows(
        self, value: Any, name: str, fields: Mapping[str, type | tuple[type, ...]]
    ) -> list[dict]:
        """Returns a list of objects in the file, after checking each.

        Args:
          value: what holds the list: an object, or the list itself if `name` is "".
          fields: those that each object must have, with their types.

        Raises:
          UserError: there is no such list, or an object lacks a field.
        """
        rows = value if not name else value.get(name) if isinstance(value, dict) else None
        what = f"list {name!r}" if name else "list"
        if not isinstance(rows, list) or not rows:
            names = ", ".join(map(str, list(value)[:8])) if isinstance(value, dict) else ""
            has = f"has the fields {names}, and " if names else "has "
            raise self.wrong(f"{has}no {what}" + " with an element" * isinstance(rows, list))
        for number, row in enumerate(rows):
            for field, types in fields.items():
                if not isinstance(row, dict) or not isinstance(row.get(field), types):
                    raise self.wrong(f"has an element {number} in its {what} without {field!r}")
        return rows

    def wrong(self, problem: str) -> UserError:
        """Returns the error of a file that is JSON, but not what its name says."""
        return UserError(f"{self.path} {problem}; expected the file of this name from {self.url}")

    def _bytes(self) -> bytes:
        data = epath.Path(self.path).read_bytes()
        check_utf8(data[:4], self.path)
        return data

    def _parsed(self, data: bytes, where: str) -> Any:
        try:
            return parse_json(data)
        except (ValueError, RecursionError) as error:
            if _is_cut_off(error):
                problem = f"is cut off{' in ' if where else ''}{where}"
            else:
                problem = f"is not JSON ({f'{where}: ' if where else ''}{error})"
            raise UserError(f"{self.path} {problem}; download it again from {self.url}") from error


def _is_cut_off(error: Exception) -> bool:
    """Returns whether a text is the start of JSON, as after a broken download."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    at_end = len(error.doc) - error.pos < LAST_CHARACTERS
    return at_end or error.msg.startswith("Unterminated string")


def find(root: str, names: tuple[str, ...]) -> dict[str, str]:
    """Returns the paths of those of the files that are in a folder or in one of its folders."""
    folder = epath.Path(root)
    inner = [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir()]
    found = {}
    for place in (folder, *sorted(inner)):
        for name in names:
            if name not in found and (place / name).exists():
                found[name] = os.fspath(place / name)
    return found
