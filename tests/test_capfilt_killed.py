"""CapFilt by hosts that are killed: `kill_capfilt.py`, small; with --full as large as by itself."""

import kill_capfilt
import pytest


@pytest.mark.slow
def test_killed_hosts_lose_and_repeat_nothing(tmp_path, full):
    size = {"shards": 40, "records": 500, "kills": 25} if full else {}
    size = size or {"shards": 4, "records": 60, "kills": 2}
    found = kill_capfilt.run(tmp_path, **size, seed=1)
    assert found["rows"] > 0.97 * size["shards"] * size["records"]
    assert sum(found.values()) == size["shards"] * size["records"]
