"""
Import what a target names and find the object in it. Here a user's file is run.

Each load starts afresh: what the last one imported from its folder is forgotten,
so that of ``a/net.py`` and ``b/net.py`` each meets its own ``blocks.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, NamedTuple, NoReturn

from modelinspect.errors import DefinitionError, TargetError, UsageError, visible
from modelinspect.live.candidates import one_definition, public_definitions
from modelinspect.live.user_errors import raised, said
from modelinspect.targets import Target, did_you_mean, no_such_file, parse_target, scheme_names

__all__ = ["Found", "locate", "user_object", "visiting"]

_MOST_LISTED = 12


class Found(NamedTuple):
    """What a target names, before it is built."""

    object: Any
    spelling: str
    """Ready to type, without arguments: ``net.py:Net``."""
    home: str | None
    """The file it was looked for in."""


def locate(target: Target) -> Found:
    """
    The object that a target of the schemes ``file`` and ``module`` names.

    Args:
        target: As parsed; :func:`visiting` its folder is the caller's part.

    Raises:
        TargetError: There is no such file.
        DefinitionError: It can't be imported, lacks that name, or holds no one
            definition.
    """
    if target.scheme == "file":
        module, spelt = _import_file(target), target.path
    else:
        module = _import_module(target)
        spelt = f"py:{target.module}" if target.text.startswith("py:") else target.module
    home = getattr(module, "__file__", None)
    name = target.attribute or _the_one(module, spelt)
    return Found(_resolve(module, name, spelt, home), f"{spelt}:{name}", home)


def user_object(text: str, flag: str) -> Any:
    """
    What a flag names in a user's file or module, e.g. ``--loss train.py:my_loss``.

    Args:
        text: ``file.py:NAME`` or ``package.module:NAME``.
        flag: Named in errors.

    Raises:
        UsageError: It is spelt otherwise.
        TargetError: There is no such file.
        DefinitionError: It can't be imported, or lacks that name.
    """
    target = parse_target(text)
    if target.kind != "definition" or not target.attribute or target.called:
        raise UsageError(f"{flag} {visible(text)} names nothing in a file", hint="spelt file.py:NAME")
    folder = os.path.dirname(os.path.abspath(target.path)) if target.path else os.getcwd()
    with visiting(folder):
        return locate(target).object


class _Visit:
    """What the last load left behind."""

    path: str | None = None
    """The entry that it appended to ``sys.path``."""
    modules: tuple[str, ...] = ()
    """The modules that came from that folder."""


_last_visit = _Visit()


@contextmanager
def visiting(folder: str | None) -> Iterator[None]:
    """
    Append a folder to ``sys.path``. It stays there until the next visit, because a
    definition may import more when it is run.

    Args:
        folder: Absolute; None for what is installed.
    """
    _forget_last_visit()
    added = None if folder is None or folder in sys.path else folder
    if added is not None:
        sys.path.append(added)
    importlib.invalidate_caches()
    before = set(sys.modules)
    try:
        yield
    finally:
        _last_visit.path = added
        _last_visit.modules = tuple(name for name in sys.modules.keys() - before if _comes_from(folder, name))


def _forget_last_visit() -> None:
    if _last_visit.path is not None:
        with suppress(ValueError):
            sys.path.remove(_last_visit.path)
    for name in _last_visit.modules:
        sys.modules.pop(name, None)
    _last_visit.path, _last_visit.modules = None, ()


def _comes_from(folder: str | None, name: str) -> bool:
    """Whether the module's outermost package lies in that very folder."""
    outermost = sys.modules.get(name.partition(".")[0])
    places = [*(getattr(outermost, "__path__", None) or ())] or [getattr(outermost, "__file__", None) or ""]
    return any(os.path.dirname(os.path.abspath(place)) == folder for place in places if place)


class _SourceLoader(SourceFileLoader):
    """Always compiles: a stale ``.pyc`` must not answer for an edited definition."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _import_file(target: Target) -> ModuleType:
    shown = visible(target.path)
    if not os.path.lexists(target.path):
        raise no_such_file(target.path)
    if not os.path.isfile(target.path):
        raise TargetError(f"{shown} is no regular file")
    path = os.path.abspath(target.path)
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path, loader=_SourceLoader(name, path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        if isinstance(error, KeyboardInterrupt):
            raise
        if isinstance(error, PermissionError) and error.filename == path:
            raise TargetError(f"{shown} cannot be opened: {error.strerror}") from error
        raise _import_failure(f"{shown} cannot be imported", error, path) from error
    return module


def _module_name(path: str) -> str:
    """
    The file's stem, unless another module has that name: a ``json.py`` is not ``json``.

    The file of a package, ``__init__.py``, has the name of its folder.
    """
    folder, file = os.path.split(path)
    stem = (os.path.basename(folder) if file == "__init__.py" else file[: -len(".py")]).replace(".", "_")
    if stem in sys.modules:
        return f"_definition_{stem}"
    try:
        spec = importlib.util.find_spec(stem)
    except (ImportError, ValueError):
        spec = None
    if spec is not None and (spec.origin is None or os.path.abspath(spec.origin) != path):
        return f"_definition_{stem}"
    return stem


def _import_module(target: Target) -> ModuleType:
    shown = visible(target.text)
    try:
        return importlib.import_module(target.module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{target.module}.".startswith(f"{error.name}."):
            raise _no_such_module(target, error.name) from error
        raise raised(f"{shown} cannot be imported", error) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise raised(f"{shown} cannot be imported", error) from error


def _no_such_module(target: Target, missing: str) -> DefinitionError:
    parent, _, leaf = missing.rpartition(".")
    places = getattr(sys.modules.get(parent), "__path__", []) if parent else [os.getcwd()]
    known = [found.name for found in pkgutil.iter_modules(places)]
    schemes: tuple[str, ...] = () if parent else scheme_names()
    file = target.module.replace(".", "/") + ".py"
    others = [name for name in (*known, *schemes) if name != leaf]
    hint = did_you_mean(leaf, others, prefix=f"{parent}." if parent else "")
    if missing in schemes:  # py:timm:resnet50
        hint = f"is it installed in this environment? for example: pip install {visible(missing)}"
    if os.path.isfile(file):
        hint = f"did you mean {visible(file)}:{target.attribute}?"
    where = f"in the package {visible(parent)}" if parent else "in this environment or the current folder"
    return DefinitionError(
        f"{visible(target.text)}: there is no module {visible(missing)!r}",
        details=(f"looked for it {where}",),
        hint=hint,
    )


def _import_failure(message: str, error: BaseException, path: str) -> DefinitionError:
    failure = raised(message, error, path)
    if isinstance(error, ImportError) and "relative import" in said(error):
        return DefinitionError(message, details=failure.details, hint=_package_hint(path))
    return failure


def _package_hint(path: str) -> str:
    """How to name a file that is part of a package."""
    folder, dotted = os.path.dirname(path), os.path.basename(path)[: -len(".py")]
    if dotted == "__init__":  # the file of the package itself
        folder, dotted = os.path.split(folder)
        if not os.path.isfile(os.path.join(folder, "__init__.py")):
            return _named_from(folder, dotted)
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        dotted = f"{package}.{dotted}"
    if "." not in dotted:
        folder, package = os.path.split(folder)
        dotted = f"{package}.{dotted}"
    return _named_from(folder, dotted)


def _named_from(folder: str, dotted: str) -> str:
    step = "" if folder == os.getcwd() else f" after cd {shlex.quote(visible(folder))}"
    return f"it is part of a package: name it {visible(dotted)}:NAME{step}"


def _the_one(module: ModuleType, spelt: str) -> str:
    """The one definition of a file. Several or none: an error that lists what there is."""
    names, unsure = one_definition(module)
    if len(names) == 1:
        return names[0]
    if names:
        raise DefinitionError(
            f"{visible(spelt)} holds {len(names)} definitions, and none is built from the others",
            details=_typed(spelt, names),
            hint="name one of them",
        )
    if unsure:
        raise DefinitionError(
            f"{visible(spelt)} holds nothing that is known to be a model",
            details=('functions that don\'t say "-> nn.Module":', *_typed(spelt, unsure)),
            hint="name the one that returns the model",
        )
    raise DefinitionError(
        f"{visible(spelt)} holds no model",
        details=("expected a subclass of nn.Module, an instance, or a function that returns one",),
    )


def _typed(spelt: str, names: list[str]) -> tuple[str, ...]:
    listed = tuple(visible(shlex.quote(f"{spelt}:{name}")) for name in names[:_MOST_LISTED])
    return listed if len(names) <= _MOST_LISTED else (*listed, f"… {len(names) - _MOST_LISTED} more")


def _resolve(module: ModuleType, dotted: str, spelt: str, home: str | None) -> Any:
    found: Any = module
    path = ""
    for part in dotted.split("."):
        try:
            found = _attribute(found, part)
        except AttributeError as error:
            if not path:
                _no_such_definition(module, part, spelt, error)
            known = [name for name in dir(found) if not name.startswith("_")]
            raise DefinitionError(
                f"{visible(spelt)}:{path} has no attribute {part!r}",
                hint=did_you_mean(part, known, prefix=f"{spelt}:{path}."),
            ) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise raised(f"{visible(spelt)}:{visible(dotted)} cannot be looked up", error, home) from error
        path = f"{path}.{part}" if path else part
    return found


def _attribute(holder: Any, name: str) -> Any:
    try:
        return getattr(holder, name)
    except AttributeError:
        # package:module.Net, where the module was not imported yet.
        submodule = f"{getattr(holder, '__name__', '')}.{name}"
        if not isinstance(holder, ModuleType) or not hasattr(holder, "__path__"):
            raise
        if importlib.util.find_spec(submodule) is None:
            raise
        return importlib.import_module(submodule)


def _no_such_definition(module: ModuleType, name: str, spelt: str, error: AttributeError) -> NoReturn:
    known = public_definitions(module)
    others = [other for other in vars(module) if not other.startswith("_")]
    details = ("it holds:", *_typed(spelt, known)) if known else ()
    raise DefinitionError(
        f"{visible(spelt)} has no definition {name!r}",
        details=details,
        hint=did_you_mean(name, dict.fromkeys([*known, *others]), prefix=f"{spelt}:"),
    ) from error
