"""
What an optimizer's state_dict says beside its tensors: groups, settings, steps.

``Optimizer.state_dict()`` is ``{"state": {key: {"step": ..., "exp_avg": ...}},
"param_groups": [{"params": [key, ...], "lr": ..., "param_names": [...]}, ...]}``, where
keys are numbers that run through all groups, or names where ``torch.distributed``
gathered it (torch 2.13, ``torch/optim/optimizer.py``). Files of torch before 1.0 have the
addresses of the parameters for keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelinspect.readers.parts.pickle_entries import is_mapping, mapping
from modelinspect.readers.parts.pickle_symbols import PickledDict
from modelinspect.tensors import OptimizerGroup, OptimizerState, Setting

__all__ = ["OptimizerReader"]

FREE_ENTRIES = 100_000
"""Entries to look at in any checkpoint; and one more for every byte of its pickle."""
ENTRIES_OF_A_GROUP = 16
"""What a group counts beside its entries: it takes memory even if it is empty."""
MAX_SETTINGS = 64
"""Of a group; torch's optimizers have up to twenty."""
MAX_SETTING = 80
"""Characters of the name and of the text of a setting."""
MAX_NUMBERS = 8
"""Of a setting that is several, such as ``betas``."""

_NOT_SETTINGS = frozenset({"params", "param_names"})


class OptimizerReader:
    """
    Reads the optimizers of one pickle, which share a budget: one object may be named at will.

    Args:
        nbytes: Of the pickle.
    """

    def __init__(self, nbytes: int) -> None:
        self._most = self._left = FREE_ENTRIES + nbytes

    def read(self, symbol: Any) -> OptimizerState:
        """
        What a state_dict says; of anything else nothing.

        A pickle that leads to more than its budget gives a ``fault``, no error: it can
        still be listed.
        """
        try:
            parts = dict(self._entries(symbol))
            groups = tuple(self._groups(parts.get("param_groups")))
            return OptimizerState(groups, self._steps(parts.get("state")))
        except _TooMuchError:
            return OptimizerState(fault=f"its groups lead to more than {self._most:,} entries")

    def _groups(self, symbol: Any) -> Iterator[OptimizerGroup]:
        for entry in self._items(symbol):
            if is_mapping(entry):
                self._spend(ENTRIES_OF_A_GROUP)
                yield self._group(dict(self._entries(entry)))

    def _group(self, group: dict[str, Any]) -> OptimizerGroup:
        params = [key for key in self._items(group.get("params")) if type(key) in (int, str)]
        names = [name for name in self._items(group.get("param_names")) if type(name) is str]
        settings: dict[str, Setting] = {}
        for name, value in group.items():
            if name not in _NOT_SETTINGS and len(name) <= MAX_SETTING and _is_setting(value):
                settings[name] = tuple(value) if type(value) is list else value
                if len(settings) == MAX_SETTINGS:
                    break
        # Names that are not one a parameter say nothing of which is which.
        return OptimizerGroup(tuple(params), tuple(names) if len(names) == len(params) else (), settings)

    def _steps(self, symbol: Any) -> dict[str, int | float]:
        steps: dict[str, int | float] = {}
        for key, state in self._entries(symbol):
            if type(state) is not PickledDict:
                continue
            flat = state.flat
            self._spend(len(flat) // 2)
            for name, value in zip(flat[::2], flat[1::2]):
                if type(name) is str and name == "step" and type(value) in (int, float):
                    steps[key] = value
        return steps

    def _entries(self, symbol: Any) -> Iterator[tuple[str, Any]]:
        """Labels and values of a mapping of any kind."""
        return mapping(symbol, self._spend) if is_mapping(symbol) else iter(())

    def _items(self, symbol: Any) -> list[Any]:
        if type(symbol) not in (list, tuple):
            return []
        self._spend(len(symbol))
        return list(symbol)

    def _spend(self, entries: int) -> None:
        self._left -= entries
        if self._left < 0:
            raise _TooMuchError


class _TooMuchError(Exception):
    """The budget is spent."""


def _is_setting(value: Any) -> bool:
    if type(value) is str:
        return len(value) <= MAX_SETTING
    if type(value) in (list, tuple):
        return 0 < len(value) <= MAX_NUMBERS and all(type(part) in (int, float) for part in value)
    return value is None or type(value) in (bool, int, float)
