"""Quantized layouts: packed tensors show the weights that they stand for."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from math import prod
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import modelinspect as mi
from modelinspect.dtypes import BY_NAME
from modelinspect.readers.parts.quantized import settled
from modelinspect.readers.registry import open_file
from modelinspect.tensors import Checkpoint, FileInfo, ParameterTable, Quantized, Storage, TensorInfo

F8 = torch.float8_e4m3fn


def zeros(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """A tensor whose values say nothing."""
    return torch.zeros(shape, dtype=torch.uint8).to(dtype)


def state(kind: str, shape: list[int], **fields: object) -> torch.Tensor:
    """Bitsandbytes' JSON as the bytes of a tensor (``functional.py``, pack_dict_to_tensor)."""
    text = json.dumps({"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": shape, **fields})
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


class Layout(NamedTuple):
    """One weight in one layout, and what it stands for."""

    tensors: dict[str, torch.Tensor]
    packed: str
    scheme: str
    shape: tuple[int, ...] | None
    bits: float
    metadata: dict[str, str] | None = None
    numel: int | None = None
    extra: tuple[str, ...] = ()
    """Parameters beside it."""


i32, u8, i8, i16, half, f32 = torch.int32, torch.uint8, torch.int8, torch.int16, torch.float16, torch.float32
# Shapes are worked out by hand from each library's packing: a layer of 96 outputs and 256 inputs.
LAYOUTS = {
    **{
        f"gptq-{bits}": Layout(
            {
                "l.qweight": zeros(i32, 256 * bits // 32, 96),
                "l.qzeros": zeros(i32, 2, 96 * bits // 32),
                "l.scales": zeros(half, 2, 96),
                "l.g_idx": zeros(i32, 256),
            },
            "l.qweight",
            "GPTQ",
            (96, 256),
            bits,
        )
        for bits in (2, 3, 4, 8)
    },
    "gptq without the order of groups": Layout(
        {
            "l.qweight": zeros(i32, 32, 96),
            "l.qzeros": zeros(i32, 2, 12),
            "l.scales": zeros(torch.bfloat16, 2, 96),
        },
        "l.qweight",
        "GPTQ",
        (96, 256),
        4,
    ),
    "awq gemm": Layout(
        {
            "l.qweight": zeros(i32, 256, 12),
            "l.qzeros": zeros(i32, 2, 12),
            "l.scales": zeros(half, 2, 96),
        },
        "l.qweight",
        "AWQ",
        (96, 256),
        4,
    ),
    "awq gemv": Layout(
        {
            "l.qweight": zeros(i32, 96, 32),
            "l.qzeros": zeros(i32, 96, 1),
            "l.scales": zeros(half, 96, 8),
        },
        "l.qweight",
        "AWQ",
        (96, 256),
        4,
    ),
    "awq gemv fast": Layout(
        {
            "l.qweight": zeros(i16, 24, 256),
            "l.qzeros": zeros(half, 8, 96),
            "l.scales": zeros(half, 8, 96),
        },
        "l.qweight",
        "AWQ",
        (96, 256),
        4,
    ),
    "marlin": Layout({"l.B": zeros(i32, 16, 192), "l.s": zeros(half, 2, 96)}, "l.B", "Marlin", (96, 256), 4),
    "exl2": Layout(
        {
            "l.q_weight": zeros(i32, 36, 96),
            "l.q_scale": zeros(i32, 4, 12),
            "l.q_scale_max": zeros(half, 4),
            "l.q_groups": zeros(i16, 8),
            "l.q_invperm": zeros(i32, 256),
        },
        "l.q_weight",
        "EXL2",
        (96, 256),
        4.5,
    ),
    "exl3": Layout(
        {"l.trellis": zeros(i16, 16, 6, 48), "l.suh": zeros(half, 256), "l.svh": zeros(half, 96)},
        "l.trellis",
        "EXL3",
        (96, 256),
        3,
    ),
    "bitsandbytes nf4": Layout(
        {
            "l.weight": zeros(u8, 12288, 1),
            "l.weight.absmax": zeros(f32, 384),
            "l.weight.quant_map": zeros(f32, 16),
            "l.weight.quant_state.bitsandbytes__nf4": state("nf4", [96, 256]),
        },
        "l.weight",
        "bitsandbytes nf4",
        (96, 256),
        4,
    ),
    "bitsandbytes fp4, scales quantized too, bytes kept as bfloat16": Layout(
        {
            "l.weight": zeros(torch.bfloat16, 6144, 1),
            "l.weight.absmax": zeros(u8, 384),
            "l.weight.quant_map": zeros(f32, 16),
            "l.weight.nested_absmax": zeros(f32, 2),
            "l.weight.nested_quant_map": zeros(f32, 256),
            "l.weight.quant_state.bitsandbytes__fp4": state("fp4", [96, 256], nested_blocksize=256),
        },
        "l.weight",
        "bitsandbytes fp4",
        (96, 256),
        4,
    ),
    "bitsandbytes nf4 of an odd number of values": Layout(
        {
            "l.weight": zeros(u8, 113, 1),
            "l.weight.absmax": zeros(f32, 4),
            "l.weight.quant_map": zeros(f32, 16),
            "l.weight.quant_state.bitsandbytes__nf4": state("nf4", [15, 15]),
        },
        "l.weight",
        "bitsandbytes nf4",
        (15, 15),
        4,
    ),
    "bitsandbytes int8": Layout(
        {
            "l.weight": zeros(i8, 96, 256),
            "l.SCB": zeros(f32, 96),
            "l.weight_format": torch.tensor(0, dtype=u8),
        },
        "l.weight",
        "bitsandbytes int8",
        (96, 256),
        8,
    ),
    **{
        f"compressed-tensors {bits}": Layout(
            {
                "l.weight_packed": zeros(i32, 96, -(-250 * bits // 32)),
                "l.weight_scale": zeros(torch.bfloat16, 96, 2),
                "l.weight_shape": torch.tensor([96, 250]),
            },
            "l.weight_packed",
            "compressed-tensors int",
            (96, 250),
            bits,
        )
        for bits in (2, 3, 4, 8)
    },
    "compressed-tensors, experts": Layout(
        {
            "l.weight_packed": zeros(i32, 3, 96, 32),
            "l.weight_scale": zeros(torch.bfloat16, 3, 96, 2),
            "l.weight_zero_point": zeros(i32, 3, 12, 2),
            "l.weight_shape": torch.tensor([3, 96, 256], dtype=i32),
        },
        "l.weight_packed",
        "compressed-tensors int",
        (3, 96, 256),
        4,
    ),
    "compressed-tensors int8": Layout(
        {"l.weight": zeros(i8, 96, 256), "l.weight_scale": zeros(f32, 96, 1)},
        "l.weight",
        "int8",
        (96, 256),
        8,
    ),
    "marlin 2:4": Layout(
        {
            "l.weight_packed": zeros(i32, 8, 192),
            "l.meta": zeros(i16, 8, 192),
            "l.scale_packed": zeros(half, 2, 96),
        },
        "l.weight_packed",
        "Marlin 2:4",
        (96, 256),
        4,
    ),
    "sparse bitmask": Layout(
        {
            "l.weight.compressed": zeros(half, 12000),
            "l.weight.bitmask": zeros(u8, 96, 32),
            "l.weight.shape": torch.tensor([96, 256]),
            "l.weight.row_offsets": zeros(torch.int64, 96),
        },
        "l.weight.compressed",
        "sparse bitmask",
        (96, 256),
        16,
    ),
    "nvfp4 of compressed-tensors": Layout(
        {
            "l.weight_packed": zeros(u8, 96, 128),
            "l.weight_scale": zeros(F8, 96, 16),
            "l.weight_global_scale": zeros(f32, 1),
            "l.input_global_scale": zeros(f32, 1),
        },
        "l.weight_packed",
        "NVFP4",
        (96, 256),
        4,
    ),
    "nvfp4 of modelopt": Layout(
        {
            "l.weight": zeros(u8, 96, 128),
            "l.weight_scale": zeros(F8, 96, 16),
            "l.weight_scale_2": torch.tensor(1.0),
            "l.input_scale": torch.tensor(1.0),
        },
        "l.weight",
        "NVFP4",
        (96, 256),
        4,
    ),
    "mxfp4 of modelopt": Layout(
        {"l.weight": zeros(u8, 96, 128), "l.weight_scale": zeros(u8, 96, 8)},
        "l.weight",
        "MXFP4",
        (96, 256),
        4,
    ),
    "mxfp4 of gpt-oss in transformers": Layout(
        {
            "l.gate_up_proj_blocks": zeros(u8, 3, 96, 8, 16),
            "l.gate_up_proj_scales": zeros(u8, 3, 96, 8),
            "l.gate_up_proj_bias": zeros(torch.bfloat16, 3, 96),
        },
        "l.gate_up_proj_blocks",
        "MXFP4",
        (3, 256, 96),
        4,
        extra=("l.gate_up_proj_bias",),
    ),
    "mxfp4 of gpt-oss as published": Layout(
        {"l.mlp1_weight.blocks": zeros(u8, 3, 96, 8, 16), "l.mlp1_weight.scales": zeros(u8, 3, 96, 8)},
        "l.mlp1_weight.blocks",
        "MXFP4",
        (3, 96, 256),
        4,
    ),
    "mxfp6": Layout(
        {"l.weight_packed": zeros(u8, 96, 192), "l.weight_scale": zeros(u8, 96, 8)},
        "l.weight_packed",
        "MXFP6",
        (96, 256),
        6,
    ),
    "mxfp8": Layout(
        {"l.weight": zeros(F8, 96, 256), "l.weight_scale": zeros(u8, 96, 8)},
        "l.weight",
        "MXFP8",
        (96, 256),
        8,
    ),
    "fp8, a scale in all": Layout(
        {
            "l.weight": zeros(F8, 96, 256),
            "l.weight_scale": torch.tensor(1.0),
            "l.input_scale": torch.tensor(1.0),
        },
        "l.weight",
        "FP8",
        (96, 256),
        8,
    ),
    "fp8, a scale a row": Layout(
        {"l.weight": zeros(F8, 96, 256), "l.weight_scale": zeros(torch.bfloat16, 96, 1)},
        "l.weight",
        "FP8",
        (96, 256),
        8,
    ),
    "fp8, a scale a block, as DeepSeek": Layout(
        {"l.weight": zeros(F8, 200, 256), "l.weight_scale_inv": zeros(f32, 2, 2)},
        "l.weight",
        "FP8",
        (200, 256),
        8,
    ),
    "fp8 of ComfyUI": Layout(
        {
            "l.weight": zeros(F8, 96, 256),
            "l.scale_weight": torch.tensor(1.0),
            "l.scale_input": torch.tensor(1.0),
        },
        "l.weight",
        "FP8",
        (96, 256),
        8,
    ),
    "fp8 of fused experts": Layout(
        {"l.down_proj": zeros(F8, 3, 96, 256), "l.down_proj_scale": zeros(f32, 3, 1, 256)},
        "l.down_proj",
        "FP8",
        (3, 96, 256),
        8,
    ),
    "bitnet": Layout(
        {"l.weight": zeros(u8, 24, 256), "l.weight_scale": zeros(torch.bfloat16, 1)},
        "l.weight",
        "BitNet",
        (96, 256),
        2,
    ),
    "int4 of gemma": Layout(
        {
            "l.weight": zeros(u8, 96, 128),
            "l.weight_scale": zeros(f32, 96, 1),
            "norm.weight": zeros(torch.bfloat16, 256),
        },
        "l.weight",
        "int4",
        (96, 256),
        4,
        extra=("norm.weight",),
    ),
    "hqq": Layout(
        {
            "l.W_q": zeros(u8, 48, 256),
            "l.scale": zeros(half, 384, 1),
            "l.zero": zeros(half, 384, 1),
            "l.shape": torch.tensor([96, 256]),
            "l.nbits": torch.tensor(4, dtype=i32),
            "l.axis": torch.tensor(1, dtype=i32),
            "l.packing": zeros(u8, 7),
        },
        "l.W_q",
        "HQQ",
        (96, 256),
        4,
    ),
    "hqq of 3 bits, filled up to words": Layout(
        {
            "l.W_q": zeros(i32, 7, 384),
            "l.scale": zeros(half, 1, 384),
            "l.zero": zeros(half, 1, 384),
            "l.shape": torch.tensor([96, 256]),
            "l.nbits": torch.tensor(3, dtype=i32),
        },
        "l.W_q",
        "HQQ",
        (96, 256),
        3,
    ),
    "eetq": Layout(
        {"l.weight": zeros(i8, 256, 96), "l.weight_scales": zeros(half, 96)}, "l.weight", "EETQ", (96, 256), 8
    ),
    "quanto int8": Layout(
        {
            "l.weight._data": zeros(i8, 96, 256),
            "l.weight._scale": zeros(f32, 96, 1),
            "l.input_scale": torch.tensor(1.0),
            "l.output_scale": torch.tensor(1.0),
        },
        "l.weight._data",
        "Quanto int8",
        (96, 256),
        8,
    ),
    "quanto int4": Layout(
        {
            "l.weight._data._data": zeros(u8, 96, 128),
            "l.weight._scale": zeros(f32, 192, 1),
            "l.weight._shift": zeros(f32, 192, 1),
        },
        "l.weight._data._data",
        "Quanto int4",
        None,
        4,
        numel=96 * 256,
    ),
    "aqlm": Layout(
        {
            "l.codes": zeros(i16, 96, 32, 1),
            "l.codebooks": zeros(half, 1, 65536, 1, 8),
            "l.scales": zeros(half, 96, 1, 1, 1),
        },
        "l.codes",
        "AQLM",
        (96, 256),
        2,
    ),
    "higgs": Layout(
        {
            "l.weight": zeros(i16, 24, 256),
            "l.scales": zeros(half, 96, 2),
            "l.tables": zeros(half, 16),
            "l.tables2": zeros(half, 16, 16, 2),
        },
        "l.weight",
        "HIGGS",
        (96, 256),
        4,
    ),
    "fp-quant": Layout(
        {"l.qweight": zeros(u8, 96, 128), "l.scales": zeros(u8, 96, 8)}, "l.qweight", "FP-Quant", (96, 256), 4
    ),
    "mlx": Layout(
        {
            "l.weight": zeros(torch.uint32, 96, 32),
            "l.scales": zeros(half, 96, 4),
            "l.biases": zeros(half, 96, 4),
            "norm.weight": zeros(half, 256),
        },
        "l.weight",
        "MLX",
        (96, 256),
        4,
        extra=("norm.weight",),
    ),
    "torchao nvfp4": Layout(
        {
            "l._weight_qdata": zeros(u8, 96, 128),
            "l._weight_scale": zeros(F8, 128, 16),
            "l._weight_per_tensor_scale": torch.tensor(1.0),
        },
        "l._weight_qdata",
        "torchao NVFP4",
        (96, 256),
        4,
        metadata={
            "l.weight": '{"_type": "NVFP4Tensor", "_data": {"block_size": 16},'
            ' "_tensor_data_names": ["per_tensor_scale", "qdata", "scale"]}',
            "tensor_names": '["l.weight"]',
        },
    ),
    "torchao int4 in tiles": Layout(
        {"l._weight_qdata": zeros(i32, 12, 2, 32, 4), "l._weight_scale_and_zero": zeros(half, 2, 96, 2)},
        "l._weight_qdata",
        "torchao int4",
        (96, 250),
        4,
        metadata={
            "l.weight": '{"_type": "Int4TilePackedTo4dTensor", "_data": {"block_size": [1, 128], "shape":'
            ' [96, 250]}, "_tensor_data_names": ["qdata", "scale_and_zero"]}'
        },
    ),
}


def opened(
    tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> Checkpoint:
    """The tensors as a safetensors file, read."""
    save_file(tensors, tmp_path / "m.safetensors", metadata=metadata)
    return mi.open_checkpoint(str(tmp_path / "m.safetensors"))


def parameters(checkpoint: Checkpoint) -> list[str]:
    """Names of the parameters."""
    return [row.name for row in checkpoint.table if row.kind == "parameter"]


def quantized(checkpoint: Checkpoint) -> list[TensorInfo]:
    """The rows that stand for something else."""
    return [row for row in checkpoint.table if row.quantized is not None]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layer_stands_for_its_weight(tmp_path: Path, name: str) -> None:
    """Scheme, logical shape and bits of each layout; all that stands beside is a buffer."""
    layout = LAYOUTS[name]
    bias = {} if "gate_up" in layout.packed else {"l.bias": zeros(half, 96)}
    checkpoint = opened(tmp_path, {**layout.tensors, **bias}, layout.metadata)
    (row,) = quantized(checkpoint)
    assert row.name == layout.packed
    found = row.quantized
    assert found is not None
    assert (found.scheme, found.shape, found.bits) == (layout.scheme, layout.shape, layout.bits)
    numel = layout.numel or torch.Size(layout.shape or ()).numel()
    assert (found.numel, row.logical_numel) == (numel, numel)
    assert row.shape == tuple(layout.tensors[layout.packed].shape)
    assert sorted(parameters(checkpoint)) == sorted([layout.packed, *bias, *layout.extra])
    assert {*found.beside} == {*layout.tensors} - {layout.packed, *layout.extra}
    report = mi.count(checkpoint)
    others = sum(checkpoint.table[other].numel for other in [*bias, *layout.extra])
    assert report.unique == numel + others


# One scale for everything, or few, divides any shape; torchao's JSON may give none.
FITS_ANY = {
    "fp8, a scale in all",
    "fp8, a scale a block, as DeepSeek",
    "fp8 of ComfyUI",
    "bitnet",
    "torchao nvfp4",
}


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in FITS_ANY])
def test_names_alone_make_no_layout(tmp_path: Path, name: str) -> None:
    """A packed tensor of another shape than its scales are for stands for nothing else."""
    layout = LAYOUTS[name]
    held = layout.tensors[layout.packed]
    other = zeros(held.dtype, *(3 * length + 1 for length in held.shape))
    assert quantized(opened(tmp_path, {**layout.tensors, layout.packed: other}, layout.metadata)) == []


PLAIN = {
    "a VQ model's codes and scales": {
        "codes": zeros(i32, 4, 8, 2),
        "scales": zeros(f32, 4),
        "codebooks": zeros(f32, 9),
    },
    "integers beside a scale of floats": {"m.mask": zeros(u8, 4, 8), "m.mask_scale": zeros(f32, 3, 3)},
    "a weight of bytes": {"m.weight": zeros(u8, 4, 8), "logit_scale": torch.tensor(1.0)},
    "an empty one": {"m.weight": zeros(i8, 0, 8), "m.weight_scale": zeros(f32, 0, 1)},
    "a matrix named B and one named s": {"a.B": zeros(i32, 4, 8), "a.s": zeros(f32, 2, 8)},
    "scalars": {"m.weight": torch.tensor(1, dtype=i8), "m.weight_scale": torch.tensor(1.0)},
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_only_sounds_quantized_is_left_alone(tmp_path: Path, name: str) -> None:
    """Names as quantized layouts have them, in tensors that don't fit together."""
    checkpoint = opened(tmp_path, PLAIN[name])
    assert quantized(checkpoint) == []
    assert mi.count(checkpoint).unique == sum(
        row.numel for row in checkpoint.table if row.kind == "parameter"
    )


# ---------------------------------------------------------- a few bytes of data


def four_bit(quant_state: torch.Tensor) -> dict[str, torch.Tensor]:
    """A layer of bitsandbytes with that JSON."""
    tensors = dict(LAYOUTS["bitsandbytes nf4"].tensors)
    tensors["l.weight.quant_state.bitsandbytes__nf4"] = quant_state
    return tensors


@pytest.mark.parametrize(
    "quant_state",
    [
        state("nf4", [4096, 4096]),
        state("nf4", [-96, -256]),
        state("nf4", [2**62, 2**62, 2**62]),
        torch.tensor(list(b'{"shape": [24576.0]}'), dtype=u8),
        torch.tensor(list(b'{"shape": [true, 24576]}'), dtype=u8),
        torch.tensor(list(b"[" * 60_000), dtype=u8),
        torch.tensor(list(b"\xff\xfe{}"), dtype=u8),
        zeros(u8, 70_000),
        zeros(u8, 0),
    ],
    ids=["larger", "negative", "huge", "floats", "booleans", "nested", "no text", "too long", "empty"],
)
def test_a_shape_that_the_bytes_contradict_is_not_believed(tmp_path: Path, quant_state: torch.Tensor) -> None:
    """The number of values comes from the bytes of the weight; the shape is then unknown."""
    (row,) = quantized(opened(tmp_path, four_bit(quant_state)))
    assert row.quantized is not None
    assert (row.quantized.shape, row.quantized.numel) == (None, 96 * 256)


@pytest.mark.parametrize("claimed", [[96, 2**40], [1, 256], [-96, 250], [96, 0]])
def test_numbers_that_the_packed_shape_contradicts_are_not_believed(
    tmp_path: Path, claimed: list[int]
) -> None:
    """compressed-tensors' weight_shape has to fit the words that are there; else they count as stored."""
    tensors = dict(LAYOUTS["compressed-tensors 4"].tensors)
    checkpoint = opened(tmp_path, {**tensors, "l.weight_shape": torch.tensor(claimed)})
    assert quantized(checkpoint) == []
    assert mi.count(checkpoint).unique == sum(
        row.numel for row in checkpoint.table if row.kind == "parameter"
    )
    assert any("weight_packed" in note and "counted as stored" in note for note in mi.count(checkpoint).notes)


def test_only_the_bytes_of_the_shape_are_read(tmp_path: Path) -> None:
    """The header, then 16 bytes a layer; the file's entry says so."""
    tensors = {
        f"{n}{key}": value.clone()
        for n in range(3)
        for key, value in LAYOUTS["compressed-tensors 4"].tensors.items()
    }
    checkpoint = opened(tmp_path, tensors)
    path = str(tmp_path / "m.safetensors")
    assert checkpoint.bytes_read == open_file(path, path).bytes_read + 3 * 16
    plain = opened(tmp_path, LAYOUTS["gptq-4"].tensors)
    assert plain.bytes_read == open_file(path, path).bytes_read


def test_a_weight_whose_parts_lie_in_several_shards(tmp_path: Path) -> None:
    """Packed words in one file, their scales and shape in another."""
    tensors = LAYOUTS["compressed-tensors 4"].tensors
    first = {"l.weight_packed": tensors["l.weight_packed"]}
    save_file(first, tmp_path / "model-00001-of-00002.safetensors")
    rest = {name: tensor for name, tensor in tensors.items() if name not in first}
    save_file(rest, tmp_path / "model-00002-of-00002.safetensors")
    before = sum(open_file(str(path), "m").bytes_read for path in tmp_path.glob("*.safetensors"))
    checkpoint = mi.open_checkpoint(str(tmp_path))
    assert [row.quantized.shape for row in quantized(checkpoint) if row.quantized] == [(96, 250)]
    assert checkpoint.bytes_read == before + 16


def test_in_a_file_of_torch_save(tmp_path: Path) -> None:
    """A zip archive, compressed or not, and a section beside others."""
    model = LAYOUTS["compressed-tensors 4"].tensors
    torch.save(
        {"model": model, "ema": model, "optimizer": {"state": {}, "param_groups": []}}, tmp_path / "m.pt"
    )
    checkpoint = mi.open_checkpoint(str(tmp_path / "m.pt"))
    assert mi.count(checkpoint).unique == 96 * 250
    everything = checkpoint.section("all")
    assert [row.name for row in everything if row.quantized] == [
        "model.l.weight_packed",
        "ema.l.weight_packed",
    ]
    (total,) = mi.count(str(tmp_path / "m.pt"), section="all").quantized
    assert (total.weights, total.scales) == (1, 2)  # the two share their bytes


def test_compressed_records_are_unpacked_only_where_they_are_short(tmp_path: Path) -> None:
    """A repacked archive gives its shapes, too; a few bytes out of a large storage are not worth it."""
    large = torch.zeros(200_000, dtype=torch.int64)
    large[:2] = torch.tensor([96, 250])
    model = LAYOUTS["compressed-tensors 4"].tensors
    for name, shape in {"short": model["l.weight_shape"], "long": large[:2]}.items():
        torch.save({**model, "l.weight_shape": shape}, tmp_path / "stored.pt")
        packed = tmp_path / f"{name}.pt"
        with (
            zipfile.ZipFile(tmp_path / "stored.pt") as old,
            zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for record in old.namelist():
                new.writestr(record, old.read(record))
    assert len(quantized(mi.open_checkpoint(str(tmp_path / "short.pt")))) == 1
    assert quantized(mi.open_checkpoint(str(tmp_path / "long.pt"))) == []


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions")
@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated")
def test_quantized_tensors_of_torch(tmp_path: Path) -> None:
    """Their shape is the weight's; the scales of channels lie inside them."""
    scales, points = torch.ones(4), torch.zeros(4, dtype=torch.int64)
    tensors = {
        "a.weight": torch.quantize_per_tensor(torch.zeros(4, 6), 0.1, 0, torch.qint8),
        "b.weight": torch.quantize_per_channel(torch.zeros(4, 6), scales, points, 0, torch.qint8),
    }
    torch.save(tensors, tmp_path / "m.pt")
    checkpoint = mi.open_checkpoint(str(tmp_path / "m.pt"))
    assert [row.quantized.shape for row in quantized(checkpoint) if row.quantized] == [(4, 6), (4, 6)]
    report = mi.count(checkpoint)
    (total,) = report.quantized
    assert (report.unique, total.title, total.numel, total.nbytes, total.scales) == (
        48,
        "torch.ao int8",
        48,
        48,
        2,
    )


def test_a_tensor_subclass_of_torchao() -> None:
    """In a file of torch.save it stays whole: parts that hold the values, and scales."""
    parts = [
        row("qdata", "uint8", (4, 8)),
        row("scale", "float8_e4m3fn", (4, 1)),
        row("per_tensor_scale", "float32", ()),
    ]
    whole = row("w", "bfloat16", (4, 16))._replace(
        storage=None, parts=tuple(parts), layout="wrapper", class_name="torchao.prototype.NVFP4Tensor"
    )
    other = whole._replace(name="v", class_name="elsewhere.NVFP4Tensor")
    (found,) = quantized(settled(checkpoint_of([whole, other])))
    assert (found.name, found.quantized) == ("w", Quantized("torchao NVFP4", (4, 16), 64, 4))


def test_scales_of_a_cache_are_no_parameters(tmp_path: Path) -> None:
    """They stand beside no weight, in a model that is quantized."""
    fp8 = {"q.weight": zeros(F8, 8, 8), "q.weight_scale": torch.tensor(1.0)}
    cache = {"attn.k_scale": torch.tensor(1.0), "attn.v_scale": zeros(f32, 4)}
    assert parameters(opened(tmp_path, {**fp8, **cache})) == ["q.weight"]
    assert parameters(opened(tmp_path, cache)) == ["attn.k_scale", "attn.v_scale"]


def test_a_configuration_confirms_and_is_never_needed(tmp_path: Path) -> None:
    """Where config.json says otherwise than the tensors, the tensors are believed and a note says so."""
    save_file(LAYOUTS["gptq-4"].tensors, tmp_path / "model.safetensors")

    def notes(**config: object) -> str:
        (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
        checkpoint = mi.open_checkpoint(str(tmp_path))
        assert mi.count(checkpoint).unique in (96 * 256, 8)
        return "; ".join(checkpoint.notes)

    assert "config.json" not in notes(quant_method="gptq", bits=4)
    assert "config.json says 8 bits, the tensors hold 4" in notes(quant_method="gptq", bits=8)
    save_file({"w": torch.zeros(8)}, tmp_path / "model.safetensors")
    assert "says the weights are quantized (vptq), their tensors don't" in notes(quant_method="vptq")


def row(name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    """A row whose bytes are nowhere."""
    kind = BY_NAME[dtype]
    return TensorInfo(name, kind, shape, Storage("nowhere", name, 0, kind.nbytes(prod(shape))))


def checkpoint_of(rows: list[TensorInfo]) -> Checkpoint:
    """A checkpoint of those rows."""
    table = ParameterTable("nowhere", rows, "file")
    return Checkpoint("nowhere", "x", (FileInfo("nowhere", 0, 0),), {"": table}, {"": "model"}, "")


LEAVES = sorted({name.rpartition(".")[2] for layout in LAYOUTS.values() for name in layout.tensors})
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 16, 24, 32, 96, 256, 2**31]), max_size=4).map(tuple)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.sampled_from(LEAVES), st.tuples(st.sampled_from(sorted(BY_NAME)), SHAPES), max_size=8)
)
def test_any_names_and_shapes_at_all(made: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Nothing is raised, and nothing stands for more than a value for each bit that it has, or eight."""
    rows = [row(f"l.{leaf}", dtype, shape) for leaf, (dtype, shape) in made.items()]
    checkpoint = settled(checkpoint_of(rows))
    assert [found.name for found in checkpoint.table] == [each.name for each in rows]
    for found in quantized(checkpoint):
        stands_for = found.quantized
        assert stands_for is not None
        assert stands_for.shape is None or prod(stands_for.shape) == stands_for.numel
        assert set(stands_for.beside) < {each.name for each in rows}
        if stands_for.scheme not in ("AQLM", "sparse bitmask"):
            assert stands_for.numel <= found.nbytes * 8
    mi.count(checkpoint)


# ------------------------------------------------------------------- whole models


def llama(layers: int, hidden: int, inner: int, vocabulary: int) -> dict[str, tuple[str, list[int]]]:
    """Header of Llama 2 in GPTQ's 4 bits, groups of 128: norms and embeddings stay as they were."""
    found: dict[str, tuple[str, list[int]]] = {
        "model.embed_tokens.weight": ("F16", [vocabulary, hidden]),
        "model.norm.weight": ("F16", [hidden]),
        "lm_head.weight": ("F16", [vocabulary, hidden]),
    }
    matrices = {f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"}
    matrices |= {
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }
    for layer in range(layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"model.layers.{layer}.{norm}.weight"] = ("F16", [hidden])
        for name, (inputs, out) in matrices.items():
            stem = f"model.layers.{layer}.{name}"
            found[f"{stem}.qweight"] = ("I32", [inputs // 8, out])
            found[f"{stem}.qzeros"] = ("I32", [inputs // 128, out // 8])
            found[f"{stem}.scales"] = ("F16", [inputs // 128, out])
            found[f"{stem}.g_idx"] = ("I32", [inputs])
    return found


def sparse_file(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """A safetensors file of those tensors whose data is a hole."""
    header, position = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = position + torch.Size(shape).numel() * (2 if dtype == "F16" else 4)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)


def test_a_4_bit_model_of_7_billion_counts_7_billion(tmp_path: Path) -> None:
    """Llama 2 7B has 6,738,415,616 parameters, in whatever form."""
    path = tmp_path / "llama.safetensors"
    sparse_file(path, llama(32, 4096, 11008, 32000))
    report = mi.count(str(path))
    assert report.unique == report.named == 6_738_415_616
    (total,) = report.quantized
    assert (total.title, total.weights) == ("GPTQ 4-bit", 224)
    assert total.numel == 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert total.nbytes * 2 == total.numel
    assert total.scales == 3 * 224
    parts = (row.nbytes for row in mi.open_checkpoint(str(path)).table if row.kind != "parameter")
    assert sum(parts) == total.scale_nbytes


def test_plain_models_do_not_pay(tmp_path: Path) -> None:
    """What reads quantized layouts is not imported where there are none, whatever the integers."""
    tensors = {
        "conv.weight": torch.zeros(2, 3),
        "bn.num_batches_tracked": torch.tensor(1),
        "logit_scale": torch.tensor(1.0),
        "index": zeros(torch.int64, 4, 4),
    }
    save_file(tensors, tmp_path / "plain.safetensors")
    save_file({"w": zeros(u8, 4), "x": zeros(i32, 4)}, tmp_path / "bytes.safetensors")
    code = (
        "import sys, modelinspect as mi\n"
        "for name in sys.argv[1:]: mi.open_checkpoint(name); mi.count(name)\n"
        "print([name for name in sys.modules if 'parts.quantization' in name])"
    )
    paths = [str(tmp_path / name) for name in ("plain.safetensors", "bytes.safetensors")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
