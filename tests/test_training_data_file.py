"""trained_on.json, which comes with a model of anybody's, is read whole or refused in one line."""

import numpy as np
import pytest

from blip_jax.checkpoints import training_data
from blip_jax.checkpoints.training_data import TrainingDataset
from blip_jax.runtime.errors import UserError


def test_what_is_written_is_read(tmp_path):
    digests = np.array([1, 2**64 - 1], np.uint64)
    training_data.write(tmp_path, [TrainingDataset("a", "train", "d", 2, digests, True)])
    (found,) = training_data.read(tmp_path)
    assert found.names() == {"dataset": "a", "split": "train", "digest": "d", "images": 2}
    assert found.complete and (found.image_digests == digests).all()
    assert training_data.read(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[", "is not a JSON file"),
        ("[" * 100_000, "is not a JSON file: nested too deeply"),
        ("[]", r"is damaged \(expected a list\)"),
        ('{"datasets": 5}', r"is damaged \(expected a list\)"),
        ('{"datasets": [5]}', r"is damaged \(expected objects\)"),
        ('{"datasets": [{"dataset": 5}]}', "expected dataset, split, digest and images"),
        ('{"datasets": [{"images": "5"}]}', "expected dataset, split, digest and images"),
        ('{"datasets": [{"images": NaN}]}', "expected dataset, split, digest and images"),
        ('{"datasets": [{"images": -3}]}', "expected dataset, split, digest and images"),
        ('{"datasets": [{"image_digests": 5}]}', "is damaged"),
        ('{"datasets": [{"image_digests": "AAAA"}]}', "is damaged"),
        ('{"datasets": [{"image_digests": "#"}]}', "is damaged"),
    ],
)
def test_a_malformed_file_is_one_line(tmp_path, text, named):
    (tmp_path / training_data.FILE).write_text(text)
    with pytest.raises(UserError, match=named) as error:
        training_data.read(tmp_path)
    assert "\n" not in str(error.value)
