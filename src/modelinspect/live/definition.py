"""
Model definitions: a user's class, factory or instance, as a module and its table.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from torch import nn

from modelinspect.display import Displayed
from modelinspect.errors import DefinitionError, ModelInspectError, visible
from modelinspect.live.build import Built, build
from modelinspect.live.locate import locate, visiting
from modelinspect.live.module_table import module_table
from modelinspect.live.schemes import from_library
from modelinspect.live.surroundings import undisturbed
from modelinspect.live.user_errors import raised, where_raised
from modelinspect.targets import Target, parse_target
from modelinspect.tensors import ParameterTable

__all__ = ["Definition", "load_definition"]


@dataclass(frozen=True, eq=False)
class Definition(Displayed):
    """
    A model definition, built.
    """

    target: str
    """As the user spelt it."""
    module: nn.Module
    """On the meta device where its constructor allows that, unless asked otherwise."""
    table: ParameterTable
    """Its parameters and buffers; the notes stand in it, too."""
    notes: tuple[str, ...] = ()
    """What should be said about how it was built and what was found."""
    home: str | None = None
    """The file it was found in, absolute; None for what a library made."""


def load_definition(target: Target | str, *, meta: bool = True, seed: int | None = None) -> Definition:
    """
    Import and build what a target names. This runs the user's Python.

    The process stays as it was: random generators, torch's defaults, the current
    folder and ``sys.argv`` are restored, and what the code prints goes to stderr.
    Only ``sys.path`` keeps the definition's folder at its end, until the next load.

    Args:
        target: A definition, e.g. ``net.py:Net(1, hidden=13)``.
        meta: Build on the meta device, where nothing is allocated. A constructor
            that can't do without values is run for real, and a note says so.
        seed: Of all generators, from before the import on; None leaves them.

    Raises:
        TargetError: The target is badly spelt, or its file does not exist.
        DefinitionError: It can't be imported, found or built, or is no module.
        MissingDependencyError: Its scheme's library is not installed.
    """
    parsed = parse_target(target) if isinstance(target, str) else target
    if parsed.kind != "definition":
        raise DefinitionError(
            f"{visible(parsed.text)} names a checkpoint, not a definition",
            hint="a definition is spelt net.py:Net, package.module:factory or timm:resnet50",
        )
    with undisturbed(seed, program=parsed.path or parsed.text), visiting(_folder(parsed)):
        try:
            built, table, home = _build(parsed, meta)
        except (ModelInspectError, KeyboardInterrupt):
            raise
        except BaseException as error:
            # Looking at a user's objects runs their code in places that nobody expects.
            if where_raised(error) is None:
                raise
            raise raised(f"{visible(parsed.text)} cannot be used", error) from error
    notes = (*built.notes, *table.notes)
    return Definition(parsed.text, built.module, replace(table, notes=notes), notes, home)


def _build(target: Target, meta: bool) -> tuple[Built, ParameterTable, str | None]:
    notes: tuple[str, ...] = ()
    if target.scheme in ("file", "module"):
        found = locate(target)
    else:
        found, notes = from_library(target)
    built = build(found, target, meta=meta)
    table = module_table(built.module, target.text)
    return built._replace(notes=(*notes, *built.notes)), table, found.home


def _folder(target: Target) -> str | None:
    """What is appended to ``sys.path``: the file's or package's folder, the current one for a module."""
    if target.scheme == "file":
        folder, file = os.path.split(os.path.abspath(target.path))
        return os.path.dirname(folder) if file == "__init__.py" else folder
    return os.getcwd() if target.scheme == "module" else None
