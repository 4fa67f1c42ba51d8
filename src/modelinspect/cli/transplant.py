"""
``modelinspect transplant``.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from modelinspect import api
from modelinspect.cli import options
from modelinspect.cli.boundary import NO, YES, notes_to_stderr
from modelinspect.cli.complete import complete_target
from modelinspect.cli.progress import ProgressLine
from modelinspect.cli.show import chosen_format, show, write_text
from modelinspect.errors import UsageError, visible
from modelinspect.render.views.transplant import proof_texts, transplant_sheet
from modelinspect.targets import parse_target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelinspect.tensors import Checkpoint
    from modelinspect.transplant.plan import Plan
    from modelinspect.transplant.write import Written

__all__ = ["command"]


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", autocompletion=complete_target, show_default=False,
            help="The weights, a checkpoint (file, *.index.json or directory). Of a definition: a plan only.",
        ),
    ],
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DST", autocompletion=complete_target, show_default=False,
            help="What they are for: a definition (net.py:Net, package.module:factory, timm:NAME, …), "
            "or a checkpoint whose names they are to take.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="OUT",
            help="Write the weights for DST: .safetensors, .pt. Left out: the plan is shown.",
        ),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="SRC=DST", show_default=False,
            help="What you know: 'encoder.layer.*=blocks.*'. A star is the same on both sides. Repeatable.",
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="FILE", help="Go by a plan that --plan-out wrote, perhaps edited."),
    ] = None,
    plan_out: Annotated[
        str | None,
        typer.Option("--plan-out", metavar="FILE", help="Write the plan as JSON, to review, edit and keep."),
    ] = None,
    emit: Annotated[
        Literal["python"] | None,
        typer.Option("--emit", help="Print a Python function that does the same.", show_default=False),
    ] = None,
    source_definition: Annotated[
        str | None,
        typer.Option(
            "--source-definition", metavar="TARGET", autocompletion=complete_target,
            help="The class that SRC's weights are of: both models are run, which proves the plan and "
            "settles doubts.",
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="SPEC", show_default=False,
            help="What goes into the models that are run: 32x1, 'int64[2,128]<1000', NAME=2x3; else worked "
            "out. Repeatable.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="NAME", help="Convert floating-point numbers: bfloat16, float32, …"),
    ] = None,
    section: options.SectionName = None,
    from_prefix: Annotated[
        str,
        typer.Option(
            "--from-prefix", metavar="PREFIX", help="Take only what is under it in SRC.", show_default=False
        ),
    ] = "",
    to_prefix: Annotated[
        str,
        typer.Option(
            "--to-prefix", metavar="PREFIX", help="Fill only what is under it in DST.", show_default=False
        ),
    ] = "",
    shard_size: Annotated[
        str | None,
        typer.Option("--shard-size", metavar="SIZE", help="Write shards of at most this, and an index: 5GB."),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing", show_default=False,
            help="Write although tensors of DST get nothing.",
        ),
    ] = False,
    accept_doubtful: Annotated[
        bool,
        typer.Option(
            "--accept-doubtful", show_default=False,
            help="Write although something is ambiguous: the first candidate is taken.",
        ),
    ] = False,
    read_as: options.ReadAs = None,
    form: options.Format = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:  # fmt: skip
    """
    Fill one model with the weights of another, whatever the names of their tensors.

    Works out which tensor of DST comes from which of SRC, and how: as it is,
    transposed, a part of a fused one, several stacked. Each row of the plan is
    certain, likely (names or order decide), ambiguous (nothing decides), or
    proven (both models were run). Without -o the plan is shown. With -o the
    weights are written, reread and compared; what is ambiguous or missing is
    not written: exit 1, and the message says what would settle it.

    Into a pipe goes one line a row, tab-separated: source, target, transform,
    count, label, reason. {0..11} stands for the numbers from 0 to 11.

    \b
    Examples:
      modelinspect transplant old.pt net.py:Net                     # the plan
      modelinspect transplant old.pt net.py:Net -o new.safetensors
      modelinspect transplant old.pt net.py:Net --source-definition old.py:Old -o new.pt
      modelinspect transplant old.pt net.py:Net --map 'encoder.layer.*=blocks.*'
      modelinspect transplant old.pt other.pt -o renamed.pt         # the names of a checkpoint
      modelinspect transplant old.pt net.py:Net --plan-out plan.json
      modelinspect transplant old.pt net.py:Net --plan plan.json -o new.pt
      modelinspect transplant old.pt net.py:Net --emit python > convert.py
    """  # noqa: D301  (the escape tells Click to keep the lines)
    _check_flags(output, dtype, shard_size, emit, form, json, source_definition, inputs, destination)
    weights = _weights(source, output, read_as)
    if plan_out is not None:
        _check_plan_out(plan_out, weights, (destination, source_definition), output)
    with _RunLine("running both models", quiet=quiet) as progress:
        made = api.plan_transplant(
            weights, destination, maps=maps or (), section=section, from_prefix=from_prefix,
            to_prefix=to_prefix, source_definition=source_definition, inputs=inputs, plan=plan,
            progress=progress,
        )  # fmt: skip
    notes_to_stderr(made.notes, quiet=quiet)
    if plan_out is not None:
        made.save(plan_out)
    shown = _show(made, output, emit, form, json)
    if made.proof is not None and shown not in ("table", "markdown", "json"):
        # Those say it themselves.
        notes_to_stderr(proof_texts(made.proof), quiet=quiet)
    code = _refused(made, output, shown, allow_missing, accept_doubtful)
    if code == YES and output is not None:
        with ProgressLine(f"writing {visible(output)}", quiet=quiet) as progress:
            written = made.write(
                output, dtype=dtype, shard_size=shard_size, allow_missing=True, accept_doubtful=True,
                metadata=getattr(weights, "metadata", None), progress=progress,
            )  # fmt: skip
        notes_to_stderr((*written.notes, *_summary(made, written)), quiet=quiet)
    return code


class _RunLine(ProgressLine):
    """Called with the runs made and the most there will be."""

    def _share(self, done: int, total: int) -> str:
        return f"{self._what}: run {done:,}, at most {total:,}"


def _check_flags(
    output: str | None,
    dtype: str | None,
    shard_size: str | None,
    emit: str | None,
    form: options.OutputFormat | None,
    json: bool,
    source_definition: str | None,
    inputs: list[str] | None,
    destination: str,
) -> None:
    """What makes no sense together, before anything is read."""
    for flag, given in (("--dtype", dtype), ("--shard-size", shard_size)):
        if given is not None and output is None:
            raise UsageError(f"{flag} is of what is written, and nothing is", hint="add -o OUT")
    if emit is not None and (form is not None or json):
        raise UsageError("--emit prints Python and --format the plan: one thing goes to stdout")
    if inputs and source_definition is None and parse_target(destination).kind != "definition":
        raise UsageError(
            "--input goes into models that are run, and neither side is a definition",
            hint="add --source-definition old.py:Old, or name the class of DST",
        )
    if output is not None and shard_size is None:
        from modelinspect.writers.atomic import check_folder

        check_folder(output)


def _check_plan_out(
    plan_out: str, weights: Checkpoint | str, targets: Iterable[str | None], output: str | None
) -> None:
    """A plan is never written over what it was made of, nor over what is written by it."""
    from modelinspect.writers.atomic import check_folder

    check_folder(plan_out)
    files = [] if isinstance(weights, str) else [file.path for file in weights.files]
    files += [parse_target(target).path for target in targets if target is not None]
    real = os.path.realpath(plan_out)
    for path in filter(None, files):
        if os.path.exists(real) and os.path.exists(path) and os.path.samefile(real, path):
            raise UsageError(
                f"--plan-out {visible(plan_out)} is a file that the plan is made of",
                hint="name another file",
            )
    if output is not None and os.path.realpath(output) == real:
        raise UsageError(f"--plan-out and -o are both {visible(plan_out)}", hint="name another file")


def _weights(source: str, output: str | None, read_as: str | None) -> Checkpoint | str:
    """The source, opened; a definition stays as it is spelt, and can't be written from."""
    target = parse_target(source)
    if target.kind == "checkpoint":
        return api.open_checkpoint(target.path, read_as=read_as)
    if output is not None:
        raise UsageError(
            f"{visible(source)} is a definition: it has no weights to write",
            details=("SRC is a checkpoint, DST what its weights are for",),
            hint=f"transplant CHECKPOINT DST --source-definition {visible(source)} -o OUT",
        )
    return source


def _show(
    plan: Plan, output: str | None, emit: str | None, form: options.OutputFormat | None, json: bool
) -> options.OutputFormat | None:
    """The plan or its Python on stdout, unless weights are written instead; the form that was shown."""
    if emit is not None:
        write_text([plan.to_python()], None)
        return None
    if output is not None and form is None and not json:
        return None
    form = chosen_format(form, json, None)
    show([transplant_sheet(plan, for_people=form in ("table", "markdown"))], form)
    sys.stdout.flush()
    return form


def _refused(
    plan: Plan, output: str | None, shown: options.OutputFormat | None, allow_missing: bool, accept: bool
) -> int:
    """Exit code of the plan; on stderr what keeps it from being carried out, unless that was shown."""
    from modelinspect.cli.boundary import show_error
    from modelinspect.errors import UnknownAnswerError
    from modelinspect.transplant.refusal import require

    try:
        require(plan, allow_missing=allow_missing, accept_doubtful=accept)
    except UnknownAnswerError as error:
        if shown not in ("table", "markdown") or output is not None:
            if output is not None:
                error.message = f"{visible(output)} was not written: {error.message}"
            show_error(error)
        return NO
    return YES


def _summary(plan: Plan, written: Written) -> tuple[str, ...]:
    """What was written, what was checked, and what is left to the target."""
    from modelinspect.render.units import short_bytes

    how = f", {written.transformed:,} transformed" if written.transformed else ""
    files = f" in {len(written.files):,} files" if len(written.files) > 1 else ""
    size = short_bytes(written.nbytes)
    return (
        f"{visible(written.path)}: {written.tensors:,} tensors{how}, {size}{files}; each reread and right",
        *_fit_lines(plan, written),
        *_likely_lines(plan),
    )


def _likely_lines(plan: Plan) -> list[str]:
    count = plan.labels.get("likely", 0)
    if not count or plan.proof is not None:  # a proof's own notes say what it left open
        return []
    what = "1 tensor is" if count == 1 else f"{count:,} of {len(plan.assignments):,} tensors are"
    return [f"{what} likely, not certain: names or order decide; --source-definition proves them"]


def _fit_lines(plan: Plan, written: Written) -> list[str]:
    """Would ``load_state_dict`` of the target take it?"""
    path = next((file for file in written.files if file.endswith(".index.json")), written.files[0])
    found = api.fit(plan.target, api.open_checkpoint(path))
    named = visible(plan.target.source)
    faults = [row for row in found.rows if row.status not in ("ok", "dtype") and not row.harmless]
    known = {each.name for each in plan.missing}
    wrong = [
        row.name
        for row in faults
        if row.status != "missing" or not (row.name in known or row.name in written.tied)
    ]
    if wrong:
        return [f"{named} would not load it: {visible(', '.join(wrong[:5]))}"]
    absent = sum(row.name in known for row in faults)
    if absent:
        what = (
            "1 tensor, which stays as it is" if absent == 1 else f"{absent:,} tensors, which stay as they are"
        )
        return [f"it fits {named} but for {what}: load_state_dict takes it with strict=False"]
    if written.tied:
        return [f"it fits {named}; tied names stand once, as safetensors has them: load_model takes it"]
    return [f"it fits {named}: load_state_dict takes it, strict"]
