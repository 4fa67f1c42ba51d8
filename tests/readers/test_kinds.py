"""Which tensors of a bare state_dict are taken for buffers; torch's own modules are the judge."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modelinspect.dtypes import BY_NAME
from modelinspect.readers.parts.kinds import infer_kind
from modelinspect.readers.registry import open_checkpoint


def old_norm(make: str) -> nn.Module:
    """weight_norm and spectral_norm as they were before parametrizations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        made: nn.Module = getattr(nn.utils, make)(nn.Conv1d(3, 4, 2))
        return made


def pruned() -> nn.Module:
    """A layer with a pruning mask beside its original weight."""
    from torch.nn.utils import prune

    layer = nn.Linear(4, 4)
    prune.random_unstructured(layer, "weight", 0.5)
    return layer


MODULES: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
    "instance norm": lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
    "old weight_norm": lambda: old_norm("weight_norm"),
    "old spectral_norm": lambda: old_norm("spectral_norm"),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
    "prune": pruned,
    "lstm": lambda: nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2),
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2),
    "bilinear": lambda: nn.Bilinear(2, 3, 4),
    "prelu": nn.PReLU,
    "complex": lambda: nn.Linear(2, 2, dtype=torch.complex64),
}


@pytest.mark.parametrize("write", ["torch", "safetensors"])
@pytest.mark.parametrize("kind", list(MODULES))
def test_torchs_own_modules_are_told_apart(kind: str, write: str, tmp_path: Path) -> None:
    """From the state_dict alone: exactly the module's buffers are taken for buffers."""
    module = MODULES[kind]()
    path = tmp_path / "x.bin"
    state_dict = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    if write == "torch":
        torch.save(state_dict, path)
    else:
        save_file(state_dict, path)
    buffers = {name for name, _ in module.named_buffers()}
    table = open_checkpoint(str(path)).table
    assert {tensor.name for tensor in table if tensor.kind == "buffer"} == buffers
    assert not any(tensor.declared for tensor in table)


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "kind"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", "float32", (32,), "buffer"),
        ("h.0.attn.bias", "float32", (1, 1, 1024, 1024), "buffer"),
        ("h.0.attn.bias", "float32", (768,), "parameter"),
        ("h.0.attn.masked_bias", "float32", (), "buffer"),
        ("embeddings.position_ids", "int64", (1, 512), "buffer"),
        ("model.layers.0.mlp.qweight", "int32", (512, 128), "parameter"),
        ("experts.gate_up_proj_blocks", "uint8", (8, 64, 2, 16), "parameter"),
        ("step", "int64", (), "buffer"),
        ("final_logits_bias", "float32", (1, 101), "buffer"),
        ("0.tp._w3j_1_1_0", "float32", (3, 3, 1), "buffer"),
        ("conv.activation_post_process.min_val", "float32", (), "buffer"),
        ("scale", "float32", (4,), "parameter"),
        ("", "float32", (1,), "parameter"),
    ],
)
def test_names_of_the_field(name: str, dtype: str, shape: tuple[int, ...], kind: str) -> None:
    """What libraries register as buffers, and what only looks like it."""
    assert infer_kind(name, BY_NAME[dtype], shape) == kind


def test_a_sibling_in_another_shard_explains_too(tmp_path: Path) -> None:
    """Names are settled over all shards: weight_orig in one, weight_u in the other."""
    save_file({"c.weight_orig": torch.zeros(2, 2)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"c.weight_u": torch.zeros(2)}, tmp_path / "model-00002-of-00002.safetensors")
    table = open_checkpoint(str(tmp_path)).table
    assert {tensor.name: tensor.kind for tensor in table} == {
        "c.weight_orig": "parameter",
        "c.weight_u": "buffer",
    }


def test_quantized_scales_beside_zero_points_are_no_parameters(tmp_path: Path) -> None:
    """torch.ao keeps scale and zero_point of each quantized layer in its state_dict."""
    torch.save(
        {"fc.scale": torch.tensor(0.1), "fc.zero_point": torch.tensor(3), "ls.scale": torch.ones(4)},
        tmp_path / "q.pt",
    )
    kinds = {tensor.name: tensor.kind for tensor in open_checkpoint(str(tmp_path / "q.pt")).table}
    assert kinds == {"fc.scale": "buffer", "fc.zero_point": "buffer", "ls.scale": "parameter"}
