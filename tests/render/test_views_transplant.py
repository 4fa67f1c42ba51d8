"""The page of a plan: what people read at 80 and 120 columns, what scripts get."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest

from modelinspect.dtypes import BY_NAME
from modelinspect.render.display import sheets_of
from modelinspect.render.output import Format, Terminal, write_sheets
from modelinspect.render.views.transplant import TRANSPLANT_COLUMNS, transplant_sheet
from modelinspect.tensors import ParameterTable, TensorInfo
from modelinspect.transplant.plan import Assignment, Doubt, Label, Missing, Piece, Plan, Unused
from modelinspect.transplant.proof import OutputGap, Proof, Settled
from modelinspect.transplant.transforms import parse_steps

BLOCK = (
    ("ln_1.weight", "norm1.weight", "", "certain", "the only one of its role there"),
    ("ln_1.bias", "norm1.bias", "", "certain", "the only one of its role there"),
    ("attn.c_attn.weight", "attn.qkv.weight", "transpose", "certain", "the only one of its shape there"),
    ("attn.c_proj.weight", "attn.proj.weight", "transpose", "likely", "transposed as its siblings are"),
    (
        "mlp.c_fc.weight",
        "mlp.up.weight",
        "transpose",
        "ambiguous",
        "nothing tells it from others of its shape",
    ),
    (
        "mlp.c_gate.weight",
        "mlp.gate.weight",
        "transpose",
        "ambiguous",
        "nothing tells it from others of its shape",
    ),
)


def table(source: str, names: list[str]) -> ParameterTable:
    """A table of tensors that are alike."""
    rows = [TensorInfo(name, BY_NAME["float32"], (4, 4), None) for name in names]
    return ParameterTable(source, rows, "file")


def plan() -> Plan:
    """Twelve blocks with rows of every label, and something missing, made, unused and in doubt."""
    labels: dict[str, Label] = {"certain": "certain", "likely": "likely", "ambiguous": "ambiguous"}
    made = [
        Assignment(
            "embed.weight", (Piece("transformer.wte.weight"),), (), "certain", "the only one of its shape"
        )
    ]
    for i in range(12):
        made += [
            Assignment(
                f"blocks.{i}.{ours}",
                (Piece(f"transformer.h.{i}.{theirs}", parse_steps(steps)),),
                (),
                labels[label],
                why,
            )
            for theirs, ours, steps, label, why in BLOCK
        ]
        made += [
            Assignment(
                f"blocks.{i}.kv.weight",
                tuple(Piece(f"transformer.h.{i}.cross.{c}.weight", parse_steps("transpose")) for c in "kv"),
                parse_steps("cat(0, 1)"),
                "likely",
                "by name and place among others of its shape",
            )
        ]
    sources = [name for each in made for name in each.sources]
    unused = [f"transformer.h.{i}.attn.bias" for i in range(12)]
    return Plan(
        table("gpt2.safetensors", sources + unused),
        table("net.py:Net", [each.target for each in made] + ["head.weight", "head.bias", "mask"]),
        tuple(made),
        (
            Missing("head.weight", (10, 768), "nothing in the source is of its shape"),
            Missing("head.bias", (10,), "nothing in the source is of its shape"),
            Missing("mask", (1024, 1024), "a buffer that the module makes itself", is_made=True),
        ),
        tuple(Unused(name, (1, 1, 1024, 1024), "nothing in the target takes it") for name in unused),
        tuple(
            Doubt(
                (f"blocks.{i}.mlp.up.weight", f"blocks.{i}.mlp.gate.weight"),
                (f"transformer.h.{i}.mlp.c_fc.weight", f"transformer.h.{i}.mlp.c_gate.weight"),
                "",
            )
            for i in range(12)
        ),
        ("a note",),
    )


def proven() -> Plan:
    """A small plan after both models were run."""
    made = tuple(
        Assignment(f"{n}.weight", (Piece(f"fc{n}.weight"),), (), "proven", "both models give equal outputs")
        for n in (0, 2)
    )
    proof = Proof(
        equal=True,
        outputs=(OutputGap("", "", (8, 1), 3e-7, 1.2e-7, equal=True),),
        own_outputs=(OutputGap("", "", (8, 1), 0.0, 0.0, equal=True),),
        input="float32[8, 1]",
        dtype="float64",
        activations=3,
        agreeing=3,
        settled=(Settled(("0.weight", "2.weight"), "the two exchanged"),),
        runs=4,
    )
    return Plan(
        table("old.pt", ["fc0.weight", "fc2.weight"]),
        table("net.py", ["0.weight", "2.weight"]),
        made,
        proof=proof,
    )


def apart() -> Plan:
    """The same where the outputs differ although every tensor has its place."""
    proof = Proof(
        equal=False,
        outputs=(OutputGap("", "", (8, 1), 0.02, 0.011, equal=False),),
        input="float32[8, 1]",
        activations=30,
        agreeing=12,
        first_apart="blocks.3.norm1",
        differences=("eps 1e-12 in norm, 1e-05 in blocks.0.norm1",),
        notes=("no influence on the outputs, so not proven: blocks.0.k.bias",),
    )
    return replace(proven(), proof=proof)


def empty() -> Plan:
    """Nothing fits."""
    missing = (Missing("0.weight", (3,), "nothing in the source fits"),)
    return Plan(table("old.pt", []), table("net.py", ["0.weight"]), (), missing)


VIEWS: dict[str, Callable[[], Plan]] = {
    "transplant": plan,
    "transplant-proven": proven,
    "transplant-apart": apart,
    "transplant-empty": empty,
    "transplant-ambiguous": lambda: replace(plan(), missing=()),
}


def text_of(made: Plan, form: Format = "table", width: int | None = None) -> str:
    """A plan as the command writes it."""
    stream = StringIO()
    sheet = transplant_sheet(made, for_people=form in ("table", "markdown"))
    write_sheets([sheet], form, stream, terminal=Terminal(width, False))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", VIEWS)
def test_golden(golden: Callable[[str, str], None], name: str, width: int) -> None:
    """What a user sees at 80 and 120 columns is what someone read and accepted."""
    golden(f"{name}-{width}", text_of(VIEWS[name](), width=width))


def test_markdown(golden: Callable[[str, str], None]) -> None:
    """The same page for a pull request."""
    golden("transplant-markdown", text_of(plan(), "markdown"))


def test_a_pipe_gets_one_row_a_line() -> None:
    """Source, target, transform, count, label, reason; what has no partner has an empty field."""
    lines = [line.split("\t") for line in text_of(plan(), "plain").splitlines()]
    assert lines[0] == [
        "transformer.wte.weight", "embed.weight", "", "1", "certain", "the only one of its shape",
    ]  # fmt: skip
    assert lines[3][:5] == [
        "transformer.h.{0..11}.attn.c_attn.weight", "blocks.{0..11}.attn.qkv.weight",
        "transpose", "12", "certain",
    ]  # fmt: skip
    assert ["", "head.weight", "", "1", "missing"] in [line[:5] for line in lines]
    assert ["", "mask", "", "1", "made"] in [line[:5] for line in lines]
    assert lines[-1][:5] == ["transformer.h.{0..11}.attn.bias", "", "", "12", "unused"]


def test_csv_names_its_columns() -> None:
    """A heading of keys, and as many rows as a pipe gets."""
    head, *rows = text_of(plan(), "csv").splitlines()
    assert head == ",".join(TRANSPLANT_COLUMNS)
    assert len(rows) == len(text_of(plan(), "plain").splitlines())


def test_json_holds_what_the_view_documents() -> None:
    """Totals, labels, doubts, the proof, and rows whose sources can be told apart."""
    document: dict[str, Any] = json.loads(text_of(plan(), "json"))
    assert document["tensors"] == {"filled": 85, "missing": 2, "made": 1, "unused": 12}
    assert document["labels"] == {"certain": 37, "likely": 24, "ambiguous": 24}
    assert (document["complete"], document["ambiguous"], document["proof"]) == (False, True, None)
    assert document["doubts"] == [
        {
            "targets": ["blocks.{0..11}.mlp.up.weight", "blocks.{0..11}.mlp.gate.weight"],
            "candidates": [
                "transformer.h.{0..11}.mlp.c_fc.weight",
                "transformer.h.{0..11}.mlp.c_gate.weight",
            ],
            "settle": "--map 'transformer.h.*.mlp.c_fc.weight=blocks.*.mlp.up.weight'",
            "doubts": 12,
        }
    ]
    joined = next(row for row in document["rows"] if row["target"] == "blocks.{0..11}.kv.weight")
    assert joined["sources"] == [
        {"name": f"transformer.h.{{0..11}}.cross.{c}.weight", "transform": "transpose"} for c in "kv"
    ]
    assert joined["transform"] == "transpose | cat(0, 1)"
    missing = next(row for row in document["rows"] if row["target"] == "head.weight")
    assert (missing["source"], missing["shape"]) == (None, [10, 768])


def test_json_of_a_proof() -> None:
    """Gaps, modules that agree and what was settled are raw."""
    proof = json.loads(text_of(proven(), "json"))["proof"]
    assert proof["equal"] is True
    assert proof["outputs"][0]["relative"] == 1.2e-7
    assert proof["settled"] == [{"targets": ["0.weight", "2.weight"], "how": "the two exchanged"}]


def test_a_plan_shows_itself() -> None:
    """In a notebook and to rich a plan is the page that the command shows."""
    (sheet,) = sheets_of(plan())
    assert [column.key for column in sheet.columns] == ["source", "target", "transform", "count", "label"]
    assert "<table" in (plan()._repr_html_() or "")


def test_names_from_a_file_are_escaped() -> None:
    """A name that would move the cursor does not."""
    made = Plan(
        table("old.pt", ["a\x1b[2J"]), table("net.py", ["b"]), (Assignment("b", (Piece("a\x1b[2J"),)),)
    )
    forms: tuple[Format, ...] = ("table", "plain", "markdown")
    for form in forms:
        assert "\x1b" not in text_of(made, form)


def test_doubts_whose_numbers_differ_by_an_offset_name_one_block() -> None:
    """A star can't stand for two numbers, so the line that settles it is of the first block."""
    doubts = tuple(Doubt((f"b.{i}.w",), (f"h.{i + 1}.q", f"h.{i + 1}.k"), "") for i in range(3))
    made = replace(proven(), doubts=doubts)
    settle = json.loads(text_of(made, "json"))["doubts"][0]["settle"]
    assert settle == "--map 'h.1.q=b.0.w'"
