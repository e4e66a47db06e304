"""Removes absolute local paths from what cards and reports publish, and makes commands readable."""

import os
import re
import shlex
from typing import Any

# An absolute path that begins an argument or follows "=", "," or an opening bracket or quote.
_PATH = re.compile(r"""(?:(?<=^)|(?<=[=,('"\[]))/[^,'"()\[\]]*""")
_SAFE = re.compile(r"[\w@%+=:,./-]+", re.ASCII)  # characters that shlex.quote leaves as they are


def public_path(path: str) -> str:
    """Returns a local path relative to the current folder, or its last part if it is elsewhere.

    URLs, hub ids and relative paths are returned unchanged.
    """
    if not os.path.isabs(path):
        return path
    try:
        relative = os.path.relpath(path)
    except FileNotFoundError:  # the current folder has been removed
        relative = os.pardir
    outside = relative == os.pardir or relative.startswith(os.pardir + os.sep)
    return os.path.basename(os.path.normpath(path)) if outside else relative


def public_command(command: str) -> str:
    """Returns a shell command without absolute local paths and with few quotes."""
    try:
        words = shlex.split(command)
    except ValueError:  # not written by this package
        return command
    return " ".join(_quote(_PATH.sub(_replace, word)) for word in words)


def public_values(value: Any) -> Any:
    """Returns nested dicts and lists with `public_path` applied to every string."""
    if isinstance(value, dict):
        return {name: public_values(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [public_values(item) for item in value]
    return public_path(value) if isinstance(value, str) else value


def _replace(match: re.Match) -> str:
    return public_path(match.group())


def _quote(word: str) -> str:
    """Returns `word` for a shell, in double quotes if it has single ones."""
    if _SAFE.fullmatch(word):
        return word
    if "'" in word and not re.search(r'["$`\\!]', word):
        return f'"{word}"'
    return shlex.quote(word)
