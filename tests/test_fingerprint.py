"""Digests of files and folders, and what may change between a run and its resumption."""

import dataclasses
import json
from typing import Any

import pytest

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.fingerprint import (
    FILE,
    SAMPLE_BYTES,
    SAMPLES,
    check_fingerprint,
    file_digest,
    folder_digest,
)

VALUES = {"config": {"seed": 0, "lr": 1e-3, "log_every": 5}, "data": "12 files"}
PATTERNS = {"free": ["config.log_*"], "adjustable": ["config.lr"]}


def test_the_same_run_resumes(tmp_path):
    for begun in (False, True):
        check_fingerprint(tmp_path, "train", VALUES, begun=begun, **PATTERNS)
    stored = json.loads((tmp_path / FILE).read_text())
    assert stored["values"] == {"version": 1, "verb": "train", **VALUES} and stored["history"] == []


def test_another_run_is_refused_with_what_changed(tmp_path):
    check_fingerprint(tmp_path, "train", VALUES, begun=False, **PATTERNS)
    before = (tmp_path / FILE).read_bytes()
    other = {"config": {**VALUES["config"], "seed": 1}, "data": "13 files"}
    message = (
        f"^{tmp_path} holds another run: config.seed was 0, now 1; "
        'data was "12 files", now "13 files"; choose another folder, or rerun with what it was$'
    )
    with pytest.raises(UserError, match=message):
        check_fingerprint(tmp_path, "train", other, begun=True, **PATTERNS, resume="anyway")
    assert (tmp_path / FILE).read_bytes() == before


@dataclasses.dataclass(frozen=True)
class Older:
    """A group as an earlier version knew it."""

    seed: int = 1
    head: Any = None


@dataclasses.dataclass(frozen=True)
class Head:
    size: int = 4


@dataclasses.dataclass(frozen=True)
class Newer(Older):
    """The same, with fields that were added since."""

    share: float = 0.5
    names: tuple[str, ...] = ("a",)
    added: Head = Head()
    made: dict = dataclasses.field(default_factory=lambda: {"k": 1})


def test_fields_that_a_new_version_added_count_as_their_defaults(tmp_path):
    def check(config):
        check_fingerprint(tmp_path, "train", {"config": config}, begun=True)

    check_fingerprint(tmp_path, "train", {"config": Older(seed=2)}, begun=False)
    before = (tmp_path / FILE).read_bytes()
    check(Newer(seed=2))
    assert (tmp_path / FILE).read_bytes() == before
    refused = {
        "config.share was 0.5, now 0.6": {"share": 0.6},
        r'config.names was \["a"\], now \["b"\]': {"names": ("b",)},
        "config.added.size was 4, now 5": {"added": Head(5)},
        "config.head.size was absent, now 4": {"head": Head()},  # it was known, and None
        "config.seed was 2, now 1": {"seed": 1},
    }
    for message, changes in refused.items():
        with pytest.raises(UserError, match=message):
            check(Newer(**{"seed": 2, **changes}))
    check_fingerprint(tmp_path, "train", {"config": Newer()}, begun=False)
    with pytest.raises(UserError, match="config.names was .*, now absent"):
        check(Older())  # by an older version


@pytest.mark.parametrize("begun", [True, False])
def test_a_folder_of_another_verb_is_refused(tmp_path, begun):
    check_fingerprint(tmp_path, "train", VALUES, begun=False)
    with pytest.raises(UserError, match=f"^{tmp_path} holds a run of blip-jax train; choose"):
        check_fingerprint(tmp_path, "prepare", VALUES, begun=begun)


def test_free_values_change_without_a_word(tmp_path):
    check_fingerprint(tmp_path, "train", VALUES, begun=False, **PATTERNS)
    other = {**VALUES, "config": {**VALUES["config"], "log_every": 1}}
    check_fingerprint(tmp_path, "train", other, begun=True, **PATTERNS)


def test_adjustable_values_change_when_asked_and_are_recorded(tmp_path):
    check_fingerprint(tmp_path, "train", VALUES, begun=False, **PATTERNS)
    other = {**VALUES, "config": {**VALUES["config"], "lr": 1e-4}}
    with pytest.raises(UserError, match="now 0.0001; .* continue with --resume=anyway$"):
        check_fingerprint(tmp_path, "train", other, begun=True, **PATTERNS)
    check_fingerprint(tmp_path, "train", other, begun=True, **PATTERNS, resume="anyway")
    stored = json.loads((tmp_path / FILE).read_text())
    assert stored["values"]["config"]["lr"] == 1e-4
    assert [record["changes"] for record in stored["history"]] == [{"config.lr": [1e-3, 1e-4]}]
    check_fingerprint(
        tmp_path, "train", other, begun=True, **PATTERNS
    )  # from now on the new value is the run's


@pytest.mark.parametrize("text", ["", "{", "[]", '{"values": 1}', '{"values": {}, "history": 3}'])
def test_a_damaged_file_is_one_line(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match="fingerprint.json is damaged"):
        check_fingerprint(tmp_path, "train", VALUES, begun=True)


def test_a_missing_file_of_a_run_that_was_begun_is_refused(tmp_path):
    message = f"^{tmp_path / FILE} is missing, so that nothing tells what .*; choose another folder"
    with pytest.raises(UserError, match=message + "$"):
        check_fingerprint(tmp_path, "prepare", VALUES, begun=True)
    with pytest.raises(UserError, match=message + ", or continue with --resume=anyway$"):
        check_fingerprint(tmp_path, "train", VALUES, begun=True, **PATTERNS)
    assert not (tmp_path / FILE).exists()
    check_fingerprint(tmp_path, "train", VALUES, begun=True, **PATTERNS, resume="anyway")
    assert (tmp_path / FILE).exists()


def test_digests_follow_content_alone(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "x").write_bytes(b"12345")
        (tmp_path / name / "y").write_bytes(b"")
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")
    (tmp_path / "b" / ".lock").write_text("hidden")
    assert folder_digest(tmp_path / "a") == folder_digest(tmp_path / "b")
    (tmp_path / "b" / "sub" / "x").write_bytes(b"12346")  # of equal size
    assert folder_digest(tmp_path / "a") != folder_digest(tmp_path / "b")
    assert file_digest(tmp_path / "nothing") == "missing"


@pytest.mark.parametrize("position", [0, -1])
def test_ends_of_a_large_file_count(tmp_path, position):
    content = bytearray(8 * SAMPLES * SAMPLE_BYTES)
    (tmp_path / "x").write_bytes(content)
    before = file_digest(tmp_path / "x")
    content[position] = 1
    (tmp_path / "x").write_bytes(content)
    assert file_digest(tmp_path / "x") != before
