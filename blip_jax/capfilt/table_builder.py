"""Collects the features of scored rows as the columns of a table."""

import array
import collections
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from blip_jax.capfilt.table import TextTable

_CHUNK = 16_384  # strings that Arrow takes at a time
_NUMBERS = {"p_match": "f", "cosine": "f", "log_probability": "f", "tokens": "i"}


class TableBuilder:
    """Collects columns row by row in little more memory than the result takes."""

    def __init__(self, filters: tuple[str, ...], extra_names: tuple[str, ...]):
        self.filters, self.extra_names = filters, extra_names
        self.extra_scores = array.array("f")
        self.numbers = {name: array.array(code) for name, code in _NUMBERS.items()}
        self.coded = {name: _Codes() for name in ("origin", "model", "method", "status")}
        self.strings = {name: _Strings() for name in ("text", "key")}
        self.count = array.array("i")  # texts of each row

    def build(self, examples: Iterator[dict]) -> TextTable:
        for example in examples:
            self._add(example)
        count = np.frombuffer(self.count, np.int32)
        row = np.repeat(np.arange(len(count), dtype=np.int32), count)
        index = np.arange(len(row), dtype=np.int32) - np.repeat(
            (np.cumsum(count, dtype=np.int64) - count).astype(np.int32), count
        )
        sizes = {"key": len(count), "status": len(count)}
        columns = self.numbers | self.coded | self.strings | {"extra_scores": self.extra_scores}
        sizes["extra_scores"] = len(count) * len(self.extra_names)
        for name, values in columns.items():
            wide = len(self.filters) if name in ("p_match", "cosine") else 1
            size = sizes.get(name, len(row) * wide)
            if len(values) != size:
                raise ValueError(f"{name} has {len(values)} values, expected {size}")
        numbers = {
            name: np.frombuffer(values, np.float32 if values.typecode == "f" else np.int32)
            for name, values in self.numbers.items()
        }
        for name in ("p_match", "cosine"):
            numbers[name] = numbers[name].reshape(len(row), len(self.filters))
        strings = {name: values.array() for name, values in self.strings.items()}
        coded = {name: values.array() for name, values in self.coded.items()}
        extra = np.frombuffer(self.extra_scores, np.float32).reshape(
            len(count), len(self.extra_names)
        )
        names = {"filters": self.filters, "extra_names": self.extra_names}
        return TextTable(row, index, **numbers, **strings, **coded, **names, extra_scores=extra)

    def _add(self, example: dict) -> None:
        texts = example["texts/text"].bytes_list.value
        self.count.append(len(texts))
        self.strings["key"].extend(example["key"].bytes_list.value)
        self.coded["status"].extend(example["status"].bytes_list.value)
        self.strings["text"].extend(texts)
        for name in ("origin", "model", "method"):
            self.coded[name].extend(example[f"texts/{name}"].bytes_list.value)
        for name, values in self.numbers.items():
            feature = example[f"texts/{name}"]
            found = feature.float_list if values.typecode == "f" else feature.int64_list
            values.extend(found.value)
        if self.extra_names:
            self.extra_scores.extend(example["extra_scores"].float_list.value)


class _Codes:
    """A column with few different values, stored as codes."""

    def __init__(self):
        self.known: dict[bytes, int] = collections.defaultdict(lambda: len(self.known))
        self.codes = array.array("i")

    def __len__(self) -> int:
        return len(self.codes)

    def extend(self, values) -> None:
        self.codes.extend([self.known[value] for value in values])

    def array(self) -> pa.DictionaryArray:
        names = pa.array([name.decode("utf-8", "replace") for name in self.known], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(np.frombuffer(self.codes, np.int32)), names)


class _Strings:
    """A column of strings, stored by Arrow in chunks."""

    def __init__(self):
        self.chunks: list[pa.Array] = []
        self.last: list[bytes] = []

    def __len__(self) -> int:
        return sum(map(len, self.chunks)) + len(self.last)

    def extend(self, values) -> None:
        self.last.extend(values)
        if len(self.last) >= _CHUNK:
            self._pack()

    def _pack(self) -> None:
        self.chunks.append(pa.array(self.last, pa.large_string()))
        self.last = []

    def array(self) -> pa.LargeStringArray:
        self._pack()
        return pa.concat_arrays(self.chunks)
