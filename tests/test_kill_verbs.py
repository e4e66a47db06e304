"""Verbs that are killed and run again give what a run left alone gives; see kill_verbs.py."""

import kill_verbs
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["prepare", "assemble", "export", "caption", "evaluate-answers"])
def test_a_verb_that_is_killed_completes_its_work(tmp_path, full, verb):
    kills = 20 if full else 1
    ends, _ = kill_verbs.run(tmp_path, [verb], kills, seed=2)[verb]
    assert ends >= 1
