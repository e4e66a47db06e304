"""The report: self-contained, escaped, complete, and whole with any section missing."""

import io
import math
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from blip_jax.metrics import filtering
from blip_jax.reports import charts
from blip_jax.reports import page as report
from blip_jax.runtime.errors import UserError

EVIL = "<script>alert('&\"x')</script>"
VOID = {"meta", "img", "br", "link", "input", "hr"}


def _png(size: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def _text(origin, text, p_match, true):
    kept = p_match >= 0.5
    return {
        "origin": origin,
        "text": text,
        "p_match": p_match,
        "cosine": 0.3,
        "kept": kept,
        "true": true,
    }


def _results() -> dict:
    p_match, true = [0.9, 0.8, 0.3, 0.1], [True, False, True, False]
    return {
        "title": f"Run {EVIL}",
        "summary": EVIL,
        "command": f"blip-jax bootstrap {EVIL}",
        "diagram": {"dataset": EVIL},
        "columns": ["R@1", "loss"],
        "best": {"loss": "min"},
        "arms": [
            {"arm": "none", "R@1": 20.0, "loss": 2.0},
            {"arm": "both", "R@1": (81.8, 0.4), "loss": 3.0},
            {"arm": EVIL, "R@1": math.nan},
        ],
        "gallery": [
            {
                "key": EVIL,
                "image": _png(32),
                "texts": [
                    _text("web", "a true one", 0.91, True),
                    _text("web", EVIL, 0.74, False),
                    _text("synthetic", "lost", 0.12, True),
                    _text("synthetic", "unknown", math.nan, None),
                ],
            },
            {"key": "large", "image": _png(200), "texts": []},
            {"key": "broken", "image": b"no picture", "texts": []},
        ],
        "filter": {
            "rows": [{"origin": EVIL, **filtering.decision_scores([True], [True])}],
            "curve": dict.fromkeys(("web", "synthetic"), filtering.curve(p_match, true)),
            "calibration": filtering.calibration(p_match, true),
            "histogram": {"web": filtering.histogram(p_match, true)},
        },
        "curves": {EVIL: {f"itc {EVIL}": [(i, 1 / (i + 1)) for i in range(100)]}},
        "stages": [{"name": EVIL, "seconds": 68, "note": EVIL}, {"name": "b", "seconds": 7.04}],
        "config": {"model": {"name": EVIL}},
    }


@pytest.fixture(scope="module")
def page() -> str:
    return report.render(_results())


class _Balance(HTMLParser):
    """Checks that every element is closed in order, and collects attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def test_page_is_well_formed_and_refers_to_nothing_outside(page):
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert parser.tags.count("script") == 1  # the page's own; none came from a text
    assert parser.links and all(link.startswith(("data:image/", "#")) for link in parser.links)
    assert set(re.findall(r"https?://[^\s\"'<]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in page


def test_every_text_is_escaped(page):
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(") >= 12


def test_ids_occur_once(page):
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_comparison_marks_the_best_and_the_gain(page):
    rows = report.sections.comparison(_results())["rows"]
    none, both, third = ([cell for cell in row["cells"]] for row in rows)
    assert [cell["text"] for cell in both] == ["81.8 ± 0.4", "3.0"]
    assert [cell["best"] for cell in none] == [False, True]
    assert [cell["best"] for cell in both] == [True, False]
    assert [(cell["gain"], cell["good"]) for cell in both] == [("+61.8", True), ("+1.0", False)]
    assert [cell["text"] for cell in third] == ["–", "–"]
    assert "captioner + filter" in page


def test_gallery_marks_decisions_and_mistakes(page):
    assert page.count("✓ kept") == 2 and page.count("✕ dropped") == 2
    assert page.count("⚠ kept, but not true") == page.count("⚠ dropped, but true") == 1
    buttons = dict(re.findall(r'data-show="(\w+)".*?<span>(\d+)</span>', page))
    counts = {"all": 4, "web": 2, "synthetic": 2, "kept": 2, "dropped": 2, "wrong": 2}
    assert buttons == {name: str(count) for name, count in counts.items()}
    assert page.count('loading="lazy" class="small"') == 1  # 32 px; the 200 px one is smoothed
    assert "this picture cannot be displayed" in page


def test_charts_take_their_colours_from_the_page(page):
    drawn = re.findall(r'<svg class="chart".*?</svg>', page, flags=re.DOTALL)
    assert len(drawn) == 5
    assert all("var(--c1)" in svg or "var(--c3)" in svg for svg in drawn)
    assert not re.search(r"#0a0[bc]", page)


def test_any_section_may_be_missing(tmp_path):
    path = report.write_report(tmp_path / "made" / "report.html", {"title": "Only a title"})
    text = path.read_text()
    assert "<h1>Only a title</h1>" in text and "<section>" not in text
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    light = {k: v for k, v in _results().items() if k not in ("curves", "filter")}
    for key in set(light) - {"title"}:
        assert "</html>" in report.render({k: v for k, v in light.items() if k != key})


def test_a_missing_value_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="'title'"):
        report.write_report(tmp_path / "report.html", {})
    with pytest.raises(UserError, match="'image'"):
        report.write_report(tmp_path / "report.html", {"title": "t", "gallery": [{"key": "k"}]})
    assert not list(tmp_path.iterdir())


def test_curves_with_gaps_or_nothing_still_draw():
    svg = charts.lines({"a": [(0, math.nan), (1, math.inf)], "b": []}, "empty")
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (9.97, "10 s"),
        (59.6, "1 min 00 s"),
        (68, "1 min 08 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration(seconds, text):
    assert report.sections.duration(seconds) == text


def test_scores_of_unknown_truth_are_counted_alone():
    counts = {"edges": [0, 0.5, 1], "texts": [3, 4]}
    threshold = {"web": 0.5, "synthetic": 0.6}
    found = {"histogram": {"web": counts, "synthetic": counts}, "threshold": threshold}
    page = report.render({"title": "t", "filter": found})
    assert "The filter's scores" in page and "0.5 (web), 0.6 (synthetic)" in page
    assert "against the truth" not in page and page.count('<svg class="chart"') == 2
    assert "Web texts by P(match)" in page and "Synthetic texts by P(match)" in page
