"""
Reports made by hand for the tests of this room, and golden files.

``pytest tests/render --overwrite-golden`` writes the golden files anew; read the
difference as a user would before committing it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import pytest

from modelinspect.analysis.count import CountReport, count_table
from modelinspect.analysis.fit import FitReport, FitRow
from modelinspect.analysis.listing import ParamsReport, build_tree, total
from modelinspect.analysis.summary import ValueSummary
from modelinspect.dtypes import BY_NAME
from modelinspect.tensors import ParameterTable, Quantized, Storage, TensorInfo

GOLDEN = Path(__file__).parent.parent / "golden" / "render"


def pytest_addoption(parser: pytest.Parser) -> None:
    """One switch, for this room."""
    parser.addoption("--overwrite-golden", action="store_true", help="write tests/golden/render anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the golden file of that name, or write it."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if request.config.getoption("--overwrite-golden", default=False):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        assert text == path.read_text(encoding="utf-8")

    return compare


class Samples:
    """Tables and reports as the readers and the analysis make them."""

    @staticmethod
    def tensor(name: str, shape: Sequence[int] = (2, 3), dtype: str = "float32", **fields: Any) -> TensorInfo:
        """A tensor with bytes of its own."""
        kind = BY_NAME[dtype]
        storage = Storage("model.safetensors", name, 64, kind.nbytes(prod(shape)))
        return TensorInfo(name, kind, tuple(shape), fields.pop("storage", storage), **fields)

    @staticmethod
    def report(
        table: ParameterTable, *, tree: bool = False, depth: int | None = None, **fields: Any
    ) -> ParamsReport:
        """A report on all rows of a table."""
        return ParamsReport(
            table=table,
            tensors=table.tensors,
            totals=total(table.tensors, table.tied_to),
            tied_to=table.tied_to,
            tree=build_tree(table.tensors, table, depth) if tree else None,
            notes=table.notes,
            **fields,
        )

    def named(self, *names: str, **fields: Any) -> ParamsReport:
        """A report on tensors of these names, alike in all else."""
        tensors = [self.tensor(name, **fields) for name in names]
        return self.report(ParameterTable("target", tensors, "file"))

    def regression(self) -> ParameterTable:
        """The regression network of models/, built from its class: 40 parameters in 4 tensors."""
        shapes = {"0.weight": (13, 1), "0.bias": (13,), "2.weight": (1, 13), "2.bias": (1,)}
        tensors = [
            self.tensor(name, shape, declared=True, requires_grad=True) for name, shape in shapes.items()
        ]
        modules = {"": "Sequential", "0": "Linear", "1": "Tanh", "2": "Linear"}
        return ParameterTable("models/regression.py", tensors, "definition", modules=modules)

    def gpt2(self) -> ParameterTable:
        """GPT-2, 124 M, as a checkpoint: twelve blocks, causal masks, a tied head."""
        tied = Storage("model.safetensors", "wte", 0, 50257 * 768 * 4)
        block = {
            "ln_1.weight": (768,), "ln_1.bias": (768,), "attn.bias": (1, 1, 1024, 1024),
            "attn.c_attn.weight": (768, 2304), "attn.c_attn.bias": (2304,),
            "attn.c_proj.weight": (768, 768), "attn.c_proj.bias": (768,),
            "ln_2.weight": (768,), "ln_2.bias": (768,),
            "mlp.c_fc.weight": (768, 3072), "mlp.c_fc.bias": (3072,),
            "mlp.c_proj.weight": (3072, 768), "mlp.c_proj.bias": (768,),
        }  # fmt: skip
        tensors = [
            self.tensor("transformer.wte.weight", (50257, 768), storage=tied),
            self.tensor("transformer.wpe.weight", (1024, 768)),
        ]
        for layer in range(12):
            for name, shape in block.items():
                full = f"transformer.h.{layer}.{name}"
                mask = name == "attn.bias"
                tensors.append(
                    self.tensor(full, shape, "uint8", kind="buffer") if mask else self.tensor(full, shape)
                )
        tensors += [
            self.tensor("transformer.ln_f.weight", (768,)),
            self.tensor("transformer.ln_f.bias", (768,)),
            self.tensor("lm_head.weight", (50257, 768), storage=tied),
        ]
        return ParameterTable("gpt2.safetensors", tensors, "file")

    def experts(self) -> ParameterTable:
        """A mixture of experts: the first layer is dense, four have eight experts each."""
        tensors = [self.tensor("model.embed_tokens.weight", (32000, 512), "bfloat16")]
        for layer in range(5):
            at = f"model.layers.{layer}"
            tensors.append(self.tensor(f"{at}.self_attn.q_proj.weight", (512, 512), "bfloat16"))
            if layer == 0:
                tensors.append(self.tensor(f"{at}.mlp.up_proj.weight", (2048, 512), "bfloat16"))
            for expert in range(8 if layer else 0):
                for part, shape in (("up", (1024, 512)), ("down", (512, 1024))):
                    name = f"{at}.mlp.experts.{expert}.{part}_proj.weight"
                    tensors.append(self.tensor(name, shape, "float8_e4m3fn"))
            tensors.append(self.tensor(f"{at}.input_layernorm.weight", (512,), "bfloat16"))
        return ParameterTable("experts/model.safetensors.index.json", tensors, "file")

    def partly_frozen(self) -> ParameterTable:
        """A definition with a frozen part, both sorts of buffers and an attribute that nobody registered."""
        tensors = [
            self.tensor("encoder.weight", (8, 4), declared=True, requires_grad=False),
            self.tensor("head.weight", (2, 8), declared=True, requires_grad=True),
            self.tensor("scale", (), declared=True, requires_grad=True),
            self.tensor("steps", (), "int64", kind="buffer", declared=True, persistent=True),
            self.tensor("mask", (4, 4), "bool", kind="buffer", declared=True, persistent=False),
        ]
        hidden = self.tensor("h", (1, 8))
        return ParameterTable(
            "models/partly.py:Net", tensors, "definition", unregistered=(hidden,), modules={"": "Net"}
        )

    def packed(self) -> ParameterTable:
        """Four layers in GPTQ's 4 bits and a norm."""
        rows = []
        for n in range(4):
            stem = f"layers.{n}.q_proj"
            beside = (f"{stem}.qzeros", f"{stem}.scales")
            found = Quantized("GPTQ", (4096, 1024), 4096 * 1024, 4, beside)
            rows += [
                self.tensor(f"{stem}.qweight", (128, 4096), "int32", quantized=found),
                self.tensor(f"{stem}.qzeros", (8, 512), "int32", kind="buffer"),
                self.tensor(f"{stem}.scales", (8, 4096), "float16", kind="buffer"),
            ]
        return ParameterTable(
            "packed.safetensors", [*rows, self.tensor("norm.weight", (1024,), "float16")], "file"
        )

    def values(self) -> ParamsReport:
        """The regression network with summaries of values, healthy and not."""
        summaries = {
            "0.weight": ValueSummary(13, -0.98, 0.75, 0.0212345, 0.51, 0, 0, 0),
            "0.bias": ValueSummary(13, -0.2, 0.3, 0.01, 0.123456, 0, 3, 1),
            "2.weight": ValueSummary(13, 0.0, 0.0, 0.0, 0.0, 13, 0, 0),
            "2.bias": ValueSummary(1, 0.5, 0.5, 0.5, 0.0, 0, 0, 0, [0.512345]),
        }
        return self.report(self.regression(), values=summaries)

    def misfit(self) -> FitReport:
        """A checkpoint that fits in no way a checkpoint can fail to."""
        expected = self.regression()
        first, second, third, fourth = expected.tensors
        wider = self.tensor("0.bias", (14,))
        half = self.tensor("2.weight", (1, 13), "float16")
        extra = self.tensor("extra.weight", (3, 3))
        rows = (
            FitRow(first.name, "ok", first, first),
            FitRow(second.name, "shape", second, wider),
            FitRow(third.name, "dtype", third, half),
            FitRow(fourth.name, "missing", fourth, None),
            FitRow(extra.name, "unexpected", None, extra),
        )
        checkpoint = ParameterTable("other.pt", [first, wider, half, extra], "file")
        return FitReport(expected, checkpoint, rows, checkpoint_prefix="module.")

    def counts(self) -> list[CountReport]:
        """Counts of three targets that differ in what is known."""
        return [count_table(table) for table in (self.regression(), self.gpt2(), self.partly_frozen())]


@pytest.fixture(scope="session")
def samples() -> Samples:
    """See :class:`Samples`."""
    return Samples()
