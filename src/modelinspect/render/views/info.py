"""
Views of :class:`~modelinspect.analysis.info.InfoReport`: a card, lines of key and value.

JSON (``info --json``): ``targets`` is a list with one object a target. Texts:
``target``; ``origin`` (``file``, ``definition``, ``memory``); ``format``, ``version``,
``writer``, ``architecture``, ``epoch``, ``step``, null where nothing tells. Numbers:
``files``, ``size`` and ``bytes_read`` in bytes. ``count``, an object as in ``count --json``,
of the section. Lists of objects: ``sections`` (``name``, ``role``, ``tensors``, ``numel``,
``bytes``, ``model``); ``quantized`` (``scheme``, ``bits``, ``tensors``, ``numel``, ``bytes``,
``scales``, ``scale_bytes``); ``adapters`` (``kind``, ``name``, ``section``, ``ranks``,
``alpha``, ``alpha_said``, ``targets``, ``base``, ``parameters``, ``full``, ``settings``);
``optimizers`` (``section``, ``kind``, ``parameters``, ``states``, ``settings``, ``groups``,
``step``); ``largest`` (``names``, folded with braces, the first and the last of more than
20,000; ``tensors``, ``shape``, ``dtype``, ``numel``, ``bytes``, ``share``); ``devices``
(``device``, ``tensors``, ``bytes``). Objects of
texts or numbers: ``modules`` (class to how many), ``metadata``, ``facts``. ``loading``, null
or an object of ``verdict`` (``no``, ``refused``, ``yes``, ``unknown``), ``call``, ``reason``,
``names``, ``beside``.

Plain, CSV and TSV: lines of key and value, the target first where there are several.
Objects of lists are numbered from 1: ``section.1.name``; plain values are a line each under one key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelinspect.render.cells import display_width
from modelinspect.render.sheet import Column, Line, Sheet
from modelinspect.render.units import ratio_text, shape_text, short_bytes, short_count
from modelinspect.render.views.count import count_card, count_record

if TYPE_CHECKING:
    from modelinspect.analysis.adapters import Adapter
    from modelinspect.analysis.count import CountReport
    from modelinspect.analysis.info import InfoReport, LargestTensors, OptimizerInfo
    from modelinspect.analysis.loading import Loading, Verdict
    from modelinspect.analysis.quantization import QuantizationTotal

__all__ = ["info_card", "info_fields", "info_records"]

_LONGEST = 160
"""Characters of one text on a card; JSON and plain hold it whole."""
_MOST_METADATA = 12
_SHORT = 60
"""Characters of an entry that shares its line with others."""
_MOST_SECTIONS = 8
_MOST_FOLDED = 20_000
"""Names to put together; it takes longer than reading them. Of more the first and the last are shown."""
_MOST_DTYPES = 6
_MOST_NAMES = 6
"""Of classes, devices, targets of an adapter, names that a loader refuses."""

# ---------------------------------------------------------------------- card


def info_card(report: InfoReport) -> Sheet:
    """
    One target for people: what there is to say, a line each, and nothing empty.
    """
    lines = [
        *_container(report),
        *_texts("model", [_cut(report.architecture)]),
        *_count(report),
        *_texts("modules", [_several(report.modules)]),
        *(_quantized(report)),
        *_texts("adapter", map(_adapter, report.adapters)),
        *_texts("sections", _sections(report)),
        *_texts("training", [_progress(report)]),
        *_texts("optimizer", _optimizers(report.optimizers)),
        *_texts("largest", _largest(report)),
        *_texts("devices", [_devices(report)]),
        *_texts("metadata", _metadata(report)),
        *_loading(report.loading),
    ]
    section = report.count.section
    title = f"{report.target} · section {_cut(section)}" if section else report.target
    return Sheet("info", (), (), title=title, footer=tuple(lines), notes=report.notes)


def _texts(label: str, texts: Iterable[str]) -> Iterator[Line]:
    """A line a text that is not empty, the label beside the first one."""
    for text in filter(None, texts):
        yield Line(label, text, "text")
        label = ""


def _cut(text: str, most: int = _LONGEST) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _several(counts: Mapping[str, int], most: int = _MOST_NAMES) -> str:
    """``Linear ×12, GELU ×6 and 3 more``."""
    shown = [f"{_cut(name, 60)} ×{number}" if number > 1 else _cut(name, 60)
             for name, number in list(counts.items())[:most]]  # fmt: skip
    return _and_more(shown, len(counts))


def _and_more(shown: Sequence[str], there_are: int) -> str:
    more = f" and {there_are - len(shown):,} more" if there_are > len(shown) else ""
    return ", ".join(shown) + more


def _container(report: InfoReport) -> Iterator[Line]:
    if report.format:
        version = f", version {_cut(report.version)}" if report.version else ""
        yield Line("format", f"{report.format}{version}", "text")
        yield from _texts("written by", [_cut(report.writer)])
        files = f"{_counted(report.files, 'file')}, {short_bytes(report.bytes_read)} read for this"
        yield Line("size", report.nbytes, "bytes", remark=files)
    facts = [
        f"{_cut(key, 30)} {_cut(text, 60)}"
        for key, text in report.facts.items()
        if (key, text) not in _USUAL and text != report.architecture
    ]
    yield from _texts("container", [" · ".join(facts)])


_USUAL = {
    ("byte order", "little"),
    ("pickle protocol", "2"),
    ("storage alignment", "64"),
    ("format version", "1"),
}
"""Facts that a card for people leaves out: nearly every file has them."""


def _count(report: InfoReport) -> Iterator[Line]:
    """The lines of a count card that say something."""
    count = report.count
    rare = {f"  {each.dtype}" for each in count.dtypes[_MOST_DTYPES:]}
    for line in count_card(count)[0].footer:
        if line.label in rare:
            if line.label.strip() == count.dtypes[_MOST_DTYPES].dtype:
                rest = sum(each.nbytes for each in count.dtypes[_MOST_DTYPES:])
                yield Line("  others", rest, "bytes", remark=_counted(len(rare), "further type"))
            continue
        dull = (
            line.value is None
            or line.label == "quantized"  # has a line of its own
            or (line.label == "buffers" and not line.value)
            or (line.label == "named" and count.named == count.unique)
            or (line.label == "frozen" and not line.value)
            or (line.label == "trainable" and count.trainable == count.unique)
        )
        if not dull:
            label = "parameters" if line.label == "unique parameters" else line.label
            yield line._replace(label=label, remark=_cut(line.remark, 2 * _LONGEST))


def _quantized(report: InfoReport) -> Iterator[Line]:
    for each in report.quantized:
        scales = (
            f", {_counted(each.scales, 'scale')} of {short_bytes(each.scale_nbytes)}" if each.scales else ""
        )
        remark = f"{_cut(each.title, 60)}, {_counted(each.weights, 'tensor')}{scales}"
        yield Line("quantized", each.numel, remark=remark)


def _adapter(adapter: Adapter) -> str:
    ranks = " and ".join(f"{rank}" if len(adapter.ranks) == 1 else f"{rank} (×{number})"
                         for rank, number in list(adapter.ranks.items())[:_MOST_NAMES])  # fmt: skip
    said = [
        f"{adapter.kind} of rank {ranks}" if ranks else adapter.kind,
        "" if adapter.alpha is None else f"alpha {adapter.alpha:g}",
        f"{adapter.parameters:,} parameters",
        f"on {_several(adapter.targets)}" if adapter.targets else "",
        f"{adapter.full:,} elements saved whole" if adapter.full else "",
        f"for {_cut(adapter.base)}" if adapter.base else "",
        f"called {_cut(adapter.name, 60)}" if adapter.name else "",
    ]
    return " · ".join(filter(None, said))


def _sections(report: InfoReport) -> Iterator[str]:
    """Which there are, with their sizes; one alone is what the card is of."""
    if len(report.sections) < 2:
        return
    alike: dict[tuple[str, int, int, int], list[str]] = {}
    for each in report.sections:
        figures = (each.role, each.numel, each.nbytes, each.tensors)
        alike.setdefault(figures, []).append(each.name)
    rows = [
        (role, short_count(numel), short_bytes(nbytes), f"{name}, {_counted(tensors, 'tensor')}{times}")
        for (role, numel, nbytes, tensors), names in alike.items()
        for name, times in _named_sections(names)
    ]
    yield from _aligned(rows[:_MOST_SECTIONS], right=(1, 2))
    yield from _rest(len(rows) - _MOST_SECTIONS, "sections")


def _named_sections(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name, times in _folded(names):
        yield _cut(name) or "(in no section)", f" ×{times}" if times > 1 else ""


def _rest(more: int, what: str) -> list[str]:
    return [f"{more:,} more {what}: --json shows all"] if more > 0 else []


def _aligned(rows: Sequence[tuple[str, ...]], right: Sequence[int]) -> Iterator[str]:
    """Texts with their parts in columns; the last one ends where it ends."""
    widths = [max(map(display_width, column), default=0) for column in zip(*rows)]
    for row in rows:
        cells = []
        for place, (text, width) in enumerate(zip(row[:-1], widths)):
            blanks = " " * (width - display_width(text))
            cells.append(blanks + text if place in right else text + blanks)
        yield "  ".join([*cells, row[-1]])


def _progress(report: InfoReport) -> str:
    said = [f"epoch {_cut(report.epoch)}" if report.epoch else "",
            f"step {_cut(report.step)}" if report.step else ""]  # fmt: skip
    return " · ".join(filter(None, said))


_SHOWN_SETTINGS = ("lr", "betas", "momentum", "weight_decay")


def _optimizers(optimizers: Sequence[OptimizerInfo]) -> Iterator[str]:
    """Those of which something is known, alike ones once."""
    said = [_optimizer(each) for each in optimizers if each.kind or each.settings]
    for text in list(dict.fromkeys(said))[:_MOST_NAMES]:
        yield f"{text} ×{said.count(text)}" if said.count(text) > 1 else text
    yield from _rest(len(set(said)) - _MOST_NAMES, "optimizers")


def _optimizer(optimizer: OptimizerInfo) -> str:
    states = ", ".join(_cut(state, 40) for state in list(optimizer.states)[:_MOST_NAMES])
    settings = [
        f"{name} {_cut(str(optimizer.settings[name]), 60)}"
        for name in _SHOWN_SETTINGS
        # A rate of zero is where a schedule ended; the others are off then.
        if optimizer.settings.get(name) or (name == "lr" and optimizer.settings.get(name) == 0)
    ]
    said = [
        _cut(optimizer.kind) or states,
        f"of {_counted(optimizer.parameters, 'parameter')}" if optimizer.parameters else "",
        *settings,
        f"{optimizer.groups:,} groups" if optimizer.groups > 1 else "",
        "" if optimizer.step is None else f"step {optimizer.step:,}",
    ]
    return " · ".join(filter(None, said))


def _largest(report: InfoReport) -> Iterator[str]:
    """Share, names, shape; the data type where it is not the one that most bytes have."""
    usual = report.count.dtypes[0].dtype if report.count.dtypes else ""
    rows = [
        (
            ratio_text(each.share),
            f"{_folded_in_one(each)} {shape_text(each.shape)}"
            + (f" {each.dtype}" if each.dtype != usual else ""),
        )
        for each in report.largest
    ]
    yield from _aligned(rows, right=(0,))


def _folded_in_one(tensors: LargestTensors) -> str:
    names = _folded(tensors.names)
    first, times = names[0]
    several = f" ×{times:,}" if times > 1 else ""
    more = f" and {len(tensors.names) - times:,} more" if len(names) > 1 else ""
    return f"{_cut(first)}{several}{more}"


def _folded(names: Sequence[str]) -> list[tuple[str, int]]:
    """Names with those put together that differ in numbers only, and how many each stands for."""
    if len(names) == 1:
        return [(names[0], 1)]
    if len(names) > _MOST_FOLDED:
        return [(names[0], 1), (names[-1], 1)]
    from modelinspect.render.folding import fold_names

    return fold_names(names)


def _devices(report: InfoReport) -> str:
    devices = report.devices
    if len(devices) == 1:
        return _cut(devices[0].device)
    shown = [
        f"{_cut(each.device, 40)} ({_counted(each.tensors, 'tensor')}, {short_bytes(each.nbytes)})"
        for each in devices[:_MOST_NAMES]
    ]
    return _and_more(shown, len(devices))


def _metadata(report: InfoReport) -> Iterator[str]:
    """The first entries that no line above has said, short ones together."""
    unsaid = [(key, text) for key, text in report.metadata.items() if key not in report.said]
    entries = [f"{_cut(key, 60)}={_cut(text)}" for key, text in unsaid[:_MOST_METADATA]]
    together: list[str] = []
    for entry in entries:
        if len(entry) <= _SHORT:
            together.append(entry)
            continue
        yield " · ".join(together)
        yield entry
        together = []
    yield " · ".join(together)
    yield from _rest(len(unsaid) - len(entries), "entries")


_ANSWERS: Mapping[Verdict, tuple[str, str]] = {
    "no": ("no", "ok"),
    "refused": ("not by itself", "unexpected"),
    "yes": ("yes", "missing"),
    "unknown": ("unknown", "unused"),
}
"""Verdict to the word for it and the status whose colour it has."""


def _loading(loading: Loading | None) -> Iterator[Line]:
    if loading is None:
        return
    answer, status = _ANSWERS[loading.verdict]
    names = _and_more([_cut(name, 80) for name in loading.names[:_MOST_NAMES]], len(loading.names))
    call = f"{loading.call}: " if loading.call else ""
    said = f"{call}{loading.reason}{' ' if names else ''}{names}"
    yield Line("runs code", answer, "status", remark=status)
    yield from _texts("", [said])
    yield from _texts("", loading.beside)


# -------------------------------------------------------------- key and value


def info_fields(reports: Sequence[InfoReport], *, named: bool = False) -> Sheet:
    """
    Lines of key and value for scripts and spreadsheets.

    Args:
        reports: Of the targets that could be read.
        named: Put the target first also where there is one: others could not be read.
    """
    columns: tuple[Column, ...] = (Column("key", "key", "text"), Column("value", "value", "text"))
    rows: list[tuple[str, ...]] = []
    for report in reports:
        target = (report.target,) if named or len(reports) > 1 else ()
        rows += [(*target, key, _raw(key, value)) for key, value in _fields(_record(report))]
    if named or len(reports) > 1:
        columns = (Column("target", "target", "name"), *columns)
    return Sheet("info", columns, rows, rows_key="fields")


def _raw(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if key.endswith(".shape"):
        return shape_text(value)
    return "" if value is None else str(value)


# Keys of a record that are lists of objects, and what one of them is called.
_SINGULAR = {
    "sections": "section", "quantized": "quantized", "adapters": "adapter", "optimizers": "optimizer",
    "largest": "largest", "devices": "device", "dtypes": "dtype", "ties": "tie",
}  # fmt: skip
# Of a record's objects those whose keys stand alone: what is counted is the target's.
_INLINED = frozenset({"count"})


def _fields(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """An object's scalars as they are, what is nested under dotted keys."""
    for key, value in record.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _fields(value, prefix if key in _INLINED else f"{path}.")
        elif key in _SINGULAR and isinstance(value, (list, tuple)):
            for number, each in enumerate(value, 1):
                yield from _fields(each, f"{prefix}{_SINGULAR[key]}.{number}.")
        elif isinstance(value, (list, tuple)) and key != "shape":
            yield from ((path, each) for each in value)
        else:
            yield path, value


# ---------------------------------------------------------------------- JSON


def info_records(reports: Sequence[InfoReport]) -> Sheet:
    """
    What JSON holds, an object a target.
    """
    return Sheet(
        "info",
        (Column("target", "target", "name"),),
        [(report.target,) for report in reports],
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
        rows_key="targets",
        records=[_record(report) for report in reports],
    )


def _record(report: InfoReport) -> dict[str, Any]:
    return {
        "target": report.target,
        "origin": report.origin,
        "format": report.format or None,
        "version": report.version or None,
        "writer": report.writer or None,
        "files": report.files,
        "size": report.nbytes,
        "bytes_read": report.bytes_read,
        "architecture": report.architecture or None,
        "epoch": report.epoch or None,
        "step": report.step or None,
        "count": _of_count(report.count),
        "sections": _objects(report.sections, nbytes="bytes", is_model="model"),
        "quantized": [_of_quantized(each) for each in report.quantized],
        "adapters": [_of_adapter(each) for each in report.adapters],
        "optimizers": _objects(report.optimizers),
        "largest": [_of_largest(each) for each in report.largest],
        "devices": _objects(report.devices, nbytes="bytes"),
        "modules": dict(report.modules),
        "facts": dict(report.facts),
        "metadata": dict(report.metadata),
        "loading": None if report.loading is None else report.loading._asdict(),
    }


def _of_count(count: CountReport) -> dict[str, Any]:
    return {key: value for key, value in count_record(count).items() if key not in _NOT_OF_INFO}


_NOT_OF_INFO = frozenset({"target", "by", "groups", "quantized"})


def _objects(items: Iterable[Any], **renamed: str) -> list[dict[str, Any]]:
    """Named tuples as objects, some of their fields under other names."""
    called: Callable[[str], str] = lambda key: renamed.get(key, key)  # noqa: E731
    return [{called(key): value for key, value in item._asdict().items()} for item in items]


def _of_largest(tensors: LargestTensors) -> dict[str, Any]:
    return {
        "names": [name for name, _ in _folded(tensors.names)],
        "tensors": len(tensors.names),
        "shape": tensors.shape,
        "dtype": tensors.dtype,
        "numel": tensors.numel,
        "bytes": tensors.nbytes,
        "share": tensors.share,
    }


def _of_quantized(total: QuantizationTotal) -> dict[str, Any]:
    return {
        "scheme": total.scheme,
        "bits": total.bits,
        "tensors": total.weights,
        "numel": total.numel,
        "bytes": total.nbytes,
        "scales": total.scales,
        "scale_bytes": total.scale_nbytes,
    }


def _of_adapter(adapter: Adapter) -> dict[str, Any]:
    return {
        "kind": adapter.kind,
        "name": adapter.name,
        "section": adapter.section,
        "ranks": {str(rank): number for rank, number in adapter.ranks.items()},
        "alpha": adapter.alpha,
        "alpha_said": adapter.alpha_said,
        "targets": dict(adapter.targets),
        "base": adapter.base or None,
        "parameters": adapter.parameters,
        "full": adapter.full,
        "settings": dict(adapter.settings),
    }
