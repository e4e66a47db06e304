"""The dataset card: README.md with Hugging Face's front matter, made of the statistics."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from huggingface_hub import DatasetCardData

from blip_jax.capfilt.selection import KEPT, VERDICTS
from blip_jax.reports import tables

TASKS = ("image-to-text", "text-to-image", "zero-shot-image-classification")
TAGS = ("image-text-pairs", "synthetic-captions", "blip", "capfilt")
# Names that Hugging Face knows, of licences that image datasets come under.
_KNOWN = re.compile(
    r"cc0-1\.0|cc-by(-nc)?(-nd|-sa)?-[1-4]\.[05]|pddl|odbl|odc-by|apache-2\.0|mit|openrail"
)
_BINS = 10  # rows of the score tables


def render(title: str, found: Mapping[str, Any], licence: str = "") -> str:
    """The card's text.

    Args:
      title: heading and pretty name.
      found: of `statistics.gather`, with 'provenance' (provenance.py), 'commands', and, where
        there are such, 'sweep' and 'prepared' (history.py).
      licence: of the dataset, by Hugging Face's name; "": what is known of its images.
    """
    provenance = found["provenance"]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("blip_jax.reports"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["table"] = tables.markdown
    kept = next((row for row in found["verdicts"] if row["verdict"] == VERDICTS[KEPT]), {})
    texts = sum(value for name, value in kept.items() if name != "verdict")
    data = DatasetCardData(
        pretty_name=title,
        license=[licence] if licence else licences(found.get("licenses", ())),
        task_categories=list(TASKS),
        size_categories=[size_category(texts)],
        tags=list(TAGS),
    )
    return environment.get_template("card.md.j2").render(
        front_matter=data.to_yaml(),
        title=title,
        found=found,
        kept=texts,
        dropped=[row for row in found["verdicts"] if row["verdict"] != VERDICTS[KEPT]],
        scores={name: score_rows(counts) for name, counts in found["scores"].items()},
        rules=json.dumps(found["rules"], indent=1),
        provenance=provenance,
        decoding=json.dumps(provenance.get("decoding"), indent=1),
        models=[
            {"role": role[:-1], "name": model["name"], "path": model["path"],
             "SHA-256 of the weights": f"`{model['sha256']}`"}
            for role in ("captioners", "filters") for model in provenance.get(role, ())
        ],
        commands=found["commands"],
    )  # fmt: skip


def licences(counted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Hugging Face's names of the licences; "other" if one is not known there, "unknown" if none
    is said."""
    names = [_normal(row["texts"]) for row in counted if row["texts"] != "(none said)"]
    if not names:
        return ["unknown"]
    known = sorted({name for name in names if _KNOWN.fullmatch(name)})
    return known if len(known) == len(set(names)) == len(counted) else [*known, "other"]


def _normal(name: str) -> str:
    """'CC BY-SA 4.0' and the address of its text are both 'cc-by-sa-4.0'."""
    name = name.strip().lower()
    if address := re.search(r"creativecommons\.org/licenses/([a-z-]+)/([\d.]+)", name):
        return f"cc-{address[1]}-{address[2]}"
    if "creativecommons.org/publicdomain/zero" in name:
        return "cc0-1.0"
    return re.sub(r"[\s_]+", "-", name)


def size_category(count: int) -> str:
    """Hugging Face's word for a number of rows."""
    if count < 1000:
        return "n<1K"
    names = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    place = len(str(count)) - 4
    return f"{names[place]}<n<{names[place + 1]}" if place < len(names) - 1 else "n>1T"


def score_rows(counts: Mapping[str, Sequence]) -> list[dict]:
    """A histogram of `statistics.gather` as a table of at most so many rows; empty ends are cut."""
    edges, origins = counts["edges"], [name for name in counts if name != "edges"]
    step = max((len(edges) - 1) // _BINS, 1)
    rows = []
    for start in range(0, len(edges) - 1, step):
        stop = min(start + step, len(edges) - 1)
        row = {"from": f"{edges[start]:.2f}", "to": f"{edges[stop]:.2f}"}
        rows.append(row | {name: sum(counts[name][start:stop]) for name in origins})
    filled = np.flatnonzero([any(row[name] for name in origins) for row in rows])
    return rows[filled[0] : filled[-1] + 1] if filled.size else []
