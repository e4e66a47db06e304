"""Checks a record as it was read: it becomes a row, or is rejected with a reason."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from blip_jax.data.fields import problems_of
from blip_jax.data.images import ImageError, decode, limit_shorter_side
from blip_jax.data.ingest.config import OPT_OUT_FIELDS, IngestConfig
from blip_jax.data.ingest.readers import image_files
from blip_jax.data.ingest.records import RawRecord, RejectedRecord, clean
from blip_jax.data.ingest.text import plain
from blip_jax.data.perceptual_hash import perceptual_hash
from blip_jax.data.text import is_unicode
from blip_jax.data.video import VideoError, frames

LICENCES = ("license", "licence", "license_name", "license_url", "rights")
ROBOTS = ("x_robots_tag", "robots_tag")  # fields whose text lists directives
FALSE_VALUES = ("", "0", "0.0", "f", "false", "n", "no", "none", "null", "nan", "[]")
LONG_TEXT_WORDS = 1000  # longer texts are kept and counted
JPEG_QUALITY = 95
FOUND_BY_URL = "images found by the last part of their URL"
HASHED_FRAMES = 4  # of a clip


def row(
    raw: RawRecord, folders: list[str], settings: IngestConfig
) -> tuple[dict[str, Any], Counter]:
    """Returns the row of a record (units.FEATURES without key and source), and its warnings.

    Args:
      raw: the record.
      folders: to which paths are relative, unless settings.images is given.

    Raises:
      RejectedRecord: it cannot be used.
    """
    if raw.rejection:
        raise raw.rejection
    for fields in (raw.fields, *raw.merged_fields):
        _opted_out(fields, settings.opt_out_fields)
    warnings: Counter = Counter()
    warnings["images passed over: not the first of their record"] += raw.unused_images
    fields = plain(raw.fields | ({"merged": raw.merged_fields} if raw.merged_fields else {}))
    warnings.update(problems_of(fields))
    described = {
        "truth": clean(raw.truth),
        "url": clean(raw.url),
        "fields": json.dumps(fields),
    }
    # What a benchmark says of an image may all be in its fields.
    allow_no_text = settings.allow_no_text or bool(settings.benchmark)
    described["texts"] = _texts(raw, allow_no_text, warnings)
    if raw.video_path or raw.video is not None:
        return _clip(raw, folders, settings) | described, warnings
    if raw.image is None and not raw.image_path:  # img2dataset gives the reason in "status"
        raise RejectedRecord(
            "missing image", str(raw.fields.get("status") or "no bytes, path or URL")
        )
    data = (
        image_files.find(raw.image_path, settings.images, folders)
        if raw.image is None
        else raw.image
    )
    is_named_by_url = raw.image is None and raw.image_path.lower().startswith(image_files.REMOTE)
    warnings[FOUND_BY_URL] += is_named_by_url
    if is_named_by_url:
        described["url"] = described["url"] or clean(raw.image_path)
    picture = _picture(data, raw.image_path, settings)
    height, width = picture.shape[:2]
    values = {
        "image": _downscaled(picture, data, settings, warnings),
        "sha256": hashlib.sha256(data).hexdigest(),
        "phash": perceptual_hash(picture),
        "width": width,
        "height": height,
        **described,
    }
    if raw.second_image_path:
        second = image_files.find(raw.second_image_path, settings.images, folders)
        right = _picture(second, raw.second_image_path, settings)
        values |= {
            "second_image": _downscaled(right, second, settings, warnings),
            # Of the pair, so that pairs which share one image are no duplicates.
            "sha256": hashlib.sha256(data + second).hexdigest(),
            "phash": perceptual_hash(_side_by_side(picture, right)),
        }
    return values, warnings


def _clip(raw: RawRecord, folders: list[str], settings: IngestConfig) -> dict[str, Any]:
    """Returns the features of a clip that are no text; its bytes are kept as they are.

    Its perceptual hash is that of frames side by side: clips of one film may share a frame.

    Raises:
      RejectedRecord: the file is missing, or cannot be decoded, or is too small.
    """
    data, named = raw.video, ""
    if data is None:
        named = f"{raw.video_path}: "
        try:
            data = image_files.find(raw.video_path, settings.images, folders)
        except RejectedRecord as rejection:
            raise RejectedRecord(
                rejection.reason.replace("image", "video"), rejection.detail
            ) from rejection
    try:
        found = frames(data, HASHED_FRAMES)
    except VideoError as error:
        raise RejectedRecord("undecodable video", f"{named}{error}") from error
    height, width = found.shape[1:3]
    if min(height, width) < settings.min_side:
        raise RejectedRecord("too small", f"{named}{width}x{height}")
    return {
        "video": data,
        "sha256": hashlib.sha256(data).hexdigest(),
        "phash": perceptual_hash(_side_by_side(*found)),
        "width": width,
        "height": height,
    }


def _picture(data: bytes, path: str, settings: IngestConfig) -> np.ndarray:
    """Returns the pixels of an image.

    Raises:
      RejectedRecord: it cannot be decoded, or is too small.
    """
    named = f"{path}: " if settings.benchmark else ""
    try:
        picture = decode(data)
    except ImageError as error:
        raise RejectedRecord("undecodable image", f"{named}{error}") from error
    height, width = picture.shape[:2]
    if min(height, width) < settings.min_side:
        raise RejectedRecord("too small", f"{named}{width}x{height}")
    return picture


def _downscaled(
    picture: np.ndarray, data: bytes, settings: IngestConfig, warnings: Counter
) -> bytes:
    """Returns the bytes of an image, scaled down if the settings say so.

    Raises:
      RejectedRecord: it cannot be encoded again.
    """
    if not settings.resize or min(picture.shape[:2]) <= settings.resize:
        return data
    try:
        scaled = downscale(picture, settings.resize, data)
    except OSError as error:  # a side longer than its format can have
        raise RejectedRecord("undecodable image", f"cannot be scaled: {error}") from error
    warnings["downscaled images"] += 1
    return scaled


def _side_by_side(*pictures: np.ndarray) -> np.ndarray:
    """Returns pictures in one, each as a square of the size that a perceptual hash needs."""
    squares = [Image.fromarray(x).resize((64, 64), Image.Resampling.LANCZOS) for x in pictures]
    return np.concatenate([np.asarray(square) for square in squares], axis=1)


def licence(fields: dict[str, Any]) -> str | None:
    """Returns the licence in a record's fields, if any."""
    lower = {str(name).lower(): value for name, value in fields.items()}
    found = (lower.get(name) for name in LICENCES)
    return next((clean(str(value)) for value in found if value not in (None, "")), None)


def opt_out(raw: RawRecord, names: tuple[str, ...]) -> str | None:
    """Returns the opt-out fields of a record that is kept, JSON of {field: text}; None if none.

    A field counts if it has a value, one that does not opt out ("false") too.

    Args:
      names: as given; the usual ones (`IngestConfig.opt_out_fields`) count as well.
    """
    known = {*names, *OPT_OUT_FIELDS, *ROBOTS}
    found: dict[str, str] = {}
    for fields in (raw.fields, *raw.merged_fields):
        for field, value in fields.items():
            said = clean(str(value)).strip()
            if str(field).lower().replace("-", "_") not in known or value is None or not said:
                continue
            if found.get(field, "").lower() in FALSE_VALUES:  # of several that which opts out
                found[field] = said
    return json.dumps(found, sort_keys=True) if found else None


def downscale(picture: np.ndarray, side: int, data: bytes) -> bytes:
    """Returns the picture with its shorter side reduced to `side` pixels, encoded.

    PNG stays PNG; all other formats become JPEG. Bicubic with anti-aliasing.
    """
    image = Image.fromarray(limit_shorter_side(picture, side))
    file = io.BytesIO()
    if data.startswith(b"\x89PNG"):
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def _texts(raw: RawRecord, allow_no_text: bool, warnings: Counter) -> list[str]:
    """Returns the texts of a record that can be used."""
    texts = [text for text in raw.texts if is_unicode(text)]
    broken = len(raw.texts) - len(texts)
    if not texts and broken:
        raise RejectedRecord("text not UTF-8", clean(raw.texts[0])[:100])
    if not texts and not allow_no_text:
        raise RejectedRecord("empty text")
    warnings["skipped texts: not UTF-8"] += broken
    warnings[f"texts with more than {LONG_TEXT_WORDS} words"] += sum(
        len(text.split()) > LONG_TEXT_WORDS for text in texts
    )
    return texts


def _opted_out(fields: dict[str, Any], names: tuple[str, ...]) -> None:
    """Raises a RejectedRecord if a field says that the image must not be trained on."""
    for field, value in fields.items():
        name = str(field).lower().replace("-", "_")
        said = str(value).strip().lower()
        if name in names and said not in FALSE_VALUES:
            raise RejectedRecord("opted out", f"{field} is {value}")
        if name in ROBOTS:
            directives = {part.strip() for part in said.replace(":", ",").split(",")}
            if found := directives.intersection(names):
                raise RejectedRecord("opted out", f"{field} has {min(found)}")
