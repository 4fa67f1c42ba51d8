"""
``modelinspect params``.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from modelinspect import api
from modelinspect.cli import options
from modelinspect.cli.boundary import NO, YES, notes_to_stderr
from modelinspect.cli.progress import ProgressLine
from modelinspect.cli.show import chosen_format, show
from modelinspect.errors import UsageError
from modelinspect.render.views.params import PARAMS_COLUMNS, params_sheet

__all__ = ["command"]


class KindChoice(str, Enum):
    """The kinds of tensors; Typer takes a list of enum members, not of literals."""

    parameter = "parameter"
    buffer = "buffer"
    optimizer = "optimizer"
    other = "other"


def command(
    target: options.Target,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="A,B,…",
            help="Columns to show: " + ", ".join(PARAMS_COLUMNS) + ".",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        list[KindChoice] | None,
        typer.Option("--kind", help="Only tensors of this kind. Repeatable.", show_default=False),
    ] = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    sort: options.Sort = None,
    reverse: options.Reverse = False,
    top: options.Top = None,
    tree: Annotated[
        bool, typer.Option("--tree", help="As a tree of modules with totals.", show_default=False)
    ] = False,
    depth: Annotated[
        int | None, typer.Option("--depth", metavar="N", min=0, help="Levels of the tree to show.")
    ] = None,
    fold: Annotated[bool, typer.Option("--fold/--no-fold", help="Fold repeated blocks in a table.")] = True,
    values: Annotated[
        bool,
        typer.Option(
            "--values", help="Read the values: range, mean, std, NaN; small ones whole.", show_default=False
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of a definition's fresh values, with --values.")
    ] = 0,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="TARGET", show_default=False,
            help="Put a checkpoint beside the definition; exit 1 if it does not fit.",
        ),
    ] = None,
    section: options.SectionName = None,
    read_as: options.ReadAs = None,
    form: options.Format = None,
    json: options.Json = False,
    output: options.Output = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:  # fmt: skip
    """
    List the parameters and buffers of a definition or a checkpoint.

    Into a pipe goes one line a tensor, tab-separated, nothing cut: name, shape,
    dtype, numel, bytes, kind, trainable, tied_to.

    \b
    Examples:
      modelinspect params net.py:Net
      modelinspect params model.safetensors --sort numel --reverse --top 10
      modelinspect params model.pt --tree --depth 2
      modelinspect params model.pt --values
      modelinspect params net.py:Net --against model.pt
    """  # noqa: D301  (the escape tells Click to keep the lines)
    form = chosen_format(form, json, output)
    if against is not None:
        if tree or values or columns or sort or top is not None or include or exclude or kind:
            raise UsageError("--against shows one table, whole: no tree, values, columns, filters, order")
        from modelinspect.render.views.fit import fit_sheet

        fit = api.fit(target, against, section=section)
        notes_to_stderr(fit.notes, quiet=quiet)
        show([fit_sheet(fit)], form, output, fold=fold)
        return YES if fit.fits else NO
    with ProgressLine("reading values", quiet=quiet) as progress:
        report = api.params(
            target, section=section, include=include or (), exclude=exclude or (),
            kinds=[each.value for each in kind or ()], sort=sort, reverse=reverse, top=top,
            tree=tree, depth=depth, values=values, seed=seed, progress=progress, read_as=read_as,
        )  # fmt: skip
    chosen = None if columns is None else tuple(filter(None, map(str.strip, columns.split(","))))
    notes_to_stderr(report.notes, quiet=quiet)
    show([params_sheet(report, chosen)], form, output, fold=fold)
    return NO if not report.tensors and (include or exclude or kind) else YES
