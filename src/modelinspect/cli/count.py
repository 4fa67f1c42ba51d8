"""
``modelinspect count``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from modelinspect import api
from modelinspect.cli import options
from modelinspect.cli.boundary import COULD_NOT, NO, YES, notes_to_stderr, show_error
from modelinspect.cli.show import chosen_format, show
from modelinspect.errors import ModelInspectError, UsageError
from modelinspect.render.units import parse_bytes, parse_count
from modelinspect.render.views.count import count_card, count_groups, count_number, count_rows

if TYPE_CHECKING:
    from modelinspect.analysis.count import CountReport, Grouping, Quantity
    from modelinspect.render.sheet import Sheet

__all__ = ["command"]

_What = Literal["unique", "named", "stored", "trainable", "frozen", "buffers", "bytes"]
_By = Literal["dtype", "kind", "module", "prefix", "section", "shard"]


def command(
    targets: options.Targets,
    what: Annotated[
        _What | None,
        typer.Option("--what", help="Select one figure; unique if left out.", show_default=False),
    ] = None,
    by: Annotated[_By | None, typer.Option("--by", help="Also total by this.", show_default=False)] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            "--depth", metavar="N", min=0, help="Dotted parts that --by prefix and --by module keep."
        ),
    ] = None,
    at_most: Annotated[
        str | None,
        typer.Option("--max", metavar="N", help="Exit 1 if the figure is larger (1M = 1,000,000)."),
    ] = None,
    at_least: Annotated[
        str | None, typer.Option("--min", metavar="N", help="Exit 1 if the figure is smaller.")
    ] = None,
    equals: Annotated[
        str | None,
        typer.Option(
            "--equals", metavar="N|TARGET", help="Exit 1 if the figure is not N, or not TARGET's figure."
        ),
    ] = None,
    section: options.SectionName = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    sort: options.Sort = None,
    reverse: options.Reverse = False,
    top: options.Top = None,
    read_as: options.ReadAs = None,
    form: options.Format = None,
    json: options.Json = False,
    output: options.Output = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """
    Count parameters, buffers and bytes of definitions and checkpoints.

    The headline is unique parameters: tied ones once, buffers not. Into a pipe goes
    the number alone; with several targets, a line each: number, tab, target.

    \b
    Examples:
      modelinspect count model.safetensors
      modelinspect count net.py:Net --by module --depth 1
      [ "$(modelinspect count net.py:Net)" -lt 1000000 ] || exit 1
      modelinspect count net.py:Net --max 1M
      modelinspect count net.py:Net --equals model.safetensors
    """  # noqa: D301  (the escape tells Click to keep the lines)
    form = chosen_format(form, json, output)
    figure: Quantity = what or "unique"
    limits = _Limits(figure, at_most, at_least, equals)
    reports: list[CountReport] = []
    code = YES
    for target in targets:
        try:
            report = api.count(
                target, by=by, depth=depth, section=section,
                include=include or (), exclude=exclude or (),
                sort=sort, reverse=reverse, top=top, read_as=read_as,
            )  # fmt: skip
            if what is not None or limits.given:
                report.quantity(figure)
        except ModelInspectError as error:
            show_error(error)
            code = COULD_NOT
            continue
        reports.append(report)
        whose = f"{target}: " if len(targets) > 1 else ""
        notes_to_stderr(tuple(whose + note for note in report.notes), quiet=quiet)
    if reports:
        show(_sheets(reports, what, by, form, named=len(targets) > 1), form, output)
    complaints = [line for report in reports for line in limits.complaints(report)]
    notes_to_stderr(tuple(complaints))
    nothing_matched = any(report.tensors == 0 for report in reports) and bool(include or exclude)
    return code or (NO if complaints or nothing_matched else YES)


def _sheets(
    reports: list[CountReport],
    what: Quantity | None,
    by: Grouping | None,
    form: options.OutputFormat,
    *,
    named: bool,
) -> list[Sheet]:
    if form in ("json", "jsonl"):
        return [count_rows(reports)]
    if by is not None and (what is not None or form not in ("table", "markdown")):
        return [count_groups(reports, what, named=named)]
    if form == "plain" or (form == "table" and what is not None):
        return [count_number(reports, what or "unique", named=named)]
    if form in ("table", "markdown"):
        if len(reports) == 1:
            return list(count_card(reports[0]))
        return [count_rows(reports), *([] if by is None else [count_groups(reports)])]
    return [count_rows(reports)]


class _Limits:
    """What ``--max``, ``--min`` and ``--equals`` ask of a figure."""

    def __init__(
        self, figure: Quantity, at_most: str | None, at_least: str | None, equals: str | None
    ) -> None:
        self._figure = figure
        self._at_most = None if at_most is None else _number("--max", at_most, figure)
        self._at_least = None if at_least is None else _number("--min", at_least, figure)
        self._equals = None if equals is None else _number_or_target(equals, figure)
        self._equals_text = equals
        self.given = (at_most, at_least, equals) != (None, None, None)

    def complaints(self, report: CountReport) -> list[str]:
        """What the report does not keep, as sentences."""
        if not self.given:
            return []
        value = report.quantity(self._figure)
        said = []
        if self._at_most is not None and value > self._at_most:
            said.append(f"{report.target}: {self._figure} {value:,} is more than {self._at_most:,}")
        if self._at_least is not None and value < self._at_least:
            said.append(f"{report.target}: {self._figure} {value:,} is less than {self._at_least:,}")
        if self._equals is not None and value != self._equals:
            other = "" if self._equals_text == str(self._equals) else f" ({self._equals_text})"
            said.append(f"{report.target}: {self._figure} {value:,} is not {self._equals:,}{other}")
        return said


def _number(flag: str, text: str, figure: Quantity) -> int:
    try:
        return _parse(text, figure)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error


def _number_or_target(text: str, figure: Quantity) -> int:
    try:
        return _parse(text, figure)
    except ValueError:
        return api.count(text).quantity(figure)


def _parse(text: str, figure: Quantity) -> int:
    """``1M`` is 1,000,000; of bytes also ``2GiB``."""
    return parse_bytes(text) if figure == "bytes" else parse_count(text)
