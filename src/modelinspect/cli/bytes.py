"""
``modelinspect bytes``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from modelinspect import api
from modelinspect.cli import options
from modelinspect.cli.boundary import NO, YES, notes_to_stderr
from modelinspect.cli.progress import ProgressLine
from modelinspect.cli.show import chosen_format, show
from modelinspect.errors import UsageError, visible
from modelinspect.render.units import parse_bytes, ratio_text
from modelinspect.render.views.bytes import bytes_lines, bytes_plain, bytes_table

if TYPE_CHECKING:
    from modelinspect.analysis.footprint import FootprintReport
    from modelinspect.render.sheet import Sheet

__all__ = ["command"]


def command(
    target: options.Target,
    values: Annotated[
        bool,
        typer.Option(
            "--values", help="Read tensors of equal size: which are stored twice?", show_default=False
        ),
    ] = False,
    max_waste: Annotated[
        str | None,
        typer.Option(
            "--max-waste", metavar="N|N%", help="Exit 1 if more than this is waste: 10%, 1MiB.",
            show_default=False,
        ),
    ] = None,
    read_as: options.ReadAs = None,
    form: options.Format = None,
    json: options.Json = False,
    output: options.Output = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:  # fmt: skip
    """
    Say where the bytes of a checkpoint went, to the byte, and what would make it smaller.

    Model, EMA, optimizer and other sections, what else the files hold, headers and
    alignment; waste: slack of views, bytes that belong to nothing, tensors stored twice.
    The lines add up to the size of the files. Into a pipe goes a line each: key, tab, bytes.

    \b
    Examples:
      modelinspect bytes last.ckpt
      modelinspect bytes model.safetensors --values
      modelinspect bytes model.pt --max-waste 1% || echo wasteful
    """  # noqa: D301  (the escape tells Click to keep the lines)
    form = chosen_format(form, json, output)
    limit = None if max_waste is None else _Limit(max_waste)
    with ProgressLine("reading values", quiet=quiet) as progress:
        report = api.footprint(target, values=values, progress=progress, read_as=read_as)
    notes_to_stderr(report.notes, quiet=quiet)
    show(_sheets(report, form), form, output)
    complaint = None if limit is None else limit.complaint(report)
    if complaint is None:
        return YES
    notes_to_stderr((complaint,))
    return NO


def _sheets(report: FootprintReport, form: options.OutputFormat) -> list[Sheet]:
    if form in ("table", "markdown"):
        return list(bytes_table(report))
    return [bytes_plain(report) if form == "plain" else bytes_lines(report)]


class _Limit:
    """What ``--max-waste`` allows."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.share: float | None = None
        self.nbytes = 0
        try:
            if text.endswith("%"):
                self.share = float(text[:-1]) / 100
                if not 0 <= self.share <= 1:
                    raise ValueError(f"{text!r} is no share")
            else:
                self.nbytes = parse_bytes(text)
        except ValueError as error:
            raise UsageError(
                f"--max-waste: {error}", hint="a share of the files or an amount: 10%, 0.5%, 1MiB"
            ) from error

    def complaint(self, report: FootprintReport) -> str | None:
        """What the report does not keep, as a sentence."""
        most = self.nbytes if self.share is None else self.share * report.nbytes
        if report.waste <= most:
            return None
        share = ratio_text(report.waste / report.nbytes)
        return f"{visible(report.target)}: {report.waste:,} bytes ({share}) are waste, more than {self.text}"
