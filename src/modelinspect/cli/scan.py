"""
``modelinspect scan``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from modelinspect import api
from modelinspect.cli import options
from modelinspect.cli.boundary import COULD_NOT, NO, YES, notes_to_stderr, show_error
from modelinspect.cli.show import chosen_format, show, write_text
from modelinspect.errors import ModelInspectError, UsageError, visible
from modelinspect.render.views.scan import scan_lines, scan_records, scan_table

if TYPE_CHECKING:
    from modelinspect.analysis.scan import ScanReport
    from modelinspect.render.sheet import Sheet

__all__ = ["command"]

_Form = Literal["table", "plain", "json", "jsonl", "csv", "tsv", "markdown", "sarif"]


def command(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...", help="Files of any kind, or folders: every file in them.", show_default=False
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="FILE", help="Put findings aside that FILE lists as accepted."),
    ] = None,
    write_baseline: Annotated[
        str | None,
        typer.Option(
            "--write-baseline", metavar="FILE", help="Write FILE, which accepts what is found now; exit 0."
        ),
    ] = None,
    form: Annotated[
        _Form | None,
        typer.Option(
            "--format",
            "-f",
            help="Form of the result. Left out: table on a terminal, plain into a pipe.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
    output: options.Output = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """
    Say what would run if a file were loaded; nothing of it is run.

    Every name that any pickle in a file would import, which of them are called and with
    what, and where loaders disagree about the file. Exit 0: nothing found, which is not a
    proof that there is nothing; 1: findings; 2: could not read. Into a pipe goes a line a
    finding: level, rule, file!record@byte, message.

    \b
    Examples:
      modelinspect scan model.pt
      modelinspect scan downloads/ --format sarif -o scan.sarif
      modelinspect scan model.pt --write-baseline accepted.json
      modelinspect scan model.pt --baseline accepted.json
    """  # noqa: D301  (the escape tells Click to keep the lines)
    is_sarif = form == "sarif" or (form is None and not json and str(output).lower().endswith(".sarif"))
    if is_sarif and json:
        raise UsageError("--json and --format sarif contradict each other")
    shown = "json" if is_sarif else chosen_format(form, json, output)  # type: ignore[arg-type]
    accepted = None if baseline is None else api.read_scan_baseline(baseline)
    reports: list[ScanReport] = []
    code = YES
    for target in targets:
        try:
            report = api.scan(target, accepted=accepted or ())
        except ModelInspectError as error:
            show_error(error)
            code = COULD_NOT
            continue
        reports.append(report)
        # A table begins with the same sentence.
        said = () if shown in ("table", "markdown") and output is None else (report.headline,)
        notes_to_stderr((*(f"{visible(target)}: {text}" for text in said), *report.notes), quiet=quiet)
    if write_baseline is not None and reports:
        api.write_scan_baseline(write_baseline, reports)
    if is_sarif:
        _write_sarif(reports, output)
    elif reports:
        show(_sheets(reports, shown), shown, output)
    # What has just been accepted is no answer to act on.
    is_found = write_baseline is None and any(report.found for report in reports)
    return code or (NO if is_found else YES)


def _sheets(reports: list[ScanReport], form: options.OutputFormat) -> list[Sheet]:
    if form in ("table", "markdown"):
        return [sheet for report in reports for sheet in scan_table(report)]
    return [scan_lines(reports)] if form == "plain" else [scan_records(reports)]


def _write_sarif(reports: list[ScanReport], output: str | None) -> None:
    from modelinspect import __version__
    from modelinspect.render.to_sarif import sarif_chunks

    write_text(sarif_chunks(reports, __version__), output)
