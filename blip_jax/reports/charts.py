"""Charts of the reports as inline SVG, drawn by matplotlib, coloured by the page's CSS.

Matplotlib draws with placeholder colours, each of which is replaced by a CSS variable of
`report.css`, so that one drawing serves the light, the dark and the printed page.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

_INK, _GRID = "#0a0b01", "#0a0b02"
_CSS = {_INK: "var(--muted)", _GRID: "var(--line)"}
_SERIES = [f"#0a0c{i:02x}" for i in range(1, 7)]
_CSS |= {colour: f"var(--c{i})" for i, colour in enumerate(_SERIES, 1)}
# Lines differ by dash as well as colour, for readers and printers without colour.
_DASHES = [(), (6, 2), (2, 1.5), (7, 2, 1.5, 2), (4, 1.5, 1.5, 1.5, 1.5, 1.5), (10, 3)]
_TRUE, _NOISE = _SERIES[2], _SERIES[1]
_SIZE = (4.0, 2.6)  # inches; the SVG scales to its column, so only the ratio to the text matters
_RAW_POINTS = 80  # a longer curve is drawn as a faint raw line under its running mean


def lines(series: Mapping[str, Sequence], title: str, order: Sequence[str] = ()) -> Markup:
    """Draws one line for each run against the training step.

    Args:
      series: run -> sequence of (step, value); values that are not finite leave a gap.
      title: description of the picture for screen readers.
      order: names that fix each run's colour across charts; default: those of `series`.

    Returns:
      An `<svg>` element.
    """
    figure, axes = _axes()
    order = list(order or series)
    for name, points in series.items():
        steps, values = np.asarray(list(points), dtype=np.float64).reshape(-1, 2).T
        values = np.where(np.isfinite(values), values, np.nan)
        style = _style(order.index(name))
        if len(values) > _RAW_POINTS:
            axes.plot(steps, values, color=style["color"], alpha=0.22, linewidth=0.7)
            values = _running_mean(values, max(len(values) // 40, 3))
        axes.plot(steps, values, **style)
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return _svg(figure, title)


def thresholds(curve: Mapping[str, Sequence], chosen: float | None, title: str) -> Markup:
    """Draws precision, recall and kept share (of `filtering.curve`) against the threshold."""
    figure, axes = _axes()
    for index, name in enumerate(("precision", "recall", "kept_share")):
        axes.plot(curve["thresholds"], _floats(curve[name]), **_style(index))
    _mark(axes, chosen)
    _unit_square(axes, "threshold on P(match)", "share")
    return _svg(figure, title)


def reliability(series: Sequence[Mapping[str, Sequence]], title: str) -> Markup:
    """Draws the share of true texts against the mean P(match); dots grow with the count."""
    figure, axes = _axes()
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, dashes=(2, 2))
    for index, found in enumerate(series):
        count = _floats(found["count"])
        predicted, actual = _floats(found["p_match"]), _floats(found["true_share"])
        filled = count > 0
        axes.plot(predicted[filled], actual[filled], **_style(index))
        area = 8 + 90 * count[filled] / max(count.max(initial=0), 1)
        dots = {"color": _SERIES[index], "linewidth": 0, "zorder": 3}
        axes.scatter(predicted[filled], actual[filled], s=area, **dots)
    _unit_square(axes, "mean P(match)", "share of true texts")
    return _svg(figure, title)


def histogram(counts: Mapping[str, Sequence], chosen: float | None, title: str) -> Markup:
    """Draws counts of true texts upwards, of noise downwards, so that neither hides the other."""
    figure, axes = _axes()
    edges = _floats(counts["edges"])
    width = np.diff(edges) * 0.88
    middles = (edges[:-1] + edges[1:]) / 2
    axes.bar(middles, _floats(counts["true"]), width, color=_TRUE)
    axes.bar(middles, -_floats(counts["noise"]), width, color=_NOISE)
    axes.axhline(0, color=_INK, linewidth=0.8)
    _mark(axes, chosen)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    axes.set_xlabel("P(match)")
    axes.set_ylabel("texts")
    return _svg(figure, title)


def bars(values: Mapping[str, float | tuple[float, float] | None], title: str) -> Markup:
    """Draws one horizontal bar for each name, a number or (mean, spread); None: no bar."""
    figure, axes = _axes()
    places = range(len(values))
    for place, value in zip(places, values.values(), strict=True):
        if value is not None:
            mean, spread = value if isinstance(value, tuple | list) else (value, None)
            error = {"xerr": spread, "ecolor": _INK, "capsize": 3} if spread is not None else {}
            axes.barh(place, mean, 0.62, color=_SERIES[place % len(_SERIES)], **error)
    axes.set_yticks(list(places), list(values))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return _svg(figure, title)


def counts(
    histogram: Mapping[str, Sequence],
    limits: Sequence[float],
    title: str,
    label: str = "P(match)",
) -> Markup:
    """Draws counts in bins of a value: {"edges", "texts" or "images"}.

    Args:
      limits: values to mark.
      label: name of the value.
    """
    unit = next(name for name in histogram if name != "edges")
    figure, axes = _axes()
    edges = _floats(histogram["edges"])
    middles = (edges[:-1] + edges[1:]) / 2
    axes.bar(middles, _floats(histogram[unit]), np.diff(edges) * 0.88, color=_SERIES[0])
    for limit in limits:
        _mark(axes, limit)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(label)
    axes.set_ylabel(unit)
    return _svg(figure, title)


def legend(names: Sequence[str]) -> list[dict[str, str]]:
    """Returns name, CSS colour and dash pattern of each line, for a legend of several charts."""
    return [
        {
            "name": name,
            "colour": _CSS[_SERIES[i % len(_SERIES)]],
            "dash": " ".join(str(d) for d in _DASHES[i % len(_DASHES)]) or "none",
        }
        for i, name in enumerate(names)
    ]


def histogram_legend() -> list[dict[str, str]]:
    """Returns the legend of `histogram`, in the form of `legend`."""
    named = (("true, upwards", _TRUE), ("noise, downwards", _NOISE))
    return [{"name": name, "colour": _CSS[colour], "dash": "none"} for name, colour in named]


def _style(index: int) -> dict:
    dashes = _DASHES[index % len(_DASHES)]
    line = (0, dashes) if dashes else "-"
    return {"color": _SERIES[index % len(_SERIES)], "linestyle": line, "linewidth": 1.6}


def _mark(axes: Axes, chosen: float | None) -> None:
    """Draws a dashed line at the threshold, if there is one."""
    if chosen is not None:
        axes.axvline(chosen, color=_INK, linewidth=0.8, dashes=(2, 2))


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Returns the centred mean over at most `width` finite neighbours; fewer at both ends."""
    kernel = np.ones(width)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0), kernel, "same")
    return total / np.maximum(np.convolve(finite, kernel, "same"), 1)


def _floats(values: Sequence) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(_GRID)
    axes.tick_params(colors=_INK, labelsize=9.5, length=0)
    axes.xaxis.label.set(color=_INK, fontsize=9.5)
    axes.yaxis.label.set(color=_INK, fontsize=9.5)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _unit_square(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04), xlabel=xlabel, ylabel=ylabel)


def _svg(figure: Figure, title: str) -> Markup:
    """Returns the figure as one scalable `<svg>` with a description and no external references."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # The salt makes clip-path ids unique within a page and equal from run to run.
    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}),
        warnings.catch_warnings(),
    ):
        # The page's own fonts draw the text, of any script; matplotlib's need not have it.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(buffer, format="svg", metadata=nothing)
    drawing = buffer.getvalue()
    head, body = drawing[drawing.index("<svg") :].split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head).group()
    # Remove what would clash with or affect other elements of the page.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r' id="[\w.]+_\d+"| font-family: [^;]+;', "", body)
    for placeholder, css in _CSS.items():
        body = body.replace(placeholder, css)
    return Markup(f'<svg class="chart" role="img" aria-label="{escape(title)}" {view_box}>{body}')
