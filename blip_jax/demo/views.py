"""HTML of results on the page; all texts are escaped."""

import html
from collections.abc import Sequence

from blip_jax.demo.work import ScoredText
from blip_jax.models import Caption

# Gradio draws lines around tables and cells, some of which its own rules then leave out. On a phone
# a table scrolls within itself; without bars the decision of CapFilt is in sight.
CSS = """
.scores { overflow-x: auto; }
.scores table { border-collapse: collapse; width: 100%; }
.scores :is(table, tr, th, td) { border: none !important; }
.scores :is(th, td) { padding: 0.4em 0.6em !important; text-align: left;
  border-bottom: 1px solid #8884 !important; }
.scores meter { width: 6em; vertical-align: middle; }
.scores tr.removed td { opacity: 0.55; }
.scores tr.removed td:first-child { text-decoration: line-through; }
.scores td:first-child { overflow-wrap: anywhere; }
@media (max-width: 600px) {
  .scores { font-size: 0.8em; }
  .scores td:first-child { min-width: 8em; }
  .scores meter { display: none; }
  .scores :is(th, td) { padding: 0.4em 0.3em !important; }
}
"""


def caption_table(captions: Sequence[Caption]) -> str:
    """Returns captions with their probabilities, those of all their tokens multiplied."""
    return _table(
        ("caption", "probability"),
        [[_text(x.text), f"{x.probability:.3g}"] for x in captions],
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
    return head + _table(("text", "origin", "P(match)", "decision"), cells, removed)


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
