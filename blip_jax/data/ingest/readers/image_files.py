"""Image files that records name by a path or a URL."""

from __future__ import annotations

import io
import urllib.parse

from etils import epath

from blip_jax.data.ingest.records import MAX_BYTES, RejectedRecord

# Errors that concern one record; others come from the disk or the network and stop the import.
ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ValueError)
REMOTE = ("http://", "https://")
LONGEST = 255  # longest file name


def open_buffered(path: str) -> io.BufferedReader:
    """Returns a file to read lines from, local or in a bucket."""
    file = epath.Path(path).open("rb")
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(file, 1 << 20)


def load(image_path: str, images: str, folder: str) -> bytes:
    """Returns the bytes of an image file.

    Args:
      image_path: of a record: a path, or a URL, whose last part is then the file's name.
      images: folder to which paths are relative, and which none may leave; "" is `folder`, and
        paths may be absolute.
      folder: of the list.

    Raises:
      RejectedRecord: there is no such file, it cannot be read, or its path leaves the folder.
    """
    if image_path.startswith(REMOTE):
        image_path = urllib.parse.unquote(urllib.parse.urlsplit(image_path).path).rpartition("/")[2]
    if not image_path or "\0" in image_path or is_unsafe(image_path, absolute=not images):
        raise RejectedRecord("unsafe name", image_path)
    path = epath.Path(images or folder) / image_path
    if any(len(part) > LONGEST for part in path.parts):
        raise RejectedRecord("missing image", "its name is too long for a file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except ABSENT as error:
        raise RejectedRecord("missing image", f"{image_path} ({type(error).__name__})") from error
    if len(data) > MAX_BYTES:
        raise RejectedRecord("too many bytes", f"{image_path} has more than {MAX_BYTES}")
    return data


def is_unsafe(name: str, absolute: bool = False) -> bool:
    """Returns whether a path may leave its folder; `absolute` permits full paths."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or (not absolute and (parts[0] == "" or parts[0].endswith(":")))
