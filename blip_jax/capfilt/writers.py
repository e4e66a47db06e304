"""Writes export.py's rows in the formats of other programs; each writer takes a stream of rows."""

import abc
import contextlib
import io
import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from blip_jax.capfilt.export import ABOUT, NUMBERS, Row, file_name
from blip_jax.runtime.errors import UserError

_ROW_GROUP_SIZE = 64  # rows in a row group of Parquet, and at most in memory
_FILES_PER_FOLDER = 1000  # image files


class Writer(abc.ABC):
    """Writes rows into a folder.

    Args:
      folder: to write into; it exists.
      place: one of PLACES.
      shard: images per file, for formats that write several files.
      opt_out_names: the opt-out fields that any row has.

    Attributes:
      PLACES: where images can be written, the default first: "files" in a folder of their own,
        "bytes" in the rows, "none" not at all.
      images, texts: how many have been written.
      skipped: keys of the rows whose bytes are not an image.
    """

    PLACES: tuple[str, ...]

    def __init__(self, folder: Path, place: str, shard: int, opt_out_names: Sequence[str] = ()):
        self.folder, self.place, self.shard = folder, place, shard
        self.opt_out_names = opt_out_names
        self.images = self.texts = 0
        self.skipped: list[str] = []
        self._files: dict[str, int] = {}  # number of image files, by component
        self._names: set[str] = set()  # of the present folder of images, or tar

    @abc.abstractmethod
    def write(self, rows: Iterable[Row]) -> None:
        """Writes rows; called once."""

    def usable(self, rows: Iterable[Row]) -> Iterator[tuple[Row, str]]:
        """Yields the rows with the suffix of their image; "" if images are not written."""
        for row in rows:
            suffix = "" if row.image is None else row.suffix
            if row.image is not None and not suffix:
                self.skipped.append(row.key)
                continue
            self.images, self.texts = self.images + 1, self.texts + len(row.texts)
            yield row, suffix

    def image_file(self, row: Row, suffix: str) -> str:
        """Writes the image to a new file; returns its path relative to the folder."""
        number = self._files[row.component] = self._files.get(row.component, -1) + 1
        subfolder = Path("images") / file_name(row.component) / f"{number // _FILES_PER_FOLDER:05d}"
        if number % _FILES_PER_FOLDER == 0:
            (self.folder / subfolder).mkdir(parents=True)
            self._names.clear()
        path = subfolder / f"{self.unique(row.name, row)}.{suffix}"
        with (self.folder / path).open("xb") as file:
            file.write(row.image)
        return path.as_posix()

    def unique(self, name: str, row: Row) -> str:
        """Returns `name`, with the row's number if another row of the folder or tar has it."""
        # Some file systems do not distinguish capitals. "+" is in no `file_name`.
        if name.lower() in self._names:
            name = f"{name}+{row.number}"
        self._names.add(name.lower())
        return name

    def fields(self, row: Row, suffix: str) -> dict:
        """Returns the fields of an image in a line, row or sidecar file."""
        fields: dict = {"key": row.key, "url": row.url}
        if self.place == "files":
            fields["image"] = self.image_file(row, suffix)
        fields |= {"caption": row.caption, "texts": row.texts, "component": row.component}
        fields |= {name: row.about.get(name) for name in ABOUT}
        fields["extra_scores"] = row.extra_scores
        # Under their own names, so that whoever reads the rows finds them as in the source.
        return {name: row.opt_out.get(name) for name in self.opt_out_names} | fields


class Jsonl(Writer):
    """data.jsonl with one image per line."""

    PLACES = ("files", "none")

    def write(self, rows: Iterable[Row]) -> None:
        with (self.folder / "data.jsonl").open("x", encoding="utf-8") as file:
            for row, suffix in self.usable(rows):
                file.write(_json(self.fields(row, suffix)) + "\n")


class Parquet(Writer):
    """data/train-00000.parquet, … with one image per row, for `datasets.load_dataset`."""

    PLACES = ("bytes", "files", "none")

    def write(self, rows: Iterable[Row]) -> None:
        (self.folder / "data").mkdir()
        usable, schema = self.usable(rows), self._schema()
        for number in itertools.count():
            shard = itertools.islice(usable, self.shard)
            group = list(itertools.islice(shard, _ROW_GROUP_SIZE))
            if not group:
                return
            path = self.folder / "data" / f"train-{number:05d}.parquet"
            with pa.parquet.ParquetWriter(path, schema) as writer:
                while group:
                    values = [self._values(row, suffix) for row, suffix in group]
                    writer.write_table(pa.Table.from_pylist(values, schema))
                    group = list(itertools.islice(shard, _ROW_GROUP_SIZE))

    def _values(self, row: Row, suffix: str) -> dict:
        values = self.fields(row, suffix)
        if self.place == "bytes":
            values["image"] = {"bytes": row.image, "path": f"{row.name}.{suffix}"}
        return values

    def _schema(self) -> pa.Schema:
        numbers = {name: pa.float32() for name in NUMBERS}
        strings = dict.fromkeys(("text", "origin", "model", "method"), pa.string())
        scores = pa.struct({"filter": pa.string(), "p_match": pa.float32(), "cosine": pa.float32()})
        text = pa.struct({**strings, **numbers, "filters": pa.list_(scores)})
        as_bytes = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        image = {"bytes": {"image": as_bytes}, "files": {"image": pa.string()}, "none": {}}
        about = {name: pa.int32() if name in ("width", "height") else pa.string() for name in ABOUT}
        about["extra_scores"] = pa.list_(pa.struct({"name": pa.string(), "score": pa.float32()}))
        return pa.schema(
            dict.fromkeys(self.opt_out_names, pa.string())
            | {"key": pa.string(), "url": pa.string(), **image[self.place], "caption": pa.string()}
            | {"texts": pa.list_(text), "component": pa.string(), **about}
        )


class Webdataset(Writer):
    """00000.tar, … with NAME.jpg (or another suffix), NAME.txt (one text per line) and NAME.json.

    NAME is COMPONENT+KEY, both as `file_name` writes them.
    """

    PLACES = ("bytes",)

    def write(self, rows: Iterable[Row]) -> None:
        with contextlib.ExitStack() as stack:
            for number, (row, suffix) in enumerate(self.usable(rows)):
                if number % self.shard == 0:
                    stack.close()
                    path = self.folder / f"{number // self.shard:05d}.tar"
                    tar = stack.enter_context(tarfile.open(path, "x", format=tarfile.PAX_FORMAT))
                    self._names.clear()
                fields = self.fields(row, suffix)
                lines = (" ".join(text["text"].split()) for text in row.texts)
                name = self.unique(f"{file_name(row.component)}+{row.name}", row)
                _add(tar, f"{name}.{suffix}", row.image)
                _add(tar, f"{name}.txt", "\n".join(lines).encode())
                _add(tar, f"{name}.json", _json(fields).encode())


class Blip(Writer):
    """captions.json in the format of the original's code, one entry per caption."""

    PLACES = ("files", "none")

    def write(self, rows: Iterable[Row]) -> None:
        with (self.folder / "captions.json").open("x", encoding="utf-8") as file:
            separator = "["
            for row, suffix in self.usable(rows):
                entry = {"image": self.image_file(row, suffix)} if suffix else {"url": row.url}
                if not suffix and not row.url:
                    raise UserError(f"image {row.key!r} has no URL; export with --images=files")
                for text in row.texts:
                    file.write(f"{separator}\n{_json({**entry, 'caption': text['text']})}")
                    separator = ","
            file.write("\n]\n" if separator == "," else "[]\n")


FORMATS: dict[str, type[Writer]] = {
    "jsonl": Jsonl, "parquet": Parquet, "webdataset": Webdataset, "blip": Blip,
}  # fmt: skip


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _json(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False)
