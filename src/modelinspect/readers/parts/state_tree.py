"""
A nested state_dict put together again from flat names, so that it is read like any other.

Formats that keep each tensor on its own (torch.distributed.checkpoint) remember the keys that
lead to it. Here they become the symbols that a pickle of the same state_dict would have, with
finished rows for leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelinspect.readers.parts.kinds import infer_kind
from modelinspect.readers.parts.pickle_symbols import Call, Global, Pickle, PickledDict
from modelinspect.readers.parts.sections import Sections, read_sections
from modelinspect.readers.parts.torch_objects import How, Maker, TensorReader
from modelinspect.tensors import TensorInfo

__all__ = ["leaf", "sections_of"]

Path = tuple["str | int", ...]


class _Node:
    """A dictionary or list of the state_dict."""

    __slots__ = ("entries", "made")

    def __init__(self) -> None:
        self.entries: dict[str | int, Any] = {}
        self.made: Any = None


def leaf(row: TensorInfo) -> Call:
    """A tensor of the tree: the row, but for its name and what its place says of it."""
    return Call(_ROW, (row,))


def _build(reader: TensorReader, call: Call, name: str, how: How, depth: int) -> TensorInfo:  # noqa: ARG001
    row: TensorInfo = call.args[0]
    kind = how.kind or infer_kind(name, row.dtype, row.shape)
    grad = True if row.requires_grad else how.unset_grad if how.grad is None else how.grad
    parts = tuple(part._replace(kind=kind) for part in row.parts) if row.parts else ()
    return row._replace(name=name, kind=kind, declared=how.declared, requires_grad=grad, parts=parts)


_ROW = Global("", "", 0)
_ROW.meaning = Maker(_build, False)


def sections_of(leaves: Mapping[str, tuple[Path, Any]], target: str, nbytes: int) -> Sections:
    """
    Sort what a state_dict holds into sections.

    Args:
        leaves: Flat name to the keys that lead to it, texts those of dictionaries and numbers
            those of lists, and what stands there: :func:`leaf` or any symbol.
        target: The checkpoint as the user spelt it.
        nbytes: Of what says so; how much work it may ask for.
    """
    root = _Node()
    nodes = [root]
    for name, (path, symbol) in leaves.items():
        if not _put(nodes, path, symbol):
            root.entries[name] = symbol  # what its keys lead to is taken already
    # Nodes stand behind the ones that they lie in.
    for node in reversed(nodes):
        node.made = _made(node)
    pickle = Pickle(root.made, nbytes, [], [], [], [], 0)
    return read_sections(pickle, TensorReader(target, (), nbytes), target)


def _put(nodes: list[_Node], path: Path, symbol: Any) -> bool:
    """Hang a symbol where its keys lead; False where something else hangs there."""
    node = nodes[0]
    for key in path[:-1]:
        inner = node.entries.get(key)
        if inner is None:
            inner = node.entries[key] = _Node()
            nodes.append(inner)
        if type(inner) is not _Node:
            return False
        node = inner
    if path[-1] in node.entries:
        return False
    node.entries[path[-1]] = symbol
    return True


def _made(node: _Node) -> Any:
    """The node as a list where all its keys are the numbers of one, else as a dictionary."""
    entries = {key: value.made if type(value) is _Node else value for key, value in node.entries.items()}
    if all(type(key) is int for key in entries) and sorted(entries) == list(range(len(entries))):
        return [entries[number] for number in range(len(entries))]
    return PickledDict([part for key, value in entries.items() for part in (str(key), value)])
