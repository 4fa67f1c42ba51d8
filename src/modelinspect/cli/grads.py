"""
``modelinspect grads``.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from modelinspect import api
from modelinspect.cli import options
from modelinspect.cli.boundary import NO, YES, notes_to_stderr
from modelinspect.cli.progress import StepLine
from modelinspect.cli.show import chosen_format, show, write_text
from modelinspect.errors import UsageError, visible
from modelinspect.targets import no_such_file, parse_target

if TYPE_CHECKING:
    from modelinspect.analysis.gradients import GradientsReport, Thresholds

__all__ = ["command"]

_Norm = Literal["1", "2", "inf"]


def command(
    targets: options.Targets,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="SPEC", show_default=False,
            help="What goes in: 32x1, 'int64[2,128]<1000', NAME=2x3x8x8. Repeatable. Left out: worked out.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="FILE",
            help="Data: .csv, .pt, .safetensors, .npz, or file.py:dataloader.",
        ),
    ] = None,
    data_inputs: Annotated[
        str | None,
        typer.Option("--x", metavar="A,B,…", help="Columns or keys of the data that go in; NAME=KEY too."),
    ] = None,
    data_target: Annotated[
        str | None,
        typer.Option("--y", metavar="A,B,…", help="Columns or keys of the data that are the target."),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss", metavar="NAME",
            help="mse, cross_entropy, … (torch.nn.functional), sum, mean, probe, model, file.py:fn.",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="CKPT", help="Load this first; gives names to an optimizer."),
    ] = None,
    section: options.SectionName = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="NAME", help="Cast the model: bfloat16, float64, …")
    ] = None,
    autocast: Annotated[
        str | None, typer.Option("--autocast", metavar="NAME", help="Mixed precision: bfloat16, float16.")
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", help="Of weights, inputs, dropout and the order of batches.")
    ] = 0,
    train: Annotated[
        bool | None,
        typer.Option("--train/--eval", help="Mode of the model; left out: as it is.", show_default=False),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Train N steps first.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", metavar="N", help="Train N epochs first.")] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            "--optimizer", metavar="NAME", help="Any of torch.optim: adam (default), 'sgd(momentum=0.9)'."
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", metavar="X", help="Learning rate.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", help="Samples a step; left out: all.")
    ] = None,
    clip: Annotated[
        float | None, typer.Option("--clip", metavar="X", help="Scale gradients down to this global norm.")
    ] = None,
    every: Annotated[
        int | None, typer.Option("--every", metavar="K", help="Keep the norms of every K-th step.")
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Draw the record: .png, .svg, .html."),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option("--save", metavar="OUT", help="Write the state_dict in the end: .safetensors, .pt."),
    ] = None,
    norm: Annotated[_Norm, typer.Option("--norm", help="Which norm.")] = "2",
    values: Annotated[
        bool, typer.Option("--values", help="Show small gradients in full.", show_default=False)
    ] = False,
    per_sample: Annotated[
        bool, typer.Option("--per-sample", help="Spread of the norms over the batch.", show_default=False)
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit 1 if a gradient is not healthy.", show_default=False)
    ] = False,
    vanishing: Annotated[
        float | None,
        typer.Option("--vanishing", metavar="X", help="Relative size below which one vanishes (1e-7)."),
    ] = None,
    exploding: Annotated[
        float | None,
        typer.Option("--exploding", metavar="X", help="Relative size above which one explodes (1e4)."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="A,B,…", help="Columns to show; a wrong one lists all.")
    ] = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    sort: options.Sort = None,
    reverse: options.Reverse = False,
    top: options.Top = None,
    tree: Annotated[
        bool, typer.Option("--tree", help="As a tree of modules.", show_default=False)
    ] = False,
    by: Annotated[
        Literal["module"] | None, typer.Option("--by", help="One row a module.", show_default=False)
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option("--depth", metavar="N", min=0, help="Levels of the tree, or parts of module names."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Of a run's file: go on as it grows.", show_default=False)
    ] = False,
    parallel: Annotated[
        Literal["ddp", "fsdp"] | None,
        typer.Option("--parallel", help="Under torchrun; ddp if left out.", show_default=False),
    ] = None,
    read_as: options.ReadAs = None,
    form: options.Format = None,
    json: options.Json = False,
    output: options.Output = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:  # fmt: skip
    """
    Show the gradients of a model, of a checkpoint with optimizer state, or of a recorded run.

    A definition is built, run and differentiated: a row a parameter with norm, largest
    entry, ratio to the weight, share of zeros and a verdict: ok, frozen, cancelled,
    none, zero, vanishing, exploding, inf, nan. Into a pipe goes one line a parameter,
    tab-separated: name, shape, norm, largest, ratio, zeros, verdict, also, remark; what is
    wrong with the whole goes to stderr.

    \b
    Examples:
      modelinspect grads net.py:Net
      modelinspect grads net.py:Net --input 32x3x64x64 --loss sum --check
      modelinspect grads net.py:Net --data train.csv --epochs 5000 --lr 0.01 --save fitted.pt
      modelinspect grads net.py:Net --data train.csv --steps 500 --every 10 -o run.jsonl
      modelinspect grads checkpoint.pt --sort norm --reverse --top 10
      modelinspect grads run.jsonl --follow
    """  # noqa: D301  (the escape tells Click to keep the lines)
    form = chosen_format(form, json, output)
    gc.enable()  # training may run for hours, and a user's code makes cycles
    asked: dict[str, Any] = {
        "inputs": tuple(inputs or ()), "loss": loss, "weights": weights, "section": section,
        "save": save, "norm": norm, "thresholds": _thresholds(vanishing, exploding),
        "include": include or (), "exclude": exclude or (), "sort": sort, "reverse": reverse,
        "top": top, "tree": tree, "by_module": by == "module", "depth": depth, "read_as": read_as,
        "data": data, "data_inputs": _names(data_inputs), "data_target": _names(data_target),
        "seed": seed, "mode": None if train is None else "train" if train else "eval",
        "device": device, "dtype": dtype, "autocast": autocast, "steps": steps, "epochs": epochs,
        "optimizer": optimizer, "lr": lr, "batch_size": batch_size, "clip": clip, "every": every,
        "values": values, "per_sample": per_sample, "parallel": parallel or _launched(targets),
    }  # fmt: skip
    if len(targets) > 1:
        further = {
            "plot": plot, "follow": follow, "columns": columns, "include": include, "exclude": exclude,
            "sort": sort, "reverse": reverse, "top": top, "tree": tree, "by": by, "depth": depth,
            "save": save, "weights": weights, "values": values, "per-sample": per_sample,
        }  # fmt: skip
        return _side_by_side(targets, asked, form, output, check=check, quiet=quiet, further=further)
    if follow:
        return _follow(targets[0], asked, form, output)
    _check_early(targets[0], plot, output, every)
    with StepLine(quiet=quiet) as progress:
        report = api.grads(targets[0], **asked, progress=progress)
    if os.environ.get("RANK", "0") != "0" and asked["parallel"] is not None:
        return YES  # the first process speaks for all
    notes_to_stderr(report.notes, quiet=quiet)
    if form not in ("table", "markdown", "json"):
        # Those say it themselves; a pipe gets rows, and the diagnosis goes where notes go.
        notes_to_stderr(tuple(finding.text for finding in report.findings), quiet=quiet)
    if plot is not None:
        _draw(report, plot)
    _show(report, None if columns is None else _names(columns), form, output)
    nothing_matched = not report.rows and bool(include or exclude)
    return NO if nothing_matched or (check and not report.is_healthy) else YES


def _check_early(target: str, plot: str | None, output: str | None, every: int | None) -> None:
    """What can be told before a model is built and trained for it."""
    if plot is not None or output is not None:
        from modelinspect.writers.atomic import check_folder

        for path in filter(None, (plot, output)):
            check_folder(path)
    if plot is not None:
        from modelinspect.render.to_plot import check_plot

        check_plot(os.path.splitext(plot)[1].lower())
        if every is None and parse_target(target).kind == "definition":
            raise UsageError(
                "--plot draws what was recorded while training", hint="add --every K and --steps N"
            )


def _names(text: str | None) -> tuple[str, ...]:
    """The parts of ``A,B``."""
    return tuple(filter(None, map(str.strip, (text or "").split(","))))


def _thresholds(vanishing: float | None, exploding: float | None) -> Thresholds | None:
    if vanishing is None and exploding is None:
        return None
    from modelinspect.analysis.gradients import Thresholds

    usual = Thresholds()
    chosen = Thresholds(
        usual.vanishing if vanishing is None else vanishing,
        usual.exploding if exploding is None else exploding,
    )
    if not 0 <= chosen.vanishing < chosen.exploding:
        raise UsageError(
            f"--vanishing {chosen.vanishing:g} and --exploding {chosen.exploding:g} leave nothing that is ok",
            hint="the first must be smaller, and neither negative",
        )
    return chosen


def _launched(targets: Sequence[str]) -> Literal["ddp"] | None:
    """Processes that torchrun started share the work, where there is a model to run."""
    several = os.environ.get("WORLD_SIZE", "1") not in ("", "1") and "RANK" in os.environ
    is_model = several and parse_target(targets[0]).kind == "definition"
    return "ddp" if is_model else None


def _show(
    report: GradientsReport, columns: tuple[str, ...] | None, form: options.OutputFormat, output: str | None
) -> None:
    """Rows in the form that was asked for; JSON Lines of a report with a history are a run's file."""
    if form == "jsonl" and report.history is not None:
        from modelinspect.analysis.runs import run_lines

        write_text(run_lines(report), output)
        return
    from modelinspect.render.views.grads import grads_sheet

    show([grads_sheet(report, columns)], form, output)


def _draw(report: GradientsReport, path: str) -> None:
    from modelinspect.render.to_plot import plot_bytes
    from modelinspect.writers.atomic import replacing_bytes

    picture = plot_bytes(report, os.path.splitext(path)[1].lower())
    with replacing_bytes(path) as stream:
        stream.write(picture)


def _side_by_side(
    targets: Sequence[str],
    asked: Mapping[str, Any],
    form: options.OutputFormat,
    output: str | None,
    *,
    check: bool,
    quiet: bool,
    further: Mapping[str, Any],
) -> int:
    """Several runs; nothing else can stand beside each other."""
    from modelinspect.analysis.gradients import SICK
    from modelinspect.analysis.runs import is_run_file
    from modelinspect.render.views.grads import runs_sheet

    for target in targets:
        if not (os.path.isfile(target) and is_run_file(target)):
            raise UsageError(
                f"{visible(target)} is not the record of a run, and only runs are shown side by side",
                hint="name one model or checkpoint at a time; --every K -o run.jsonl records a run",
            )
    meant_for_one = [name for name, value in further.items() if value]
    if meant_for_one:
        raise UsageError(f"--{meant_for_one[0]} is of one run, and {len(targets)} are named")
    report = api.compare_runs(targets, thresholds=asked["thresholds"])
    notes_to_stderr(report.notes, quiet=quiet)
    show([runs_sheet(report)], form, output)
    sick = any(verdict in SICK for verdicts in report.verdicts for verdict in verdicts)
    return NO if check and sick else YES


def _follow(target: str, asked: Mapping[str, Any], form: options.OutputFormat, output: str | None) -> int:
    """The table anew whenever the file grows, on a terminal; else a line a step."""
    from modelinspect.analysis.runs import follow, is_run_file, run_report

    if output is not None or form not in ("table", "plain"):
        raise UsageError("--follow shows a table on a terminal and plain lines in a pipe, nothing else")
    if not os.path.lexists(target):
        raise no_such_file(target)
    # A run whose first step is still to come has an empty file.
    if not os.path.isfile(target) or (os.path.getsize(target) and not is_run_file(target)):
        raise UsageError(f"{visible(target)} is not the record of a run, and only a run goes on")
    seen = 0
    for run in follow(target):
        if form == "table":
            from modelinspect.render.views.grads import grads_sheet

            print(end="\x1b[H\x1b[2J" if sys.stdout.isatty() else "")
            show([grads_sheet(run_report(run, thresholds=asked["thresholds"]))], form)
        else:
            if len(run.steps) < seen:  # another run, in the place of the one before
                seen = 0
            for step, loss, norm in zip(run.steps[seen:], run.losses[seen:], run.norms[seen:]):
                print(step, "" if loss is None else loss, "" if norm is None else norm, sep="\t")
            seen = len(run.steps)
        sys.stdout.flush()
    return YES
