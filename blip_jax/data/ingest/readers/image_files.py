"""Image files that lists name by a path or a URL."""

from __future__ import annotations

import io
import urllib.parse

from etils import epath

from blip_jax.data.ingest.records import MAX_BYTES, RejectedRecord

# Errors that are the record's; others are of the disk or the network and stop the import.
ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ValueError)
REMOTE = ("http://", "https://")
LONGEST = 255  # of a file's name


def open_buffered(path: str) -> io.BufferedReader:
    """A file to read lines from, local or in a bucket."""
    file = epath.Path(path).open("rb")
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(file, 1 << 20)


def load(place: str, images: str, folder: str) -> bytes:
    """The bytes of an image file.

    Args:
      place: as a record names it: a path, or a URL, whose last part is then the file's name.
      images: folder that paths start from, and that none may leave; "" is `folder`, and paths may
        be absolute.
      folder: of the list.

    Raises:
      RejectedRecord: there is no such file, it cannot be read, or its name leads elsewhere.
    """
    if place.startswith(REMOTE):
        place = urllib.parse.unquote(urllib.parse.urlsplit(place).path).rpartition("/")[2]
    if not place or "\0" in place or is_unsafe(place, absolute=not images):
        raise RejectedRecord("unsafe name", place)
    path = epath.Path(images or folder) / place
    if any(len(part) > LONGEST for part in path.parts):
        raise RejectedRecord("missing image", "its name is longer than a file's can be")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except ABSENT as error:
        raise RejectedRecord("missing image", f"{place} ({type(error).__name__})") from error
    if len(data) > MAX_BYTES:
        raise RejectedRecord("too many bytes", f"{place} has more than {MAX_BYTES}")
    return data


def is_unsafe(name: str, absolute: bool = False) -> bool:
    """Whether a name leads out of its folder; `absolute` lets full paths pass."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or (not absolute and (parts[0] == "" or parts[0].endswith(":")))
