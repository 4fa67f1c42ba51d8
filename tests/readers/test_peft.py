"""Adapters: names as PEFT, diffusers and kohya's scripts write them, and what their configuration says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modelinspect.analysis.adapters import Adapter, adapters
from modelinspect.readers.registry import open_checkpoint

BLOCK = "base_model.model.model.layers.{}.self_attn.{}"


def lora(rank: int = 4, layers: int = 2) -> dict[str, torch.Tensor]:
    """What PEFT's ``save_pretrained`` writes of a LoRA on two projections."""
    made = {}
    for layer in range(layers):
        for name in ("q_proj", "v_proj"):
            made[f"{BLOCK.format(layer, name)}.lora_A.weight"] = torch.zeros(rank, 16)
            made[f"{BLOCK.format(layer, name)}.lora_B.weight"] = torch.zeros(8, rank)
    return made


CONFIGURATION = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
    "base_model_name_or_path": "some/model",
    "task_type": "CAUSAL_LM",
    "rank_pattern": {},
    "lora_dropout": 0.05,
}


def found(path: Path) -> tuple[Adapter, ...]:
    """Adapters of a target."""
    return adapters(open_checkpoint(str(path)))


def test_a_folder_with_its_configuration(tmp_path: Path) -> None:
    """Rank and targets come from the tensors, alpha and base from adapter_config.json."""
    save_file(lora(), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIGURATION))
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.metadata["adapter.r"] == "4"
    assert checkpoint.metadata["adapter.target_modules"] == "q_proj, v_proj"
    (adapter,) = adapters(checkpoint)
    assert adapter.kind == "LoRA"
    assert adapter.ranks == {4: 4}
    assert (adapter.alpha, adapter.base) == (8.0, "some/model")
    assert adapter.targets == {"q_proj": 2, "v_proj": 2}
    assert adapter.parameters == 4 * (4 * 16 + 8 * 4)
    assert adapter.settings["task_type"] == "CAUSAL_LM"


def test_the_file_alone(tmp_path: Path) -> None:
    """Without a configuration alpha and base are not known, and nothing is guessed."""
    save_file(lora(), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIGURATION))
    (adapter,) = found(tmp_path / "adapter_model.safetensors")
    assert adapter.ranks == {4: 4}
    assert (adapter.alpha, adapter.base) == (None, "")
    assert "adapter_config.json" in adapter.alpha_said


def test_ranks_that_differ(tmp_path: Path) -> None:
    """Each rank with how many targets have it."""
    tensors = lora()
    tensors[f"{BLOCK.format(9, 'q_proj')}.lora_A.weight"] = torch.zeros(2, 16)
    tensors[f"{BLOCK.format(9, 'q_proj')}.lora_B.weight"] = torch.zeros(8, 2)
    save_file(tensors, tmp_path / "a.safetensors")
    assert found(tmp_path / "a.safetensors")[0].ranks == {4: 4, 2: 1}


def test_modules_saved_whole(tmp_path: Path) -> None:
    """`modules_to_save` are counted beside the adapter."""
    save_file({**lora(), "base_model.model.lm_head.weight": torch.zeros(10, 8)}, tmp_path / "a.safetensors")
    (adapter,) = found(tmp_path / "a.safetensors")
    assert adapter.full == 80


KINDS: dict[str, dict[str, tuple[int, ...]]] = {
    "DoRA": {"lora_A.weight": (4, 16), "lora_B.weight": (8, 4), "lora_magnitude_vector": (8,)},
    "AdaLoRA": {"lora_A": (4, 16), "lora_B": (8, 4), "lora_E": (4, 1)},
    "IA3": {"ia3_l": (8, 1)},
    "LoHa": {"hada_w1_a": (8, 4), "hada_w1_b": (4, 16), "hada_w2_a": (8, 4), "hada_w2_b": (4, 16)},
    "LoKr": {"lokr_w1": (2, 2), "lokr_w2_a": (4, 4), "lokr_w2_b": (4, 8)},
    "VeRA": {"vera_lambda_b": (8,), "vera_lambda_d": (4,)},
    "VB-LoRA": {"vblora_logits_A": (4, 8, 8), "vblora_logits_B": (2, 4, 8)},
    "Bone": {"bone_block": (4, 16)},
    "HRA": {"hra_u": (16, 4)},
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_kinds(kind: str, tmp_path: Path) -> None:
    """Each kind of PEFT's is told by its tensors' names; one adapter of one target."""
    path = BLOCK.format(0, "q_proj")
    tensors = {f"{path}.{name}": torch.zeros(shape) for name, shape in KINDS[kind].items()}
    save_file(tensors, tmp_path / "a.safetensors")
    (adapter,) = found(tmp_path / "a.safetensors")
    assert adapter.kind == kind
    assert adapter.targets == {"q_proj": 1}
    assert adapter.ranks == ({} if kind == "IA3" else {4: 1})


def test_prompt_embeddings(tmp_path: Path) -> None:
    """Prompt tuning has one tensor and no rank."""
    save_file({"prompt_embeddings": torch.zeros(20, 16)}, tmp_path / "a.safetensors")
    (adapter,) = found(tmp_path / "a.safetensors")
    assert (adapter.kind, adapter.parameters, adapter.ranks) == ("prompt embeddings", 320, {})
    assert (adapter.targets, adapter.alpha_said) == ({}, "this kind has none")


def test_the_configuration_names_the_kind_of_a_prompt(tmp_path: Path) -> None:
    """Prefix tuning and prompt tuning have the same tensor."""
    save_file({"prompt_embeddings": torch.zeros(20, 16)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING"}')
    assert found(tmp_path)[0].kind == "prefix tuning"


def test_what_all_targets_share(tmp_path: Path) -> None:
    """VeRA's two random matrices belong to no target, and count."""
    path = BLOCK.format(0, "q_proj")
    tensors = {"base_model.vera_A": torch.zeros(4, 16), f"{path}.vera_lambda_d": torch.zeros(4)}
    save_file(tensors, tmp_path / "a.safetensors")
    (adapter,) = found(tmp_path / "a.safetensors")
    assert (adapter.targets, adapter.parameters) == ({"q_proj": 1}, 68)


def test_kohya(tmp_path: Path) -> None:
    """Dots are underscores, alpha is a tensor of its own, rank and base stand in the header."""
    path = "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{path}.lora_down.weight": torch.zeros(4, 16),
        f"{path}.lora_up.weight": torch.zeros(8, 4),
        f"{path}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata={"ss_sd_model_name": "sd.safetensors"})
    (adapter,) = found(tmp_path / "a.safetensors")
    assert (adapter.kind, adapter.ranks, adapter.targets) == ("LoRA", {4: 1}, {"attn1_to_q": 1})
    assert adapter.parameters == 64 + 32
    assert adapter.alpha is None
    assert "1 scalar tensor" in adapter.alpha_said
    assert adapter.base == "sd.safetensors"


@pytest.mark.parametrize(
    "name", ["unet.attn1.processor.to_q_lora.{}.weight", "unet.attn1.to_q.lora.{}.weight"]
)
def test_diffusers_before_peft(name: str, tmp_path: Path) -> None:
    """`to_q_lora.down.weight` and `to_q.lora.down.weight`."""
    tensors = {name.format("down"): torch.zeros(4, 16), name.format("up"): torch.zeros(8, 4)}
    save_file(tensors, tmp_path / "a.safetensors")
    (adapter,) = found(tmp_path / "a.safetensors")
    assert (adapter.kind, adapter.ranks, adapter.targets) == ("LoRA", {4: 1}, {"to_q": 1})


def test_names_of_adapters_inside_a_model(tmp_path: Path) -> None:
    """A whole state_dict holds `lora_A.default.weight`: each adapter by its name, the model is not theirs."""
    tensors = {"layers.0.q.base_layer.weight": torch.zeros(8, 16)}
    for name, rank in (("default", 4), ("other", 2)):
        tensors[f"layers.0.q.lora_A.{name}.weight"] = torch.zeros(rank, 16)
        tensors[f"layers.0.q.lora_B.{name}.weight"] = torch.zeros(8, rank)
    torch.save(tensors, tmp_path / "a.pt")
    both = found(tmp_path / "a.pt")
    assert {(each.name, *each.ranks) for each in both} == {("default", 4), ("other", 2)}
    assert all(each.full == 0 for each in both)


def test_a_configuration_in_the_header(tmp_path: Path) -> None:
    """Diffusers keeps PEFT's configuration as JSON in the metadata."""
    kept = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 16, "transformer.r": 4})}
    save_file(lora(), tmp_path / "a.safetensors", metadata=kept)
    assert found(tmp_path / "a.safetensors")[0].alpha == 16.0


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "[1]", '{"lora_alpha": "x"}', '{"lora_alpha": NaN}']
)
def test_bad_configurations_are_no_errors(text: str, tmp_path: Path) -> None:
    """The weights are read whatever the configuration is."""
    save_file(lora(), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(text)
    (adapter,) = found(tmp_path)
    assert adapter.alpha is None


def test_most_files_have_none(tmp_path: Path) -> None:
    """Plain weights are no adapter."""
    save_file({"lora.weight": torch.zeros(2), "alpha": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert found(tmp_path / "a.safetensors") == ()
