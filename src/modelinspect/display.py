"""
How a report shows itself with rich and in a notebook, without knowing how.

Reports are made in rooms that must not import ``render``. So they only inherit
:class:`Displayed`, and the package's ``__init__`` says in :func:`install` which
module turns them into text; it is imported when something is first shown.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["Displayed", "install"]

_installed: list[str] = []


def install(module: str) -> None:
    """
    Say which module displays reports.

    Args:
        module: Dotted name; has ``rich_of(report)`` and ``html_of(report)``. It is
            not imported here.
    """
    _installed[:] = [module]


class Displayed:
    """What rich and Jupyter ask for; reports inherit it."""

    __slots__ = ()

    def __rich__(self) -> Any:
        return import_module(_installed[0]).rich_of(self) if _installed else repr(self)

    def _repr_html_(self) -> str | None:
        return import_module(_installed[0]).html_of(self) if _installed else None
