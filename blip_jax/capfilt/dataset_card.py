"""The dataset card: README.md with the front matter of Hugging Face, made from the statistics."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from huggingface_hub import DatasetCardData

from blip_jax.capfilt.selection import DECISIONS, KEPT
from blip_jax.capfilt.statistics import UNKNOWN_VALUE
from blip_jax.reports.templates import markdown_template
from blip_jax.runtime.terminal import printable

TASKS = ("image-to-text", "text-to-image", "zero-shot-image-classification")
TAGS = ("image-text-pairs", "synthetic-captions", "blip", "capfilt")
# Licences of image datasets that Hugging Face has a name for.
_KNOWN = re.compile(
    r"cc0-1\.0|cc-by(-nc)?(-nd|-sa)?-[1-4]\.[05]|pddl|odbl|odc-by|apache-2\.0|mit|openrail"
)
_BINS = 10  # largest number of rows of a score table


def render(title: str, found: Mapping[str, Any], licence: str = "") -> str:
    """Returns the text of the card.

    Args:
      title: heading and pretty name.
      found: of `statistics.summarize`, with 'provenance' and 'commands' (provenance.py) and
        optionally 'sweep' and 'prepared' (the manifest of `prepare`).
      licence: of the dataset, as Hugging Face names it; "": the licences of its images.
    """
    provenance = found["provenance"]
    kept = next((row for row in found["decisions"] if row["decision"] == DECISIONS[KEPT]), {})
    texts = sum(value for name, value in kept.items() if name != "decision")
    data = DatasetCardData(
        pretty_name=title,
        license=[licence] if licence else licences(found.get("licenses", ())),
        task_categories=list(TASKS),
        size_categories=[size_category(texts)],
        tags=list(TAGS),
    )
    return markdown_template("card.md.j2").render(
        front_matter=data.to_yaml(),
        title=title,
        found=found,
        kept=texts,
        dropped=[row for row in found["decisions"] if row["decision"] != DECISIONS[KEPT]],
        scores={
            name: score_rows(counts)
            for part in ("scores", "measures", "extra_scores")
            for name, counts in found[part].items()
        },
        selection=json.dumps(found["selection"], indent=1),
        provenance=provenance,
        decoding=json.dumps(provenance.get("decoding"), indent=1),
        models=[
            {"role": role[:-1].replace("_", " "), "name": model["name"], "path": model["path"],
             "SHA-256 of the weights, or of a plug-in's code": model["sha256"]}
            for role in ("captioners", "filters", "extra_scores")
            for model in provenance.get(role, ())
        ],
        commands=[printable(command) for command in found["commands"]],
    )  # fmt: skip


def licences(counted: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the licences as Hugging Face names them, "other" for those without a name there.

    ["unknown"] if no licence is known.

    Args:
      counted: rows with 'license', of `statistics.summarize`.
    """
    names = [_normal(row["license"]) for row in counted if row["license"] != UNKNOWN_VALUE]
    if not names:
        return ["unknown"]
    known = sorted({name for name in names if _KNOWN.fullmatch(name)})
    return known if len(known) == len(set(names)) == len(counted) else [*known, "other"]


def _normal(name: str) -> str:
    """Returns 'cc-by-sa-4.0' for 'CC BY-SA 4.0' and for the address of that licence."""
    name = name.strip().lower()
    if address := re.search(r"creativecommons\.org/licenses/([a-z-]+)/([\d.]+)", name):
        return f"cc-{address[1]}-{address[2]}"
    if "creativecommons.org/publicdomain/zero" in name:
        return "cc0-1.0"
    return re.sub(r"[\s_]+", "-", name)


def size_category(count: int) -> str:
    """Returns the size category of Hugging Face for a number of rows."""
    if count < 1000:
        return "n<1K"
    names = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    place = len(str(count)) - 4
    return f"{names[place]}<n<{names[place + 1]}" if place < len(names) - 1 else "n>1T"


def score_rows(counts: Mapping[str, Sequence]) -> list[dict]:
    """Returns a histogram of `statistics.summarize` as about 10 rows without the empty ends."""
    edges, origins = counts["edges"], [name for name in counts if name != "edges"]
    step = max((len(edges) - 1) // _BINS, 1)
    rows = []
    for start in range(0, len(edges) - 1, step):
        stop = min(start + step, len(edges) - 1)
        row = {"from": f"{edges[start]:.2f}", "to": f"{edges[stop]:.2f}"}
        rows.append(row | {name: sum(counts[name][start:stop]) for name in origins})
    filled = np.flatnonzero([any(row[name] for name in origins) for row in rows])
    return rows[filled[0] : filled[-1] + 1] if filled.size else []
