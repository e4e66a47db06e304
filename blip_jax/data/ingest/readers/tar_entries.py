"""The entries of a tar, read as a stream: plain headers here, all others by Python's tarfile.

tarfile takes ten times as long for a header, which is a fifth of an import of small images.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal, NamedTuple

BLOCK = 512
MAX_HEADER = 1 << 20  # bytes of a header that continues in a member of its own, such as a long name
# From mode to checksum, and the numbers of a device, as GNU tar and Python write them.
_NUMBERS = re.compile(
    rb"(?:[0-7]{7}[ \0]){3}([0-7]{11})[ \0][0-7]{11}[ \0]([0-7]{6})\0 ([05x])", re.DOTALL
)
_DEVICE = re.compile(rb"(?:[0-7]{7}\0){2}|\0{16}")
_TIME = re.compile(rb"(\d+) [amc]time=\d+(?:\.\d+)?\n")


class Entry(NamedTuple):
    """A file, folder or other thing in a tar; `read` gives its content before the next is taken."""

    name: str
    kind: Literal["file", "folder", "other"]
    size: int
    read: Callable[[], bytes]


def entries(file: BinaryIO) -> Iterator[Entry]:
    """Yields the entries of a tar, compressed or not, in order.

    Raises:
      tarfile.TarError, EOFError, zlib.error: it is damaged.
    """
    is_first = True
    while (header := file.read(BLOCK)) and header.count(0) < BLOCK:
        consumed, plain = header, _plain(header)
        if plain is not None and plain[0] == "x":  # what webdataset's writer puts before each file
            times = _padded(file, plain[2])
            consumed += times
            plain = None
            if _only_times(times):
                header = file.read(BLOCK)
                consumed += header
                plain = _plain(header)
                plain = plain if plain is not None and plain[0] != "x" else None
        if plain is None:
            yield from _by_tarfile(_Rest(consumed, file), "r|*" if is_first else "r|")
            return
        kind, name, size = plain
        if kind == "5":
            yield Entry(name.rstrip("/"), "folder", 0, bytes)
        else:
            content = _Content(file, size)
            yield Entry(name, "file", size, content.read)
            content.skip()
        is_first = False
    if is_first:
        yield from _by_tarfile(_Rest(header, file), "r|*")


def _plain(header: bytes) -> tuple[str, str, int] | None:
    """Returns type, name and size that a header gives; None: tarfile must read it."""
    numbers = _NUMBERS.match(header, 100)
    if numbers is None or len(header) < BLOCK or header[345] or not _DEVICE.match(header, 329):
        return None
    size, checksum, kind = int(numbers[1], 8), int(numbers[2], 8), numbers[3].decode()
    name = header[:100].partition(b"\0")[0]
    if checksum != sum(header) - sum(header[148:156]) + 8 * ord(" ") or not name.isascii():
        return None
    if (kind == "5" and size) or (kind == "x" and size > MAX_HEADER):
        return None
    return kind, name.decode(), size


def _padded(file: BinaryIO, size: int) -> bytes:
    return file.read(-(-size // BLOCK) * BLOCK)


def _only_times(records: bytes) -> bool:
    """Returns whether an extended header says nothing but times."""
    position = 0
    while record := _TIME.match(records, position):
        if int(record[1]) != len(record[0]):
            return False
        position = record.end()
    return position > 0 and not records[position:].strip(b"\0")


class _Content:
    """The content of a plain entry, in a file that stands at its start."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size, self._left = file, size, -(-size // BLOCK) * BLOCK

    def read(self) -> bytes:
        data = self._file.read(self._size)
        self._left -= len(data)
        if len(data) < self._size:
            raise tarfile.ReadError("unexpected end of data")
        return data

    def skip(self) -> None:
        """Reads to the next header."""
        while self._left:
            if not (data := self._file.read(min(self._left, 1 << 20))):
                raise tarfile.ReadError("unexpected end of data")
            self._left -= len(data)


class _Rest:
    """A file of which some bytes were read already."""

    def __init__(self, consumed: bytes, file: BinaryIO):
        self._consumed, self._file = consumed, file

    def read(self, size: int) -> bytes:
        if not self._consumed:
            return self._file.read(size)
        data, self._consumed = self._consumed[:size], self._consumed[size:]
        return data if len(data) == size else data + self._file.read(size - len(data))


class _Header(tarfile.TarInfo):
    """Raises for a damaged header in the middle of a file, which tarfile would take for its end."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        header = super().frombuf(buf, encoding, errors)
        long = header.type in (
            tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
            tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
        )  # fmt: skip
        if header.size < 0 or (long and header.size > MAX_HEADER):
            raise tarfile.InvalidHeaderError(f"a header that claims {header.size} bytes")
        return header

    @classmethod
    def fromtarfile(cls, tar):
        try:
            return super().fromtarfile(tar)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(str(error)) from error


def _by_tarfile(file: _Rest, mode: Literal["r|*", "r|"]) -> Iterator[Entry]:
    with tarfile.open(fileobj=file, mode=mode, tarinfo=_Header, errorlevel=2) as tar:
        for entry in tar:
            tar.members = []  # otherwise tarfile keeps all of them
            kind = "folder" if entry.isdir() else "file" if entry.isfile() else "other"
            yield Entry(entry.name, kind, entry.size, lambda e=entry: tar.extractfile(e).read())
            if kind != "folder":
                _skip(tar)


def _skip(tar: tarfile.TarFile) -> None:
    """Reads to the next header.

    tarfile itself would go on past the end of the file, for as long as the member claims to be.
    """
    while (left := tar.offset - 1 - tar.fileobj.tell()) > 0:
        if not tar.fileobj.read(min(left, 1 << 20)):
            raise tarfile.ReadError("unexpected end of data")
