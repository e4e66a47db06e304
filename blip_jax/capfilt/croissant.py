"""Croissant metadata, `croissant.json`: a dataset as search engines and loaders read it.

It is JSON-LD of version 1.0, https://docs.mlcommons.org/croissant. The package `mlcroissant` reads
the records that it describes.
"""

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from blip_jax.capfilt.config import AssembleConfig
from blip_jax.capfilt.dataset_card import licences
from blip_jax.capfilt.export_rows import ABOUT
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.files import read_json

FILE = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
# The context that the standard prescribes.
_CR_TERMS = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject",
    "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField",
    "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate",
    "separator", "source", "subField", "transform",
)  # fmt: skip
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _CR_TERMS},
}
# What an export has of its own; the rest is of the assembled dataset that it was made from.
_OWN = ("distribution", "recordSet")
ENCODINGS = {
    ".json": "application/json", ".jsonl": "application/jsonlines",
    ".npy": "application/octet-stream", ".tar": "application/x-tar",
}  # fmt: skip
PART_BYTES = 1 << 20  # read at a time
TEXT, INTEGER, NUMBER = "sc:Text", "sc:Integer", "sc:Float"


def assembled(config: AssembleConfig, found: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the metadata of the folder that `assemble` writes.

    Args:
      found: of statistics.json.
      folder: with mixture.json, the lists of texts that it names, and statistics.json.
    """
    kept = sum(row["kept"] for row in found["texts"])
    count = sum(row["count"] for row in found["texts"])
    description = (
        f"{kept:,} texts of {found['images']['with_kept_text']:,} images, selected from {count:,} "
        "by CapFilt: a captioner wrote texts for the images, and a filter scored these and the "
        "texts that came with the images."
    )
    known = [config.license] if config.license else licences(found.get("licenses", ()))
    provenance = found["provenance"]
    tools = [
        f"{role[:-1].replace('_', ' ')} {x['name']}: {x['path']}, SHA-256 {x['sha256']}"
        for role in ("captioners", "filters", "extra_scores")
        for x in provenance.get(role, ())
    ]
    mixture = read_json(folder / "mixture.json")["components"]
    lists = [x["selected"] for x in mixture if x.get("selected")]
    files = [
        *(file_object(folder / name) for name in ("mixture.json", "statistics.json", *lists)),
    ]
    components = [
        _field("components", name, kind, "mixture.json", {"jsonPath": f"$.components[*].{name}"})
        for name, kind in (("name", TEXT), ("dataset", TEXT), ("split", TEXT), ("weight", NUMBER))
    ]
    texts = [
        _field("texts", name, kind, "statistics.json", {"jsonPath": f"$.texts[*].{name}"})
        for name, kind in (("origin", TEXT), ("count", INTEGER), ("kept", INTEGER))
    ]
    creator = {"@type": "sc:Organization", "name": config.creator}
    about = {"url": config.url, "creator": creator if config.creator else None}
    about |= {"version": config.version, "citeAs": config.citation}
    return {
        **_head(config.title, description),
        "license": known,
        **{name: value for name, value in about.items() if value},
        **({"rai:machineAnnotationTools": tools} if tools else {}),
        "distribution": files,
        "recordSet": [
            _record_set("components", "Datasets that training reads, by weight.", components),
            _record_set("texts", "Texts and kept texts by origin.", texts),
        ],
    }


def read(folder: Path) -> dict[str, Any]:
    """Returns the metadata of an assembled dataset without its files and records; {} if none.

    Raises:
      UserError: the file is damaged.
    """
    known: Any = read_json(folder / FILE) if (folder / FILE).is_file() else {}
    if not isinstance(known, dict):
        raise UserError(f"{folder / FILE} is damaged (expected an object); assemble again")
    return {name: value for name, value in known.items() if name not in _OWN}


def exported(
    to: str,
    place: str,
    files: Sequence[dict],
    opt_out_names: Iterable[str],
    known: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the metadata of a folder that `export` writes.

    Args:
      to: the format.
      place: where the images are ("files", "bytes", "none").
      files: `file_object` of the list or of each tar that was written.
      opt_out_names: the opt-out fields that rows have.
      known: what `read` returns of the mixture's folder: title, licence and so on.
    """
    files, description, fields = _FORMATS[to](files, place, opt_out_names)
    if place == "files":
        files = [*files, _file_set("image-files", "images/**", "image/*")]
    return {
        **_head("Image-text pairs", "Images and texts of a mixture of blip_jax."),
        **known,
        "distribution": files,
        "recordSet": [_record_set("images", description, fields)],
    }


Described = tuple[list[dict], str, list[dict]]  # files, description and fields of the records


def _rows(source: str, place: str, opt_out_names: Iterable[str]) -> tuple[str, list[dict]]:
    """Returns what rows with columns are, which `source` holds, and their fields."""
    kinds = dict.fromkeys(("key", "url", "caption", "component", *ABOUT, *opt_out_names), TEXT)
    kinds |= {"width": INTEGER, "height": INTEGER}
    if place != "none":
        kinds["image"] = TEXT if place == "files" else "sc:ImageObject"
    fields = {
        name: _field("images", name, kind, source, {"column": name})
        for name, kind in (kinds | {"texts": TEXT}).items()
    }
    fields["texts"]["repeated"] = True
    fields["texts"]["source"]["transform"] = {"jsonPath": "[*].text"}
    if place == "bytes":
        fields["image"]["source"]["transform"] = {"jsonPath": "bytes"}
    description = "Images with their texts, of which the caption has the highest P(match)."
    return description, list(fields.values())


def _jsonl(files: Sequence[dict], place: str, opt_out_names: Iterable[str]) -> Described:
    return [*files], *_rows("data.jsonl", place, opt_out_names)


def _parquet(files: Sequence[dict], place: str, opt_out_names: Iterable[str]) -> Described:
    found = _file_set("parquet-files", "data/*.parquet", "application/x-parquet")
    return [found], *_rows("parquet-files", place, opt_out_names)


def _webdataset(files: Sequence[dict], place: str, opt_out_names: Iterable[str]) -> Described:
    """Returns the JSON of each image as one field: loaders read files in tars whole."""
    inside = _file_set("json-files", "*.json", "application/json")
    inside["containedIn"] = [{"@id": tar["@id"]} for tar in files]
    fields = [
        _field("images", name, TEXT, "json-files", {"fileProperty": what})
        for name, what in (("file", "filename"), ("json", "content"))
    ]
    return [*files, inside], "What is known of each image, with its texts, as JSON.", fields


def _blip(files: Sequence[dict], place: str, opt_out_names: Iterable[str]) -> Described:
    fields = [
        _field("images", name, TEXT, "captions.json", {"jsonPath": f"$[*].{name}"})
        for name in ("caption", "url" if place == "none" else "image")
    ]
    return [*files], "Captions, each with its image.", fields


_FORMATS = {"jsonl": _jsonl, "parquet": _parquet, "webdataset": _webdataset, "blip": _blip}


def _head(title: str, description: str) -> dict[str, Any]:
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": title,
        "description": description,
        "datePublished": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def file_object(path: epath.PathLike) -> dict[str, Any]:
    """Returns the metadata of a file of ENCODINGS, with its size and SHA-256."""
    path, digest, size = epath.Path(path), hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            digest.update(part)
            size += len(part)
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "contentUrl": path.name,
        "contentSize": f"{size} B",
        "encodingFormat": ENCODINGS[path.suffix],
        "sha256": digest.hexdigest(),
    }


def _file_set(name: str, pattern: str, encoding: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "encodingFormat": encoding,
        "includes": pattern,
    }


def _record_set(name: str, description: str, fields: list[dict]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "field": fields,
    }


def _field(records: str, name: str, kind: str, place: str, extract: Mapping) -> dict[str, Any]:
    source = "fileObject" if "." in place else "fileSet"
    return {
        "@type": "cr:Field",
        "@id": f"{records}/{name}",
        "name": name,
        "dataType": kind,
        "source": {source: {"@id": place}, "extract": dict(extract)},
    }


def text_of(metadata: Mapping[str, Any]) -> str:
    """Returns the content of the file."""
    return json.dumps(metadata, indent=1, ensure_ascii=False) + "\n"
