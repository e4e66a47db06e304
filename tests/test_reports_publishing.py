"""What is published names no absolute local path, and commands can be read and repeated."""

import os
import shlex

import pytest

from blip_jax.reports.publishing import public_command, public_path, public_values


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("FOLDER/runs/filter", "runs/filter"),
        ("FOLDER", "."),
        ("/elsewhere/user/data/web", "web"),
        ("/elsewhere/user/data/web/", "web"),
        ("data/web", "data/web"),
        ("gs://bucket/web", "gs://bucket/web"),
        ("Salesforce/blip-itm-base-coco", "Salesforce/blip-itm-base-coco"),
        ("", ""),
    ],
)
def test_paths(folder, path, wanted):
    assert public_path(path.replace("FOLDER", str(folder))) == wanted


def test_a_removed_folder_hides_paths_too(folder):
    (folder / "removed").mkdir()
    os.chdir(folder / "removed")
    (folder / "removed").rmdir()
    assert public_path("/elsewhere/user/data/web") == "web"


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["blip-jax", "assemble", "--config=FOLDER/a.py", "--workdir", "/x/out"],
         "blip-jax assemble --config=a.py --workdir out"),
        (["--config.captioner=A=/x/one,B=FOLDER/two"], "--config.captioner=A=one,B=two"),
        (["--config.arms=('none', 'both')"], '''"--config.arms=('none', 'both')"'''),
        (["--config.source=('/x/a b.tar', 'gs://b/c')"], '''"--config.source=('a b.tar', 'gs://b/c')"'''),
        (["--config.title=Shapes | clean"], "'--config.title=Shapes | clean'"),
        (["--config.title=it's $5"], shlex.quote("--config.title=it's $5")),
        (["--config.prompt=a/b", "--threshold=1/2"], "--config.prompt=a/b --threshold=1/2"),
    ],
)  # fmt: skip
def test_commands(folder, argv, wanted):
    argv = [word.replace("FOLDER", str(folder)) for word in argv]
    shown = public_command(shlex.join(argv))
    assert shown == wanted
    assert public_command(shown) == shown
    assert len(shlex.split(shown)) == len(argv)


def test_a_command_that_no_shell_reads_is_left_alone():
    assert public_command("it's") == "it's"


def test_nested_values():
    found = public_values({"a": ["/x/data/web", 1, None], "b": {"c": "text"}})
    assert found == {"a": ["web", 1, None], "b": {"c": "text"}}
