"""
Definitions by a library's own registry: from its configuration, without weights.

``timm:``, ``torchvision:`` and ``transformers:`` are built in. A package adds one by
an entry point in the group ``modelinspect.definitions``: a callable that takes the
name after the colon and the arguments, and returns an ``nn.Module``.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from modelinspect.errors import DefinitionError, MissingDependencyError, TargetError, visible
from modelinspect.live.locate import Found
from modelinspect.live.user_errors import raised, said
from modelinspect.targets import ENTRY_POINTS, Target, did_you_mean, no_such_file

__all__ = ["from_library"]

Factory = Callable[..., Any]


def from_library(target: Target) -> tuple[Found, tuple[str, ...]]:
    """
    What a registered scheme makes of a name: something to call with the target's arguments.

    Returns:
        The factory, and notes on how it was chosen.

    Raises:
        MissingDependencyError: The library is not installed.
        DefinitionError: It is broken, or does not know the name.
        TargetError: ``transformers:`` is given no configuration on disk.
    """
    factory, notes = _SCHEMES.get(target.scheme, _entry_point)(target)
    return Found(factory, f"{target.scheme}:{target.attribute}", None), notes


def _timm(target: Target) -> tuple[Factory, tuple[str, ...]]:
    timm = _library("timm", target)
    _refuse_weights(target, "pretrained", "checkpoint_path")
    if not timm.is_model(target.attribute):
        raise _unknown_name(target, timm.list_models())
    return partial(timm.create_model, target.attribute, pretrained=False), ()


def _torchvision(target: Target) -> tuple[Factory, tuple[str, ...]]:
    _library("torchvision", target)
    models = _library("torchvision.models", target)
    _refuse_weights(target, "weights", "weights_backbone", "pretrained", "pretrained_backbone")
    if target.attribute not in (known := models.list_models()):
        raise _unknown_name(target, known)
    builder = models.get_model_builder(target.attribute)
    # Segmentation and detection load a pretrained backbone unless told not to.
    parameters = inspect.signature(builder).parameters
    without = {name: None for name in ("weights", "weights_backbone") if name in parameters}
    return partial(builder, **without), ()


def _transformers(target: Target) -> tuple[Factory, tuple[str, ...]]:
    path = target.attribute
    if not os.path.lexists(path):
        missing = no_such_file(path)
        raise TargetError(
            f"{visible(target.text)}: there is no folder or config.json {visible(path)}",
            details=("this version reads a configuration from the disk, never from a hub", *missing.details),
            hint=missing.hint,
        )
    if target.args:
        raise DefinitionError(f"{visible(target.text)}: a configuration takes its values by name only")
    transformers = _library("transformers", target)
    try:
        config = transformers.AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, **target.kwargs
        )
    except Exception as error:
        if "trust_remote_code" in said(error):
            raise DefinitionError(
                f"{visible(target.text)} needs code of its own (auto_map), which is never run",
                hint="if you trust it, build the model in a function of a file of yours, and name that",
            ) from error
        raise raised(f"{visible(target.text)}: transformers can't read the configuration", error) from error
    factory, notes = _architecture(transformers, config)
    return _without_arguments(factory, target.kwargs), (*notes, *_ignored(config))


def _architecture(transformers: ModuleType, config: Any) -> tuple[Factory, tuple[str, ...]]:
    """``architectures[0]`` where transformers has it, else AutoModel; which one is noted."""
    named = [name for name in (getattr(config, "architectures", None) or ()) if isinstance(name, str)]
    cls = getattr(transformers, named[0], None) if named else None
    if isinstance(cls, type) and hasattr(cls, "_from_config"):
        return partial(cls._from_config, config), (f"built {cls.__name__}, the configuration's architecture",)
    reason = f"transformers has no {visible(named[0])}" if named else "the configuration names none"
    factory = partial(transformers.AutoModel.from_config, config, trust_remote_code=False)
    return factory, (f"built by AutoModel, without a head: {reason}",)


def _ignored(config: Any) -> tuple[str, ...]:
    notes = []
    if getattr(config, "auto_map", None):
        notes.append("the configuration's auto_map names code in its folder; it was not run")
    if getattr(config, "quantization_config", None):
        notes.append("the configuration's quantization was not applied; data types are those before it")
    return tuple(notes)


def _without_arguments(factory: Factory, used: Mapping[str, Any]) -> Factory:
    """The configuration has taken the arguments; the class must not get them again."""

    def build(**arguments: Any) -> Any:
        return factory(**{name: value for name, value in arguments.items() if name not in used})

    return build


def _entry_point(target: Target) -> tuple[Factory, tuple[str, ...]]:
    point = next(iter(entry_points(group=ENTRY_POINTS, name=target.scheme)), None)
    if point is None:
        raise TargetError(f"{visible(target.text)}: there is no scheme {visible(target.scheme)!r}")
    try:
        factory = point.load()
    except Exception as error:
        raise raised(
            f"the scheme {visible(target.scheme)}: can't be loaded from {point.value}", error
        ) from error
    if not callable(factory):
        raise DefinitionError(f"the scheme {visible(target.scheme)}: {point.value} can't be called")
    return partial(factory, target.attribute), ()


_SCHEMES: dict[str, Callable[[Target], tuple[Factory, tuple[str, ...]]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
}


def _library(name: str, target: Target) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise MissingDependencyError(
                f"{visible(target.text)} needs {name}, which is not installed",
                hint=f"pip install {name}; a module of that name is py:{visible(target.text)}",
            ) from error
        raise _broken(name, target, error) from error
    except Exception as error:
        raise _broken(name, target, error) from error


def _broken(name: str, target: Target, error: Exception) -> MissingDependencyError:
    first = said(error).strip().splitlines()[:1]
    return MissingDependencyError(
        f"{visible(target.text)} needs {name}, which is installed and can't be imported",
        details=(visible(": ".join([type(error).__name__, *first])),),
        hint=f"does it fit the installed torch? python -c 'import {name}'",
    )


def _refuse_weights(target: Target, *names: str) -> None:
    for name in names:
        if target.kwargs.get(name):
            raise DefinitionError(
                f"{visible(target.text)} asks for weights ({name}), which a definition never loads",
                hint="leave it out; name a checkpoint to inspect its weights",
            )


def _unknown_name(target: Target, known: Iterable[str]) -> DefinitionError:
    return DefinitionError(
        f"{target.scheme} has no model {visible(target.attribute)!r}",
        hint=did_you_mean(target.attribute, known, prefix=f"{target.scheme}:"),
    )
