"""A disk that runs full, and a permission that is withdrawn, lose nothing; see full_disk.py."""

import subprocess

import full_disk
import pytest


@pytest.fixture(scope="module", autouse=True)
def mounted(tmp_path_factory):
    try:
        subprocess.run([*full_disk.BOUND, "true"], check=True)
        with full_disk.memory_disk(tmp_path_factory.mktemp("disk"), 1 << 20):
            pass
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs setpriv, and the right to mount a file system")


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["prepare", "export", "evaluate-reranking"])
def test_a_verb_that_cannot_write_completes_its_work_later(tmp_path, full, verb):
    spaces = {} if full else {"spaces": (0, 20_000, 0.5)}
    full_disk.run(tmp_path, [verb], losses=10 if full else 1, seed=0, **spaces)
