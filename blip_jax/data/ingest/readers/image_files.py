"""Image files that records name by a path or a URL."""

from __future__ import annotations

import errno
import functools
import io
import os
import stat
import urllib.parse

from etils import epath

from blip_jax.data.image_suffixes import IMAGE_SUFFIXES
from blip_jax.data.ingest.records import MAX_BYTES, RejectedRecord

# Errors that concern one record; others come from the disk or the network and stop the import.
ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ValueError)
ABSENT_CODES = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ, errno.ENXIO,
                errno.ENODEV)  # fmt: skip
REMOTE = ("http://", "https://")


def open_buffered(path: str) -> io.BufferedReader:
    """Returns a file to read lines from, local or in a bucket."""
    file = epath.Path(path).open("rb")
    return file if isinstance(file, io.BufferedReader) else io.BufferedReader(file, 1 << 20)


def find(image_path: str, images: str, folders: list[str]) -> bytes:
    """Returns `load` of the first of the folders in which the image is.

    What a file holds decides, not its name. Of a record from Windows, `images\\\\a.jpg` is also
    searched as `images/a.jpg`, and a local image whose name has no ending also with one.
    """
    names = [image_path]
    if "\\" in image_path and not image_path.lower().startswith(REMOTE):
        names.append(image_path.replace("\\", "/"))
    last = os.path.basename(names[-1])
    if last and not os.path.splitext(last)[1] and "://" not in f"{images}{folders[0]}{image_path}":
        names += [names[-1] + suffix for suffix in IMAGE_SUFFIXES]
    missing = None
    for name in names:
        for folder in folders[:1] if images else folders:
            try:
                return load(name, images, folder)
            except RejectedRecord as error:
                if error.reason != "missing image":
                    raise
                missing = missing or error
    raise missing


def load(image_path: str, images: str, folder: str) -> bytes:
    """Returns the bytes of an image file.

    Args:
      image_path: of a record: a path, or a URL, whose last part is then the file's name.
      images: folder to which paths are relative, and which none may leave, nor a link on it; "" is
        `folder`, and paths may be absolute.
      folder: of the list.

    Raises:
      RejectedRecord: there is no such file, it cannot be read, or its path leaves the folder.
    """
    if image_path.lower().startswith(REMOTE):
        image_path = file_name(image_path)
    if not image_path or "\0" in image_path or is_unsafe(image_path, absolute=not images):
        raise RejectedRecord("unsafe name", image_path)
    path = epath.Path(images or folder) / image_path
    try:
        if images and "://" not in images:
            _check_inside(os.fspath(path), images)
        with _open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        if not isinstance(error, ABSENT) and error.errno not in ABSENT_CODES:
            raise
        raise _missing(image_path, error) from error
    except ValueError as error:
        raise _missing(image_path, error) from error
    if len(data) > MAX_BYTES:
        raise RejectedRecord("too many bytes", f"{image_path} has more than {MAX_BYTES}")
    return data


def _missing(image_path: str, error: Exception) -> RejectedRecord:
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return RejectedRecord("missing image", "its name is too long for a file")
    reason = "it does not exist"
    if not isinstance(error, FileNotFoundError):
        reason = getattr(error, "strerror", None) or str(error)
    return RejectedRecord("missing image", f"{image_path}: {reason}")


def file_name(url: str) -> str:
    """Returns the file name at the end of a URL."""
    try:
        path = urllib.parse.urlsplit(url).path
    except ValueError as error:  # such as http://[
        raise RejectedRecord("missing image", f"{url[:200]} is no URL: {error}") from error
    return urllib.parse.unquote(path).rpartition("/")[2]


def _open_regular(path: epath.Path):
    """Opens a file; pipes, sockets and devices, which may never end, are rejected."""
    if "://" in os.fspath(path):
        return path.open("rb")
    # Opening a pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise RejectedRecord("missing image", f"{path} is {kind}, not a file")
    return os.fdopen(descriptor, "rb")


def _check_inside(path: str, root: str) -> None:
    """Raises a RejectedRecord if links lead from the folder `root` to a file out of it."""
    target = os.path.realpath(path) if os.path.islink(path) else None
    folder = os.path.dirname(target) if target else _real_folder(os.path.dirname(path))
    real_root = _real_folder(root)
    if folder != real_root and not folder.startswith(real_root.rstrip("/") + "/"):
        raise RejectedRecord("unsafe name", f"{path} is a link out of {root}")


@functools.lru_cache(maxsize=1 << 14)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)


def is_unsafe(name: str, absolute: bool = False) -> bool:
    """Returns whether a path may leave its folder; `absolute` permits full paths."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or (not absolute and (parts[0] == "" or parts[0].endswith(":")))
