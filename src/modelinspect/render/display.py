"""
Reports shown by themselves: to rich, and as HTML to a notebook.

:mod:`modelinspect.display` imports this module when a report is first shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelinspect.analysis.count import CountReport
from modelinspect.analysis.fit import FitReport
from modelinspect.analysis.footprint import FootprintReport
from modelinspect.analysis.gradients import GradientsReport
from modelinspect.analysis.info import InfoReport, checkpoint_info
from modelinspect.analysis.listing import ParamsReport, total
from modelinspect.analysis.runs import RunsReport
from modelinspect.analysis.scan import ScanReport
from modelinspect.render.folding import fold
from modelinspect.render.sheet import Sheet
from modelinspect.render.views.bytes import bytes_table
from modelinspect.render.views.count import count_card
from modelinspect.render.views.fit import fit_sheet
from modelinspect.render.views.grads import grads_sheet, runs_sheet
from modelinspect.render.views.info import info_card
from modelinspect.render.views.params import params_sheet
from modelinspect.render.views.scan import scan_table
from modelinspect.render.views.transplant import transplant_sheet
from modelinspect.tensors import Checkpoint, ParameterTable
from modelinspect.transplant.plan import Plan

__all__ = ["html_of", "rich_of", "sheets_of"]


def sheets_of(report: object) -> tuple[Sheet, ...]:
    """
    A report as a terminal would show it: without hidden columns, folded.

    Raises:
        TypeError: There is no view of such a thing.
    """
    view = next((view for kind, view in _VIEWS if isinstance(report, kind)), None)
    if view is not None:
        sheets = view(report)
    elif isinstance(table := _table_of(report), ParameterTable):
        sheets = (_of_table(table),)
    else:
        raise TypeError(f"a {type(report).__name__} has no view")
    return tuple(fold(sheet.for_people()) for sheet in sheets)


_VIEWS: tuple[tuple[type, Callable[[Any], tuple[Sheet, ...]]], ...] = (
    (CountReport, count_card),
    (ParamsReport, lambda report: (params_sheet(report),)),
    (FitReport, lambda report: (fit_sheet(report),)),
    (GradientsReport, lambda report: (grads_sheet(report),)),
    (RunsReport, lambda report: (runs_sheet(report),)),
    (ScanReport, scan_table),
    (FootprintReport, bytes_table),
    (Plan, lambda report: (transplant_sheet(report, for_people=True),)),
    (InfoReport, lambda report: (info_card(report),)),
    (Checkpoint, lambda report: (info_card(checkpoint_info(report)),)),
)
"""Reports and what shows them."""


def _of_table(table: ParameterTable) -> Sheet:
    tied_to = table.tied_to
    totals = total(table.tensors, tied_to)
    return params_sheet(ParamsReport(table, table.tensors, totals, tied_to))


def _table_of(report: object) -> object:
    """A table is its own; a definition, whose class this room can't know, has one."""
    return getattr(report, "table", report)


def rich_of(report: object) -> object:
    """Something that rich can print."""
    from rich.console import Group

    from modelinspect.render.to_rich import SheetRenderable

    return Group(*map(SheetRenderable, sheets_of(report)))


def html_of(report: object) -> str:
    """An HTML table for a notebook; nothing in it runs."""
    from modelinspect.render.to_html import html_text

    return "\n".join(map(html_text, sheets_of(report)))
