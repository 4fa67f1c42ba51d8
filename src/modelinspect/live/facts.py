"""
What modules say of how their weights lie: whole numbers such as how many heads they have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

__all__ = ["module_facts"]

_OF_INTEREST = re.compile(
    r"(?:^|_)(?:n|num|dim|d|size|width)?_?(?:heads?|nhead|kv|groups?|experts?|rotary|rope|gates?|head_dim)(?:_|$)"
    r"|^(?:nhead|d_model|h|bidirectional|is_causal)$"
)
_MOST = 1 << 20
"""A number above this is no count of heads, groups or experts."""


def module_facts(module: nn.Module) -> dict[str, dict[str, int]]:
    """
    Whole-number attributes of modules that say how their weights are divided.

    Args:
        module: Anything; no property is called, only what instances hold is looked at.

    Returns:
        Dotted path of a module to its facts by attribute: ``num_heads``, ``n_head``,
        ``num_key_value_heads``, ``head_dim``, ``groups`` … Where a module has a ``config``,
        the config's come first. Modules that say nothing are left out.
    """
    facts = {}
    for path, part in module.named_modules():
        held = vars(part)
        found = {**dict(_numbers(_settings(held.get("config")))), **dict(_numbers(held))}
        if found:
            facts[path] = found
    return facts


def _settings(config: Any) -> Mapping[Any, Any]:
    """What a configuration holds: a dict, or an object with attributes."""
    if isinstance(config, Mapping):
        return config
    return getattr(config, "__dict__", {})


def _numbers(held: Mapping[Any, Any]) -> Iterator[tuple[str, int]]:
    for name, value in held.items():
        if type(value) is int and 0 < value < _MOST and isinstance(name, str) and _OF_INTEREST.search(name):
            yield name, value
