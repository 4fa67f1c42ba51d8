"""
Settings of modules that correspond: an epsilon, a stride, what a norm or an activation is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from modelinspect.errors import visible

__all__ = ["attention_numbers", "differing_settings"]

_SETTINGS: dict[str, tuple[str, ...]] = {
    "eps": ("eps", "epsilon", "variance_epsilon", "norm_eps", "layer_norm_eps"),
    "stride": ("stride",),
    "padding": ("padding",),
    "dilation": ("dilation",),
    "groups": ("groups", "num_groups"),
    "padding_mode": ("padding_mode",),
    "negative_slope": ("negative_slope",),
    "padding_idx": (),
}
_PLAIN = (bool, int, float, str)
_HEADS = (
    "num_heads", "n_head", "n_heads", "num_attention_heads", "nhead", "heads", "num_kv_heads",
    "num_key_value_heads", "n_kv_heads", "n_kv_head", "n_query_groups", "num_query_groups",
    "num_key_value_groups", "encoder_attention_heads", "decoder_attention_heads", "h",
)  # fmt: skip
_SIZES = (
    "head_dim",
    "head_size",
    "attention_head_size",
    "dim_head",
    "d_head",
    "d_k",
    "key_dim",
    "kv_channels",
)


def differing_settings(source: nn.Module, target: nn.Module, pairs: Mapping[str, str]) -> tuple[str, ...]:
    """
    What modules of one kind are told differently: ``eps 1e-12 in norm, 1e-05 in blocks.0.norm1``.

    Args:
        source: The model.
        target: The model.
        pairs: Path in the target to the path in the source.
    """
    ours, theirs = dict(target.named_modules()), dict(source.named_modules())
    found: dict[tuple[str, Any, Any], list[tuple[str, str]]] = {}
    for here, there in pairs.items():
        if here not in ours or there not in theirs:
            continue
        one, other = _settings(ours[here]), _settings(theirs[there])
        for name in one.keys() & other.keys():
            if not _alike(one[name], other[name]):
                found.setdefault((name, _hashable(other[name]), _hashable(one[name])), []).append(
                    (there, here)
                )
    return tuple(_said(*key, places) for key, places in found.items())


def _settings(module: nn.Module) -> dict[str, Any]:
    kept = vars(module)
    return {
        name: kept[spelling]
        for name, spellings in _SETTINGS.items()
        for spelling in spellings
        if isinstance(kept.get(spelling), (*_PLAIN, tuple))
    }


def _alike(one: Any, other: Any) -> bool:
    return bool(_plain(one) == _plain(other))


def _plain(value: Any) -> Any:
    """A stride of 2 and one of (2, 2) are the same, and so are a padding of 0 and none."""
    if isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]
    return 0 if value == "valid" else value


def _hashable(value: Any) -> Any:
    return repr(value) if not isinstance(value, _PLAIN) else value


def _said(name: str, source: Any, target: Any, places: list[tuple[str, str]]) -> str:
    there, here = (visible(path) or "the outermost module" for path in places[0])
    more = f" and {len(places) - 1:,} more" if len(places) > 1 else ""
    return f"{name} {source} in {there}, {target} in {here}{more}"


def attention_numbers(modules: Iterable[nn.Module]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """
    Numbers of heads, and rows of a head, that modules or their configurations name.

    Args:
        modules: The models.
    """
    counts: dict[int, None] = {}
    sizes: dict[int, None] = {}
    for model in modules:
        for part in model.modules():
            holders = (vars(part), _vars(vars(part).get("config")), _vars(vars(part).get("cfg")))
            for holder in holders:
                counts |= dict.fromkeys(_numbers(holder, _HEADS))
                sizes |= dict.fromkeys(_numbers(holder, _SIZES))
    return tuple(counts), tuple(sizes)


def _vars(thing: Any) -> Mapping[str, Any]:
    return vars(thing) if hasattr(thing, "__dict__") else {}


def _numbers(holder: Mapping[str, Any], names: tuple[str, ...]) -> list[int]:
    found = [holder.get(name) for name in names]
    return [n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0]
