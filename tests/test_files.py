"""Files and folders that are written whole or not at all, JSON values, and relative paths."""

import json
import math
import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from blip_jax.runtime import files
from blip_jax.runtime.errors import UserError


class Failure(Exception):
    pass


def test_messages_name_the_file_and_not_its_temporary_name(tmp_path):
    for name in ("x.json", "a-1-b.json"):
        with files.atomic_path(tmp_path / name) as temporary:
            assert temporary.name != name
            assert files.final_name(temporary) == str(tmp_path / name)
            temporary.write_text("")
    assert files.final_name("/a/b") == "/a/b"


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    with files.atomic_write(path) as file:
        file.write("é")
        [temporary] = names(tmp_path)
        assert temporary.startswith(".incomplete-") and temporary.endswith("-a.txt")
        assert str(os.getpid()) in temporary
    assert names(tmp_path) == ["a.txt"] and path.read_bytes() == "é".encode()
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("error", [Failure, KeyboardInterrupt])
def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), files.atomic_write(path, "wb") as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
        raise error
    assert names(tmp_path) == ["a.bin"] and path.read_bytes() == b"old"
    with files.atomic_write(path, "wb") as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_a_target_that_cannot_be_replaced_stays(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(OSError), files.atomic_write(tmp_path / "folder") as file:
        file.write("new")
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["inner"]
    with pytest.raises(FileNotFoundError), files.atomic_write(tmp_path / "none" / "a"):
        pass
    with pytest.raises(ValueError, match="mode is 'a'"), files.atomic_write(tmp_path / "a", "a"):
        pass


def test_links_are_replaced_and_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("other")
    (tmp_path / "link").symlink_to(other)
    files.write_json(tmp_path / "link", 1)
    assert other.read_text() == "other" and not (tmp_path / "link").is_symlink()


def test_a_file_in_the_way_of_the_temporary_name_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "temporary_name", lambda name: f".incomplete-{name}")
    other = tmp_path / "other"
    other.write_text("other")
    (tmp_path / ".incomplete-a").symlink_to(other)
    with pytest.raises(FileExistsError), files.atomic_write(tmp_path / "a") as file:
        file.write("new")
    assert other.read_text() == "other"


def test_names_are_short_enough_for_any_file_system(tmp_path):
    name = "é" * 100 + ".json"  # 205 bytes
    files.write_json(tmp_path / name, {})
    assert names(tmp_path) == [name]
    assert files.temporary_name("a") != files.temporary_name("a")


def test_a_library_may_write_the_file_itself(tmp_path):
    path = tmp_path / "a.npy"
    with files.atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            np.save(file, np.arange(3))
        assert not path.exists()
    assert np.load(path).tolist() == [0, 1, 2] and names(tmp_path) == ["a.npy"]
    with pytest.raises(FileNotFoundError), files.atomic_path(path):
        pass  # nothing was written
    assert names(tmp_path) == ["a.npy"]


def test_a_bucket_gets_whole_objects_only(tmp_path, monkeypatch):
    uploads = []
    monkeypatch.setattr(
        type(epath.Path(tmp_path)),
        "copy",
        lambda self, to, overwrite: uploads.append((str(to), self.read_text(), overwrite)),
    )
    with pytest.raises(Failure), files.atomic_write("gs://bucket/a.json") as file:
        raise Failure
    assert not uploads
    with files.atomic_write("gs://bucket/a.json") as file:
        file.write("1")
        assert not uploads
    assert uploads == [("gs://bucket/a.json", "1", True)]


def test_a_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "parent" / "a"
    with pytest.raises(Failure), files.atomic_folder(path) as folder:
        (folder / "x").write_text("x")
        raise Failure
    assert names(path.parent) == []
    with files.atomic_folder(path) as folder:
        (folder / "x").write_text("x")
        assert not path.exists() and folder.parent == path.parent
    assert names(path.parent) == ["a"] and names(path) == ["x"]


def test_a_folder_with_content_is_replaced_only_if_asked(tmp_path):
    path = tmp_path / "a"
    path.mkdir()
    with files.atomic_folder(path) as folder:  # an empty one is in nobody's way
        (folder / "x").touch()
    with pytest.raises(UserError, match="a exists already; choose another path"):
        with files.atomic_folder(path):
            pytest.fail("entered")
    with pytest.raises(Failure), files.atomic_folder(path, replace=True) as folder:
        raise Failure
    assert names(tmp_path) == ["a"] and names(path) == ["x"]
    with files.atomic_folder(path, replace=True) as folder:
        (folder / "y").touch()
    assert names(tmp_path) == ["a"] and names(path) == ["y"]
    (tmp_path / "link").symlink_to(path)
    for taken in ("link", "a/y"):
        with pytest.raises(UserError, match="exists already"):
            with files.atomic_folder(tmp_path / taken, replace=True):
                pytest.fail("entered")
    with pytest.raises(UserError, match="not a local folder"), files.atomic_folder("gs://b/a"):
        pytest.fail("entered")


def test_a_folder_that_appeared_meanwhile_is_kept(tmp_path):
    path = tmp_path / "a"
    message = f"{path} was made by another process in the meantime; choose another path"
    with pytest.raises(UserError, match=message), files.atomic_folder(path) as folder:
        (folder / "x").touch()
        path.mkdir()
        (path / "theirs").touch()
    assert names(tmp_path) == ["a"] and names(path) == ["theirs"]


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept").touch()
    (tmp_path / "incomplete-kept").touch()
    (tmp_path / files.temporary_name("a")).touch()
    (tmp_path / files.temporary_name("b")).mkdir()
    (tmp_path / files.temporary_name("c")).symlink_to(other)
    files.remove_incomplete(tmp_path)
    assert names(tmp_path) == ["incomplete-kept", "other"] and names(other) == ["kept"]
    files.remove_incomplete(tmp_path / "none")


def test_what_ended_processes_left_of_a_path_is_removed(tmp_path):
    out = tmp_path / "out.json"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = {pid: files.temporary_name("out.json").replace(f"-{os.getpid()}-", f"-{pid}-")
            for pid in (ended.pid, os.getpid())}  # fmt: skip
    other = files.temporary_name("other.json").replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    for name in (*left.values(), other):
        (tmp_path / name).mkdir()
    files.remove_abandoned(out)
    assert sorted(os.listdir(tmp_path)) == sorted([left[os.getpid()], other])


def test_json_has_null_for_what_is_no_number(tmp_path):
    value = {"a": [1.5, math.nan, (math.inf, "x")], "b": np.float64("nan"), "c": None}
    files.write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": [1.5, None, [None, "x"]], "b": None, "c": None}
    assert text.endswith("\n")
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "b.json", object())
    assert names(tmp_path) == ["a.json"]


def test_float32_in_seven_digits():
    assert files.float32_number(np.float32(0.1)) == 0.1
    assert files.float32_number(np.float32("nan")) is None
    assert files.float32_number(-math.inf) is None


def test_paths_that_can_be_moved_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.relative_path("a/x", "a/b") == "../x"
    assert files.absolute_path("../x", "/a/b") == "/a/b/../x"
    assert files.absolute_path("/x", "/a/b") == "/x"
    assert files.absolute_path("gs://b/x", "/a") == "gs://b/x"
    assert files.absolute_path("x", epath.Path("gs://b/a")) == "gs://b/a/x"
    assert files.relative_path("gs://b/x", "/a") == "gs://b/x"
    assert files.relative_path("x", epath.Path("gs://b/a")) == str(tmp_path / "x")
