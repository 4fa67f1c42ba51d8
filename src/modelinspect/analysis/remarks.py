"""
What several reports have to say about a table.
"""

from __future__ import annotations

from modelinspect.errors import visible
from modelinspect.tensors import ParameterTable

__all__ = ["unregistered_remarks"]

MOST_NAMED = 5


def unregistered_remarks(table: ParameterTable) -> tuple[str, ...]:
    """
    Tensors that hang on a module without being registered, as one sentence or none.
    """
    found = table.unregistered
    if not found:
        return ()
    names = ", ".join(visible(tensor.name) for tensor in found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    what = "plain attributes that were" if len(found) > 1 else "a plain attribute that was"
    them = "them" if len(found) > 1 else "it"
    return (f"{names}{more}: {what} never registered, so neither .to() nor state_dict() sees {them}",)
