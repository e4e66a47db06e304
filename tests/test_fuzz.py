"""Files that are damaged in any way are read or refused, in one line and soon; see fuzz.py."""

import pytest
from fuzz import fuzz


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused(tmp_path, full):
    pytest.importorskip("torch")  # which writes some of the files
    counts, failures = fuzz(tmp_path, 2000 if full else 8)
    assert not failures
    # Most are refused, and the mutations are not so coarse that nothing is ever read.
    assert sum(found["refused"] for found in counts.values()) > len(counts)
    assert sum(found["read"] > 0 for found in counts.values()) >= 3
