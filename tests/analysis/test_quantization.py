"""What a table holds in quantized layouts, added up."""

from __future__ import annotations

import pytest

from modelinspect.analysis.quantization import QuantizationTotal, logical_name, quantization, scheme_title
from modelinspect.dtypes import BY_NAME
from modelinspect.tensors import ParameterTable, Quantized, Storage, TensorInfo


def row(name: str, dtype: str, shape: tuple[int, ...], **fields: object) -> TensorInfo:
    """A row with a storage of its own."""
    made = TensorInfo(name, BY_NAME[dtype], shape, None, **fields)  # type: ignore[arg-type]
    return made._replace(storage=Storage("f", name, 0, made.dtype.nbytes(made.numel)))


def packed(layer: str) -> list[TensorInfo]:
    """A GPTQ layer of 64 × 32 weights in 4 bits, in groups of 32."""
    found = Quantized(
        "GPTQ", (32, 64), 2048, 4, tuple(f"{layer}.{leaf}" for leaf in ("scales", "qzeros", "g_idx"))
    )
    return [
        row(f"{layer}.qweight", "int32", (8, 32), quantized=found),
        row(f"{layer}.scales", "float16", (2, 32), kind="buffer"),
        row(f"{layer}.qzeros", "int32", (2, 4), kind="buffer"),
        row(f"{layer}.g_idx", "int32", (64,), kind="buffer"),
    ]


def test_weights_and_scales_add_up_by_scheme() -> None:
    """Two layers of one scheme are one total; what stands beside them has figures of its own."""
    other = row("c.weight", "uint8", (512, 1), quantized=Quantized("bitsandbytes nf4", None, 1024, 4))
    table = ParameterTable("t", [*packed("a"), *packed("b"), other, row("n", "float32", (3,))], "file")
    assert quantization(table) == (
        QuantizationTotal("GPTQ", 4, 2, 4096, 2048, 6, 272, 832),
        QuantizationTotal("bitsandbytes nf4", 4, 1, 1024, 512),
    )


def test_nothing_quantized_is_nothing() -> None:
    """Plain weights give no totals."""
    assert quantization(ParameterTable("t", [row("w", "float32", (3,))], "file")) == ()


def test_a_tied_weight_counts_once() -> None:
    """Two names of one packed tensor are one weight."""
    first = packed("a")[0]
    table = ParameterTable("t", [first, first._replace(name="b.qweight")], "file")
    assert [(total.weights, total.numel, total.nbytes) for total in quantization(table)] == [(1, 2048, 1024)]


def test_parts_of_a_tensor_subclass_are_its_data_and_its_scales() -> None:
    """A torchao tensor holds both in itself."""
    parts = (row("qdata", "int8", (4, 8)), row("scale", "float32", (4, 1)))
    whole = TensorInfo("w", BY_NAME["float32"], (4, 8), None, parts=parts, layout="wrapper")
    table = ParameterTable("t", [whole._replace(quantized=Quantized("torchao int8", (4, 8), 32, 8))], "file")
    assert quantization(table) == (QuantizationTotal("torchao int8", 8, 1, 32, 32, 1, 4, 16),)


def test_titles_tell_the_bits_once() -> None:
    """Where a scheme's name ends in its bits, they are not said again."""
    assert scheme_title("AWQ", 4) == "AWQ 4-bit"
    assert [scheme_title(name, 4) for name in ("NVFP4", "bitsandbytes fp4")] == ["NVFP4", "bitsandbytes fp4"]
    assert scheme_title("GPTQ", 2.5) == "GPTQ 2.5-bit"


@pytest.mark.parametrize(
    ("packed_name", "name"),
    [
        ("l.qweight", "l.weight"),
        ("l.weight_packed", "l.weight"),
        ("l.weight", "l.weight"),
        ("l.W_q", "l.weight"),
        ("l.weight._data._data", "l.weight"),
        ("l._weight_qdata", "l.weight"),
        ("l.weight.compressed", "l.weight"),
        ("experts.gate_up_proj_blocks", "experts.gate_up_proj"),
        ("l.mlp1_weight.blocks", "l.mlp1_weight"),
        ("qweight", "qweight"),
    ],
)
def test_a_float_model_calls_it_otherwise(packed_name: str, name: str) -> None:
    """The name of the weight that a packed tensor stands for."""
    assert logical_name(row(packed_name, "int32", (8, 32))) == name
