"""HTML of results on the page; all texts are escaped."""

import html
import math
from collections.abc import Sequence

from blip_jax.demo.work import ScoredText
from blip_jax.models import Caption

# The last rule: on a phone a table scrolls within itself.
CSS = """
.scores table { border-collapse: collapse; width: 100%; }
.scores th, .scores td { padding: 0.4em 0.6em; text-align: left; border-bottom: 1px solid #8884; }
.scores meter { width: 6em; vertical-align: middle; }
.scores tr.removed td { opacity: 0.55; text-decoration: line-through; }
.scores { overflow-x: auto; }
"""


def caption_table(captions: Sequence[Caption]) -> str:
    """Returns captions with their probabilities, those of all their tokens multiplied."""
    rows = [(caption.text, math.exp(float(caption.log_probs.sum()))) for caption in captions]
    return _table(
        ("caption", "probability"),
        [[_text(text), f"{probability:.3g}"] for text, probability in rows],
    )


def match_table(rows: Sequence[ScoredText]) -> str:
    """Returns scored texts, the best first."""
    ordered = sorted(rows, key=lambda row: -row.probability)
    return _table(
        ("text", "P(match)", "cosine"),
        [[_text(x.text), _meter(x.probability), f"{x.cosine:.3f}"] for x in ordered],
    )


def selection_table(rows: Sequence[ScoredText], threshold: float) -> str:
    """Returns the texts that CapFilt keeps and removes at a threshold of P(match)."""
    kept = [row.probability >= threshold for row in rows]
    cells = [
        [_text(x.text), x.origin, _meter(x.probability), "kept" if keep else "removed"]
        for x, keep in zip(rows, kept, strict=True)
    ]
    head = f"<p>{sum(kept)} of {len(rows)} texts are kept.</p>"
    removed = ["" if keep else "removed" for keep in kept]
    return head + _table(("text", "origin", "P(match)", ""), cells, removed)


def answer_text(answer: str, score: float) -> str:
    """Returns an answer and its log-probability."""
    return f"<p><b>{_text(answer)}</b> (log-probability {score:.3f})</p>"


def _text(text: str) -> str:
    """Returns a text as HTML, in its own direction of writing."""
    return f"<bdi>{html.escape(text)}</bdi>"


def _meter(value: float) -> str:
    return f'<meter value="{value:.4f}"></meter> {value:.3f}'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """Returns a table of cells that are HTML; `classes` are those of the rows."""
    head = "".join(f"<th>{text}</th>" for text in heads)
    classes = classes or [""] * len(rows)
    body = "".join(
        f'<tr class="{name}">{"".join(f"<td>{cell}</td>" for cell in row)}</tr>'
        for name, row in zip(classes, rows, strict=True)
    )
    return f'<div class="scores"><table><tr>{head}</tr>{body}</table></div>'
