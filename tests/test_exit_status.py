"""Which errors end with one line, and with what status."""

import errno
import os

import pytest

from blip_jax.cli import caption, main
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.signals import Interrupted


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no model"), 2, "no model"),
        (KeyboardInterrupt(), 130, "stopped"),
        (Interrupted("stopped at step 3", 15), 0, "stopped at step 3"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/out/x.json"), 2,
            "/out/x.json: No space left on device; free space or correct the permissions, then "
            "rerun the same command",
        ),
        (
            PermissionError("Forbidden: gs://bucket/x"), 2,
            "Forbidden: gs://bucket/x; free space or correct the permissions, then rerun the same "
            "command",
        ),
        (
            RuntimeError("open() failed: Permission denied; opening /out/x"), 2,
            "open() failed: Permission denied; opening /out/x; free space or correct",
        ),
        (MemoryError(), 2, "out of memory; choose a smaller batch size"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 439804 bytes."), 2,
            "out of memory (allocating 439804 bytes); choose",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: XLA:TPU compile error. Ran out of memory in memory "
                         "space hbm. Used 21.95G of 15.48G hbm. Exceeded…\n\nTotal hbm usage"),
            2, "out of memory (Used 21.95G of 15.48G hbm); choose",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n"), 2, "n: File name too long; free"),
    ],
)  # fmt: skip
def test_what_the_user_can_mend_is_one_line(monkeypatch, capsys, error, status, line):
    def run(argv):
        raise error

    monkeypatch.setattr(caption, "run", run)
    assert main.main(["caption", "x.png"]) == status
    told = capsys.readouterr().err
    assert told.startswith(f"blip-jax caption: {line}") and told.count("\n") == 1
    assert main.main(["caption", "x.png", "--debug"]) == status
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(2, "gone", "x")])
def test_other_errors_show_where_they_happened(monkeypatch, error):
    def run(argv):
        raise error

    monkeypatch.setattr(caption, "run", run)
    with pytest.raises(type(error)):
        main.main(["caption", "x.png"])
