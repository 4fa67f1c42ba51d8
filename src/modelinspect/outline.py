"""
What a file of definitions holds, read from its syntax: nothing is imported or run.

It says which names a file binds and which of them each is made with. That settles
which definition is the file's own and which are its building blocks.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from typing import Literal, NamedTuple

__all__ = ["Binding", "definitions_in", "leading", "outline_of"]

What = Literal["class", "function", "instance"]

# Bases that make a class something other than a module.
_OTHER_BASES = frozenset(
    {
        "object", "dict", "int", "list", "str", "tuple", "ABC", "Enum", "IntEnum", "StrEnum", "Generic",
        "NamedTuple", "Protocol", "TypedDict", "Dataset", "IterableDataset", "Function",
    }
)  # fmt: skip


class Binding(NamedTuple):
    """One name that a file binds at its top level."""

    name: str
    what: What
    uses: frozenset[str]
    """Names that its body, bases, decorators and defaults mention; annotations aside."""
    bases: tuple[str, ...] = ()
    """Of a class: last parts of its bases' names."""
    returns: str = ""
    """Of a function: the last part of what its annotation says it returns; of an
    instance: of its annotation, or the name that is called to make it, with ``nn.``
    before one of torch's own."""


def outline_of(source: str | bytes) -> dict[str, Binding]:
    """
    The names that a file's own statements bind, in order. Imports don't count.

    Raises:
        SyntaxError: The source is not valid Python.
        ValueError: It holds null bytes.
    """
    found: dict[str, Binding] = {}
    for binding in _bindings(ast.parse(source).body):
        before = found.get(binding.name)
        uses = binding.uses | before.uses if before else binding.uses
        found[binding.name] = binding._replace(uses=uses)
    return found


def definitions_in(source: str | bytes) -> list[tuple[str, str]]:
    """
    What looks like a model definition: name, and ``class``, ``function`` or ``instance``.

    Args:
        source: Text of a Python file.

    Returns:
        Classes that may derive from a module, functions that say that they return
        one, and module instances. The syntax can't tell for sure.

    >>> definitions_in("class Net(nn.Module): ...")
    [('Net', 'class')]
    """
    bindings = outline_of(source)
    return [(name, binding.what) for name, binding in bindings.items() if _may_be_module(binding, bindings)]


def leading(candidates: Collection[str], bindings: Mapping[str, Binding]) -> list[str]:
    """
    Those of the candidates that no other candidate is built from.

    Args:
        candidates: Names of definitions.
        bindings: The outline of their file; helpers and constants between two
            definitions are followed.

    Returns:
        In the order of *candidates*. Of definitions that are built from each other
        none goes.
    """
    reached = {name: _reachable(name, bindings) for name in candidates}
    return [
        name
        for name in candidates
        if not any(name in reached[other] and other not in reached[name] for other in candidates)
    ]


def _reachable(name: str, bindings: Mapping[str, Binding]) -> set[str]:
    seen: set[str] = set()
    pending = [name]
    while pending:
        binding = bindings.get(pending.pop())
        if binding is not None:
            new = binding.uses - seen
            seen |= new
            pending.extend(new)
    return seen


def _bindings(statements: list[ast.stmt]) -> Iterator[Binding]:
    for statement in statements:
        if isinstance(statement, ast.ClassDef):
            bases = tuple(_last_part(base) for base in statement.bases)
            yield Binding(statement.name, "class", _uses(statement), bases)
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            returns = _last_part(statement.returns)
            yield Binding(statement.name, "function", _uses(statement), returns=returns)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            yield from _assigned(statement)
        elif isinstance(statement, ast.If) and _is_never_run(statement.test):
            yield from _bindings(statement.orelse)
        else:
            for block in ("body", "orelse", "finalbody"):
                yield from _bindings(getattr(statement, block, []))
            for handler in getattr(statement, "handlers", []):
                yield from _bindings(handler.body)


def _is_never_run(test: ast.expr) -> bool:
    """``if __name__ == "__main__"`` and ``if TYPE_CHECKING`` are not run on import."""
    return any(
        (isinstance(node, ast.Name) and node.id in ("__name__", "TYPE_CHECKING"))
        or (isinstance(node, ast.Attribute) and node.attr == "TYPE_CHECKING")
        for node in ast.walk(test)
    )


def _assigned(statement: ast.Assign | ast.AnnAssign | ast.AugAssign) -> Iterator[Binding]:
    if statement.value is None:
        return
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    maker = _maker(statement.value)
    if isinstance(statement, ast.AnnAssign):
        maker = _last_part(statement.annotation)
    uses = _uses(statement.value)
    for target in targets:
        for node in ast.walk(target):
            # For model.head = Head() the name is model, which is then built from Head.
            if isinstance(node, ast.Name):
                yield Binding(node.id, "instance", uses, returns=maker)


def _maker(value: ast.expr) -> str:
    """``Net`` for ``Net(1)`` and ``Net(1).to("cpu").eval()``, ``nn.Linear`` for ``torch.nn.Linear(1, 2)``."""
    while isinstance(value, ast.Call):
        made_by = value.func
        if not isinstance(made_by, ast.Attribute) or made_by.attr not in _RETURN_SELF:
            prefix = "nn." if isinstance(made_by, ast.Attribute) and _last_part(made_by.value) == "nn" else ""
            return prefix + _last_part(made_by)
        value = made_by.value
    return ""


_RETURN_SELF = frozenset({"eval", "train", "to", "cpu", "cuda", "half", "float", "double", "requires_grad_"})


def _uses(statement: ast.AST) -> frozenset[str]:
    """Names in its code. An annotation says what is accepted, not what it is built from."""
    names: set[str] = set()
    pending = [statement]
    while pending:
        current = pending.pop()
        if isinstance(current, ast.Name):
            names.add(current.id)
        for field, value in ast.iter_fields(current):
            if field not in ("annotation", "returns"):
                inner = value if isinstance(value, list) else [value]
                pending.extend(node for node in inner if isinstance(node, ast.AST))
    return frozenset(names)


def _last_part(node: ast.expr | None) -> str:
    """``Module`` for ``nn.Module``, ``"nn.Module"`` and ``Module[int]``; empty if it is no name."""
    if isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value.rpartition(".")[2]
    return ""


def _may_be_module(binding: Binding, bindings: Mapping[str, Binding], depth: int = 0) -> bool:
    if depth > len(bindings):  # classes that derive from each other
        return False
    if binding.what == "class":
        return any(_may_be_base(base, bindings, depth) for base in binding.bases)
    local = bindings.get(binding.returns)
    if local is not None and local is not binding and local.what != "instance":
        return _may_be_module(local, bindings, depth + 1)
    if binding.returns.startswith("nn."):
        name = binding.returns[len("nn.") :]
        return name[:1].isupper() and name not in _TENSORS
    return binding.returns.endswith("Module") or binding.returns in _CONTAINERS


_TENSORS = frozenset({"Parameter", "Buffer", "UninitializedParameter", "UninitializedBuffer"})
_CONTAINERS = frozenset({"Sequential", "ModuleList", "ModuleDict", "Transformer"})


def _may_be_base(base: str, bindings: Mapping[str, Binding], depth: int) -> bool:
    local = bindings.get(base)
    if local is not None and local.what == "class":
        return _may_be_module(local, bindings, depth + 1)
    return base != "" and base not in _OTHER_BASES and not base.endswith(("Error", "Exception", "Config"))
