"""A folder that opens offline in a browser, with thousands of images to search and sort.

`index.html` is the page; `data/*.js` hold the texts, `thumbs/` small pictures. A page that is
opened from disk (file://) may load scripts and pictures, but no JSON.
"""

import concurrent.futures
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2

import blip_jax
from blip_jax.data.images import ImageError, decode
from blip_jax.reports import sections
from blip_jax.reports.templates import template
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import atomic_folder
from blip_jax.runtime.progress import track
from blip_jax.runtime.terminal import page_text, printable

THUMB = 192  # pixels, the longer side
PAGE = 48  # images shown at a time
_A_FILE = 250  # images per data file
_A_FOLDER = 1000  # thumbnails per folder
_THREADS = 4


def write_gallery(
    folder: str, results: Mapping, images: Iterable[Mapping], count: int, progress: bool = False
) -> str:
    """Writes the folder, whole or not at all; an existing gallery is replaced.

    Args:
      folder: local.
      results: 'title'; optional 'summary', 'command', 'decisions' (all names, "kept" first),
        'filter' (see page.py) and 'distributions': {'histograms': {name: {'edges', and counts by
        origin or of 'images'}}, 'limits': {name: [value]}, 'languages': rows}.
      images: the entries, as `capfilt.gallery_entries` yields them: {'key', 'url', 'image': bytes,
        'texts': [{'text', 'origin', 'model', 'method', 'p_match', 'cosine', 'decision', 'true'}]}.
      count: the number of images.
      progress: show progress.

    Returns: the path of the page.

    Raises:
      UserError: the folder is not local, or exists and is not a gallery.
    """
    if "://" in folder:
        raise UserError(f"{folder} is not local; write the gallery to a local folder")
    target = Path(os.path.abspath(folder))
    if target.exists() and not (target / "index.html").exists():
        raise UserError(f"{folder} exists already and is not a gallery; choose another path")
    with atomic_folder(target, replace=True) as unfinished:
        (unfinished / "data").mkdir()
        tracked = track(images, "report", count, "image", progress)
        files = _write_data(unfinished, tracked, results)
        page = _page(results, files, count)
        (unfinished / "index.html").write_text(page, encoding="utf-8")
    return str(target / "index.html")


def _page(results: Mapping, files: list[str], count: int) -> str:
    return template("gallery.html.j2").render(
        title=results["title"],
        summary=results.get("summary", ""),
        command=results.get("command", ""),
        filter=sections.filter_quality(results.get("filter", {})),
        distributions=sections.distributions(results.get("distributions", {})),
        files=files,
        count=count,
        page=PAGE,
        decisions=list(results.get("decisions", ("kept", "dropped"))),
        version=blip_jax.__version__,
    )


def _write_data(folder: Path, images: Iterable[Mapping], results: Mapping) -> list[str]:
    """Writes thumbnails and data files; returns the names of the latter."""
    decisions = list(results.get("decisions", ("kept", "dropped")))
    files, numbered = [], enumerate(images)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        while some := list(itertools.islice(numbered, _A_FILE)):
            for number, _ in some[:: max(_A_FOLDER // _A_FILE, 1)]:
                _thumb_path(folder, number).parent.mkdir(parents=True, exist_ok=True)
            sizes = pool.map(lambda entry: _thumb(folder, *entry), some)
            rows = [
                _row(number, entry, size, decisions)
                for (number, entry), size in zip(some, sizes, strict=True)
            ]
            files.append(f"data/{len(files):05d}.js")
            # json.dumps writes ASCII, so the content cannot end the script element.
            (folder / files[-1]).write_text(f"gallery.add({json.dumps(rows)});\n")
    return files


def _thumb_path(folder: Path, number: int) -> Path:
    return folder / "thumbs" / f"{number // _A_FOLDER:04d}" / f"{number:07d}.jpg"


def _thumb(folder: Path, number: int, entry: Mapping) -> tuple[int, int] | None:
    """Writes a thumbnail; returns its width and height, or None if the image does not decode."""
    try:
        picture = decode(entry["image"])
    except ImageError:
        return None
    height, width = picture.shape[:2]
    if max(height, width) > THUMB:
        scale = THUMB / max(height, width)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 85]
    if max(height, width) <= THUMB:  # the page enlarges small pictures
        full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        quality = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
    _thumb_path(folder, number).write_bytes(data.tobytes())
    return picture.shape[1], picture.shape[0]


def _row(number: int, entry: Mapping, size: tuple[int, int] | None, decisions: list[str]) -> dict:
    """Returns an image as gallery.js reads it; names are short to save space."""
    return {
        "key": printable(entry["key"]),
        "url": entry.get("url", ""),
        "thumb": str(_thumb_path(Path(""), number)) if size else "",
        "size": size or (0, 0),
        "texts": [
            {
                "text": page_text(text["text"]),
                "origin": text["origin"],
                "by": ", ".join(filter(None, (text.get("model"), text.get("method")))),
                "decision": decisions.index(text["decision"]),
                "p": _number(text["p_match"]),
                "cosine": _number(text["cosine"]),
                "true": text.get("true"),
            }
            for text in entry["texts"]
        ],
    }


def _number(value: float) -> float | None:
    return round(value, 4) if value == value else None
