"""A record as it was read, before any check, and the meaning of its fields."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from blip_jax.data.fields import TEXT_FIELDS
from blip_jax.data.image_suffixes import IMAGE_SUFFIXES
from blip_jax.data.ingest.config import IngestConfig
from blip_jax.data.ingest.text import decode_text, is_missing, listed, plain
from blip_jax.runtime.errors import UserError

# Common field names in lower case; the first that has a value is used.
DEFAULT_FIELD_NAMES = {
    "key": ("key", "__key__", "uid", "image_id", "sample_id", "id"),
    "image": ("image", "jpg", "jpeg", "png", "webp", "img", "path", "image_path", "file_name",
              "filename", "filepath", "file", "image_file"),
    "video": ("video", "mp4", "clip", "video_path", "clip_path", "video_file", "video_name"),
    "text": ("texts", "text", "captions", "caption", "alt", "alt_text", "alttext", "txt",
             "description", "sentences"),
    "url": ("url", "image_url", "img_url"),
}  # fmt: skip
IMAGES = IMAGE_SUFFIXES
TEXTS = ("txt", "text", "caption")  # suffixes of files with texts
MAX_BYTES = 1 << 27  # largest file in the input that is read into memory


class RejectedRecord(Exception):
    """A record that cannot be used.

    Attributes:
      reason: under which it is counted.
      detail: what was found.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclasses.dataclass
class RawRecord:
    """An input record. Its texts contain lone surrogates where they are not UTF-8.

    Attributes:
      name: its key as found, or a replacement.
      image: the file's bytes; None if there are none, or they are in the file `image_path`.
      video: of a clip, in place of `image`.
      image_path: path or URL of the image, as the record has it; "" if the bytes are here.
      second_image_path: the right image of a pair, as `image_path`.
      video_path: of a clip, in place of `image_path`.
      texts, url, truth: of the record. fields: all other fields.
      rejection: why it cannot be used, if that is known already.
      records: number of input records that it represents.
      unused_images: number of images in the record besides `image`.
      merged_fields: of each record merged with it, the fields that differ.
    """

    name: str
    image: bytes | None = None
    video: bytes | None = None
    image_path: str = ""
    second_image_path: str = ""
    video_path: str = ""
    texts: list[str] = dataclasses.field(default_factory=list)
    url: str = ""
    truth: str = ""
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    rejection: RejectedRecord | None = None
    records: int = 1
    unused_images: int = 0
    merged_fields: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def path(self) -> str:
        """Returns the path or URL of the image or clip; "" if its bytes are here."""
        return self.video_path or self.image_path


class FieldMapping:
    """Maps the fields of a record to key, image or video, text and URL."""

    def __init__(self, settings: IngestConfig):
        self._given = dataclasses.asdict(settings.columns)
        self._allow_no_text = settings.allow_no_text

    def find(self, kind: str, names: Iterable[str]) -> str | None:
        """Returns the one of `names` that is the field of a kind; None if there is none."""
        names = list(names)
        if given := self.given(kind):
            return given if given in names else None
        lower = {name.lower(): name for name in reversed(names)}
        return next((lower[usual] for usual in DEFAULT_FIELD_NAMES[kind] if usual in lower), None)

    def find_picture(self, names: Iterable[str]) -> tuple[Literal["video", "image"], str | None]:
        """Returns whether a record is a clip or an image, and the field that holds it or its path.

        A field of images comes before one of clips unless the settings name one of clips; the
        field of a URL comes last.
        """
        names = list(names)
        image = None if self.given("video") else self.find("image", names)
        video = None if image or self.given("image") else self.find("video", names)
        if video or self.given("video"):
            return "video", video
        return "image", image or self.find("url", names)

    def given(self, kind: str) -> str:
        """Returns the name that the settings give for a kind; "" if none."""
        return self._given.get(kind, "")

    def check(self, names: Iterable[str], path: str) -> None:
        """Raises a UserError if a file with these fields has no images or clips, or no texts."""
        names = list(names)
        kind, picture = self.find_picture(names)
        lacking = []
        if picture is None:
            of_clips = ", or that of clips with --config.columns.video=NAME"
            lacking.append((kind, "" if self.given(kind) else of_clips))
        if not self._allow_no_text and not self.find("text", names):
            lacking.append(("text", ", or do without with --config.allow_no_text=True"))
        for kind, otherwise in lacking:
            name = self.given(kind)
            looked = f"no field {name!r}" if name else f"no {kind} among its fields"
            found = ", ".join(map(str, names)) or "none"
            raise UserError(
                f"{path} has {looked} ({found}); name it with --config.columns.{kind}=NAME"
                f"{otherwise}"
            )

    def record(
        self,
        fields: Mapping[str, Any],
        name: str,
        kinds: Iterable[str] = tuple(DEFAULT_FIELD_NAMES),
    ) -> RawRecord:
        """Returns the record with these fields, of which only `kinds` are mapped.

        `name` replaces a missing key. Never raises: a record that cannot be mapped is rejected.
        """
        try:
            return self._record(fields, name, kinds)
        except Exception as error:  # a field may hold anything, such as lists nested without end
            return RawRecord(name, rejection=unreadable(error))

    def _record(self, fields: Mapping[str, Any], name: str, kinds: Iterable[str]) -> RawRecord:
        rest = dict(fields)
        present = [name for name, value in rest.items() if not _is_empty(value)]
        names = {
            kind: self.find(kind, present) or self.find(kind, rest)
            for kind in kinds
            if kind not in ("image", "video")
        }
        content = "image"
        if "image" in kinds:
            content, found = self.find_picture(present)
            if found is None:
                content, found = self.find_picture(rest)
            names["picture"] = found
        taken = {kind: rest.get(found) for kind, found in names.items() if found}
        rest = {name: value for name, value in rest.items() if name not in names.values()}
        key, url = taken.get("key"), taken.get("url")
        texts = listed(taken.get("text"))
        rest |= {field: listed(rest[field]) for field in TEXT_FIELDS if field in rest}
        if isinstance(texts, list) and any(isinstance(text, Mapping) for text in texts):
            rest[names["text"]] = texts  # for example texts with scores
        truth = rest.pop("truth", "")
        raw = RawRecord(
            name=as_text(key) or name,
            texts=as_texts(texts),
            url=as_text(url),
            truth=_truth(truth),
            fields=rest,
        )
        found = taken.get("picture")
        if isinstance(found, list) and len(found) == 1:
            (found,) = found
        if isinstance(found, list):
            detail = f"{len(found)} {content}s in field {names['picture']}, expected one"
            raw.rejection = RejectedRecord(f"missing {content}", detail)
        if isinstance(found, Mapping):  # the formats of Hugging Face's datasets
            found = found.get("bytes") or found.get("path")
        data = bytes(found) if isinstance(found, bytes | bytearray | memoryview) else None
        path = "" if data is not None else as_text(found)
        if content == "video":
            raw.video, raw.video_path = data, path
            if data is None and not path and not raw.rejection:
                raw.rejection = RejectedRecord("missing video", "no bytes and no path")
        else:
            raw.image, raw.image_path = data, path if "picture" in taken else raw.url
        return raw


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value)


def unreadable(error: Exception) -> RejectedRecord:
    """Returns the rejection of a record that raised an unexpected error."""
    return RejectedRecord("unreadable record", f"{type(error).__name__}: {error}"[:200])


def as_text(value: Any) -> str:
    """Returns a value as text, "" if it is missing, a list or an object.

    What is not UTF-8 becomes lone surrogates.
    """
    if type(value) is str:  # most are
        return value
    if isinstance(value, bytes):
        return decode_text(value)
    if isinstance(value, list | Mapping):
        return ""
    return "" if is_missing(value) else str(value)


def _truth(value: Any) -> str:
    """Returns what is known to be true of an image: a text, or JSON."""
    if isinstance(value, str | bytes) or is_missing(value):
        return as_text(value)
    return json.dumps(plain(value))


def as_texts(value: Any) -> list[str]:
    """Returns the non-blank texts of a field: a text, a list, or objects with a text in them.

    Truth values and numbers that are not finite are no text.
    """
    if value is None or type(value) is str:  # most are
        return [text] if (text := (value or "").strip()) else []
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return []
    if isinstance(value, Mapping):
        inner = next(
            (value[name] for name in DEFAULT_FIELD_NAMES["text"] + ("raw",) if name in value), None
        )
        return as_texts(inner)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [text for item in value for text in as_texts(item)]
    text = as_text(value).strip()
    return [text] if text else []


def add_texts(raw: RawRecord, texts: Iterable[str]) -> None:
    """Adds texts of a sidecar file, except those in the record already, single or joined."""
    known = {" ".join(text.split()) for text in (*raw.texts, " ".join(raw.texts))}
    raw.texts += [text for text in texts if " ".join(text.split()) not in known]


def clean(text: str) -> str:
    """Returns the text with question marks for lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def is_same_image(before: RawRecord, after: RawRecord) -> bool:
    """Returns whether two consecutive records have one image's or clip's path, thus one row."""
    same = bool(after.path) and after.path == before.path
    return same and not (before.rejection or after.rejection)


def _differs(before: Any, after: Any) -> bool:
    try:
        return before != after
    except RecursionError:  # nested too deeply; validation rejects it
        return True


def merge_adjacent(raws: Iterable[RawRecord]) -> Iterator[RawRecord]:
    """Merges consecutive records of one image's or clip's path.

    The original's lists have a record for each caption, and the five of an image are consecutive.
    """
    held: RawRecord | None = None
    for raw in raws:
        if held is not None and is_same_image(held, raw):
            held.texts += raw.texts
            held.records += 1
            other = {k: v for k, v in raw.fields.items() if _differs(held.fields.get(k), v)}
            held.merged_fields += [other] * bool(other)
            continue
        if held is not None:
            yield held
        held = raw
    if held is not None:
        yield held
