"""Writes the rows of a unit of an export in the formats of other programs."""

import abc
import io
import itertools
import json
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from blip_jax.capfilt.export_rows import ABOUT, NUMBERS, Row, file_name
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_write

_ROW_GROUP_SIZE = 64  # rows in a row group of Parquet, and at most in memory
_FILES_PER_FOLDER = 1000  # image files


class Writer(abc.ABC):
    """Writes the rows of a unit into a folder, in which paths are as in the whole export.

    Args:
      folder: to write into; it exists.
      unit: its number.
      shard: images of a unit.
      place: one of PLACES.
      opt_out_names: the opt-out fields that any row of the export has.

    Attributes:
      PLACES: where images can be written, the default first: "files" in a folder of their own,
        "bytes" in the rows, "none" not at all.
      LIST: a file of which each unit writes a part; "": the format has none.
      images, texts: how many have been written.
      skipped: keys of the rows whose bytes are not an image.
    """

    PLACES: tuple[str, ...]
    LIST = ""
    _HEAD = _SEPARATOR = _TAIL = b""  # of the list

    def __init__(
        self, folder: Path, unit: int, shard: int, place: str, opt_out_names: Sequence[str] = ()
    ):
        self.folder, self.unit, self.place = folder, unit, place
        self.opt_out_names = opt_out_names
        self.images = self.texts = 0
        self.skipped: list[str] = []
        self._first_folder = unit * -(-shard // _FILES_PER_FOLDER)  # of images
        self._files: dict[str, int] = {}  # number of image files, by component
        self._names: set[str] = set()  # of the present folder of images, or tar

    @abc.abstractmethod
    def write(self, rows: Iterable[Row]) -> None:
        """Writes rows; called once."""

    @classmethod
    def join(cls, parts: Sequence[Path], path: Path) -> None:
        """Writes the list of the whole export from the parts of its units, in order."""
        with atomic_write(path, "wb") as whole:
            whole.write(cls._HEAD)
            separator = b""
            for part in parts:
                if part.stat().st_size:
                    whole.write(separator)
                    separator = cls._SEPARATOR
                    with part.open("rb") as file:
                        shutil.copyfileobj(file, whole)
            whole.write(cls._TAIL)

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
        subfolder = self._first_folder + number // _FILES_PER_FOLDER
        subfolder = Path("images") / file_name(row.component) / f"{subfolder:05d}"
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
    LIST = "data.jsonl"

    def write(self, rows: Iterable[Row]) -> None:
        with (self.folder / self.LIST).open("x", encoding="utf-8") as file:
            for row, suffix in self.usable(rows):
                file.write(_json(self.fields(row, suffix)) + "\n")


class Parquet(Writer):
    """data/train-00000.parquet, … with one image per row, for `datasets.load_dataset`.

    A unit without a usable image has no file.
    """

    PLACES = ("bytes", "files", "none")

    def write(self, rows: Iterable[Row]) -> None:
        usable, schema = self.usable(rows), self._schema()
        group = list(itertools.islice(usable, _ROW_GROUP_SIZE))
        if not group:
            return
        path = self.folder / "data" / f"train-{self.unit:05d}.parquet"
        path.parent.mkdir()
        with pa.parquet.ParquetWriter(path, schema) as writer:
            while group:
                values = [self._values(row, suffix) for row, suffix in group]
                writer.write_table(pa.Table.from_pylist(values, schema))
                group = list(itertools.islice(usable, _ROW_GROUP_SIZE))

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

    NAME is COMPONENT+KEY, both as `file_name` writes them. A unit without a usable image has no
    tar.
    """

    PLACES = ("bytes",)

    def write(self, rows: Iterable[Row]) -> None:
        usable = self.usable(rows)
        if (first := next(usable, None)) is None:
            return
        path = self.folder / f"{self.unit:05d}.tar"
        with tarfile.open(path, "x", format=tarfile.PAX_FORMAT) as tar:
            for row, suffix in itertools.chain([first], usable):
                lines = (" ".join(text["text"].split()) for text in row.texts)
                name = self.unique(f"{file_name(row.component)}+{row.name}", row)
                _add(tar, f"{name}.{suffix}", row.image)
                _add(tar, f"{name}.txt", "\n".join(lines).encode())
                _add(tar, f"{name}.json", _json(self.fields(row, suffix)).encode())


class Blip(Writer):
    """captions.json in the format of the original's code, one entry per caption."""

    PLACES = ("files", "none")
    LIST = "captions.json"
    _HEAD, _SEPARATOR, _TAIL = b"[\n", b",\n", b"\n]\n"

    def write(self, rows: Iterable[Row]) -> None:
        with (self.folder / self.LIST).open("x", encoding="utf-8") as file:
            separator = ""
            for row, suffix in self.usable(rows):
                entry = {"image": self.image_file(row, suffix)} if suffix else {"url": row.url}
                if not suffix and not row.url:
                    raise UserError(f"image {row.key!r} has no URL; export with --images=files")
                for text in row.texts:
                    file.write(f"{separator}{_json({**entry, 'caption': text['text']})}")
                    separator = self._SEPARATOR.decode()


FORMATS: dict[str, type[Writer]] = {
    "jsonl": Jsonl, "parquet": Parquet, "webdataset": Webdataset, "blip": Blip,
}  # fmt: skip


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _json(value: dict) -> str:
    return json.dumps(value, ensure_ascii=False)
