"""Memory of glibc's malloc: when the command asks for huge pages, and giving memory back."""

import os
import subprocess
import sys

import pytest

from blip_jax.cli.main import RUN_NETWORKS, VERBS, command, main
from blip_jax.runtime import malloc

ON_REQUEST = "always [madvise] never\n"


class Restarted(Exception):
    """In place of what replaces the process."""


@pytest.fixture
def system(monkeypatch, tmp_path):
    """Sets what the system says of huge pages, and GLIBC_TUNABLES."""

    def execv(path, argv):
        raise Restarted(path, argv)

    def given(setting: str | None, tunables: str | None) -> None:
        path = tmp_path / "enabled"
        if setting is not None:
            path.write_text(setting)
        monkeypatch.setattr(malloc, "HUGE_PAGES_SETTING", path)
        monkeypatch.setattr(malloc.os, "execv", execv)
        monkeypatch.setattr(os, "environ", dict(os.environ))
        os.environ.pop("GLIBC_TUNABLES", None)
        if tunables is not None:
            os.environ["GLIBC_TUNABLES"] = tunables

    return given


@pytest.mark.parametrize(
    ("tunables", "then"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.arena_max=2", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"),
    ],
)
def test_the_command_starts_again_with_huge_pages(system, monkeypatch, tunables, then):
    system(ON_REQUEST, tunables)
    monkeypatch.setattr(sys, "argv", ["blip-jax", "match", "--help"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "blip-jax", "match", "--help"])
    with pytest.raises(Restarted) as found:
        command()
    assert found.value.args == (
        sys.executable, [sys.executable, "-X", "dev", "blip-jax", "match", "--help"]
    )  # fmt: skip
    assert os.environ["GLIBC_TUNABLES"] == then


@pytest.mark.parametrize(
    ("setting", "tunables"),
    [
        (ON_REQUEST, "glibc.malloc.hugetlb=1"),  # it has been started again
        (ON_REQUEST, "glibc.malloc.hugetlb=0"),  # the user wants none
        ("[always] madvise never\n", None),
        ("always madvise [never]\n", None),
        (None, None),
    ],
)
def test_where_the_command_does_not_start_again(system, monkeypatch, capsys, setting, tunables):
    system(setting, tunables)
    monkeypatch.setattr(sys, "argv", ["blip-jax", "match", "--help"])
    assert command() == 0
    assert os.environ.get("GLIBC_TUNABLES") == tunables
    assert "usage: blip-jax match" in capsys.readouterr().out


def test_verbs_without_networks_and_a_call_of_main_do_not_start_again(system, monkeypatch, capsys):
    system(ON_REQUEST, None)
    for argv in ([], ["--help"], ["prepare", "--help"], ["export", "--help"]):
        monkeypatch.setattr(sys, "argv", ["blip-jax", *argv])
        assert command() == 0
    monkeypatch.setattr(sys, "argv", ["blip-jax", "match", "--help"])
    assert main() == main(["match", "--help"]) == 0
    assert RUN_NETWORKS < set(VERBS)


@pytest.mark.skipif(
    not malloc.HUGE_PAGES_SETTING.exists()
    or "[madvise]" not in malloc.HUGE_PAGES_SETTING.read_text(),
    reason="this system has no huge pages on request",
)
def test_a_command_that_starts_again_gives_its_output_and_exit_status():
    kept = {name: x for name, x in os.environ.items() if name != "GLIBC_TUNABLES"}
    for argv, status in ((["match", "--help"], 0), (["match", "--no-such"], 2)):
        run = [
            subprocess.run(
                [sys.executable, "-m", "blip_jax", *argv],
                env=kept | own, capture_output=True, text=True, check=False,
            )
            for own in ({}, {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"})
        ]  # fmt: skip
        assert run[0].returncode == run[1].returncode == status
        assert (run[0].stdout, run[0].stderr) == (run[1].stdout, run[1].stderr)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc: memory unknown")
def test_freed_memory_goes_back_to_the_system():
    code = """
import pathlib
from blip_jax.runtime import malloc
resident = lambda: int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096
malloc.keep_freed_memory()
before, held = resident(), [b"x" * (1 << 16) for _ in range(3200)]
last = b"x" * (1 << 16)  # what is freed before it is not at the end of the heap
del held
kept = resident()
malloc.release_freed_memory()
print(before, kept, resident())
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    before, kept, released = map(int, out.stdout.split())
    if kept - before < 150 << 20:
        pytest.skip("this C library keeps nothing")
    assert released - before < 50 << 20
