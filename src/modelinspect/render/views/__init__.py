"""
Views: one function a report, report to sheet.
"""

from modelinspect.render.views.checkpoint import checkpoint_sheet
from modelinspect.render.views.count import count_card, count_groups, count_number, count_rows
from modelinspect.render.views.fit import fit_sheet
from modelinspect.render.views.params import PARAMS_COLUMNS, TREE_COLUMNS, params_sheet

__all__ = [
    "PARAMS_COLUMNS",
    "TREE_COLUMNS",
    "checkpoint_sheet",
    "count_card",
    "count_groups",
    "count_number",
    "count_rows",
    "fit_sheet",
    "params_sheet",
]
