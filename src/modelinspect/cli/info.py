"""
``modelinspect info``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelinspect import api
from modelinspect.cli import options
from modelinspect.cli.boundary import COULD_NOT, YES, notes_to_stderr, show_error
from modelinspect.cli.show import chosen_format, show
from modelinspect.errors import ModelInspectError
from modelinspect.render.views.info import info_card, info_fields, info_records

if TYPE_CHECKING:
    from modelinspect.analysis.info import InfoReport
    from modelinspect.render.sheet import Sheet

__all__ = ["command"]


def command(
    targets: options.Targets,
    section: options.SectionName = None,
    read_as: options.ReadAs = None,
    form: options.Format = None,
    json: options.Json = False,
    output: options.Output = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """
    Say what a checkpoint or a definition is, on one screen.

    Format and writer, parameters, data types, ties, quantization, adapters, sections,
    training, optimizers, metadata, the largest tensors, and whether loading it the usual
    way would execute code. Into a pipe goes a line a fact: key, tab, value.

    \b
    Examples:
      modelinspect info model.safetensors
      modelinspect info last.ckpt --json
      modelinspect info model.pt | grep -P '^loading'
      modelinspect info net.py:Net
    """  # noqa: D301  (the escape tells Click to keep the lines)
    form = chosen_format(form, json, output)
    reports: list[InfoReport] = []
    code = YES
    for target in targets:
        try:
            report = api.info(target, section=section, read_as=read_as)
        except ModelInspectError as error:
            show_error(error)
            code = COULD_NOT
            continue
        reports.append(report)
        whose = f"{target}: " if len(targets) > 1 else ""
        notes_to_stderr(tuple(whose + note for note in report.notes), quiet=quiet)
    if reports:
        show(_sheets(reports, form, named=len(targets) > 1), form, output)
    return code


def _sheets(reports: list[InfoReport], form: options.OutputFormat, *, named: bool) -> list[Sheet]:
    if form in ("json", "jsonl"):
        return [info_records(reports)]
    if form in ("table", "markdown"):
        return [info_card(report) for report in reports]
    return [info_fields(reports, named=named)]
