"""Results of caption, match and answer: resumed, passed over, whole lines, errors in one line."""

import errno
import json
import os
import pathlib
import types

import numpy as np
import pytest
from commands_fixture import call, fails
from malformed_files import jpeg

from blip_jax import models
from blip_jax.cli import results
from blip_jax.data.image_suffixes import IMAGE_SUFFIXES
from blip_jax.data.ingest.records import IMAGES
from blip_jax.models import Caption
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.lock import file_lock
from blip_jax.runtime.terminal import json_escaped, printable


class FakeModel:
    """Captions that are the index of the image; stops at `stop`."""

    def __init__(self, stop: int = 10**9, weight: float = 0.0):
        self.image_size, self.params = 16, {"w": np.float32([weight])}
        self.config = types.SimpleNamespace(exif_orientation=True)
        self.stop, self.done = stop, []

    def require(self, capability):
        pass

    def captions(self, images, decoding, *, start_index, **options):
        places = start_index
        if isinstance(start_index, int):
            places = range(start_index, start_index + len(images))
        if places[0] >= self.stop:
            raise KeyboardInterrupt
        self.done += places
        nothing = np.zeros(0, np.float32)
        return [[Caption(f"caption {place}", 0.0, nothing, nothing)] for place in places]

    def match(self, images, texts, **options):
        zeros = np.zeros((len(images), len(texts[0])), np.float32)
        return types.SimpleNamespace(probability=zeros, cosine=zeros)


@pytest.fixture
def use(monkeypatch):
    """A function that makes a model the one that is loaded."""

    def use(model):
        monkeypatch.setattr(models, "load", lambda *args, **options: model)
        return model

    return use


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Twenty images, 00.jpg … 19.jpg; the current folder is another one."""
    found = tmp_path / "images"
    found.mkdir()
    for number in range(20):
        (found / f"{number:02}.jpg").write_bytes(jpeg(number))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return found


def rows(path="x.jsonl"):
    return [json.loads(line) for line in pathlib.Path(path).read_text("utf-8").splitlines()]


def args(folder, *more):
    return ["caption", folder, "--model=m", "--batch-size=8", "--out=x.jsonl", *more]


def test_the_same_command_resumes_and_gives_the_rows_of_a_whole_run(capsys, use, folder):
    use(FakeModel())
    call(capsys, *args(folder))
    whole = rows()
    assert [row["caption"] for row in whole] == [f"caption {n}" for n in range(20)]
    os.remove("x.jsonl")

    use(FakeModel(stop=8))
    assert call(capsys, *args(folder), status=130)[1] == [
        "blip-jax caption: stopped after 8 of 20 images"
    ]
    assert len(rows()) == 8 and pathlib.Path("x.jsonl.unfinished").exists()
    with open("x.jsonl", "a") as file:  # as a process that is killed while it writes
        file.write('{"image": "')
    model = use(FakeModel())
    _, err = call(capsys, *args(folder))
    assert err == ["blip-jax caption: 8 of 20 images are done already"]
    assert rows() == whole and model.done[0] == 8
    assert not pathlib.Path("x.jsonl.unfinished").exists()
    line = fails(capsys, *args(folder))
    assert line.startswith("blip-jax caption: x.jsonl exists already; --overwrite replaces it, ")


def test_a_file_of_other_settings_is_not_resumed(capsys, use, folder):
    use(FakeModel(stop=8))
    call(capsys, *args(folder), status=130)
    for changed, named in ((["--seed=1"], "seed"), (["--scores"], "scores"), ([], "model")):
        use(FakeModel(weight=0.0 if changed else 1.0))
        line = fails(capsys, *args(folder, *changed))
        assert f"x.jsonl was begun with other settings ({named})" in line
    assert len(rows()) == 8
    use(FakeModel())
    call(capsys, *args(folder, "--seed=1", "--overwrite"))
    assert len(rows()) == 20


def test_two_processes_do_not_write_to_one_file(capsys, use, folder):
    use(FakeModel())
    with file_lock("x.jsonl", "caption"):
        line = fails(capsys, *args(folder))
    assert line.startswith("blip-jax caption: x.jsonl is in use by process ")
    assert not os.path.exists("x.jsonl") and not os.path.exists("x.jsonl.lock")


def test_new_images_are_added_and_captions_made_by_hand_stay(capsys, use, folder):
    use(FakeModel())
    call(capsys, *args(folder, "--sidecars"))
    (folder / "05.txt").write_text("made by hand\n")
    (folder / "10b.jpg").write_bytes(jpeg(3))
    line = fails(capsys, "caption", folder, "--model=m", "--sidecars")
    assert "--skip-existing keeps" in line
    model = use(FakeModel())
    _, err = call(capsys, *args(folder, "--sidecars", "--skip-existing"))
    assert err == ["blip-jax caption: 20 of 21 images are done already"]
    assert model.done[0] == 11 and len(rows()) == 21  # its place among all images
    assert (folder / "10b.txt").read_text() == "caption 11\n"
    assert (folder / "05.txt").read_text() == "made by hand\n"
    _, err = call(capsys, *args(folder, "--sidecars", "--skip-existing"))
    assert err == ["blip-jax caption: 21 of 21 images are done already"]


def test_a_run_that_was_stopped_between_row_and_sidecar_writes_the_sidecar(capsys, use, folder):
    use(FakeModel(stop=8))
    call(capsys, *args(folder, "--sidecars"), status=130)
    (folder / "07.txt").unlink()
    use(FakeModel())
    call(capsys, *args(folder, "--sidecars"))
    assert (folder / "07.txt").read_text() == "caption 7\n" and len(rows()) == 20


def test_a_full_disk_leaves_whole_lines_and_one_message(capsys, use, folder, monkeypatch):
    use(FakeModel())
    opened = results.ResultWriter._open

    class Full:
        """A file on a disk that is full after 700 bytes."""

        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, data):
            room = 700 - self._file.tell()
            if room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(data[:room])

    monkeypatch.setattr(results.ResultWriter, "_open", lambda self: Full(opened(self)))
    line = fails(capsys, *args(folder))
    assert line == "blip-jax caption: x.jsonl cannot be written (no space left on device)"
    done = rows()
    assert len(done) in (0, 8)
    monkeypatch.undo()
    monkeypatch.chdir(folder.parent / "here")
    monkeypatch.setattr(models, "load", lambda *args, **options: FakeModel())
    call(capsys, *args(folder))
    assert len(rows()) == 20


def test_devices_without_space_are_one_line(capsys, use, folder):
    use(FakeModel())
    line = fails(capsys, "caption", folder, "--model=m", "--out=/dev/full", "--overwrite")
    assert line == "blip-jax caption: /dev/full cannot be written (no space left on device)"
    assert not os.path.exists("/dev/full.unfinished")


def test_a_full_device_as_stdout_is_one_line(monkeypatch):
    with open(os.devnull, "w") as null:  # so that closing what cannot be flushed does not fail
        out = open("/dev/full", "w")
        monkeypatch.setattr("sys.stdout", out)
        with pytest.raises(UserError) as caught:
            results.ResultWriter(None, False, "caption").write([{"image": "a", "caption": "b"}])
        os.dup2(null.fileno(), out.fileno())
        out.close()
    assert str(caught.value) == "stdout cannot be written (no space left on device)"


def test_links_to_nowhere_are_refused(capsys, use, folder, tmp_path):
    use(FakeModel())
    (folder / "03.txt").symlink_to(tmp_path / "outside.txt")
    for more in ([], ["--overwrite"], ["--skip-existing"]):
        line = fails(capsys, "caption", folder, "--model=m", "--sidecars", *more)
        assert f"{folder}/03.txt is a link to a file that does not exist; remove the link" in line
    pathlib.Path("x.jsonl").symlink_to(tmp_path / "outside.txt")
    assert "x.jsonl is a link to a file" in fails(capsys, *args(folder))
    assert not (tmp_path / "outside.txt").exists()
    assert not list(folder.glob("*.txt")) or (folder / "03.txt").is_symlink()


def test_an_image_is_not_replaced_by_its_captions(capsys, use, folder):
    use(FakeModel())
    (folder / "20.txt").write_bytes(jpeg(0))
    line = fails(capsys, "caption", folder / "20.txt", "--model=m", "--sidecars", "--overwrite")
    assert "would replace it" in line


def test_image_files_that_are_left_out_are_counted(capsys, use, folder):
    use(FakeModel())
    assert IMAGES is IMAGE_SUFFIXES  # one list for all verbs
    for name in ("a.avif", "b.jfif", "c.HEIC"):
        (folder / name).write_bytes(jpeg(1))
    (folder / "d.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    for name in ("e.svg", "f.svg", "g.cr2", "notes.md"):
        (folder / name).write_bytes(b"x")
    found, err = call(capsys, "caption", folder, "--model=m", status=1)
    assert len(found) == 23
    assert err == [
        "blip-jax caption: 3 image files are left out, as these formats are not read: 2 .svg, "
        "1 .cr2",
        f"blip-jax caption: {folder}/d.heic: HEIC is not supported; convert it to JPEG",
        "blip-jax caption: 1 of 24 images skipped",
    ]


def test_texts_of_sidecars_by_their_encoding_and_line_ends(capsys, use, folder):
    use(FakeModel())
    texts = {
        "00": "a dog\n".encode("utf-16"),
        "01": "\ufeffun café\r\nb\n".encode(),
        "02": "a\u2028b\x0bc\x85d\ne\n".encode(),
        "03": "café house\n".encode("cp1252"),
        "04": "a dog\n".encode("utf-16-le"),  # without a byte order mark
    }
    for name, content in texts.items():
        (folder / f"{name}.txt").write_bytes(content)
    os.mkfifo(folder / "05.txt")
    paths = [folder / f"{number:02}.jpg" for number in range(6)]
    found, err = call(capsys, "match", *paths, "--model=m", "--sidecars", status=1)
    assert [row["text"] for row in found] == [
        "a dog", "un café", "b", "a\u2028b\x0bc\x85d", "e",
    ]  # fmt: skip
    wrong = "is neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8"
    assert [line.partition("images/")[2] for line in err[:3]] == [
        f"{name}.jpg: {folder}/{name}.txt {why}"
        for name, why in (("03", wrong), ("04", wrong), ("05", "is not a regular file"))
    ]
    argv = ["match", *paths, "--model=m", "--sidecars", "--out=m.jsonl"]
    call(capsys, *argv, status=1)
    _, again = call(capsys, *argv, "--skip-existing", status=1)  # no image with texts is left
    assert again == ["blip-jax match: 3 of 6 images are done already", *err[:3]]
    (folder / "answers.txt").write_bytes("café".encode("cp1252"))
    argv = ["answer", paths[0], "--model=m", "--question=why", f"--candidates={folder}/answers.txt"]
    assert wrong in fails(capsys, *argv)


def test_names_cannot_steer_a_terminal(capsys, use, folder):
    assert printable("a\x1b[31m\nb\u202e é") == r"a\x1b[31m\nb\u202e é"
    text = json.dumps("a\x1b\x9b\u202eé", ensure_ascii=False)
    assert json_escaped(text) == r'"a\u001b\u009b\u202eé"'
    use(FakeModel())
    bad = folder / "\x1b[2J\x9b.jpg"
    bad.write_bytes(b"no image")
    found, err = call(capsys, "caption", folder, "--model=m", status=1)
    assert len(found) == 20 and err[0].endswith(r"\x1b[2J\x9b.jpg: not an image PIL can identify")
    line = fails(capsys, "caption", f"{folder}/\x1b[31m.jpg", "--model=m")
    assert line == f"blip-jax caption: {folder}/\\x1b[31m.jpg does not exist"


@pytest.mark.parametrize("url", ["https://example.org/dog.jpg", "s3://bucket/dog.jpg"])
def test_urls_are_one_line(capsys, folder, url):
    wrong = f"{url} is neither a local nor a gs:// path; give one (to read it, download it first)"
    image = folder / "00.jpg"
    for argv in (
        ["caption", url, "--model=m"],
        ["caption", image, f"--model={url}"],
        ["caption", image, "--model=m", f"--out={url}"],
        ["answer", image, "--model=m", "--question=why", f"--candidates={url}"],
        ["convert", url, "out"],
        ["convert", folder, url],
    ):
        assert fails(capsys, *argv) == f"blip-jax {argv[0]}: {wrong}"
    hub = "https://huggingface.co/Salesforce/blip-vqa-base/resolve/main/model.safetensors"
    line = fails(capsys, "caption", image, f"--model={hub}")
    assert "download it, or give the model's id, Salesforce/blip-vqa-base" in line


def test_what_cannot_be_a_path_is_one_line(capsys, folder):
    assert fails(capsys, "caption", "x" * 5000, "--model=m").endswith("x does not exist")
    assert fails(capsys, "caption", folder, f"--model={'x' * 5000}").endswith("x does not exist")


def test_a_conversion_that_cannot_be_written_is_one_line(capsys, folder, monkeypatch):
    from blip_jax.checkpoints import sources

    def full(*args):
        raise RuntimeError("PytorchStreamWriter failed writing file\n(no space left)")

    monkeypatch.setattr(sources, "read", lambda *args, **options: None)
    monkeypatch.setattr(sources, "with_image_size", lambda found, size: found)
    monkeypatch.setattr(sources, "write", full)
    line = fails(capsys, "convert", folder, "out.pth")
    assert line == (
        "blip-jax convert: out.pth cannot be written (PytorchStreamWriter failed writing file "
        "(no space left))"
    )
