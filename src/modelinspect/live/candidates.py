"""
Which names of an imported file are model definitions, and which one is the file's own.
"""

from __future__ import annotations

import inspect
import typing
from contextlib import suppress
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from modelinspect.outline import Binding, leading, outline_of

__all__ = ["one_definition", "public_definitions", "returns_module"]


def public_definitions(module: ModuleType) -> list[str]:
    """Names of the classes, instances and annotated factories that the file itself makes."""
    bindings = _outline(module)
    names = [name for name in bindings if _is_definition(module, name)]
    return [name for name in names if not name.startswith("_")] or names


def one_definition(module: ModuleType) -> tuple[list[str], list[str]]:
    """
    The definition that a file stands for.

    Args:
        module: The file, imported.

    Returns:
        Names of the definitions that no other definition in the file is built from,
        one where all is well; and the functions that might return a module but
        don't say so.
    """
    bindings = _outline(module)
    listed = getattr(module, "__all__", None)
    if isinstance(listed, (list, tuple)):
        exported = [name for name in listed if isinstance(name, str) and name in vars(module)]
        named = [name for name in exported if _is_module_maker(vars(module)[name])]
        if len(exported) == 1 and callable(vars(module)[exported[0]]):
            named = exported
        if named:
            return leading(named, bindings), []
    names = [name for name in bindings if _is_definition(module, name)]
    names = [name for name in names if not _wants_a_module(vars(module)[name])] or names
    names = [name for name in names if not name.startswith("_")] or names
    return leading(names, bindings), _unsure(module, bindings)


def returns_module(function: Any) -> bool:
    """Whether a function's annotation says that it returns an ``nn.Module`` or a subclass."""
    return _is_module_class(_resolved(function, getattr(function, "__annotations__", {}).get("return")))


def _outline(module: ModuleType) -> dict[str, Binding]:
    source = _source(module)
    if source is None:  # compiled, or made on the fly
        return {name: Binding(name, "instance", frozenset()) for name in vars(module)}
    return outline_of(source)


def _source(module: ModuleType) -> str | bytes | None:
    loader: Any = getattr(module, "__loader__", None)
    try:
        if hasattr(loader, "get_source"):
            source: str | None = loader.get_source(module.__name__)
            return source
    except ImportError:
        pass
    except (SyntaxError, UnicodeDecodeError):
        # A comment may hold bytes that don't decode: Python's parser minds them only elsewhere.
        with suppress(OSError, AttributeError):
            return Path(str(module.__file__)).read_bytes()
    return None


def _is_definition(module: ModuleType, name: str) -> bool:
    if name not in vars(module):
        return False
    value = vars(module)[name]
    if isinstance(value, nn.Module):
        return True
    if not _is_module_maker(value) or getattr(value, "__module__", None) != module.__name__:
        return False
    # Model = Net is a second name, not a second definition.
    own_name = getattr(value, "__name__", name)
    return own_name == name or vars(module).get(own_name) is not value


def _is_module_maker(value: Any) -> bool:
    if _is_module_class(value):
        return not inspect.isabstract(value)
    return isinstance(value, nn.Module) or (inspect.isroutine(value) and returns_module(value))


def _is_module_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _unsure(module: ModuleType, bindings: dict[str, Binding]) -> list[str]:
    return [
        name
        for name in bindings
        if not name.startswith("_")
        and inspect.isfunction(vars(module).get(name))
        and "return" not in getattr(vars(module)[name], "__annotations__", {})
    ]


def _wants_a_module(value: Any) -> bool:
    """A function that takes a model and returns it can't be called with literals."""
    if not inspect.isroutine(value):
        return False
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return False
    required = (p.annotation for p in parameters if p.default is p.empty and p.annotation is not p.empty)
    return any(_is_module_class(_resolved(value, annotation)) for annotation in required)


def _resolved(function: Any, annotation: Any) -> Any:
    """An annotation as an object; None where its names are not there at run time."""
    holder = FunctionType(_nothing.__code__, {})
    holder.__annotations__ = {"return": annotation}
    try:
        return typing.get_type_hints(holder, globalns=getattr(function, "__globals__", {})).get("return")
    except Exception:  # noqa: BLE001  an annotation is an expression: it may raise anything
        return None


def _nothing() -> None:
    """Lends its code to a function that holds one annotation."""
