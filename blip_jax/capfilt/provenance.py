"""Where the texts and scores of a scored dataset come from: `provenance.json` beside its shards.

It holds {"dataset", "split", "captioners": [{"name", "path", "sha256"}], "filters": [the same],
"decoding": [the settings of each way of writing], "seed", "version"}; the path of the dataset may
be relative to the folder, so that both can be moved together.
"""

import json
import os

from etils import epath

from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import absolute_path

FILE = "provenance.json"


def read(directory: str) -> dict:
    """What lies beside the shards, the dataset's path made whole; {} where there is nothing.

    Raises:
      UserError: the file is damaged.
    """
    path = epath.Path(directory) / FILE
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
        dataset = absolute_path(found["dataset"], path.parent)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}): run capfilt again") from error
    return found | {"dataset": dataset if "://" in dataset else os.path.normpath(dataset)}


def write(directory: str, found: dict) -> None:
    """Writes it, whole or not at all; the dataset's path as it is to stand there."""
    path = epath.Path(directory) / FILE
    unfinished = path.with_name(f"incomplete-{os.getpid()}-{FILE}")
    unfinished.write_text(json.dumps(found, indent=1) + "\n")
    unfinished.replace(path)
