"""Copies of files of a bucket: least recently used ones make room, of whichever dataset."""

import types

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from blip_jax.data import remote

SIZE = 1 << 30  # as if each file had it


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Two datasets, of 3 and 2 files of 2 records, on a disk for 2 copies."""
    made = []
    for name, files in (("a", 3), ("b", 2)):
        instructions = []
        for number in range(files):
            path = tmp_path / f"{name}{number}.array_record"
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for record in range(2):
                writer.write(f"{name}{number}{record}".encode())
            writer.close()
            instructions.append(types.SimpleNamespace(filename=str(path), skip=0, take=2))
        made.append(remote.RemoteRecordFiles(instructions))
    copies = remote._LocalCopies()
    monkeypatch.setattr(remote, "_COPIES", copies)

    def held():
        return [path[-15:-13] for path, copy in copies._copies.items() if copy._records]

    def disk_usage(path):
        return types.SimpleNamespace(free=remote.RESERVED_BYTES + (2 - len(held())) * SIZE)

    monkeypatch.setattr(remote.shutil, "disk_usage", disk_usage)
    monkeypatch.setattr(remote._LocalCopy, "_size", lambda self: SIZE, raising=True)
    return *made, held


def test_copies_of_all_datasets_share_the_disk(sources):
    a, b, held = sources
    assert [a[row] for row in (0, 1, 4)] == [b"a00", b"a01", b"a20"]
    assert held() == ["a0", "a2"]
    assert a[1] == b"a01" and held() == ["a2", "a0"]  # in the order of their use
    assert b[3] == b"b11" and held() == ["a0", "b1"]  # the other dataset's oldest went
    assert [a[row] for row in range(6)] == [b"a00", b"a01", b"a10", b"a11", b"a20", b"a21"]
    assert held() == ["a1", "a2"]
    with pytest.raises(IndexError):
        a[6]
