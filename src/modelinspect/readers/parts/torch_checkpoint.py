"""
From an interpreted pickle and its storages to a Checkpoint: what both of torch's layouts share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from modelinspect.errors import DamagedFileError, visible
from modelinspect.readers.parts.pickle_symbols import Pickle
from modelinspect.readers.parts.sections import read_sections
from modelinspect.readers.parts.torch_objects import HeldStorage, TensorReader, is_understood
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import Checkpoint, FileInfo, GlobalName

__all__ = ["PICKLE", "assemble", "finding_notes", "foreign_note", "global_names"]

PICKLE = "pickle"
"""What the pickle with the tensors is kept as on its source."""

_NAMES_SHOWN = 4
_FINDINGS_SHOWN = 3


def assemble(
    source: ByteSource,
    target: str,
    form: str,
    pickles: Sequence[Pickle],
    record: str,
    held: Mapping[str, HeldStorage],
    notes: Sequence[str],
    begin: int | None = 0,
    more: Sequence[GlobalName] = (),
) -> Checkpoint:
    """
    Make the checkpoint of a file.

    Args:
        source: The file; everything wanted of it has been read.
        target: The file as the user spelt it.
        form: Name in the registry.
        pickles: All that the file holds, the one with the tensors first.
        record: Name of the record that they lie in, ``""`` for the file itself.
        held: Storages by key; each is the meaning of its persistent ids.
        notes: What the format has to say; shown after what the tensors say.
        begin: First byte of the pickle with the tensors; None where the file doesn't hold it as it is.
        more: Names that pickles of other records hold.

    Raises:
        DamagedFileError: A tensor makes no sense, or bytes are missing.
        LimitError: The names are more than a limit allows.
    """
    main = pickles[0]
    reader = TensorReader(target, main.globals, main.end)
    reader.path, reader.begin, reader.has_tensors = source.path, begin, bool(held)
    sections = read_sections(main, reader, target)
    for *_, fault in held.values():
        # torch.load needs every storage, whether a tensor uses it or not.
        if fault is not None:
            raise DamagedFileError(f"{visible(target)} is truncated or damaged", details=(fault,))
    names = _distinct([*global_names(pickles, source.path, record), *more])
    # A folder of such files has more to ask of them than tensors.
    source.kept[PICKLE] = main
    found = Checkpoint(
        source=target,
        format=form,
        files=(FileInfo(source.path, source.size, source.bytes_read),),
        tables=sections.tables,
        roles=sections.roles,
        model_section=sections.model_section,
        metadata=sections.metadata,
        globals=names,
        notes=(*sections.notes, *foreign_note(names), *finding_notes(pickles), *notes),
        optimizers=sections.optimizers,
        facts={"pickle protocol": str(main.protocol)},
    )
    return _as_its_framework_has_it(found, main)


def _as_its_framework_has_it(found: Checkpoint, pickle: Pickle) -> Checkpoint:
    """With what a training framework says in a file beside the tensors; of most files nothing."""
    if "module" not in found.tables:
        return found
    from modelinspect.readers.parts.deepspeed_states import with_logical_shapes

    return with_logical_shapes(found, pickle)


def global_names(pickles: Sequence[Pickle], file: str, record: str) -> tuple[GlobalName, ...]:
    """Every distinct name that pickles of one record hold."""
    return _distinct(
        GlobalName(name.module, name.name, file, record, name.position, is_understood(name))
        for pickle in pickles
        for name in pickle.globals
    )


def _distinct(names: Iterable[GlobalName]) -> tuple[GlobalName, ...]:
    found: dict[tuple[str, str], GlobalName] = {}
    for name in names:
        found.setdefault((name.module, name.name), name)
    return tuple(found.values())


def foreign_note(names: Sequence[GlobalName]) -> tuple[str, ...]:
    """What loading the file the usual way would bring in, names of nobody's library first."""
    foreign = [name for name in names if not name.understood]
    foreign.sort(key=lambda name: name.module.partition(".")[0] in ("torch", "numpy", "collections"))
    shown = [visible(f"{name.module}.{name.name}"[:80]) for name in foreign[:_NAMES_SHOWN]]
    if not shown:
        return ()
    more = f" and {len(foreign) - len(shown):,} more" if len(foreign) > len(shown) else ""
    return (f"loading it the usual way would import or call: {', '.join(shown)}{more}",)


def finding_notes(pickles: Sequence[Pickle]) -> tuple[str, ...]:
    """What no honest writer does: the first few, and how many more."""
    found = [finding for pickle in pickles for finding in pickle.findings]
    notes = [f"pickle, byte {one.position:,}: {one.text}" for one in found[:_FINDINGS_SHOWN]]
    if len(found) > len(notes):
        notes.append(f"{len(found) - len(notes):,} more oddities in its pickle")
    return tuple(notes)
