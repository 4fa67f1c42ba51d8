"""
Draw a history of gradients: norms by step, and a heat map of parameter and step.

The only file that imports matplotlib, which comes with the extra ``plot``. Figures are made
as objects, without pyplot, so nothing global is touched and no display is needed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import BytesIO
from math import isfinite, log10, nan
from typing import Any

from modelinspect.analysis.gradients import GradientRow, GradientsReport, History
from modelinspect.errors import MissingDependencyError, UsageError, visible

__all__ = ["PLOT_SUFFIXES", "check_plot", "plot_bytes"]

PLOT_SUFFIXES = (".png", ".svg", ".html")
_MOST_LABELS = 60
_LONGEST_LABEL = 48
_DOTS_PER_INCH = 144
_FEW_STEPS = 40
"""Of fewer steps than these each is marked on its line."""
# Blue, orange, vermilion of Okabe and Ito: told apart with any sort of colour vision.
_NORM, _LOSS, _BROKEN, _MISSING = "#0072b2", "#e69f00", "#d55e00", "#bbbbbb"
_NORM_NAMES = {"1": "L1 norm", "2": "norm", "inf": "max norm"}


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
    if report.history is None or not report.history.steps:
        raise UsageError("there is nothing to draw: no norms were recorded", hint="add --every K")
    with _own_settings():
        figure = _figure(report, report.history)
        if suffix == ".html":
            return _page(report.target, _saved(figure, "svg").decode()).encode()
        return _saved(figure, suffix[1:])


@contextmanager
def _own_settings() -> Iterator[None]:
    """Settings of ours in the place of the user's, who may have asked for LaTeX; theirs come back."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        # Names are texts, not formulas; text in a drawing can be searched; ids don't change.
        mpl.rcParams.update(
            {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "modelinspect"}
        )
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def _saved(figure: Any, kind: str) -> bytes:
    stream = BytesIO()
    # Without a date the same report gives the same file.
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
    inches = 0.17 * min(len(rows), _MOST_LABELS)
    figure = Figure(figsize=(11.0, 4.2 + inches), layout="constrained")
    if rows:
        above, below = figure.subplots(2, 1, height_ratios=[3.0, max(1.5, inches)])
        _heat_map(figure, below, rows, history)
    else:
        above = figure.subplots()
    _lines(above, report, history)
    return figure


# ------------------------------------------------------------------------ lines


def _lines(axes: Any, report: GradientsReport, history: History) -> None:
    marker = "." if len(history.steps) < _FEW_STEPS else ""
    name = f"global {_NORM_NAMES[report.order]}"
    axes.set_title(visible(report.target), loc="left", fontsize=11)
    norms = [_drawable(_positive(norm)) for norm in history.norms]
    axes.plot(history.steps, norms, color=_NORM, marker=marker)
    _scale(axes, norms)
    axes.set_ylabel(name, color=_NORM)
    axes.set_xlabel("step")
    axes.grid(visible=True, alpha=0.25)
    broken = [step for step, norm in zip(history.steps, history.norms) if _is_broken(norm)]
    for step in broken:
        line = axes.axvline(step, color=_BROKEN, alpha=0.4, linewidth=1)
    if broken:
        axes.legend([line], [f"{name} NaN or infinite"], fontsize=8)
    if any(loss is not None and isfinite(loss) for loss in history.losses):
        _losses(axes.twinx(), history, marker)
    places, words = _ticks(history.steps)
    axes.set_xticks([history.steps[place] for place in places], words)
    # As far as the heat map reaches below: half a step beyond the first and the last.
    first, last = history.steps[0], history.steps[-1]
    beyond = (last - first) / (len(history.steps) - 1) / 2 if last > first else 0.5
    axes.set_xlim(first - beyond, last + beyond)


def _ticks(steps: Sequence[int]) -> tuple[list[int], list[str]]:
    """Places of up to nine of the steps, and how they are called."""
    places = sorted({round(share * (len(steps) - 1) / 8) for share in range(9)})
    return places, [f"{steps[place]:,}" for place in places]


def _losses(axes: Any, history: History, marker: str) -> None:
    losses = [_drawable(loss) for loss in history.losses]
    axes.plot(history.steps, losses, color=_LOSS, linewidth=1, marker=marker)
    axes.set_ylabel("loss", color="#b37700")
    if min((loss for loss in losses if isfinite(loss)), default=0.0) > 0:
        _scale(axes, losses)


def _scale(axes: Any, values: Sequence[float]) -> None:
    """Decades where values spread over them; within a factor of five equal steps say more."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    there = [value for value in map(_positive, values) if isfinite(value)]
    if not there or max(there) < 5 * min(there):
        return
    axes.set_yscale("log")
    in_full = FuncFormatter(lambda value, _: f"{value:g}")
    is_wide = max(there) > 100 * min(there)
    axes.yaxis.set_major_formatter(in_full)
    if not is_wide:
        axes.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axes.yaxis.set_minor_formatter(NullFormatter() if is_wide else in_full)


# --------------------------------------------------------------------- heat map


def _heat_map(figure: Any, axes: Any, rows: Sequence[GradientRow], history: History) -> None:
    import matplotlib as mpl
    from matplotlib.colors import to_rgba

    decades = [[_decade(norm) for norm in row.history] for row in rows]
    there = [decade for row in decades for decade in row if isfinite(decade)]
    image = axes.imshow(
        decades, aspect="auto", interpolation="nearest",
        cmap=mpl.colormaps["viridis"].with_extremes(bad=_MISSING),
        vmin=min(there, default=0.0), vmax=max(there, default=1.0),
    )  # fmt: skip
    red, clear = to_rgba(_BROKEN), (0.0, 0.0, 0.0, 0.0)
    faults = [[red if _is_broken(norm) else clear for norm in row.history] for row in rows]
    axes.imshow(faults, aspect="auto", interpolation="nearest")
    _name_rows(axes, rows)
    axes.set_xticks(*_ticks(history.steps))
    axes.set_xlabel("step")
    _legend(figure)
    if there:
        _bar(figure, axes, image)


def _name_rows(axes: Any, rows: Sequence[GradientRow]) -> None:
    """Each row's name, or as many as there is room for."""
    every = -(-len(rows) // _MOST_LABELS)
    places = range(0, len(rows), every)
    names = [visible(rows[place].name) for place in places]
    short = [name if len(name) <= _LONGEST_LABEL else f"…{name[-_LONGEST_LABEL:]}" for name in names]
    axes.set_yticks(list(places), short, fontsize=7)
    if every > 1:
        axes.set_ylabel(f"one in {every} of {len(rows):,} parameters is named", fontsize=8)


def _legend(figure: Any) -> None:
    from matplotlib.patches import Patch

    patches = [
        Patch(color=_MISSING, label="no gradient, or zero"),
        Patch(color=_BROKEN, label="NaN or infinite"),
    ]
    figure.legend(handles=patches, loc="outside lower right", ncols=2, fontsize=8, frameon=False)


def _bar(figure: Any, axes: Any, image: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = image.get_clim()
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=4 * figure.get_figheight())
    # Whole decades where there are some.
    bar.ax.yaxis.set_major_locator(MaxNLocator(nbins=7, integer=high - low > 2))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda decade, _: _norm_of(decade)))
    bar.set_label("norm")


def _norm_of(decade: float) -> str:
    """The number that has this logarithm; the ends of a bar may lie outside of what a float holds."""
    return f"1e{decade:.0f}" if decade == round(decade) else f"{10.0 ** min(decade, 308.0):.2g}"


def _is_broken(norm: float | None) -> bool:
    return norm is not None and not isfinite(norm)


def _positive(norm: float | None) -> float:
    return norm if norm is not None and isfinite(norm) and norm > 0 else nan


def _drawable(value: float | None) -> float:
    """The value, or NaN, which leaves a gap; beyond 1e±150 it stays there, where axes have room."""
    if value is None or not isfinite(value):
        return nan
    size = max(min(abs(value), 1e150), 1e-150) if value else 0.0
    return size if value > 0 else -size


def _decade(norm: float | None) -> float:
    positive = _positive(norm)
    return log10(positive) if isfinite(positive) else nan
