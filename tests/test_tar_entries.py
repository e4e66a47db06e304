"""Entries of tars: those of tarfile, which is asked only where a header is not plain."""

import io
import tarfile

import pytest

from blip_jax.data.ingest.readers import tar_entries

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
LONG = "n" * 150 + ".jpg"


def tar(names, format=tarfile.USTAR_FORMAT, mtime=1_700_000_000, mode="w"):
    """A tar with files of 0, 511, 1022, … bytes; folders end with a slash, links with an @."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=format) as writer:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name.rstrip("/@"))
            info.mtime = mtime
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            elif name.endswith("@"):
                info.type = tarfile.SYMTYPE
            else:
                info.size = 511 * number
            writer.addfile(info, io.BytesIO(bytes([number]) * info.size))
    return file.getvalue()


def by_tarfile(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        for entry in found:
            kind = "folder" if entry.isdir() else "file" if entry.isfile() else "other"
            yield entry.name, kind, found.extractfile(entry).read() if kind == "file" else b""


def by_entries(data):
    for entry in tar_entries.entries(io.BytesIO(data)):
        yield entry.name, entry.kind, entry.read() if entry.kind == "file" else b""


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mtime", [1_700_000_000, 1_700_000_000.25])
def test_plain_tars_are_read_without_tarfile(format, mtime, monkeypatch):
    data = tar(["a/", "a/0.jpg", "a/0.txt", "b.jpg"], format, mtime)
    expected = list(by_tarfile(data))
    monkeypatch.setattr(tar_entries, "_by_tarfile", None)
    assert list(by_entries(data)) == expected


@pytest.mark.parametrize("format", FORMATS[1:])
@pytest.mark.parametrize("odd", [LONG, "é.jpg", "link@"])
@pytest.mark.parametrize("place", [0, 2])
def test_tars_with_other_headers_have_the_entries_of_tarfile(format, odd, place):
    names = ["0.jpg", "0.txt", "1.jpg", "1.txt"]
    data = tar([*names[:place], odd, *names[place:]], format)
    assert list(by_entries(data)) == list(by_tarfile(data))
    assert len(list(by_entries(data))) == 5


def test_compressed_tars_are_read():
    names = ["0.jpg", "0.txt", "1.jpg"]
    assert list(by_entries(tar(names, mode="w:gz"))) == list(by_tarfile(tar(names)))


def test_contents_that_are_not_read_are_skipped():
    names = [entry.name for entry in tar_entries.entries(io.BytesIO(tar(["0.a", "1.b", "2.c"])))]
    assert names == ["0.a", "1.b", "2.c"]


@pytest.mark.parametrize("place", [5, 130, 150, 156, 300])
def test_damaged_headers_are_refused(place):
    data = bytearray(tar(["0.jpg", "1.jpg"]))
    data[512 + place] ^= 0x15
    with pytest.raises(tarfile.ReadError, match="checksum|header"):
        list(by_entries(bytes(data)))


@pytest.mark.parametrize("length", [512 + 300, 1024 + 200, 1024 + 511])
def test_tars_that_were_cut_off_are_refused(length):
    data = tar(["0.jpg", "1.jpg"])[:length]
    with pytest.raises(tarfile.ReadError, match="end of data|truncated"):
        list(by_entries(data))
