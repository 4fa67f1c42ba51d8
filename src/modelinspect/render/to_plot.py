"""
Draw a history of gradients: norms by step, and a heat map of parameter and step.

The only file that imports matplotlib, which comes with the extra ``plot``. Figures are made
as objects, without pyplot, so nothing global is touched and no display is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from io import BytesIO
from math import isfinite, isnan, log10, nan
from typing import Any

from modelinspect.analysis.gradients import GradientRow, GradientsReport, History
from modelinspect.errors import MissingDependencyError, UsageError, visible

__all__ = ["PLOT_SUFFIXES", "check_plot", "plot_bytes"]

PLOT_SUFFIXES = (".png", ".svg", ".html")
_MOST_LABELS = 60
_LONGEST_LABEL = 48
_DOTS_PER_INCH = 144


def check_plot(suffix: str) -> None:
    """
    Refuse what can't be drawn, before anything is trained for it.

    Args:
        suffix: Of the file, with its dot.

    Raises:
        UsageError: It is none of :data:`PLOT_SUFFIXES`.
        MissingDependencyError: matplotlib is not installed.
    """
    if suffix not in PLOT_SUFFIXES:
        raise UsageError(f"a plot is {', '.join(PLOT_SUFFIXES)}, not {visible(suffix) or 'without a suffix'}")
    try:
        import matplotlib  # noqa: F401, ICN001  (is it there?)
    except ImportError as error:
        raise MissingDependencyError(
            f"--plot needs matplotlib, which can't be imported: {error}",
            hint="pip install 'modelinspect[plot]'",
        ) from error


def plot_bytes(report: GradientsReport, suffix: str) -> bytes:
    """
    The file of a plot.

    Args:
        report: With a history.
        suffix: ``.png``, ``.svg`` or ``.html``, a page with the drawing in it.

    Raises:
        UsageError: The report has no history, or the suffix is unknown.
        MissingDependencyError: matplotlib is not installed.
    """
    check_plot(suffix)
    if report.history is None:
        raise UsageError("there is nothing to draw: no norms were recorded", hint="add --every K")
    figure = _figure(report, report.history)
    if suffix == ".html":
        return _page(report.target, _saved(figure, "svg").decode()).encode()
    return _saved(figure, suffix[1:])


def _saved(figure: Any, kind: str) -> bytes:
    import matplotlib as mpl

    stream = BytesIO()
    # Without a date and with fixed ids the same report gives the same file.
    with mpl.rc_context({"svg.hashsalt": "modelinspect", "svg.fonttype": "none"}):
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(stream, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata)
    return stream.getvalue()


def _page(title: str, svg: str) -> str:
    drawing = svg[svg.index("<svg") :]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(visible(title))}: gradients</title>\n"
        "<style>body{margin:2em;font-family:sans-serif}svg{max-width:100%;height:auto}</style>\n"
        f"</head>\n<body>\n{drawing}\n</body>\n</html>\n"
    )


def _figure(report: GradientsReport, history: History) -> Any:
    from matplotlib.figure import Figure

    rows = [row for row in report.rows if row.history]
    shown = min(len(rows), _MOST_LABELS)
    figure = Figure(figsize=(11.0, 4.2 + 0.17 * shown), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[3.0, max(1.5, 0.17 * shown)])
    _lines(above, report, history)
    if rows:
        _heat_map(figure, below, rows, history)
    return figure


def _text(text: str) -> str:
    """A name as it is: dollars would begin a formula."""
    return visible(text).replace("$", r"\$")


def _lines(axes: Any, report: GradientsReport, history: History) -> None:
    norms = [_positive(norm) for norm in history.norms]
    losses = [nan if loss is None or not isfinite(loss) else loss for loss in history.losses]
    axes.set_title(_text(report.target), loc="left", fontsize=11)
    axes.plot(history.steps, norms, color="#0072b2", label="global norm")
    axes.set_yscale("log")
    axes.set_ylabel("global norm", color="#0072b2")
    axes.set_xlabel("step")
    axes.grid(visible=True, alpha=0.25)
    axes.margins(x=0.01)
    for step, norm in zip(history.steps, history.norms):
        if norm is not None and not isfinite(norm):
            axes.axvline(step, color="#d55e00", alpha=0.4, linewidth=1)
    known = [loss for loss in losses if not isnan(loss)]
    if known:
        other = axes.twinx()
        other.plot(history.steps, losses, color="#e69f00", label="loss", linewidth=1)
        other.set_ylabel("loss", color="#b37700")
        if min(known) > 0 and max(known) > 20 * min(known):
            other.set_yscale("log")


def _heat_map(figure: Any, axes: Any, rows: Sequence[GradientRow], history: History) -> None:
    import matplotlib as mpl
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    colours = mpl.colormaps["viridis"].with_extremes(bad="#bbbbbb")
    decades = [[_decade(norm) for norm in row.history] for row in rows]
    image = axes.imshow(decades, aspect="auto", interpolation="nearest", cmap=colours)
    every = -(-len(rows) // _MOST_LABELS)
    places = list(range(0, len(rows), every))
    names = [_text(rows[place].name) for place in places]
    short = [name if len(name) <= _LONGEST_LABEL else f"…{name[-_LONGEST_LABEL:]}" for name in names]
    axes.set_yticks(places, short, fontsize=7)
    steps = history.steps
    marks = sorted({round(share * (len(steps) - 1) / 8) for share in range(9)})
    axes.set_xticks(marks, [f"{steps[mark]:,}" for mark in marks])
    axes.set_xlabel("step; grey: no gradient, zero, NaN or infinite")
    scale = figure.colorbar(image, ax=axes, pad=0.01)
    scale.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    scale.ax.yaxis.set_major_formatter(FuncFormatter(lambda decade, _: f"1e{decade:g}"))
    scale.set_label("norm")


def _positive(norm: float | None) -> float:
    return norm if norm is not None and isfinite(norm) and norm > 0 else nan


def _decade(norm: float | None) -> float:
    positive = _positive(norm)
    return nan if isnan(positive) else log10(positive)
