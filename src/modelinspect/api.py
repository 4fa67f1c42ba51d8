"""
The public calls: one a command, each returning the report that the command shows.

Nothing here prints. What a caller should know stands in the report's ``notes``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Union

from modelinspect.errors import MissingDependencyError, UsageError, visible
from modelinspect.readers.registry import open_checkpoint as _open_path
from modelinspect.targets import no_such_file, parse_target
from modelinspect.tensors import Checkpoint, Kind, ParameterTable, TensorInfo

if TYPE_CHECKING:
    from modelinspect.analysis.count import CountReport, Grouping
    from modelinspect.analysis.fit import FitReport
    from modelinspect.analysis.footprint import FootprintReport
    from modelinspect.analysis.gradients import GradientsReport, NormOrder, Thresholds
    from modelinspect.analysis.info import InfoReport
    from modelinspect.analysis.listing import ParamsReport
    from modelinspect.analysis.runs import RunsReport
    from modelinspect.analysis.scan import ScanReport
    from modelinspect.analysis.summary import ValueSummary
    from modelinspect.live.definition import Definition
    from modelinspect.transplant.plan import Hint, Plan, Side

__all__ = [
    "compare_runs",
    "count",
    "fit",
    "footprint",
    "grads",
    "info",
    "load_definition",
    "open_checkpoint",
    "params",
    "plan_transplant",
    "read_scan_baseline",
    "scan",
    "transplant",
    "write_scan_baseline",
]

Inspectable = Union[str, "os.PathLike[str]", Checkpoint, "Definition", ParameterTable, Mapping[str, Any], Any]
"""A target as on the command line, a path, a checkpoint, a definition, a table, an
``nn.Module`` in hand, or a dict of tensors."""


def open_checkpoint(path: str | os.PathLike[str], *, read_as: str | None = None) -> Checkpoint:
    """
    Read the headers of a checkpoint; no tensor's values, no code of the file's.

    Args:
        path: A file, a ``*.index.json`` or a directory.
        read_as: A format's name, e.g. ``safetensors``; skips recognition.

    Returns:
        Its tables by section; ``.table`` is the model's.

    Raises:
        TargetError: There is nothing to read at *path*.
        CheckpointError: It cannot be read; the subclass says why.

    Example:
        >>> open_checkpoint("model.safetensors").table["0.weight"].shape  # doctest: +SKIP
        (13, 1)
    """
    text = os.fspath(path)
    if text != "-" and not os.path.lexists(text):
        raise no_such_file(text)
    return _open_path(text, text, read_as)


def load_definition(target: str, *, real: bool = False, seed: int | None = None) -> Definition:
    """
    Build a model definition; this runs the definition's Python.

    Args:
        target: As on the command line, e.g. ``net.py:Net(1, hidden=13)``.
        real: Allocate and initialise the parameters instead of using the meta device.
        seed: Of torch's generators while a real model is built; they are restored.

    Returns:
        The module and its table.

    Raises:
        DefinitionError: It can't be found or built, or it is no module.
        MissingDependencyError: torch is missing or broken.
    """
    return _live("definition").load_definition(target, meta=not real, seed=seed)  # type: ignore[no-any-return]


def info(what: Inspectable, *, section: str | None = None, read_as: str | None = None) -> InfoReport:
    """
    What is this? Format, sections, figures, training, metadata, and what loading it would run.

    Args:
        what: See :data:`Inspectable`.
        section: Of a checkpoint: whose figures to give instead of the model's.
        read_as: Of a file: the format's name, instead of recognising it.

    Raises:
        ModelInspectError: As :func:`open_checkpoint` and :func:`load_definition`.

    Example:
        >>> info("model.safetensors").loading.verdict  # doctest: +SKIP
        'no'
    """
    from modelinspect.analysis.info import checkpoint_info, table_info

    table, holder = _table_of(what, section, read_as)
    return checkpoint_info(holder, section) if isinstance(holder, Checkpoint) else table_info(table)


def count(
    what: Inspectable,
    *,
    by: Grouping | None = None,
    depth: int | None = None,
    section: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    sort: str | None = None,
    reverse: bool = False,
    top: int | None = None,
    read_as: str | None = None,
) -> CountReport:
    """
    Count parameters, buffers and bytes.

    Args:
        what: See :data:`Inspectable`.
        by: Also total by ``dtype``, ``kind``, ``module``, ``prefix``, ``section`` or ``shard``.
        depth: Dotted parts that ``prefix`` and ``module`` keep.
        section: Of a checkpoint: the section to count; ``"all"`` counts everything.
        include: Globs of names to count; ``*`` crosses dots. Empty counts all.
        exclude: Globs of names to leave out.
        sort: Figure to order the groups by; None keeps the order of the table.
        reverse: Turn the order of the groups round.
        top: Groups to keep, after sorting.
        read_as: Of a file: the format's name, instead of recognising it.

    Returns:
        The figures; ``.unique`` is the headline.

    Raises:
        ModelInspectError: As :func:`open_checkpoint` and :func:`load_definition`.

    Example:
        >>> count("models/regression.py").unique  # doctest: +SKIP
        40
    """
    from modelinspect.analysis.count import count_table, sort_groups
    from modelinspect.analysis.remarks import optimizer_remarks

    if by is None and (depth is not None or sort is not None or reverse or top is not None):
        raise UsageError(
            "--depth, --sort, --reverse and --top are of groups", hint="add --by, e.g. --by prefix"
        )
    table, holder = _table_of(what, section, read_as)
    table, notes = _filtered(table, include, exclude)
    everything = None
    if by == "section":
        if not isinstance(holder, Checkpoint):
            raise UsageError("only a checkpoint has sections")
        everything = holder.section("all")
    report = count_table(table, by=by, depth=depth, group_over=everything)
    said = _said(holder, section)
    if isinstance(holder, Checkpoint) and table is holder.table:
        said += optimizer_remarks(holder, report.unique)
    groups = sort_groups(report.groups, sort, reverse)[:top]
    return replace(report, groups=groups, notes=(*notes, *said, *report.notes))


def scan(path: str | os.PathLike[str], *, accepted: Collection[str] = ()) -> ScanReport:
    """
    What would run if a file were loaded; nothing of it is run.

    Args:
        path: A file of any kind, or a folder: every file in it; ``-`` is standard input.
        accepted: Fingerprints of findings to put aside, see :func:`read_scan_baseline`.

    Returns:
        Names that pickles would import, findings, and what was looked at; ``.found`` is the answer.

    Raises:
        TargetError: There is nothing to read at *path*.
        CheckpointError: It cannot be looked into; the subclass says why.

    Example:
        >>> scan("model.pt").headline  # doctest: +SKIP
        'nothing found in: 1 pickle (model/data.pkl, 1,234 bytes), 3 names, all understood'
    """
    from modelinspect.analysis.scan import scan_target, without_accepted

    text = os.fspath(path)
    if text != "-" and not os.path.lexists(text):
        raise no_such_file(text)
    report = scan_target(text, text)
    return without_accepted(report, accepted) if accepted else report


def read_scan_baseline(path: str | os.PathLike[str]) -> frozenset[str]:
    """
    Fingerprints of findings that were accepted, as :func:`write_scan_baseline` wrote them.

    Raises:
        UsageError: The file is none.
    """
    from modelinspect.analysis.scan_baseline import read_baseline

    return read_baseline(os.fspath(path))


def write_scan_baseline(path: str | os.PathLike[str], reports: Sequence[ScanReport]) -> None:
    """
    Write a file that accepts what the reports found, to be reviewed and kept.
    """
    from modelinspect.analysis.scan_baseline import baseline_text
    from modelinspect.writers.atomic import replacing

    with replacing(os.fspath(path)) as stream:
        stream.write(baseline_text(reports))


def params(
    what: Inspectable,
    *,
    section: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    kinds: Sequence[Kind] = (),
    sort: str | None = None,
    reverse: bool = False,
    top: int | None = None,
    tree: bool = False,
    depth: int | None = None,
    values: bool = False,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    read_as: str | None = None,
) -> ParamsReport:
    """
    The parameter table: which tensors, in which order.

    Args:
        what: See :data:`Inspectable`.
        section: Of a checkpoint: the section to list; ``"all"`` lists everything.
        include: Globs of names to show; ``*`` crosses dots. Empty shows all.
        exclude: Globs of names to leave out.
        kinds: Kinds to show, e.g. ``["parameter"]``. Empty shows all.
        sort: Column to sort by; None keeps the order of the file or of registration.
        reverse: Turn the order round.
        top: Rows to keep, after sorting.
        tree: Also arrange the rows as a tree of modules.
        depth: Levels of the tree to show; None shows all.
        values: Summarise the values, which reads them; a definition is built for
            real, so what it shows is a fresh initialisation.
        seed: Of that initialisation.
        progress: While values are read: told of the bytes done and of those in all.
        read_as: Of a file: the format's name, instead of recognising it.

    Raises:
        ModelInspectError: As :func:`open_checkpoint` and :func:`load_definition`.
    """
    from modelinspect.analysis.listing import ParamsReport, build_tree, total
    from modelinspect.analysis.remarks import unregistered_remarks

    if depth is not None and not tree:
        raise UsageError("a depth was given and no tree asked for", hint="add --tree")
    if top is not None and top < 0:
        raise UsageError(f"--top is {top}, and can't be negative")
    if depth is not None and depth < 0:
        raise UsageError(f"--depth is {depth}, and can't be negative")
    table, holder = _table_of(what, section, read_as)
    rows, unmatched = _select(table, include, exclude)
    if kinds:
        rows = [row for row in rows if row.kind in kinds]
    rows = _in_order(rows, sort, reverse)[:top]
    summaries, value_notes = (
        _values(table, holder, rows, seed, progress, in_hand=holder is what) if values else (None, ())
    )
    of, owner_notes = _owners(holder, table)
    return ParamsReport(
        table=table,
        tensors=rows,
        totals=total(rows, table.tied_to),
        tied_to=table.tied_to,
        tree=build_tree(rows, table, depth) if tree else None,
        values=summaries,
        of=of,
        notes=(
            *_said(holder, section),
            *table.notes,
            *unregistered_remarks(table),
            *value_notes,
            *owner_notes,
            *_unmatched(unmatched),
        ),
    )


def _owners(holder: Any, table: ParameterTable) -> tuple[dict[str, str], list[str]]:
    """Parameters that an optimizer's tensors belong to; nothing where none of them is listed."""
    if not isinstance(holder, Checkpoint) or "optimizer" not in holder.roles.values():
        return {}, []
    listed = [name for name in holder.tables if table.section in (name, "all")]
    sections = [name for name in listed if holder.roles[name] == "optimizer"]
    if not sections:
        return {}, []
    from modelinspect.analysis.optimizer_members import owners

    of: dict[str, str] = {}
    notes: list[str] = []
    for section in sections:
        found, said = owners(holder, section)
        before = f"{section}." if section and table.section == "all" else ""
        of.update((before + name, parameter) for name, parameter in found.items())
        notes += [note for note in said if note not in notes]
    return of, notes


def fit(definition: Inspectable, checkpoint: Inspectable, *, section: str | None = None) -> FitReport:
    """
    Put a definition and a checkpoint side by side: would ``load_state_dict`` accept it?

    Args:
        definition: Whose names and shapes are expected.
        checkpoint: Whose tensors are offered.
        section: Of the checkpoint.

    Returns:
        A row a name; ``.fits`` is the answer.
    """
    from modelinspect.analysis.fit import fit as compare

    expected, _ = _table_of(definition, None, None)
    found, holder = _table_of(checkpoint, section, None)
    report = compare(expected, found)
    said = holder.notes if isinstance(holder, Checkpoint) else ()
    return replace(report, notes=(*said, *expected.notes, *report.notes))


def footprint(
    what: str | os.PathLike[str] | Checkpoint,
    *,
    values: bool = False,
    progress: Callable[[int, int], None] | None = None,
    read_as: str | None = None,
) -> FootprintReport:
    """
    Where did the bytes of a checkpoint's files go? To the byte, with what would make them fewer.

    Args:
        what: A target as on the command line, a path, or a checkpoint.
        values: Read tensors of equal size, to tell which are stored twice.
        progress: While values are read: told of the bytes done and of those in all.
        read_as: Of a file: the format's name, instead of recognising it.

    Returns:
        Lines that add up to the size of the files; ``.waste`` is what nothing needs.

    Raises:
        UsageError: *what* is a definition, which has no file.
        ModelInspectError: As :func:`open_checkpoint`.

    Example:
        >>> footprint("last.ckpt").remedies[0]  # doctest: +SKIP
        Remedy(text='save without the optimizer', saves=9187328, tensors=())
    """
    from modelinspect.analysis.footprint import footprint as of_checkpoint

    if not isinstance(what, Checkpoint):
        target = parse_target(os.fspath(what)) if isinstance(what, str) else None
        if target is not None and target.kind == "definition":
            raise UsageError(
                f"{visible(target.text)} is a definition: it has no file whose bytes went somewhere",
                hint=f"modelinspect count {visible(target.text)} --what bytes",
            )
        what = open_checkpoint(what if target is None else target.path, read_as=read_as)
    return of_checkpoint(what, values=values, progress=progress)


def grads(
    what: Inspectable,
    *,
    inputs: Any = None,
    target: Any = None,
    loss: str | Callable[..., Any] | None = None,
    weights: str | None = None,
    section: str | None = None,
    save: str | None = None,
    norm: NormOrder = "2",
    thresholds: Thresholds | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    sort: str | None = None,
    reverse: bool = False,
    top: int | None = None,
    tree: bool = False,
    by_module: bool = False,
    depth: int | None = None,
    progress: Callable[[int, int, float | None], None] | None = None,
    read_as: str | None = None,
    **recipe: Any,
) -> GradientsReport:
    """
    Gradients: of a model by a forward and a backward pass, of a checkpoint by what it holds.

    Args:
        what: A definition or an ``nn.Module`` in hand, which comes back as it was; a
            checkpoint with an optimizer's state or with gradients that were saved; the
            file of a run that :func:`watch` recorded.
        inputs: Of a model: texts as ``--input`` takes them, or the tensors themselves,
            one, a tuple of positional or a dict of keyword arguments. None works an
            input out from the model, and a note says which.
        target: What the loss compares the output with, where tensors are given.
        loss: A name as ``--loss`` takes it, or a function of output and target.
        weights: Of a model: a checkpoint to load first, tensors only. Of a checkpoint:
            where names and weights are, if not in it.
        section: Of a checkpoint, that of *weights* included.
        save: Where the state_dict of a model goes in the end.
        norm: ``"1"``, ``"2"`` or ``"inf"``.
        thresholds: Where a gradient stops being ok.
        include: Globs of names to show; empty shows all.
        exclude: Globs of names to leave out.
        sort: Column to sort by; None keeps the order of registration.
        reverse: Turn the order round.
        top: Rows to keep, after sorting.
        tree: Also arrange the rows as a tree of modules.
        by_module: Also put them together by module.
        depth: Levels of the tree, or dotted parts of modules, to show.
        progress: While training: told of steps done, steps in all and the loss. While a
            checkpoint is read: of bytes done and in all, and None.
        read_as: Of a checkpoint: the format's name, instead of recognising it.
        recipe: Further fields of :class:`modelinspect.live.recipe.Recipe`: ``data``,
            ``seed``, ``mode``, ``device``, ``dtype``, ``autocast``, ``steps``, ``epochs``,
            ``optimizer``, ``lr``, ``batch_size``, ``clip``, ``every``, ``per_sample``,
            ``values``, ``parallel``, ``data_inputs``, ``data_target``.

    Returns:
        A row a parameter, each with a verdict; ``.is_healthy`` is what ``--check`` asks.

    Raises:
        ModelInspectError: As :func:`open_checkpoint` and :func:`load_definition`; a
            forward or backward pass that fails is a DefinitionError.

    Example:
        >>> grads("models/regression.py").global_norm  # doctest: +SKIP
        1.43
    """
    from modelinspect.analysis.gradients import Thresholds

    if tree and by_module:
        raise UsageError("a tree and a list by module are two arrangements: give one")
    if depth is not None and not (tree or by_module):
        raise UsageError("a depth was given and no tree asked for", hint="add --tree or --by module")
    for flag, number in (("--depth", depth), ("--top", top)):
        if number is not None and number < 0:
            raise UsageError(f"{flag} is {number}, and can't be negative")
    recipe.update(order=norm, thresholds=thresholds or Thresholds())
    if isinstance(what, (str, os.PathLike)):
        text = os.fspath(what)
        parsed = parse_target(text) if isinstance(what, str) else None
        if parsed is None or parsed.kind == "checkpoint":
            path = text if parsed is None else parsed.path
            _refuse_recipe(path, inputs, target, loss, save, recipe)
            report = _file_gradients(path, norm, recipe["thresholds"], weights, section, progress, read_as)
        else:
            report = _model_gradients(text, inputs, target, loss, weights, section, save, progress, recipe)
    elif isinstance(what, Checkpoint):
        _refuse_recipe(what.source, inputs, target, loss, save, recipe)
        report = _checkpoint_gradients(what, norm, recipe["thresholds"], weights, section, progress)
    else:
        report = _model_gradients(what, inputs, target, loss, weights, section, save, progress, recipe)
    return _arranged(report, include, exclude, sort, reverse, top, tree, by_module, depth)


def compare_runs(
    paths: Sequence[str | os.PathLike[str]], *, thresholds: Thresholds | None = None
) -> RunsReport:
    """
    Several recorded runs side by side.

    Args:
        paths: Files that :func:`watch` wrote, or ``grads --every N -o run.jsonl``.
        thresholds: Where a gradient stops being ok; None: as the runs' files say.
    """
    from modelinspect.analysis import runs

    return runs.compare_runs([runs.read_run(os.fspath(path)) for path in paths], thresholds=thresholds)


def plan_transplant(
    src: Inspectable,
    dst: Inspectable,
    *,
    maps: Sequence[str] = (),
    section: str | None = None,
    from_prefix: str = "",
    to_prefix: str = "",
    source_definition: Any = None,
    inputs: str | Sequence[str] | None = None,
    plan: str | os.PathLike[str] | None = None,
    read_as: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """
    Which tensors of a target come from which of a source, whatever their names.

    Args:
        src: Whose weights there are, see :data:`Inspectable`.
        dst: What they are for: a definition or a module, whose parameters are to be filled,
            or a checkpoint, whose names they are to take.
        maps: What is known, ``SOURCE=TARGET`` with stars: ``"encoder.layer.*=blocks.*"``.
        section: Of a source that is a checkpoint.
        from_prefix: Take only what is under that module of the source.
        to_prefix: Fill only what is under that module of the target.
        source_definition: What computes with the source's weights, a definition or a module:
            both models are run, which proves the plan and settles doubts.
        inputs: What goes into both, as ``--input`` spells it; None works it out.
        plan: A plan's file, perhaps edited, instead of matching.
        read_as: Of a source that is a file: the format's name.
        progress: While models are run: told of the runs made and of the most there will be.

    Returns:
        The plan: ``.assignments``, ``.missing``, ``.unused``, ``.doubts``; ``.apply(state_dict)``
        and ``.write(path)`` carry it out.

    Raises:
        ModelInspectError: As :func:`open_checkpoint` and :func:`load_definition`; a hint or a
            row of a plan's file that does not hold is a UsageError.

    Example:
        >>> plan_transplant("model.pt", "net.py:Net").is_complete  # doctest: +SKIP
        True
    """
    from modelinspect.transplant.sides import parse_hint

    if plan is not None and maps:
        raise UsageError("--plan and --map contradict each other: a plan's file says what goes where")
    if plan is not None and not os.path.lexists(plan):
        raise no_such_file(os.fspath(plan))
    hints = tuple(map(parse_hint, maps))
    source, holder = _side(src, section, read_as, from_prefix, "--from-prefix")
    target, target_holder = _side(dst, None, None, to_prefix, "--to-prefix")
    definition = _definition(source_definition)
    if definition is not None:
        source = _informed(source, definition, from_prefix)
    if plan is not None:
        from modelinspect.transplant.plan_file import read_plan_file

        made = read_plan_file(os.fspath(plan), source.table, target.table)
    else:
        made = _matched(source, target, hints, holder)
    said = holder.notes if isinstance(holder, Checkpoint) else ()
    held = target_holder if _module_of(target_holder) is not None else None
    made = replace(made, notes=(*said, *target.table.notes, *made.notes), target_of=held)
    if definition is None:
        return made if plan is not None else _settled(made, holder, target_holder, inputs, progress)
    return _proven(made, definition, target_holder, holder, inputs, progress)


def transplant(
    module_from: Inspectable,
    module_to: Any,
    *,
    allow_missing: bool = False,
    accept_doubtful: bool = False,
    **options: Any,
) -> Plan:
    """
    Fill a module with the weights of another, or of anything else that has some.

    Args:
        module_from: A module, a dict of tensors, a checkpoint or its path.
        module_to: An ``nn.Module`` in hand; it is filled in place.
        allow_missing: Fill it although some of its tensors get nothing and stay as they are.
        accept_doubtful: Fill it although something is ambiguous, with the first candidate.
        options: Of :func:`plan_transplant`.

    Returns:
        The plan that was carried out.

    Raises:
        UnknownAnswerError: Tensors get nothing, or the evidence leaves something open; the
            message says what, and what would settle it. Nothing was changed.

    Example:
        >>> transplant(old_model, new_model)  # doctest: +SKIP
    """
    from modelinspect.transplant.refusal import require

    if not _is_module(module_to):
        raise UsageError(
            f"a {type(module_to).__name__} can't be filled in place",
            details=("expected an nn.Module",),
            hint="mi.plan_transplant(src, dst).write(path) writes a file",
        )
    if isinstance(module_from, (str, os.PathLike)):
        module_from = _table_of(module_from, None, options.pop("read_as", None))[1]
    made = plan_transplant(module_from, module_to, **options)
    require(made, allow_missing=allow_missing, accept_doubtful=accept_doubtful)
    _live("filling").fill(module_to, made, module_from)
    return made


def _side(
    what: Inspectable, section: str | None, read_as: str | None, prefix: str, flag: str
) -> tuple[Side, Any]:
    """One side of a transplant and who holds it: its tensors and what else is known of them."""
    from modelinspect.transplant.plan import Side
    from modelinspect.transplant.sides import is_sorted, under_prefix

    table, holder = _table_of(what, section, read_as)
    table = under_prefix(table, prefix, flag)
    module = _module_of(holder)
    if module is not None:
        return Side(table, facts=_live("facts").module_facts(module)), holder
    is_file_in_order = not (isinstance(holder, Checkpoint) and holder.format == "safetensors")
    return Side(table, is_ordered=is_file_in_order and not is_sorted(table)), holder


def _module_of(holder: Any) -> Any:
    """The module that something is or holds; None for files, tables and dicts."""
    module = holder if _is_module(holder) else getattr(holder, "module", None)
    return module if _is_module(module) else None


def _definition(what: Any) -> Any:
    """The definition that a source is of, built on the meta device; a module stays itself."""
    if not isinstance(what, (str, os.PathLike)):
        return what
    target = parse_target(os.fspath(what))
    if target.kind != "definition":
        raise UsageError(
            f"--source-definition {visible(target.text)} is a checkpoint",
            hint="name what computes with the source's weights: net.py:Net, package.module:factory",
        )
    return load_definition(os.fspath(what))


def _informed(source: Side, definition: Any, prefix: str) -> Side:
    """The source's side with what its definition knows: order, kinds, heads."""
    from modelinspect.transplant.sides import in_order_of, under_prefix

    known, _ = _side(definition, None, None, "", "--source-definition")
    table = in_order_of(source.table, under_prefix(known.table, prefix, "--source-definition"))
    if table is None:
        said = (
            f"{visible(source.table.source)} has other names or shapes than {visible(known.table.source)}, "
            "so that nothing is gone by what that says of them"
        )
        return replace(source, table=replace(source.table, notes=(*source.table.notes, said)))
    return replace(known, table=table)


def _matched(source: Side, target: Side, hints: Sequence[Hint], holder: Any) -> Plan:
    from modelinspect.transplant.match import match
    from modelinspect.transplant.sides import check_hints

    check_hints(hints, source.table, target.table)
    with _reading(source.table, holder) as values:
        return match(source, target, hints=hints, values=values)


@contextmanager
def _reading(table: ParameterTable, holder: Any) -> Iterator[Callable[[str], Any] | None]:
    """A function that reads a tensor of the source by name; None where it has no values."""
    if table.origin == "file":
        try:
            from modelinspect.values import read_values
        except ImportError:
            yield None  # without numpy, values settle nothing
            return
        from modelinspect.readers.parts.storage_bytes import StorageReader

        with StorageReader() as reader:
            yield lambda name: read_values(table[name], reader.read)
        return
    yield _live("filling").values_of(holder) if _is_module(holder) or isinstance(holder, Mapping) else None


def _settled(
    plan: Plan,
    source: Any,
    target: Any,
    inputs: str | Sequence[str] | None,
    progress: Callable[[int, int], None] | None,
) -> Plan:
    """With what the target alone shows of how its rows lie, if it is a definition."""
    if not (_is_module(target) or _is_module(getattr(target, "module", None))):
        return plan
    from modelinspect.transplant.settle import settle_by_target

    specs = (inputs,) if isinstance(inputs, str) else tuple(inputs or ())
    with _reading(plan.source, source) as values:
        return settle_by_target(plan, target, inputs=specs, values=values, progress=progress)


def _proven(
    plan: Plan,
    definition: Any,
    target: Any,
    source: Any,
    inputs: str | Sequence[str] | None,
    progress: Callable[[int, int], None] | None,
) -> Plan:
    from modelinspect.transplant.prove import prove

    if _module_of(target) is None:
        raise UsageError(
            "--source-definition runs both models, and the target is no definition",
            hint="name the target's class: net.py:Net",
        )
    specs = (inputs,) if isinstance(inputs, str) else tuple(inputs or ())
    weights = source if isinstance(source, (Checkpoint, Mapping)) else None
    proven, proof = prove(plan, definition, target, source_weights=weights, inputs=specs, progress=progress)
    return replace(proven, proof=proof)


def _refuse_recipe(
    path: str, inputs: Any, target: Any, loss: Any, save: str | None, recipe: Mapping[str, Any]
) -> None:
    """What is asked of a forward pass has no meaning for a file."""
    given = {"inputs": inputs, "target": target, "loss": loss, "save": save, **recipe}
    for name in ("order", "thresholds"):
        given.pop(name, None)
    said = [name for name, value in given.items() if value not in (None, (), [], False) and name != "seed"]
    if said:
        flags = {"inputs": "input", "data_inputs": "x", "data_target": "y", "mode": "train"}
        flag = "--" + flags.get(said[0], said[0]).replace("_", "-")
        raise UsageError(
            f"{visible(path)} is a file: nothing is run for its gradients, so {flag} means nothing",
            hint="name a definition, and the file as its weights: net.py:Net --weights FILE",
        )


def _file_gradients(
    path: str,
    norm: NormOrder,
    thresholds: Thresholds,
    weights: str | None,
    section: str | None,
    progress: Callable[[int, int, float | None], None] | None,
    read_as: str | None,
) -> GradientsReport:
    from modelinspect.analysis import runs

    if os.path.isfile(path) and runs.is_run_file(path):
        if weights is not None or section is not None:
            raise UsageError(
                f"{visible(path)} is the record of a run: it takes no --weights and no --section"
            )
        return runs.run_report(runs.read_run(path))
    checkpoint = open_checkpoint(path, read_as=read_as)
    return _checkpoint_gradients(checkpoint, norm, thresholds, weights, section, progress)


def _checkpoint_gradients(
    checkpoint: Checkpoint,
    norm: NormOrder,
    thresholds: Thresholds,
    weights: str | None,
    section: str | None,
    progress: Callable[[int, int, float | None], None] | None,
) -> GradientsReport:
    try:
        from modelinspect.analysis.optimizer_state import checkpoint_gradients
    except ImportError as error:
        raise _numpy_missing(error) from error
    names = None if weights is None else _table_of(weights, None, None)[0]
    told = None if progress is None else lambda done, total: progress(done, total, None)
    return checkpoint_gradients(
        checkpoint, order=norm, thresholds=thresholds, section=section, names=names, progress=told
    )


def _model_gradients(
    what: Any,
    inputs: Any,
    target: Any,
    loss: str | Callable[..., Any] | None,
    weights: str | None,
    section: str | None,
    save: str | None,
    progress: Callable[[int, int, float | None], None] | None,
    recipe: dict[str, Any],
) -> GradientsReport:
    live = _live("gradients")
    specs: tuple[str, ...] | None = None
    if inputs is None or isinstance(inputs, str):
        specs = () if inputs is None else (inputs,)
    elif isinstance(inputs, (list, tuple)) and all(isinstance(each, str) for each in inputs):
        specs = tuple(inputs)
    batch = None if specs is not None else live.batch_of(inputs, target)
    if batch is None and target is not None:
        raise UsageError("a target is given without inputs")
    made = _live("recipe").Recipe(inputs=specs or (), loss=loss if isinstance(loss, str) else None, **recipe)
    options: dict[str, Any] = {"weights": weights, "section": section, "save": save, "progress": progress}
    function = None if isinstance(loss, str) else loss
    if isinstance(what, str):
        if batch is not None:
            raise UsageError(
                "the inputs of a definition that is built here are spelt, not given as tensors",
                hint="mi.load_definition(TARGET, real=True).module takes tensors",
            )
        return live.definition_gradients(what, made, loss=function, **options)  # type: ignore[no-any-return]
    module = getattr(what, "module", None) if not _is_module(what) else what
    if not _is_module(module):
        raise UsageError(
            f"a {type(what).__name__} has no gradients",
            details=("expected a target, a path, a checkpoint, a definition or an nn.Module",),
        )
    return live.module_gradients(module, made, batch=batch, loss=function, **options)  # type: ignore[no-any-return]


def _arranged(
    report: GradientsReport,
    include: Sequence[str],
    exclude: Sequence[str],
    sort: str | None,
    reverse: bool,
    top: int | None,
    tree: bool,
    by_module: bool,
    depth: int | None,
) -> GradientsReport:
    """The report with the rows that are to be shown, in order and by module."""
    from modelinspect.analysis import gradient_rows as arrange

    rows, unmatched = arrange.choose(report.rows, include, exclude)
    rows = arrange.sorted_rows(rows, sort, report.order, reverse=reverse)
    nodes = None
    if by_module:
        nodes = arrange.by_module(rows, report.modules, depth)[:top]
    else:
        rows = rows[:top]
        nodes = arrange.gradient_tree(rows, report.modules, depth) if tree else None
    return replace(report, rows=rows, tree=nodes, notes=(*report.notes, *_unmatched(unmatched)))


def _table_of(what: Inspectable, section: str | None, read_as: str | None) -> tuple[ParameterTable, Any]:
    """The table that *what* stands for, and who holds it: a checkpoint, a definition, *what* itself."""
    if isinstance(what, (str, os.PathLike)):
        target = parse_target(os.fspath(what)) if isinstance(what, str) else None
        if target is not None and target.kind == "definition":
            what = _live("definition").load_definition(target)
        else:
            what = open_checkpoint(what if target is None else target.path, read_as=read_as)
    if isinstance(what, Checkpoint):
        return what.section(section), what
    if section is not None:
        raise UsageError("only a checkpoint has sections")
    return _table_in_memory(what), what


def _said(holder: Any, section: str | None) -> tuple[str, ...]:
    """Notes on a checkpoint; which section was taken for the model is no news to who named one."""
    notes = holder.notes if isinstance(holder, Checkpoint) else ()
    if section is None:
        return notes
    return tuple(note for note in notes if " taken for the model; the " not in note)


def _table_in_memory(what: Any) -> ParameterTable:
    if isinstance(what, ParameterTable):
        return what
    table = getattr(what, "table", None)
    if isinstance(table, ParameterTable):
        return table
    if _is_module(what):
        name = type(what).__name__
        return _live("module_table").module_table(what, name, origin="memory")  # type: ignore[no-any-return]
    if isinstance(what, Mapping):
        return _live("module_table").tensors_table(what, "dict")  # type: ignore[no-any-return]
    raise UsageError(
        f"a {type(what).__name__} can't be inspected",
        details=("expected a target, a path, a checkpoint, a definition, an nn.Module or a dict of tensors",),
    )


def _is_module(what: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(what, torch.nn.Module)


def _values(
    table: ParameterTable,
    holder: Any,
    rows: Sequence[TensorInfo],
    seed: int,
    progress: Callable[[int, int], None] | None,
    *,
    in_hand: bool,
) -> tuple[Mapping[str, ValueSummary], tuple[str, ...]]:
    """
    Summaries of the values by name, and what is to be said of them.

    A definition that the caller built for real (*in_hand*) has values of its own; one
    that was built here from its target is built again, under the seed.
    """
    try:
        from modelinspect.analysis.statistics import summarise_files
    except ImportError as error:
        raise _numpy_missing(error) from error
    if table.origin == "file":
        return summarise_files(table, rows, progress=progress), ()
    live = _live("values")
    if _is_module(holder):
        return live.summarise_module(holder, rows, progress=progress), ()
    if isinstance(holder, Mapping):
        return live.summarise_mapping(holder, rows, progress=progress), ()
    if isinstance(holder, ParameterTable):
        raise UsageError(
            "a table has no values", hint="give the module or the definition that it was made from"
        )
    if in_hand and not any(tensor.device == "meta" for tensor in table):
        return live.summarise_module(holder.module, rows, progress=progress), ()
    return live.summarise_fresh(holder, rows, seed=seed, progress=progress)  # type: ignore[no-any-return]


def _numpy_missing(error: ImportError) -> MissingDependencyError:
    return MissingDependencyError(
        f"values need numpy, and numpy can't be imported: {error}", hint="pip install numpy"
    )


def _live(module: str) -> Any:
    """
    A module of the room where torch is alive, imported only when it is needed; the room
    itself says what to install where torch is missing.
    """
    return import_module(f"modelinspect.live.{module}")


def _filtered(
    table: ParameterTable, include: Sequence[str], exclude: Sequence[str]
) -> tuple[ParameterTable, tuple[str, ...]]:
    if not include and not exclude:
        return table, ()
    rows, unmatched = _select(table, include, exclude)
    return replace(table, tensors=rows), _unmatched(unmatched)


def _select(
    table: ParameterTable, include: Sequence[str], exclude: Sequence[str]
) -> tuple[Sequence[TensorInfo], Sequence[str]]:
    """The rows that globs choose, and the globs that match nothing."""
    if not include and not exclude:
        return table.tensors, ()
    from modelinspect.analysis.selection import select

    return select(table.tensors, include, exclude)


def _in_order(rows: Sequence[TensorInfo], sort: str | None, reverse: bool) -> Sequence[TensorInfo]:
    if sort is None:
        return rows[::-1] if reverse else rows
    from modelinspect.analysis.selection import sort_rows

    return sort_rows(rows, sort, reverse)


def _unmatched(patterns: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"no name matches {pattern!r}" for pattern in patterns)
