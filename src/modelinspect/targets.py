"""
How a target is spelt: a checkpoint by its path, a definition by its own grammar.

Nothing is opened or imported here. A definition is the user's Python and will be
run, so a target is one only if it is spelt as one; whatever else exists as a file
is a checkpoint.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from modelinspect.errors import TargetError, visible

__all__ = [
    "LIBRARIES",
    "Call",
    "Target",
    "did_you_mean",
    "no_such_file",
    "parse_call",
    "parse_target",
    "scheme_names",
]

LIBRARIES = ("timm", "torchvision", "transformers")
"""Schemes that are there without an entry point."""
ENTRY_POINTS = "modelinspect.definitions"
"""Entry point group of further schemes: ``callable(name, *args, **kwargs) -> nn.Module``."""

_MOST_COMPARED = 10_000
_SPELLINGS = "a definition is spelt net.py:Net, package.module:factory or timm:resnet50"
# Texts, compiled by re when they are first used: the path of a file needs none of them.
_URL = r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
_SCHEME = r"[A-Za-z][A-Za-z0-9_+-]*"
_MODULE = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
# Parts after the first may be numbers: layers of a Sequential are attributes "0", "1" ...
_ATTRIBUTE = r"[^\W\d]\w*(?:\.\w+)*"


class Target(NamedTuple):
    """
    What one word on the command line names. Nothing of it has been opened.

    >>> parse_target("net.py:Net(1, hidden=13)").kwargs
    {'hidden': 13}
    """

    text: str
    """As the user spelt it."""
    kind: Literal["checkpoint", "definition"]
    path: str = ""
    """Of a checkpoint, and of a definition in a file; empty otherwise."""
    scheme: str = ""
    """Of a definition: ``file``, ``module`` or a registered scheme such as ``timm``."""
    module: str = ""
    """Of the scheme ``module``: its dotted name."""
    attribute: str = ""
    """Dotted name in the file or module, empty for the one definition in it; of a
    registered scheme, the name that its library knows."""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    called: bool = False
    """Parentheses were written, even empty ones."""


class Call(NamedTuple):
    """``Net(1, hidden=13)`` taken apart."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    called: bool


def parse_target(text: str) -> Target:
    """
    Tell what a target names, by its spelling and by which files exist.

    Args:
        text: As typed, e.g. ``weights.pt``, ``net.py:Net(1, hidden=13)``,
            ``package.module:factory``, ``timm:resnet50``.

    Returns:
        The target. A path that looks like a file's and does not exist is a
        checkpoint; opening it says that it isn't there.

    Raises:
        TargetError: It names neither a file nor a definition, its arguments are no
            literals, or it is read over the network.
    """
    if not text.strip():
        raise TargetError("the target is empty", details=(_SPELLINGS,))
    if text == "-":  # a file that is called so is ./-
        return Target(text, "checkpoint", path=text)
    if os.path.lexists(text):
        if text.endswith(".py") and not os.path.isdir(text):
            return Target(text, "definition", path=text, scheme="file")
        return Target(text, "checkpoint", path=text)
    url = re.match(_URL, text)
    if url is not None:
        raise _no_network(text, url["scheme"])
    return _in_file(text) or _by_name(text) or _missing_path(text)


def _no_network(text: str, scheme: str) -> TargetError:
    if scheme.lower() == "file":
        return TargetError(f"{visible(text)}: a local file is named by its path", hint=f"{visible(text[7:])}")
    return TargetError(
        f"this version does not read {scheme}:// targets, only local files",
        details=(f"target: {visible(text)}",),
        hint="download it first and name the file or folder",
    )


def _in_file(text: str) -> Target | None:
    """``path/to/net.py``, with or without ``:Net(...)``; paths may hold colons and parentheses."""
    ends = [match.end() - 1 for match in re.finditer(r"\.py:", text)]
    existing = [end for end in ends if os.path.isfile(text[:end])]
    head = text.partition(":")[0]
    if not existing and head in (*LIBRARIES, "py"):
        return None
    plain = [end for end in ends if "(" not in text[:end]]
    end = next(iter((*existing, *plain)), None)
    if end is not None:
        path, rest = text[:end], text[end + 1 :].strip()
        if not rest:
            raise TargetError(
                f"{visible(text)} names no definition after the colon",
                hint=f"{visible(path)} alone is the one definition in it",
            )
        call = _parse_call(rest, text, _ATTRIBUTE)
        return Target(text, "definition", path, "file", "", *call)
    if text.endswith(".py") and "(" not in text:
        return Target(text, "definition", path=text, scheme="file")
    return None


def _by_name(text: str) -> Target | None:
    """``scheme:name``, ``package.module:factory``, ``py:package.module:factory``."""
    head, colon, rest = text.partition(":")
    if not colon or (len(head) == 1 and rest[:1] in ("\\", "/")):  # C:\weights.pt
        return None
    if head == "py" and _is_module_spelling(rest):
        module, _, name = rest.partition(":")
        return _in_module(text, module, name)
    if re.fullmatch(_SCHEME, head) and rest.strip() and (head in LIBRARIES or head in _registered()):
        return Target(text, "definition", "", head, "", *_parse_library_call(rest.strip(), text))
    if os.path.isfile(head):
        raise TargetError(
            f"{visible(head)} is a checkpoint, and nothing can follow its name",
            details=(f"target: {visible(text)}",),
            hint="--section NAME picks a part of a checkpoint",
        )
    if not re.fullmatch(_MODULE, head) or not (rest == "" or re.match(_ATTRIBUTE, rest)):
        return None
    if not rest:
        raise TargetError(
            f"{visible(text)} names nothing after the colon", details=(_SPELLINGS,), hint=_nearby(head)
        )
    return _in_module(text, head, rest)


def _is_module_spelling(rest: str) -> bool:
    return re.fullmatch(_MODULE, rest.partition(":")[0]) is not None


def _in_module(text: str, module: str, rest: str) -> Target:
    call = _parse_call(rest.strip(), text, _ATTRIBUTE) if rest.strip() else Call("", (), {}, False)
    return Target(text, "definition", "", "module", module, *call)


def _missing_path(text: str) -> Target:
    """A path to nothing is a checkpoint that isn't there; anything else is a slip."""
    script, parenthesis, arguments = text.partition(".py(")
    if parenthesis and ":" not in text:
        raise TargetError(
            f"{visible(text)} gives arguments to a file",
            hint=f"name the definition in it: {visible(f'{script}.py:NAME({arguments}')}",
        )
    if ("/" in text or "\\" in text or "." in text) and not text.endswith(")"):
        return Target(text, "checkpoint", path=text)
    raise TargetError(
        f"{visible(text)} is neither a file nor a definition", details=(_SPELLINGS,), hint=_nearby(text)
    )


def scheme_names() -> tuple[str, ...]:
    """Every scheme: the built-in ones and those of installed entry points."""
    return (*LIBRARIES, *sorted(_registered() - set(LIBRARIES)))


def _registered() -> set[str]:
    from importlib.metadata import entry_points

    return {point.name for point in entry_points(group=ENTRY_POINTS)}


def _parse_library_call(rest: str, text: str) -> Call:
    """A library's own names are free: ``resnet50.a1_in1k``, a folder with parentheses."""
    if os.path.lexists(rest) or not rest.endswith(")"):
        return Call(rest, (), {}, False)
    return _parse_call(rest, text, r"[^()]+")


def parse_call(text: str, what: str) -> Call:
    """
    Take a call with literal arguments apart, e.g. ``sgd(momentum=0.9)``; a name alone is one, too.

    Args:
        text: As typed.
        what: Named in errors, e.g. a flag.

    Raises:
        TargetError: It is spelt otherwise, or an argument is no literal.

    >>> parse_call("sgd(momentum=0.9)", "--optimizer").kwargs
    {'momentum': 0.9}
    """
    return _parse_call(text.strip(), f"{what} {text}", _ATTRIBUTE)


def _parse_call(rest: str, text: str, names: str) -> Call:
    """
    Take ``Net(1, hidden=13)`` apart. Arguments are literals; nothing is evaluated.
    """
    name, parenthesis, arguments = rest.partition("(")
    name = name.strip()
    if not re.fullmatch(names, name):
        raise TargetError(
            f"{visible(text)}: {visible(name)!r} is no name of a definition", details=(_SPELLINGS,)
        )
    if not parenthesis:
        return Call(name, (), {}, False)
    args, kwargs = _literals("(" + arguments, text)
    return Call(name, args, kwargs, True)


def _literals(parenthesised: str, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import ast
    import warnings

    try:
        with warnings.catch_warnings():
            # A backslash of a Windows path in quotes makes Python warn; its value is right.
            warnings.simplefilter("ignore")
            call = ast.parse("f" + parenthesised, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        why = getattr(error, "msg", None) or str(error) or "they are nested too deeply"
        raise _bad_arguments(text, why) from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise _bad_arguments(text, "expected one pair of parentheses, and nothing after it")
    args = tuple(_literal(node, text) for node in call.args)
    kwargs: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise _bad_arguments(text, f"** has no names: {ast.unparse(keyword.value)}")
        if keyword.arg in kwargs:
            raise _bad_arguments(text, f"{keyword.arg} is given twice")
        kwargs[keyword.arg] = _literal(keyword.value, text)
    return args, kwargs


def _literal(node: Any, text: str) -> Any:
    import ast

    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise _bad_arguments(text, f"no literal: {ast.unparse(node)}") from error


def _bad_arguments(text: str, why: str) -> TargetError:
    return TargetError(
        f"the arguments of {visible(text)} can't be read",
        details=(
            visible(why),
            "expected literals: numbers, strings, True, False, None, tuples, lists, dicts, sets",
        ),
        hint="quote the whole target for the shell: 'net.py:Net(\"name\", depth=2)'",
    )


def no_such_file(path: str) -> TargetError:
    """
    The error for a path that leads nowhere, with near names from its folder.

    Args:
        path: As the user spelt it.
    """
    missing, folder = path, os.path.dirname(path.rstrip("/"))
    while folder and not os.path.isdir(folder):
        missing, folder = folder, os.path.dirname(folder)
    details: tuple[str, ...] = ()
    if missing != path:
        exists = os.path.lexists(missing)
        details = (
            f"{visible(missing)} is no folder" if exists else f"there is no folder {visible(missing)}",
        )
    return TargetError(f"{visible(path)}: no such file or directory", details=details, hint=_nearby(missing))


def _nearby(path: str) -> str | None:
    """Names in the path's folder that it could have meant."""
    folder, name = os.path.split(path.rstrip("/"))
    try:
        with os.scandir(folder or ".") as entries:
            names = [entry.name for _, entry in zip(range(_MOST_COMPARED), entries)]
    except OSError:
        return None
    return did_you_mean(name, names, prefix=os.path.join(folder, "") if folder else "")


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str | None:
    """
    A question that offers the nearest of the known names, or None.

    Args:
        name: What was asked for.
        known: What there is.
        prefix: Put before each name offered, e.g. a folder.

    >>> did_you_mean("Nett", ["Net", "train"])
    'did you mean Net?'
    """
    from difflib import SequenceMatcher, get_close_matches

    lowered: dict[str, str] = {}
    for candidate in known:
        lowered.setdefault(candidate.lower(), candidate)
    wanted = name.lower()

    def distance(candidate: str) -> tuple[float, str]:
        return -SequenceMatcher(None, candidate, wanted).ratio(), candidate

    near = sorted(candidate for candidate in lowered if candidate.startswith(wanted + "."))
    near += sorted(get_close_matches(wanted, lowered, n=9, cutoff=0.7), key=distance)
    offered = [visible(prefix + lowered[candidate]) for candidate in dict.fromkeys(near)][:3]
    if not offered:
        return None
    *others, last = offered
    return f"did you mean {', '.join(others)} or {last}?" if others else f"did you mean {last}?"
