"""
The values of a tensor in a few words: range, mean, spread, what is wrong with them.
"""

from __future__ import annotations

from math import isfinite, isnan
from typing import Any

from modelinspect.analysis.summary import ValueSummary
from modelinspect.errors import visible

__all__ = ["number_text", "summary_fields", "summary_text", "values_text"]


def summary_text(summary: ValueSummary | None) -> str:
    """
    One line, e.g. ``x∈[-0.98, 0.75] μ=0.02 NaN!×3``; small tensors in full.

    Figures have four significant digits. What follows an exclamation mark is wrong
    with the values; the figures are of the others.
    """
    if summary is None:
        return ""
    if summary.values is not None:
        parts = [_in_full(summary.values), _wrong("NaN", summary.nans), _wrong("Inf", summary.infinities)]
    else:
        parts = [_figures(summary), _wrong("NaN", summary.nans), _wrong("Inf", summary.infinities)]
    text = " ".join(part for part in parts if part)
    if text:
        return f"{text} ({visible(summary.reason)})" if summary.reason else text
    return visible(summary.reason) or ("no values" if summary.numel == 0 else "no figures")


def summary_fields(summary: ValueSummary | None) -> dict[str, Any] | None:
    """
    What JSON holds for a summary: every figure raw, None where there is none.
    """
    if summary is None:
        return None
    return {
        "numel": summary.numel,
        "min": summary.minimum,
        "max": summary.maximum,
        "mean": summary.mean,
        "std": summary.std,
        "zeros": summary.zeros,
        "nans": summary.nans,
        "infinities": summary.infinities,
        "values": summary.values,
        "reason": summary.reason or None,
    }


def number_text(value: Any) -> str:
    """
    Four significant digits; whole numbers in full.

    >>> number_text(0.123456), number_text(50257.0), number_text(1e-8), number_text(True)
    ('0.1235', '50257', '1e-08', 'True')
    """
    if isinstance(value, float):
        if isnan(value):
            return "nan"
        whole = isfinite(value) and value == int(value) and abs(value) < 1e7
        return f"{value:.0f}" if whole else f"{value:.4g}"
    if isinstance(value, complex):
        sign = "-" if value.imag < 0 else "+"
        return f"{number_text(value.real)}{sign}{number_text(abs(value.imag))}j"
    return visible(str(value))


def values_text(values: Any) -> str:
    """
    Nested lists of numbers in full; nothing for None.

    >>> values_text([[0.5, 1.25], [2, -1e-9]])
    '[[0.5, 1.25], [2, -1e-09]]'
    """
    return "" if values is None else _in_full(values)


def _in_full(values: Any) -> str:
    if isinstance(values, (list, tuple)):
        return f"[{', '.join(map(_in_full, values))}]"
    return values if isinstance(values, str) else number_text(values)


def _figures(summary: ValueSummary) -> str:
    low, high = summary.minimum, summary.maximum
    if low is not None and low == high and not summary.nans and not summary.infinities:
        return "all zeros" if low == 0 else f"all {number_text(low)}"
    parts = []
    if low is not None and high is not None:
        parts.append(f"x∈[{number_text(low)}, {number_text(high)}]")
    if summary.mean is not None:
        parts.append(f"μ={number_text(summary.mean)}")
    if summary.std is not None:
        parts.append(f"σ={number_text(summary.std)}")  # noqa: RUF001
    return " ".join(parts)


def _wrong(what: str, count: int) -> str:
    return f"{what}!×{count:,}" if count else ""
