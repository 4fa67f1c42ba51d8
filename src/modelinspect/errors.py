"""
Every error that modelinspect raises, one family.

A message says what is wrong in one line; ``details`` say where, what was
found and what was expected; ``hint`` says what to do next. The command line
shows the three and exits with 2; the library raises them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = [
    "CheckpointError",
    "DamagedFileError",
    "DefinitionError",
    "LimitError",
    "MissingDependencyError",
    "ModelInspectError",
    "RefusedError",
    "TargetError",
    "UnknownAnswerError",
    "UnrecognisedFileError",
    "UsageError",
    "unknown_choice",
    "visible",
]

# C0 and C1 controls, the bidirectional marks and isolates, the line and paragraph
# separators, zero-width characters, and surrogates that no encoder accepts.
# A text, compiled when it is first needed: most names are printable, which is quick to tell.
_INVISIBLE = (
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""
    Show control and bidirectional characters as escapes: text from a file is data.

    >>> visible("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return text if text.isprintable() else re.sub(_INVISIBLE, _escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class ModelInspectError(Exception):
    """
    What all errors of this package have in common.

    Args:
        message: One line: what is wrong, naming the target.
        details: Lines that say where, what was found, what was expected.
        hint: What to do next, or None.
    """

    def __init__(self, message: str, *, details: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message, *(f"  {line}" for line in self.details)]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class UsageError(ModelInspectError):
    """The call itself makes no sense: a flag, a number, a combination."""


def unknown_choice(message: str, chosen: str, what: str, known: Sequence[str]) -> UsageError:
    """
    The error for a name that is none of those there are, with the nearest of them.

    Args:
        message: What can't be done.
        chosen: The name.
        what: Of the names that there are, e.g. ``columns``.
        known: Those names.

    >>> print(unknown_choice("there is no column 'nme'", "nme", "columns", ["name", "shape"]))
    there is no column 'nme'
      columns: name, shape
      hint: did you mean name?
    """
    from difflib import get_close_matches

    near = get_close_matches(chosen, known, 1)
    hint = f"did you mean {near[0]}?" if near else None
    return UsageError(message, details=(f"{what}: {', '.join(known)}",), hint=hint)


class TargetError(ModelInspectError):
    """The target does not name anything: no such file, an empty folder, a bad spelling."""


class CheckpointError(ModelInspectError):
    """A checkpoint cannot be read. The classes below say why."""


class UnrecognisedFileError(CheckpointError):
    """No reader takes the file for its own."""


class DamagedFileError(CheckpointError):
    """The file is of a known format and is broken: truncated, inconsistent, corrupt."""


class LimitError(CheckpointError):
    """The file claims more than a limit allows; the message names the limit."""


class RefusedError(CheckpointError):
    """Reading on would open something that a file must not make us open."""


class DefinitionError(ModelInspectError):
    """A model definition cannot be found, built or used."""


class MissingDependencyError(ModelInspectError):
    """An optional package is needed and not installed; the hint says what to install."""


class UnknownAnswerError(ModelInspectError):
    """The question has no answer in what was read; nothing is guessed."""
