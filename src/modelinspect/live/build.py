"""
Turn what a target names into a module: call a class or factory, on the meta device
where that works.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from modelinspect.errors import DefinitionError, visible
from modelinspect.live.locate import Found
from modelinspect.live.user_errors import raised, said, where_raised
from modelinspect.targets import Target, did_you_mean

__all__ = ["Built", "build"]

_LONGEST_SIGNATURE = 400
_LITERALS = {"int": 8, "float": 0.5, "bool": True, "str": "name", "list": [8, 8], "tuple": (8, 8), "dict": {}}


class Built(NamedTuple):
    """A module, and what should be said about how it was made."""

    module: nn.Module
    notes: tuple[str, ...]


def build(found: Found, target: Target, *, meta: bool) -> Built:
    """
    The module that a found object is or makes.

    Args:
        found: A module, a class of modules, or a callable that returns a module.
        target: Its arguments are passed on.
        meta: Build without allocating where the constructor allows it.

    Raises:
        DefinitionError: It is nothing of that kind, its arguments don't fit, or the
            user's code raised.
    """
    thing, text = found.object, visible(target.text)
    if isinstance(thing, nn.Module):
        if target.called:
            raise DefinitionError(
                f"{text}: {visible(found.spelling)} is an instance already and takes no arguments",
                hint=f"name it alone: {_quoted(found.spelling)}",
            )
        return Built(thing, ())
    if isinstance(thing, type) and not issubclass(thing, nn.Module):
        bases = ", ".join(base.__name__ for base in thing.__bases__)
        raise DefinitionError(f"{text} is a class that derives from {visible(bases)}, not from nn.Module")
    if not callable(thing):
        _refuse(thing, text)
    if inspect.isabstract(thing):
        missing = ", ".join(sorted(thing.__abstractmethods__))
        raise DefinitionError(
            f"{text} is an abstract class", details=(f"without a body: {visible(missing)}",),
            hint="name a class that derives from it",
        )  # fmt: skip
    _check_arguments(thing, found, target)
    return _call(thing, found, target, meta)


def _refuse(thing: Any, text: str) -> NoReturn:
    what = type(thing).__name__
    if isinstance(thing, Tensor) or (
        isinstance(thing, Mapping) and any(isinstance(value, Tensor) for value in thing.values())
    ):
        kind = "a tensor" if isinstance(thing, Tensor) else f"a {what} of tensors"
        raise DefinitionError(
            f"{text} is {kind}, not an nn.Module",
            hint="torch.save it and name the file; in Python, modelinspect.count() takes a dict of tensors",
        )
    kind = f"the Python module {thing.__name__}" if inspect.ismodule(thing) else _with_article(what)
    raise DefinitionError(
        f"{text} is {visible(kind)}, not an nn.Module",
        details=("expected a subclass of nn.Module, an instance, or a function that returns one",),
        hint=f"name what is in it: {visible(thing.__name__)}:NAME" if inspect.ismodule(thing) else None,
    )


def _with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in tuple('aeiou') else 'a'} {noun}"


def _check_arguments(thing: Callable[..., Any], found: Found, target: Target) -> None:
    """Arguments that don't fit are said before anything is called, with the signature."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):  # written in C
        return
    try:
        signature.bind(*target.args, **target.kwargs)
    except TypeError as error:
        shown = _shown_signature(found, signature)
        missing = _required(signature, target)
        if missing and not target.args and not target.kwargs:
            message = f"{visible(found.spelling)} needs arguments: {', '.join(p.name for p in missing)}"
        else:
            message = f"the arguments of {visible(target.text)} don't fit: {error}"
        unknown = [name for name in target.kwargs if name not in signature.parameters]
        guess = did_you_mean(unknown[0], signature.parameters) if unknown else None
        hint = guess or _example(found, target, missing)
        raise DefinitionError(message, details=(f"signature: {visible(shown)}",), hint=hint) from error


def _required(signature: inspect.Signature, target: Target) -> list[inspect.Parameter]:
    """Parameters without a default that the target leaves out."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [p for p in signature.parameters.values() if p.kind not in variable]
    return [p for p in named[len(target.args) :] if p.default is p.empty and p.name not in target.kwargs]


class _Bare(str):
    """A text that stands in a signature as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _shown_signature(found: Found, signature: inspect.Signature) -> str:
    parameters = [
        p.replace(
            annotation=p.empty if p.annotation is p.empty else _Bare(_shown_annotation(p.annotation)),
            default=p.empty if p.default is p.empty else _Bare(said(p.default, repr) or "…"),
        )
        for p in signature.parameters.values()
    ]
    bare = signature.replace(parameters=parameters, return_annotation=signature.empty)
    text = f"{_name(found)}{bare}"
    return text if len(text) <= _LONGEST_SIGNATURE else text[:_LONGEST_SIGNATURE] + " …"


def _shown_annotation(annotation: Any) -> str:
    if isinstance(annotation, str):  # under from __future__ import annotations
        return annotation
    return said(annotation, inspect.formatannotation) or "…"


def _name(found: Found) -> str:
    return found.spelling.rpartition(":")[2]


def _example(found: Found, target: Target, missing: list[inspect.Parameter]) -> str | None:
    """A line to type, with a value for each parameter that has none."""
    if not missing:
        return None
    foreign = [p for p in missing if not _is_literal(p.annotation)]
    if foreign:
        name = visible(foreign[0].name)
        return f"{name} is no literal: add a function to the file that returns the module, and name that"
    arguments = [_shown_literal(value) for value in target.args]
    arguments += [f"{name}={_shown_literal(value)}" for name, value in target.kwargs.items()]
    for parameter in missing:
        value = _shown_literal(_LITERALS.get(_type_name(parameter.annotation), 8))
        positional = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
        arguments.append(value if positional else f"{parameter.name}={value}")
    return "for example: " + _quoted(f"{found.spelling}({', '.join(arguments)})")


def _type_name(annotation: Any) -> str:
    """``int`` for ``int``, ``"int"`` and ``int | None``; ``list`` for ``Sequence[int]``."""
    first = _shown_annotation(annotation).split("[")[0].split("|")[0].strip().rpartition(".")[2]
    return {"Sequence": "list", "Iterable": "list", "Mapping": "dict"}.get(first, first)


def _is_literal(annotation: Any) -> bool:
    if annotation is inspect.Parameter.empty:
        return True
    return _type_name(annotation) in {*_LITERALS, "Any", "Optional", "Union", "Literal", "None", "object"}


def _shown_literal(value: Any) -> str:
    # Double quotes, so that the whole can stand in single ones.
    return f'"{value}"' if isinstance(value, str) and '"' not in value and "\\" not in value else repr(value)


def _quoted(spelling: str) -> str:
    return visible(shlex.quote(spelling))


class _NothingToFill(TorchFunctionMode):
    """
    Skip ``normal_`` on the meta device, where there are no values to draw.

    Torch 2.13 runs it there in Python and imports its compiler for that: a second
    and 70 MiB for any model with an embedding. What it can say about the arguments
    of other initialisations stays.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        arguments = kwargs or {}
        if func in _NORMAL:
            tensor = args[0] if args else arguments.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **arguments)


_NORMAL = (Tensor.normal_, nn.init.normal_)


def _call(thing: Callable[..., Any], found: Found, target: Target, meta: bool) -> Built:
    text = visible(target.text)
    notes: tuple[str, ...] = ()
    if meta:
        try:
            with torch.device("meta"), _NothingToFill():
                return Built(_checked(thing(*target.args, **target.kwargs), text), ())
        except (DefinitionError, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001  built for real, a bug shows itself again
            notes = (_why_real(text, error, found.home),)
    try:
        return Built(_checked(thing(*target.args, **target.kwargs), text), notes)
    except (DefinitionError, KeyboardInterrupt):
        raise
    except BaseException as error:
        failure = raised(f"{text} cannot be built", error, found.home)
        if isinstance(error, MemoryError) or "allocate memory" in said(error):
            failure.details += notes
        raise failure from error


def _why_real(text: str, error: BaseException, home: str | None) -> str:
    place = where_raised(error, home)
    at = "" if place is None else f" at {place}"
    first = said(error).strip().splitlines()[:1]
    reason = ": ".join([type(error).__name__, *first])
    return f"{text} was built for real, with memory for its values: on the meta device it raised {reason}{at}"


def _checked(module: Any, text: str) -> nn.Module:
    if isinstance(module, nn.Module):
        if "_modules" not in vars(module):
            raise DefinitionError(
                f"{text} is not initialised", hint="its __init__ must call super().__init__()"
            )
        return module
    what = "nothing" if module is None else _with_article(type(module).__name__)
    hint = None
    if inspect.iscoroutine(module):
        module.close()  # else Python warns that it was never awaited
        hint = "name a function that is no async def"
    if isinstance(module, (tuple, list)) and any(isinstance(part, nn.Module) for part in module):
        hint = "add a function to the file that returns the module alone, and name that"
    elif isinstance(module, type) and issubclass(module, nn.Module):
        what, hint = f"the class {module.__name__}", "return an instance of it"
    raise DefinitionError(f"{text} returned {visible(what)}, not an nn.Module", hint=hint)
