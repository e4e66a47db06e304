"""Pictures that a browser sends: single files, several, folders, and zip archives of them.

Names of files are only shown, and an archive is read without writing its members to disk.
"""

import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from blip_jax.data.image_suffixes import IMAGE_SUFFIXES
from blip_jax.data.images import ImageError
from blip_jax.models.inputs import load_image
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.terminal import printable

MEBI = 2**20
MAX_UPLOAD = 64 * MEBI  # bytes of a file that a browser sends
MAX_PICTURE = 32 * MEBI  # bytes of a picture
MAX_PICTURES = 500  # of a batch
MAX_BATCH = 256 * MEBI  # bytes of the pictures of a batch
MAX_MEMBERS = 10_000  # entries of an archive, folders and other files counted
# What reading a member of an archive raises; NotImplementedError: packed in an unknown way.
DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OSError,
)  # fmt: skip


class Picture(NamedTuple):
    """A picture that was sent: the name it is shown by, and its content, or why there is none."""

    name: str
    content: bytes | UserError


def pixels_of(picture: Picture, exif_orientation: bool = True) -> np.ndarray:
    """Returns a picture's pixels, uint8 [H, W, 3].

    Raises:
      UserError: it is no picture, or has too many bytes or pixels; the message names it.
    """
    if isinstance(picture.content, UserError):
        raise picture.content
    try:
        return load_image(picture.content, exif_orientation)
    except ImageError as error:
        raise UserError(f"{picture.name}: {error}") from error


def picture_of(upload: Mapping[str, Any] | None) -> Picture:
    """Returns the picture of a single upload, as Gradio describes files.

    Raises:
      UserError: there is none.
    """
    if not upload or not upload.get("path"):
        raise UserError("no image; upload one first")
    return _from_disk(upload)


def pictures_of(uploads: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Returns the pictures of files and of zip archives, in the order of names within each.

    Of folders and archives, files whose ending is not that of an image are passed over.

    Raises:
      UserError: there is no picture, there are too many, or an archive cannot be read.
    """
    found: list[Picture] = []
    left = MAX_BATCH
    uploads = [upload for upload in uploads if upload.get("path")]
    for upload in sorted(uploads, key=_shown):
        name = _shown(upload)
        is_archive = name.lower().endswith(".zip")
        if not is_archive and len(uploads) > 1 and not _is_image(name):
            continue
        for picture in _members(upload) if is_archive else [_from_disk(upload)]:
            found.append(picture)
            left -= len(picture.content) if isinstance(picture.content, bytes) else 0
            if len(found) > MAX_PICTURES:
                raise UserError(f"more than {MAX_PICTURES} images; send fewer at a time")
            if left < 0:
                raise UserError(f"more than {MAX_BATCH // MEBI} MiB of images; send fewer")
    if not found:
        raise UserError(f"no image file ({', '.join(IMAGE_SUFFIXES)}); send images or a zip")
    return found


def _shown(upload: Mapping[str, Any]) -> str:
    return printable(str(upload.get("orig_name") or os.path.basename(upload["path"])))


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def _from_disk(upload: Mapping[str, Any]) -> Picture:
    name, path = _shown(upload), upload["path"]
    if os.path.getsize(path) > MAX_PICTURE:
        return Picture(name, _too_large(name))
    with open(path, "rb") as file:
        return Picture(name, file.read())


def _too_large(name: str) -> UserError:
    return UserError(f"{name} is larger than {MAX_PICTURE // MEBI} MiB; send a smaller image")


def _members(upload: Mapping[str, Any]) -> Iterator[Picture]:
    """Yields the pictures of an archive in the order of names; each is read when its turn comes."""
    name = _shown(upload)
    try:
        with zipfile.ZipFile(upload["path"]) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            if len(members) > MAX_MEMBERS:
                raise UserError(f"{name} has more than {MAX_MEMBERS} files; send a smaller archive")
            for info in sorted(members, key=lambda info: info.filename):
                if _is_image(info.filename):
                    yield _read_member(archive, info)
    except zipfile.BadZipFile as error:
        raise UserError(f"{name} is not a zip archive, or is damaged; send another") from error


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Picture:
    """Returns a picture of an archive; never reads more than `MAX_PICTURE` bytes of it."""
    name = printable(info.filename)
    if info.flag_bits & 1:
        return Picture(name, UserError(f"{name} is encrypted; send an archive without password"))
    try:
        with archive.open(info) as file:  # what the archive says of sizes is not trusted
            content = file.read(MAX_PICTURE + 1)
    except DAMAGED as error:
        reason = f"{name} cannot be unpacked ({type(error).__name__}); pack it again"
        return Picture(name, UserError(reason))
    return Picture(name, _too_large(name) if len(content) > MAX_PICTURE else content)
