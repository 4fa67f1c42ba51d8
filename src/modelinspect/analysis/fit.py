"""
Does a checkpoint fit a definition? Names, shapes and data types side by side.

The question is that of ``module.load_state_dict(checkpoint, strict=True)``, and the
answers were measured with torch 2.13: a data type is converted, a shape is not; a
scalar takes the number of a tensor of one; a parameter without a shape takes any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, NamedTuple

from modelinspect.display import Displayed
from modelinspect.dtypes import DType
from modelinspect.errors import visible
from modelinspect.tensors import ParameterTable, Quantized, TensorInfo

__all__ = ["FitReport", "FitRow", "FitStatus", "common_names", "fit"]

FitStatus = Literal["ok", "missing", "unexpected", "shape", "dtype", "layout", "quantized"]


class FitRow(NamedTuple):
    """
    One name on either side.
    """

    name: str
    """Name in the definition; in the checkpoint for ``unexpected``."""
    status: FitStatus
    """``missing``: the checkpoint lacks it; ``unexpected``: the definition does;
    ``dtype``: converted when it is loaded; ``layout``: can't be copied (sparse,
    without values, bits); ``quantized``: the same weight, packed."""
    expected: TensorInfo | None
    """The definition's tensor."""
    found: TensorInfo | None
    """The checkpoint's tensor."""
    note: str = ""
    """What else is to be said, e.g. that another name of a tied tensor is there."""
    harmless: bool = False
    """Loads all the same, whatever the status; the note says why."""


@dataclass(frozen=True)
class FitReport(Displayed):
    """
    A definition and a checkpoint side by side.
    """

    definition: ParameterTable
    checkpoint: ParameterTable
    rows: tuple[FitRow, ...] = field(repr=False)
    """Definition's order, then what is unexpected."""
    checkpoint_prefix: str = ""
    """Prefix of the checkpoint's names that the definition's lack, e.g. ``module.``; the
    rows were compared without it. A wrapper's name may also stand inside names."""
    definition_prefix: str = ""
    """The same the other way round."""
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """True: ``load_state_dict(strict=True)`` succeeds as it is, without a prefix change."""
        loads = all(row.status in ("ok", "dtype") or row.harmless for row in self.rows)
        return loads and not self.checkpoint_prefix and not self.definition_prefix


def fit(definition: ParameterTable, checkpoint: ParameterTable) -> FitReport:
    """
    Put a definition and a checkpoint side by side.

    Args:
        definition: Whose names and shapes are expected. Non-persistent buffers are
            not: ``state_dict()`` leaves them out.
        checkpoint: Whose tensors are offered.

    Returns:
        A row a name. Where only a prefix of all names differs, such as ``module.``,
        rows are compared without it and the report says so.
    """
    expected = {tensor.name: tensor for tensor in definition if tensor.persistent is not False}
    found = _offered(checkpoint, expected)
    ours, theirs = common_names(list(expected), list(found))
    partners = {common: found[name] for name, common in theirs.items()}
    wrapped = "".join(_taken(theirs)[:1])
    versions = {path.removeprefix(wrapped): version for path, version in checkpoint.versions.items()}
    rows = []
    for name, tensor in expected.items():
        partner = partners.pop(ours[name], None)
        rows.append(_missing(tensor, versions) if partner is None else _compared(tensor, partner))
    rows += [
        FitRow(tensor.name, "unexpected", None, tensor)
        for name, tensor in partners.items()
        if not any(_belongs(name, extra) for extra in definition.others)
    ]
    rows = [*_with_ties(rows, definition), *_entries(definition, checkpoint, ours, theirs)]
    from_theirs, from_ours = _taken(theirs), _taken(ours)
    return FitReport(
        definition,
        checkpoint,
        tuple(rows),
        "".join(from_theirs[:1]),
        "".join(from_ours[:1]),
        (
            *_section_note(checkpoint),
            *_prefix_notes(rows, _Side(ours, from_ours), _Side(theirs, from_theirs)),
            *_quantized_note(rows),
            *_row_notes(rows),
            *_near_misses(rows),
        ),
    )


def _offered(checkpoint: ParameterTable, expected: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """
    The checkpoint's tensors by name; packed weights by the names that float models give them, without
    their scales, unless the definition has such names itself.
    """
    offered = {tensor.name: tensor for tensor in checkpoint if tensor.persistent is not False}
    packed = [tensor for tensor in offered.values() if tensor.quantized is not None]
    if not packed:
        return offered
    from modelinspect.analysis.quantization import logical_name

    own = {name.rpartition(".")[2] for name in expected}
    serving = {name for tensor in packed for name in tensor.quantized.beside}  # type: ignore[union-attr]
    result: dict[str, TensorInfo] = {}
    for name, tensor in offered.items():
        leaf = name.rpartition(".")[2]
        if name in serving and leaf not in own:
            continue
        plain = name if tensor.quantized is None or leaf in own else logical_name(tensor)
        result[name if plain in offered else plain] = tensor
    return result


def _entries(
    definition: ParameterTable, checkpoint: ParameterTable, ours: _Names, theirs: _Names
) -> Iterable[FitRow]:
    """Rows for what is no tensor: a counter among the weights, the extra state of a module."""
    own, foreign = "".join(_taken(ours)[:1]), "".join(_taken(theirs)[:1])
    expected = [name.removeprefix(own) for name in definition.others]
    offered = {name.removeprefix(foreign): name for name in checkpoint.others}
    there = {*offered, *theirs.values()}
    for name in expected:
        if not any(_belongs(other, name) for other in there):
            yield FitRow(name, "missing", None, None, "get_extra_state() of its module makes it")
    for name, full in offered.items():
        if not any(_belongs(name, other) for other in expected):
            yield FitRow(full, "unexpected", None, None, "holds no tensor")


def _belongs(name: str, holder: str) -> bool:
    """Is it that entry, or something in it?"""
    return name == holder or name.startswith(holder + ".")


# ------------------------------------------------------------------- one row


def _missing(tensor: TensorInfo, versions: Mapping[str, int]) -> FitRow:
    # torch/nn/modules/batchnorm.py, _NormBase._load_from_state_dict: state_dicts without
    # version numbers (a plain dict, safetensors) or of version 1 (before torch 0.4.1).
    module, _, leaf = tensor.name.rpartition(".")
    if leaf == "num_batches_tracked" and tensor.kind == "buffer" and versions.get(module, 1) < 2:
        note = "batch norm sets it to 0 where the state_dict is older than it, or has no version numbers"
        return FitRow(tensor.name, "missing", tensor, None, note, True)
    return FitRow(tensor.name, "missing", tensor, None)


def _compared(expected: TensorInfo, found: TensorInfo) -> FitRow:
    name = expected.name
    # Nearly every row: the same type and shape, plain, with values.
    if (
        expected.dtype is found.dtype
        and expected.shape == found.shape
        and expected.layout == found.layout == "strided"
        and found.storage is not None
    ):
        return FitRow(name, "ok", expected, found)
    if found.quantized is not None and found.layout == "strided":
        return _packed(expected, found, found.quantized)
    if expected.layout == "uninitialized":
        return FitRow(name, "ok", expected, found, "takes any shape: it has none before its first use")
    if found.layout == "uninitialized":
        return FitRow(name, "layout", expected, found, "was saved before it had a shape")
    if expected.shape != found.shape:
        if expected.shape == () and found.shape == (1,):
            return FitRow(name, "ok", expected, found, "torch takes the one number for the scalar")
        return FitRow(name, "shape", expected, found)
    reason = _not_copied(expected, found)
    if reason:
        return FitRow(name, "layout", expected, found, reason)
    if expected.dtype is found.dtype:
        return FitRow(name, "ok", expected, found)
    is_cut = found.dtype.category == "complex" != expected.dtype.category
    return FitRow(name, "dtype", expected, found, "the imaginary parts are lost" if is_cut else "")


def _packed(expected: TensorInfo, found: TensorInfo, stands_for: Quantized) -> FitRow:
    from modelinspect.analysis.quantization import scheme_title

    shape = stands_for.shape
    of = f"{stands_for.numel:,} values" if shape is None else str(list(shape))
    fits = shape == expected.shape or (shape is None and stands_for.numel == expected.numel)
    note = f"{scheme_title(stands_for.scheme, stands_for.bits)} of {of}"
    return FitRow(expected.name, "quantized" if fits else "shape", expected, found, note)


def _not_copied(expected: TensorInfo, found: TensorInfo) -> str:
    """Why ``expected.copy_(found)`` fails; empty where it does not."""
    if _copied_as(expected) != _copied_as(found):
        return f"{_layout(found)} is not copied into {_layout(expected)}"
    if found.storage is None and _copied_as(found) == "strided" and expected.storage is not None:
        return "was saved on the meta device, without values"
    if expected.dtype is not found.dtype and not (_converts(expected.dtype) and _converts(found.dtype)):
        return f"torch does not convert {found.dtype.name} to {expected.dtype.name}"
    return ""


def _copied_as(tensor: TensorInfo) -> str:
    """The layout as copying sees it: it resolves lazy conjugation and negation."""
    return "strided" if tensor.layout in ("conjugate", "negative") else tensor.layout


def _layout(tensor: TensorInfo) -> str:
    if tensor.layout == "strided":
        return "a plain tensor"
    return f"a {tensor.class_name}" if tensor.layout == "wrapper" else f"a {tensor.layout} tensor"


def _converts(dtype: DType) -> bool:
    """Measured: these types are copied to their own kind only. Six-bit floats torch does not have."""
    return dtype.category not in ("bits", "quantized") and not dtype.name.startswith(("float4_", "float6_"))


def _with_ties(rows: Sequence[FitRow], definition: ParameterTable) -> list[FitRow]:
    """Say of missing names that the tensor is there under another of its names."""
    if all(row.status != "missing" for row in rows):
        return list(rows)
    first_names = definition.tied_to
    present: dict[str, str] = {}
    for row in rows:
        if row.expected is not None and row.found is not None:
            present.setdefault(first_names.get(row.name, row.name), row.name)
    marked = []
    for row in rows:
        other = present.get(first_names.get(row.name, row.name))
        if row.status == "missing" and other is not None:
            row = row._replace(note=f"tied to {visible(other)}, which is there")  # noqa: PLW2901
        marked.append(row)
    return marked


# --------------------------------------------------------------------- names

# Parts that wrappers add: torch.compile, DataParallel and its kin, FSDP, checkpointing.
_WRAPPERS = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_SAMPLE = 500
"""Names that vote on a prefix."""

_MOST_NOTES = 6
"""Different remarks that stand in the report's notes; the rows hold them all."""

_Names = dict[str, str]
"""Names as they are to the names they are compared under; both without repetition."""


class _Candidate(NamedTuple):
    """One way to make names comparable."""

    ours: _Names
    theirs: _Names

    @property
    def matches(self) -> int:
        """Names that then stand on both sides."""
        return len(set(self.ours.values()).intersection(self.theirs.values()))


def common_names(ours: Sequence[str], theirs: Sequence[str]) -> tuple[_Names, _Names]:
    """
    The names under which two lists are compared: their own, or those without a prefix.

    A prefix must be that of most names of its side, and without it half of the names of
    the shorter list or more must match, and more than with it.
    """
    best = _Candidate(dict(zip(ours, ours)), dict(zip(theirs, theirs)))
    if best.ours.keys() == best.theirs.keys():
        return best
    most = min(len(ours), len(theirs))
    enough = max(best.matches + 1, most / 2)
    for candidate in _candidates(ours, theirs):
        matches = candidate.matches
        if matches >= enough:
            best, enough = candidate, matches + 1
        if enough > most:
            break
    return best


def _candidates(ours: Sequence[str], theirs: Sequence[str]) -> Iterable[_Candidate]:
    """Simplest first: of two that match the same names the earlier is taken."""
    lefts, rights = [dict(zip(ours, ours))], [dict(zip(theirs, theirs))]
    if _wraps(ours):
        lefts.append(_unwrapped(ours))
    if _wraps(theirs):
        rights.append(_unwrapped(theirs))
    for left, right in product(lefts, rights):
        yield _Candidate(left, right)
        for ours_prefix, their_prefix in _prefixes(list(left.values()), list(right.values())):
            yield _Candidate(_without(left, ours_prefix), _without(right, their_prefix))


def _wraps(names: Sequence[str]) -> bool:
    text = "\n".join(names)
    return any(wrapper in text for wrapper in _WRAPPERS) and any(
        not _WRAPPERS.isdisjoint(name.split(".")) for name in names
    )


def _unwrapped(names: Sequence[str]) -> _Names:
    """Without the wrappers' parts, wherever they stand."""
    return _distinct(
        {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in names}
    )


def _without(names: _Names, prefix: str) -> _Names:
    """Without a prefix, where it stands."""
    return _distinct({name: short.removeprefix(prefix) for name, short in names.items()}) if prefix else names


def _distinct(names: _Names) -> _Names:
    """A name whose short form is another's, too, stays as it is; all do where that is not enough."""
    uses = Counter(names.values())
    if len(uses) == len(names):
        return names
    kept = {name: short if uses[short] == 1 else name for name, short in names.items()}
    return kept if len(set(kept.values())) == len(kept) else {name: name for name in names}


def _prefixes(ours: Sequence[str], theirs: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Pairs of prefixes that may be all that differs, ours and theirs."""
    their_prefix, our_prefix = _voted(theirs, ours), _voted(ours, theirs)
    if their_prefix:
        yield "", their_prefix
    if our_prefix:
        yield our_prefix, ""
    # Both sides may have one of their own: what all names share, less what both share.
    left, right = _shared(ours), _shared(theirs)
    while left and right and left[-1] == right[-1]:
        left.pop()
        right.pop()
    if left and right:
        yield ".".join(left) + ".", ".".join(right) + "."


def _voted(longer: Sequence[str], shorter: Sequence[str]) -> str:
    """The prefix of most *longer* names whose rest is a *shorter* name; empty if of fewer than half."""
    ends = set(shorter)
    votes: Counter[str] = Counter()
    for name in longer[:: max(1, len(longer) // _SAMPLE)]:
        at = name.find(".") + 1
        while at:
            if name[at:] in ends:
                votes[name[:at]] += 1
                break
            at = name.find(".", at) + 1
    for prefix, _ in votes.most_common(1):
        if 2 * sum(name.startswith(prefix) for name in longer) >= len(longer):
            return prefix
    return ""


def _shared(names: Sequence[str]) -> list[str]:
    """The dotted parts that all names begin with; never all of a name."""
    if not names:
        return []
    low, high = min(names).split(".")[:-1], max(names).split(".")[:-1]
    count = next((at for at, (a, b) in enumerate(zip(low, high)) if a != b), min(len(low), len(high)))
    return low[:count]


def _taken(names: _Names) -> list[str]:
    """What was taken off names, the commonest first: a prefix, or wrappers inside them."""
    taken: Counter[str] = Counter()
    for name, short in names.items():
        if name.endswith(short):
            taken[name[: len(name) - len(short)]] += 1
        else:
            for part in _WRAPPERS.intersection(name.split(".")):
                taken[part + "."] += 1
    del taken[""]
    return [text for text, _ in taken.most_common()]


# --------------------------------------------------------------------- notes


def _section_note(checkpoint: ParameterTable) -> Iterable[str]:
    if checkpoint.section not in ("", "all"):
        yield f"the section {visible(checkpoint.section)!r} of the checkpoint was compared"


class _Side(NamedTuple):
    """How the names of one side were made comparable."""

    names: _Names
    taken: Sequence[str]
    """As :func:`_taken`."""


def _prefix_notes(rows: Sequence[FitRow], ours: _Side, theirs: _Side) -> Iterable[str]:
    sides = [
        f"the {owner}'s names have {' and '.join(repr(visible(text)) for text in side.taken)}"
        for owner, side in (("checkpoint", theirs), ("definition", ours))
        if side.taken
    ]
    if not sides:
        return
    agree = all(row.status in ("ok", "dtype") or row.harmless for row in rows)
    lead = "only a prefix differs" if agree else "names are compared without a prefix"
    yield f"{lead}: {' and '.join(sides)}" + (", the other's don't" if len(sides) == 1 else "")
    recipe = _recipe(ours, theirs)
    if agree and recipe:
        yield f"it loads as {recipe}"


def _recipe(ours: _Side, theirs: _Side) -> str:
    """An expression that renames the checkpoint; empty if no simple one does it."""
    wanted = {short: name for name, short in ours.names.items()}
    pairs = [(name, wanted[short]) for name, short in theirs.names.items() if short in wanted]
    new, old = "".join(ours.taken[:1]), theirs.taken
    added = f"{visible(new)!r} + " if new else ""
    prefix = "".join(old[:1])
    removed = f".removeprefix({visible(prefix)!r})" if prefix else ""
    if any(new + name.removeprefix(prefix) != renamed for name, renamed in pairs):
        removed = "".join(f".replace({visible(text)!r}, '')" for text in old)
        if any(new + _replaced(name, old) != renamed for name, renamed in pairs):
            return ""
    return f"{{{added}k{removed}: v for k, v in state_dict.items()}}"


def _replaced(name: str, texts: Iterable[str]) -> str:
    for text in texts:
        name = name.replace(text, "")
    return name


def _quantized_note(rows: Sequence[FitRow]) -> Iterable[str]:
    packed = sum(row.status == "quantized" for row in rows)
    if packed:
        what = "weights are" if packed > 1 else "weight is"
        yield f"{packed:,} {what} quantized: the shapes agree, but load_state_dict refuses what is stored"


def _row_notes(rows: Sequence[FitRow]) -> Iterable[str]:
    """Each note of a row once, with the first name that it is about."""
    about: dict[str, list[str]] = {}
    for row in rows:
        if row.note and row.status != "quantized":
            about.setdefault(row.note, []).append(visible(row.name))
    shown = list(about.items())[:_MOST_NOTES]
    for note, names in shown:
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        yield f"{names[0]}{more}: {note}"
    rest = sum(len(names) for names in about.values()) - sum(len(names) for _, names in shown)
    if rest:
        yield f"{rest:,} more rows have a remark"


def _near_misses(rows: Sequence[FitRow]) -> Iterable[str]:
    """Missing and unexpected tensors of one shape may be the same under two names."""
    unexpected = Counter(row.found.shape for row in rows if row.status == "unexpected" and row.found)
    missing = Counter(row.expected.shape for row in rows if row.status == "missing" and row.expected)
    pairs = sum((unexpected & missing).values())
    if pairs:
        total = sum(missing.values())
        yield f"{pairs:,} of {total:,} missing tensors have the shape of an unexpected one: another naming?"
