"""
What a user's code raised, as one message: where in their file, and what. No traceback.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Callable
from typing import Any

import torch

from modelinspect.errors import DefinitionError, visible

__all__ = ["raised", "said", "shown_path", "where_raised"]

_MOST_LINES = 8
_LONGEST_TEXT = 2_000
_LIBRARIES = tuple(
    os.path.join(folder, "")
    for folder in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        os.path.dirname(os.path.dirname(torch.__file__)),
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))),  # this package
    }
)


def raised(message: str, error: BaseException, home: str | None = None) -> DefinitionError:
    """
    The error for an exception that left a user's code.

    Args:
        message: What could not be done, naming the target.
        error: What was raised.
        home: The file of the definition, to look for the place in.
    """
    if isinstance(error, SystemExit):
        code = "" if error.code is None else visible(said(error.code, repr))
        return DefinitionError(
            message,
            details=(*_at(error, home), f"it called sys.exit({code})"),
            hint='what a script does belongs under if __name__ == "__main__":',
        )
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        return DefinitionError(message, details=_syntax(error, error.filename))
    hint = None
    if isinstance(error, ModuleNotFoundError) and isinstance(error.name, str):
        package = error.name.partition(".")[0]
        hint = f"is it installed in this environment? for example: pip install {visible(package)}"
    return DefinitionError(message, details=(*_at(error, home), *_said(error)), hint=hint)


def said(thing: object, how: Callable[[Any], str] = str) -> str:
    """
    The text of a user's object, cut where it is very long; empty if it can't be had.

    Args:
        thing: An exception, a default value, an annotation.
        how: Makes the text of it by running the user's ``__str__`` or ``__repr__``.
    """
    try:
        text = "".join([how(thing)])
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  the user's method may raise anything, or return no text
        return ""
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " …"


def where_raised(error: BaseException, home: str | None = None) -> str | None:
    """``net.py:12, in __init__``: the innermost line of the user's own code, if there is one."""
    walk = traceback.walk_tb(error.__traceback__)
    frames = [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in walk]
    own = [frame for frame in frames if _is_users(frame[0])] or [
        frame for frame in frames if frame[0] == home
    ]
    if not own:
        return None
    file, line, function = own[-1]
    place = f"{visible(shown_path(file))}:{line}"
    return place if function == "<module>" else f"{place}, in {visible(function)}"


def shown_path(path: str) -> str:
    """A path as one would type it here: relative where that is shorter."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # no current folder, or another drive
        return path
    return relative if len(relative) < len(path) else path


def _is_users(file: str) -> bool:
    return not file.startswith(("<", *_LIBRARIES))


def _at(error: BaseException, home: str | None) -> tuple[str, ...]:
    place = where_raised(error, home)
    return () if place is None else (f"at {place}",)


def _said(error: BaseException) -> tuple[str, ...]:
    """The type of the exception and what it says, some lines at most."""
    kind = visible(type(error).__name__)
    first, *rest = [visible(line) for line in said(error).strip().splitlines()] or [""]
    if len(rest) >= _MOST_LINES:
        rest = [*rest[: _MOST_LINES - 1], "…"]
    return (f"{kind}: {first}" if first else kind, *rest)


def _syntax(error: SyntaxError, file: str) -> tuple[str, ...]:
    place = f"at {visible(shown_path(file))}:{error.lineno}"
    line = visible(said(error.text or "").strip())
    return (
        f"{place}: {line}" if line else place,
        f"{visible(type(error).__name__)}: {visible(said(error.msg))}",
    )
