"""Mutates valid small files of every format that is read: reading gives a result or a UserError.

python tests/fuzz.py [COUNT] [FORMAT ...]   COUNT mutations of each format (default 200)

Bytes are flipped, cut, doubled and zeroed; values of JSON are replaced by extreme ones. Another
exception than UserError (of images ImageError, of clips VideoError), or more than 30 seconds, is a
failure.
"""

import collections
import copy
import json
import pathlib
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from typing import Any

import fuzz_formats
import fuzz_tasks
import numpy as np
from fuzz_formats import Format

from blip_jax.data.images import ImageError
from blip_jax.data.video_file import VideoError
from blip_jax.runtime.errors import UserError

SECONDS = 30
EXTREMES = [
    None, True, False, -1, 0, 1, 10**12, -(10**30), 10**400, 1e308, -0.5, float("nan"),
    float("inf"), "", "x" * 5000, "../../x", "\ud800", "\0", "https://a.b/c", [], {}, [[]],
    {"a": None}, [1, "a", None],
]  # fmt: skip
DEEP = "[" * 100_000


class TooSlow(BaseException):
    """Reading took longer than SECONDS."""


def mutated_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns bytes that are flipped, cut, doubled, zeroed or exchanged somewhere."""
    array = bytearray(data)
    # The heads of files say most.
    end = len(data) if rng.random() < 0.5 else min(len(data), 400)
    start = int(rng.integers(end))
    stop = min(len(data), start + int(rng.integers(1, 64)))
    way = rng.integers(5)
    if way == 0:
        for _ in range(rng.integers(1, 9)):
            array[rng.integers(end)] = rng.integers(256)
    elif way == 1:
        del array[start:]
    elif way == 2:
        array[start:start] = array[start:stop] * int(rng.integers(1, 4))
    elif way == 3:
        array[start:stop] = bytes([rng.choice([0, 255])]) * (stop - start)
    else:
        del array[start:stop]
    return bytes(array)


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, entry in value.items() if isinstance(value, dict) else ():
        yield from _places(entry, (*path, key))


def mutated_json(text: str, rng: np.random.Generator) -> str:
    """Returns JSON of which one value is replaced by an extreme one, left out, or nested deeply."""
    value = copy.deepcopy(json.loads(text))
    places = list(_places(value))
    # As many of each depth: there are thousands of words in a vocabulary, and one list of these.
    depth = rng.choice(sorted({len(place) for place in places}))
    place = [place for place in places if len(place) == depth][
        rng.integers(sum(len(place) == depth for place in places))
    ]
    extreme = EXTREMES[rng.integers(len(EXTREMES))]
    if not place:
        return json.dumps(extreme)
    parent = value
    for key in place[:-1]:
        parent = parent[key]
    way = rng.integers(8)
    if way == 0:
        del parent[place[-1]]
    elif way == 1:
        parent[place[-1]] = "DEEP"
        return json.dumps(value).replace('"DEEP"', DEEP)
    else:
        parent[place[-1]] = extreme
    return json.dumps(value)


def mutated(format: Format, data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a mutation of a format's valid content."""
    if not format.is_json or rng.random() < 0.3:
        return mutated_bytes(data, rng)
    text = data.decode()
    if format.lines:
        lines = text.splitlines()
        number = rng.integers(len(lines))
        lines[number] = mutated_json(lines[number], rng)
        return ("\n".join(lines) + "\n").encode()
    return mutated_json(text, rng).encode()


def outcome(format: Format) -> str:
    """Returns "read" or "refused" of the file as it is.

    Raises:
      Exception: that is not a UserError, ImageError or VideoError, or a message of several lines.
      TooSlow: reading takes too long.
    """

    def stop(number: int, frame: Any):
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        format.read(format.file)
    except (UserError, ImageError, VideoError) as error:
        if "\n" in str(error):
            raise AssertionError(f"not one line: {str(error)[:300]!r}") from error
        return "refused"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return "read"


def fuzz(
    root: pathlib.Path, count: int, only: tuple[str, ...] = (), seed: int = 0
) -> tuple[dict[str, collections.Counter], list[str]]:
    """Returns how many mutations of each format were read and refused, and the failures."""
    counts, failures = {}, []
    known = fuzz_formats.formats(root) | fuzz_tasks.formats(root / "tasks")
    for name, format in known.items():
        if only and name not in only:
            continue
        data, rng = format.file.read_bytes(), np.random.default_rng(seed)
        counts[name] = collections.Counter()
        format.read(format.file)  # valid; also imports what is needed
        started = time.monotonic()
        for number in range(count):
            content = mutated(format, data, rng)
            format.file.write_bytes(content)
            try:
                counts[name][outcome(format)] += 1
            except (Exception, TooSlow) as error:
                counts[name]["failed"] += 1
                where = traceback.extract_tb(error.__traceback__)
                own = [x for x in where if "blip_jax/" in x.filename] or where
                place = f"{pathlib.Path(own[-1].filename).name}:{own[-1].lineno}"
                failures.append(
                    f"{name} {number}: {type(error).__name__} at {place}: {str(error)[:200]!r}"
                )
        format.file.write_bytes(data)
        counts[name]["seconds"] = round(time.monotonic() - started)
    return counts, failures


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        counts, failures = fuzz(pathlib.Path(folder), count, tuple(sys.argv[2:]))
    for name, found in counts.items():
        print(f"{name:18} {dict(found)}")
    print(*failures, f"{len(failures)} failures", sep="\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
