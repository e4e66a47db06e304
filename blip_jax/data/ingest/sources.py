"""Finds the files that config.source names."""

from __future__ import annotations

import collections
import glob
import hashlib
import itertools
import os
import re
from collections.abc import Iterator

from etils import epath

from blip_jax.data.ingest import benchmarks, source_folders
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.plan import SUFFIXES, File, has_magic, source_name
from blip_jax.data.ingest.readers.folders import walk
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.fingerprint import file_digest, folder_digest

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")  # of tars some are read: plan.SUFFIXES
MAX_BRACES = 1_000_000  # most paths that one pattern with braces can stand for
_COMMAS = re.compile(r",(?![^{}]*\})")  # those that are not within braces
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def files(settings: IngestConfig) -> tuple[list[File], list[str]]:
    """Returns the files that `source` names, in order, and what was passed over, a line each.

    Raises:
      UserError: there is none, or the format of one is unknown.
    """
    if settings.benchmark:
        paths, notes = benchmarks.files(settings)
        return [_file(path, settings.benchmark, "benchmark", "") for path in paths], notes
    found: list[File] = []
    passed_over: list[str] = []
    if "://" in settings.images:
        _exists(settings.images, "config.images")
    for pattern in _patterns(settings.source):
        paths, name = _expand(pattern), ""
        if not paths and (named := re.fullmatch(r"([\w.-]+)=(.+)", pattern)):
            name, pattern = named.groups()
            paths = _expand(pattern)
        if not paths and settings.format == "tfds":
            paths = [pattern]
        if not paths:
            raise UserError(f"config.source names {pattern}, which does not exist; check the path")
        for path in paths:
            found += _files(path, name or source_name(pattern), settings, passed_over)
    if settings.split != "train" and not any(file.format == "tfds" for file in found):
        raise UserError(
            f"config.split is {settings.split!r}, but only benchmarks and TFDS datasets are read "
            "by splits; leave it out, and name the files of the split in --config.source"
        )
    settings.columns.check_sources(sorted({file.source for file in found}))
    counts = collections.Counter(file.path for file in found)
    path, times = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise UserError(f"config.source names {path} twice")
    return found, passed_over


def _patterns(source: str) -> list[str]:
    """Returns the parts of a comma-separated source; a path that exists is one part."""
    if os.path.exists(os.path.expanduser(source)):
        return [source]
    return [part.strip() for part in _COMMAS.split(source) if part.strip()]


def _expand(pattern: str) -> list[str]:
    """Returns the paths that match a pattern, sorted; none if there are none.

    Raises:
      UserError: only some of the paths in braces exist, or a URL cannot be read.
    """
    if "://" not in pattern and os.path.exists(path := os.path.expanduser(pattern)):
        return [path]
    alternatives = _without_braces(pattern)
    found = {alternative: _matches(alternative) for alternative in alternatives}
    missing = [alternative for alternative, paths in found.items() if not paths]
    if missing and len(missing) < len(found):
        raise UserError(
            f"config.source names {pattern}, of which {missing[0]} does not exist; check the braces"
        )
    return list(itertools.chain.from_iterable(found.values()))


def _without_braces(pattern: str) -> list[str]:
    """Returns what a pattern with {a,b} and {00000..00012} stands for, in this order."""
    found = [pattern]
    while (braces := _BRACES.search(found[0])) is not None:
        content = braces[1]
        if ends := _RANGE.fullmatch(content):
            first, last = map(int, ends.groups())
            width = len(ends[1]) if ends[1].startswith("0") else 0
            numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
            _check_count(pattern, len(found) * len(numbers))
            values = [str(number).zfill(width) for number in numbers]
        elif "," in content:
            values = content.split(",")
        else:
            return found  # part of the name
        _check_count(pattern, len(found) * len(values))
        found = [_BRACES.sub(lambda _, v=v: v, path, count=1) for path in found for v in values]
    return list(dict.fromkeys(found))


def _check_count(pattern: str, count: int) -> None:
    if count > MAX_BRACES:
        raise UserError(
            f"config.source names {pattern}, which stands for more than {MAX_BRACES:,} paths; "
            "check the braces"
        )


def _matches(pattern: str) -> list[str]:
    """Returns the paths that a pattern without braces matches, sorted."""
    if "://" not in pattern:
        return sorted(glob.glob(_escaped(os.path.expanduser(pattern)), recursive=True))
    if not has_magic(pattern):
        return [pattern] if _exists(pattern, "config.source") else []
    root, rest = re.fullmatch(r"([^*?[{]*/)(.*)", pattern).groups()
    _exists(root, "config.source")
    return sorted(os.fspath(path) for path in epath.Path(root).glob(rest))


def _escaped(pattern: str) -> str:
    """Returns the pattern with its longest existing folder taken as it is, such as `set [v2]`."""
    folder = os.path.dirname(pattern)
    while folder and not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return glob.escape(folder) + pattern[len(folder) :] if os.path.isdir(folder) else pattern


def _exists(url: str, setting: str) -> bool:
    """Returns whether a path in a bucket exists.

    Raises:
      UserError: it is on the web, or the bucket cannot be read from here.
    """
    if url.lower().startswith(("http://", "https://", "ftp://")):
        raise UserError(
            f"{setting} names {url}, and prepare downloads nothing; download it and name the file"
        )
    try:
        return epath.Path(url).exists()
    except KeyError:
        raise UserError(
            f"{setting} names {url}, of a kind that cannot be read; copy it to a local folder"
        ) from None
    except Exception as error:  # of the library of that bucket
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{setting} names {url}, which cannot be read ({reason}); "
            "fix that, or copy it to a local folder"
        ) from error


def _files(
    path: str, source: str, settings: IngestConfig, passed_over: list[str]
) -> Iterator[File]:
    """Yields the files of a path, which are several if it is a folder."""
    location = epath.Path(path)
    format = settings.format
    if location.is_dir():
        if format == "tfds" or (not format and (location / "features.json").exists()):
            yield File(source, "tfds", path, 0)
            return
        kind, paths = source_folders.choose(path, settings, passed_over)
        if kind == "folder":
            yield File(source, "folder", path, 0)
        for child in paths:
            yield _file(child, source, kind, path)
        return
    suffix = next((s for s in SUFFIXES if path.lower().endswith(s)), None)
    if not suffix and path.lower().endswith(COMPRESSED):
        raise UserError(f"{path} is compressed; decompress it and name the file that comes out")
    format = format or SUFFIXES.get(suffix, "")
    if format == "tfds":
        yield File(source, format, path, 0)
    elif not format or format == "folder":
        known = ", ".join(SUFFIXES)
        raise UserError(
            f"{path} has no ending of a supported format ({known}); give --config.format"
        )
    else:
        yield _file(path, source, format, "")


def _file(path: str, source: str, format: str, folder: str) -> File:
    """Returns a file; raises a UserError if it is a pipe or a device, which can be read once."""
    if "://" not in path and not os.path.isfile(path):
        raise UserError(f"{path} is not a regular file; write its content to one and name that")
    return File(source, format, path, epath.Path(path).stat().length, folder)


def digest(file: File) -> str:
    """Returns what tells the content of a file from another: its size and a hash.

    Of a folder of images the names, sizes and times of change of all files count.
    """
    if file.format == "folder":
        content, count = hashlib.sha256(), 0
        for here, _, names in walk(file.path):
            for name in names:
                state = _size_and_time(os.path.join(here, name))
                line = f"{os.path.relpath(here, file.path)}/{name}: {state}\n"
                content.update(os.fsencode(line))  # names need not be UTF-8
                count += 1
        return f"{count} files, sha256 {content.hexdigest()[:16]}"
    if file.format == "tfds":
        return folder_digest(file.path) if epath.Path(file.path).is_dir() else ""
    return file_digest(file.path)


def _size_and_time(path: str) -> tuple[int, int]:
    """Returns the size and the time of the last change of a file; zeros for a broken link."""
    try:
        if "://" in path:
            found = epath.Path(path).stat()
            return found.length, found.mtime
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    except OSError:
        return 0, 0
