"""
Where errors become one message and an exit code.

0: yes, done. 1: the answer is no. 2: could not. 130: interrupted. 141: the
reader of a pipe went away, as for any Unix command that SIGPIPE ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import typer

from modelinspect.errors import ModelInspectError, visible

__all__ = ["CLOSED_PIPE", "COULD_NOT", "INTERRUPTED", "NO", "YES", "guarded", "notes_to_stderr", "show_error"]

YES, NO, COULD_NOT, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 130, 141

MOST_CHARACTERS = 2_000
"""Of one line on stderr."""
MOST_LINES = 60
"""Of one error."""

# Typer brings its own copy of Click and does not export the base of its usage errors.
_UsageProblem: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def guarded(run: Callable[[], Any], debug: bool = False) -> int:
    """
    Run a command and give its exit code; anything that goes wrong is said on stderr.

    Args:
        run: Returns the command's exit code, or None for 0.
        debug: Also show the traceback of errors that are not ours.
    """
    try:
        code = run()
        sys.stdout.flush()
        return code if isinstance(code, int) else YES
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return CLOSED_PIPE
    except ModelInspectError as error:
        if debug:
            _traceback()
        show_error(error)
    except _UsageProblem as error:
        _show_usage_problem(error)
    except OSError as error:
        if debug:
            _traceback()
        # What could not be written stays in the buffer; the flush at exit must not try again.
        _forget_stdout()
        where = f"{visible(str(error.filename))}: " if error.filename else ""
        _say(sys.stderr, "error", f"{where}{error.strerror or error}")
    except (typer.Exit, typer.Abort, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  (whatever it is, it is ours to own up to)
        _traceback()
        _say(
            sys.stderr,
            "error",
            f"this is a bug in modelinspect: {type(error).__name__}: {visible(str(error))}",
        )
        print("  please report it with the lines above and the command you gave", file=sys.stderr)
    return COULD_NOT


def show_error(error: ModelInspectError) -> None:
    """One message on stderr: what, where, found, expected, what to do next."""
    first, *rest = str(error).split("\n")
    _say(sys.stderr, "error", _clipped(first))
    for line in rest[:MOST_LINES]:
        print(_clipped(line), file=sys.stderr)
    if len(rest) > MOST_LINES:
        print(f"  … {len(rest) - MOST_LINES:,} more lines", file=sys.stderr)


def notes_to_stderr(notes: tuple[str, ...], *, quiet: bool = False) -> None:
    """Notes and warnings, one a line, off the result's stream."""
    if not quiet:
        for note in dict.fromkeys(notes):
            _say(sys.stderr, "note", _clipped(note))


def _show_usage_problem(error: Exception) -> None:
    context = getattr(error, "ctx", None)
    _say(sys.stderr, "error", visible(str(getattr(error, "format_message", error.__str__)())))
    if context is not None:
        print(f"  hint: {context.command_path} --help", file=sys.stderr)


def _say(stream: TextIO, label: str, text: str) -> None:
    colours = {"error": "\x1b[1;31m", "note": "\x1b[36m"}
    if stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        label = f"{colours[label]}{label}:\x1b[0m"
    else:
        label = f"{label}:"
    print(label, _wrapped(text, stream), file=stream)


def _clipped(text: str) -> str:
    """Escaped and of a length that a person reads; a file may hold names of a megabyte."""
    more = len(text) - MOST_CHARACTERS
    return visible(text) if more <= 0 else f"{visible(text[:MOST_CHARACTERS])}… ({more:,} more characters)"


def _wrapped(text: str, stream: TextIO) -> str:
    """On a terminal: in lines that end between words; a pipe gets one line."""
    if not stream.isatty():
        return text
    from shutil import get_terminal_size
    from textwrap import wrap

    width = max(20, get_terminal_size().columns - 8)
    return "\n  ".join(wrap(text, width, break_long_words=False, break_on_hyphens=False))


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def _forget_stdout() -> None:
    """Point stdout at nothing, so that Python's own flush at exit stays quiet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
