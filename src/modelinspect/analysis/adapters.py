"""
Adapters in a checkpoint: LoRA and its kin, told from the names and shapes of their tensors.

PEFT names them ``base_model.model.<path>.lora_A.weight`` and writes ``adapter_config.json``
beside them (peft 0.19, ``tuners/*/layer.py`` and ``utils/save_and_load.py``); kohya's scripts
and LyCORIS write ``lora_unet_<path>.lora_down.weight`` with a scalar ``.alpha``; diffusers
wrote ``<path>.to_q_lora.down.weight``. What no name, shape or configuration says, such as
alpha where there is no configuration, is left open and not guessed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from modelinspect.tensors import Checkpoint, ParameterTable, TensorInfo

__all__ = ["Adapter", "adapters"]

MAX_TARGETS = 64
"""Different names of targets that are kept; the others are counted together."""
MAX_TEXT = 200
_MAX_METADATA = 200_000
"""Characters of JSON in a safetensors header that are looked at."""
OTHERS = "(others)"


@dataclass(frozen=True)
class Adapter:
    """
    One kind of adapter in one section.
    """

    kind: str
    """E.g. ``LoRA``, ``DoRA``, ``IA3``, ``LoHa``, ``LoKr``, ``prompt embeddings``."""
    section: str
    ranks: Mapping[int, int]
    """Rank to how many targets have it, from shapes; empty where the kind has none or
    shapes don't say."""
    alpha: float | None
    """Scale over rank, as a configuration says it; None: not said."""
    alpha_said: str
    """Where alpha stands, or why it is not known, as a part of a sentence."""
    targets: Mapping[str, int]
    """Last part of the adapted modules' names to how many there are, most first."""
    base: str
    """Model that it was trained on, as a configuration says it; empty: not said."""
    parameters: int
    """Elements of the adapter's tensors, without alpha."""
    full: int = 0
    """Elements of tensors beside the adapter's that are saved whole (``modules_to_save``)."""
    name: str = ""
    """Of the adapter, where names of tensors hold it; PEFT's usual one is ``default``."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Other entries of its configuration."""


class _Form(NamedTuple):
    """One way of naming an adapter's tensors."""

    kind: str
    rank_axis: int | None
    """Axis of the tensor whose length is the rank; None: it doesn't say."""


_PEFT = {
    "lora_A": _Form("LoRA", 0),
    "lora_B": _Form("LoRA", 1),
    "lora_embedding_A": _Form("LoRA", 0),
    "lora_embedding_B": _Form("LoRA", 1),
    "lora_E": _Form("AdaLoRA", None),
    "ranknum": _Form("AdaLoRA", None),
    "lora_magnitude_vector": _Form("DoRA", None),
    "lora_down": _Form("LoRA", 0),
    "lora_up": _Form("LoRA", 1),
    "lora_mid": _Form("LoRA", None),
    "dora_scale": _Form("DoRA", None),
    "ia3_l": _Form("IA3", None),
    "hada_w1_a": _Form("LoHa", 1),
    "hada_w1_b": _Form("LoHa", 0),
    "hada_w2_a": _Form("LoHa", 1),
    "hada_w2_b": _Form("LoHa", 0),
    "hada_t1": _Form("LoHa", None),
    "hada_t2": _Form("LoHa", None),
    "lokr_w1": _Form("LoKr", None),
    "lokr_w1_a": _Form("LoKr", 1),
    "lokr_w1_b": _Form("LoKr", 0),
    "lokr_w2": _Form("LoKr", None),
    "lokr_w2_a": _Form("LoKr", 1),
    "lokr_w2_b": _Form("LoKr", 0),
    "lokr_t2": _Form("LoKr", None),
    "vera_lambda_b": _Form("VeRA", None),
    "vera_lambda_d": _Form("VeRA", 0),
    "vera_A": _Form("VeRA", None),
    "vera_B": _Form("VeRA", None),
    "oft_r": _Form("OFT", None),
    "oft_R": _Form("OFT", None),
    "oft_blocks": _Form("OFT", None),
    "boft_R": _Form("BOFT", None),
    "boft_s": _Form("BOFT", None),
    "hra_u": _Form("HRA", 1),
    "fourierft_spectrum": _Form("FourierFT", None),
    "ln_tuning_layers": _Form("LN tuning", None),
    "vblora_logits_A": _Form("VB-LoRA", 0),
    "vblora_logits_B": _Form("VB-LoRA", 1),
    "vblora_vector_bank": _Form("VB-LoRA", None),
    "randlora_A": _Form("RandLoRA", None),
    "randlora_B": _Form("RandLoRA", None),
    "randlora_lambda": _Form("RandLoRA", None),
    "randlora_gamma": _Form("RandLoRA", None),
    "bone_block": _Form("Bone", 0),
    "miss_block": _Form("MiSS", 0),
    "prompt_embeddings": _Form("prompt embeddings", None),
    "adaption_prompt": _Form("adaption prompt", None),
    "adaption_gate": _Form("adaption prompt", None),
}
# Tensors that all targets share.
_SHARED = frozenset(
    {"vera_A", "vera_B", "randlora_A", "randlora_B", "vblora_vector_bank", "prompt_embeddings"}
)
_SCALED = frozenset({"LoRA", "DoRA", "AdaLoRA", "LoHa", "LoKr"})
"""Kinds that have an alpha."""
_PROMPTS = {"PREFIX_TUNING": "prefix tuning", "P_TUNING": "p-tuning", "PROMPT_TUNING": "prompt tuning"}
# diffusers before PEFT: "...to_q_lora.down.weight", "...lora.up.weight".
_OLD_DIFFUSERS = re.compile(r"(?P<path>.*?)[._]lora\.(?P<which>down|up)\.weight")
_OLD_AXES = {"down": 0, "up": 1}
_LAYERS = re.compile(r"(?:block|layer|resnet|attention|sampler)s?_\d+_")
"""What stands before the target in a name of kohya's, in which dots are underscores."""
_WHOLE = re.compile(r"(^|\.)modules_to_save\.")
# A kind that changes what the tensors of another mean, and takes them over.
_ABSORBS = {"DoRA": "LoRA", "AdaLoRA": "LoRA"}


class _Found(NamedTuple):
    """A tensor of an adapter."""

    row: TensorInfo
    kind: str
    target: str
    """Path of the adapted module."""
    adapter: str
    rank: int | None


def adapters(checkpoint: Checkpoint) -> tuple[Adapter, ...]:
    """
    The adapters in the model's and EMA's sections of a checkpoint; none of most.

    Only names, shapes and metadata are looked at. A configuration is known where the
    target was a folder with ``adapter_config.json``, or where the header keeps one.

    Args:
        checkpoint: Its headers.
    """
    said = _configuration(checkpoint.metadata)
    found = []
    for section, table in checkpoint.tables.items():
        if checkpoint.roles[section] not in ("optimizer", "gradients"):
            found += _of_table(section, table, said)
    return tuple(found)


def _of_table(section: str, table: ParameterTable, said: Mapping[str, str]) -> list[Adapter]:
    tensors = [each for row in table if (each := _recognised(row)) is not None]
    if not tensors:
        return []
    names = {each.row.name for each in tensors}
    alphas = [row for row in table if _is_alpha(row)]
    names.update(row.name for row in alphas)
    full = sum(row.logical_numel for row in table if row.name not in names)
    # In the whole state_dict of a model the others are the model, not saved beside the adapter.
    beside = full if all(_is_saved_beside(row) for row in table if row.name not in names) else 0
    groups: dict[tuple[str, str], list[_Found]] = {}
    for each in _absorbed(tensors):
        groups.setdefault((each.kind, each.adapter), []).append(each)
    return [
        _adapter(kind, name, section, members, alphas, beside, said)
        for (kind, name), members in groups.items()
    ]


def _recognised(row: TensorInfo) -> _Found | None:
    """The tensor as an adapter's; None where its name is of none."""
    parts = row.name.split(".")
    for place in range(len(parts) - 1, max(-1, len(parts) - 4), -1):
        form = _PEFT.get(parts[place])
        if form is not None:
            rest = [part for part in parts[place + 1 :] if part not in ("weight", "bias")]
            adapter = rest[0] if rest and form.kind != "adaption prompt" else ""
            target = "" if parts[place] in _SHARED else ".".join(parts[:place])
            return _Found(row, form.kind, target, adapter, _rank(row, form.rank_axis))
    old = _OLD_DIFFUSERS.fullmatch(row.name)
    if old is not None:
        return _Found(row, "LoRA", old["path"], "", _rank(row, _OLD_AXES[old["which"]]))
    return None


def _rank(row: TensorInfo, axis: int | None) -> int | None:
    return row.shape[axis] if axis is not None and len(row.shape) > axis else None


def _is_alpha(row: TensorInfo) -> bool:
    return row.name.endswith(".alpha") and row.numel == 1


def _is_saved_beside(row: TensorInfo) -> bool:
    return row.name.startswith("base_model.") or _WHOLE.search(row.name) is not None


def _absorbed(tensors: Iterable[_Found]) -> Iterator[_Found]:
    """DoRA has the matrices of LoRA and one vector more, so those are its own."""
    tensors = list(tensors)
    takers = {(each.target, _ABSORBS[each.kind]): each.kind for each in tensors if each.kind in _ABSORBS}
    for each in tensors:
        yield each._replace(kind=takers.get((each.target, each.kind), each.kind))


def _adapter(
    kind: str,
    name: str,
    section: str,
    members: list[_Found],
    alphas: list[TensorInfo],
    full: int,
    said: Mapping[str, str],
) -> Adapter:
    ranks: dict[str, int] = {}
    for each in members:
        if each.rank is not None:
            ranks.setdefault(each.target, each.rank)
    paths = dict.fromkeys(each.target for each in members if each.target)
    stored = [row for row in alphas if row.name.removesuffix(".alpha") in paths]
    alpha, alpha_said = _alpha(said, len(stored)) if kind in _SCALED else (None, "this kind has none")
    if kind == "prompt embeddings":
        kind = _PROMPTS.get(said.get("peft_type", ""), kind)
    return Adapter(
        kind=kind,
        section=section,
        ranks=dict(sorted(Counter(ranks.values()).items(), key=lambda pair: -pair[1])),
        alpha=alpha,
        alpha_said=alpha_said,
        targets=_targets(paths),
        base=next((said[key] for key in _BASES if said.get(key)), ""),
        parameters=sum(each.row.logical_numel for each in members),
        full=full,
        name=name,
        settings={key: value for key, value in said.items() if key in _SETTINGS},
    )


def _targets(paths: Iterable[str]) -> dict[str, int]:
    counted = Counter(_leaf(path) for path in paths)
    kept = dict(counted.most_common(MAX_TARGETS))
    rest = sum(counted.values()) - sum(kept.values())
    return {**kept, OTHERS: rest} if rest else kept


def _leaf(path: str) -> str:
    """
    What is adapted, without where it stands.

    >>> _leaf("base_model.model.layers.0.self_attn.q_proj")
    'q_proj'
    >>> _leaf("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q")
    'attn1_to_q'
    """
    leaf = path.rpartition(".")[2]
    if leaf.startswith("lora_"):
        places = [match.end() for match in _LAYERS.finditer(leaf)]
        return leaf[places[-1] :] if places and leaf[places[-1] :] else leaf
    return leaf.removesuffix("_lora")[:MAX_TEXT]


# -- what a configuration says -------------------------------------------------------------

_PREFIX = "adapter."
"""Of metadata that a reader of folders takes from ``adapter_config.json``."""
_BASES = ("base_model_name_or_path", "ss_sd_model_name", "ss_base_model_version", "modelspec.architecture")
_NUMBER = re.compile(r"\d{1,9}(\.\d{1,9})?")
_ALPHAS = ("lora_alpha", "alpha", "ss_network_alpha")
_SETTINGS = frozenset(
    {"peft_type", "task_type", "target_modules", "r", "lora_dropout", "use_dora", "use_rslora", "bias",
     "modules_to_save", "rank_pattern", "alpha_pattern", "ss_network_module", "ss_network_dim",
     "num_virtual_tokens"}
)  # fmt: skip


def _configuration(metadata: Mapping[str, str]) -> dict[str, str]:
    """Entries of the adapter's configuration, wherever they are kept."""
    said = {
        key.removeprefix(_PREFIX): value
        for key, value in metadata.items()
        if key.startswith((_PREFIX, "ss_", "modelspec."))
    }
    # diffusers keeps PEFT's configuration in the header (diffusers 0.36, loaders/lora_base.py).
    kept = metadata.get("lora_adapter_metadata", "")
    return {**_from_json(kept), **said} if kept else said


def _from_json(text: str) -> dict[str, str]:
    if len(text) > _MAX_METADATA:
        return {}
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    # Keys begin with the component: "transformer.r", "text_encoder.r".
    return {
        key.rpartition(".")[2]: str(value)[:MAX_TEXT]
        for key, value in document.items()
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
    }


def _alpha(said: Mapping[str, str], stored: int) -> tuple[float | None, str]:
    if stored:
        tensors = "1 scalar tensor" if stored == 1 else f"{stored:,} scalar tensors"
        return None, f"stored in {tensors} of its own, whose values a listing doesn't read"
    for key in _ALPHAS:
        if _NUMBER.fullmatch(said.get(key, "")):
            return float(said[key]), f"{key} of its configuration"
    return None, "unknown: it stands in adapter_config.json, not in the weights"
