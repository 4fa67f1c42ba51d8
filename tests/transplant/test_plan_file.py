"""Plans as files: what is written is read again, edits count, and slips are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelinspect.dtypes import dtype_named
from modelinspect.errors import ModelInspectError, UsageError
from modelinspect.tensors import ParameterTable, TensorInfo
from modelinspect.transplant.plan import Assignment, Doubt, Missing, Piece, Plan, Unused
from modelinspect.transplant.plan_file import fingerprint, plan_text, read_plan_file, write_plan_file
from modelinspect.transplant.transforms import parse_steps

FLOAT32 = dtype_named("float32")
assert FLOAT32 is not None


def table(name: str, **shapes: tuple[int, ...]) -> ParameterTable:
    """A table of names, with ``__`` for a dot, and shapes."""
    rows = [TensorInfo(key.replace("__", "."), FLOAT32, shape, None) for key, shape in shapes.items()]
    return ParameterTable(name, rows, "file")


SOURCE = table(
    "old.pt",
    **{f"h__{i}__{c}": (4, 6) for i in range(3) for c in "qkv"},
    **{f"h__{i}__norm": (6,) for i in range(3)},
    stacked=(3, 5),
    pooler=(2, 2),
)
TARGET = table(
    "net.py:Net",
    **{f"b__{i}__qkv": (18, 4) for i in range(3)},
    **{f"b__{i}__scale": (6,) for i in range(3)},
    **{f"e__{i}": (5,) for i in range(3)},
    head=(7,),
    mask=(9,),
    zeros=(3,),
)


def plan() -> Plan:
    """A plan with a row of each kind, in the target's order."""
    cat = parse_steps("cat(0, 1)")
    transpose = parse_steps("transpose")
    made = [
        *(
            Assignment(
                f"b.{i}.qkv", tuple(Piece(f"h.{i}.{c}", transpose) for c in "qkv"), cat, "likely", "by names"
            )
            for i in range(3)
        ),
        *(
            Assignment(
                f"b.{i}.scale", (Piece(f"h.{i}.norm"),), (), "ambiguous" if i == 2 else "certain", "only"
            )
            for i in range(3)
        ),
        *(Assignment(f"e.{i}", (Piece("stacked", parse_steps(f"index(0, {i})")),)) for i in range(3)),
        Assignment("zeros", (Piece("", parse_steps("zeros(3)")),), (), "likely", "a bias that is nothing"),
    ]
    return Plan(
        SOURCE,
        TARGET,
        tuple(made),
        (Missing("head", (7,), "nothing fits"), Missing("mask", (9,), "a mask", is_made=True)),
        (Unused("pooler", (2, 2), "nothing takes it"),),
        (Doubt(("b.2.scale",), ("h.2.norm",), "--map 'h.2.norm=b.2.scale'"),),
        ("a note",),
    )


def edited(tmp_path: Path, **rows: Any) -> Plan:
    """The plan read again after its file was edited: ``row3={"source": …}``; None deletes."""
    path = tmp_path / "plan.json"
    write_plan_file(plan(), str(path))
    document = json.loads(path.read_text())
    for key, change in rows.items():
        at = int(key[3:])
        document["rows"][at] = None if change is None else {**document["rows"][at], **change}
    document["rows"] = [row for row in document["rows"] if row is not None]
    path.write_text(json.dumps(document))
    return read_plan_file(str(path), SOURCE, TARGET)


def test_a_plan_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Writing, reading and writing again changes nothing, in the plan or in the bytes."""
    path = tmp_path / "plan.json"
    write_plan_file(plan(), str(path))
    back = read_plan_file(str(path), SOURCE, TARGET)
    assert back == plan()
    assert plan_text(back) == path.read_text()


def test_a_file_is_one_object_a_row() -> None:
    """Pattern rows with their keys in one order, a key a line, two blanks deep."""
    text = plan_text(plan())
    assert (
        """  "rows": [
    {
      "target": "b.{0..2}.qkv",
      "source": [
        "h.{0..2}.q",
        "h.{0..2}.k",
        "h.{0..2}.v"
      ],
      "transform": "transpose | cat(0, 1)",
      "count": 3,
      "label": "likely",
      "reason": "by names"
    },
    {
      "target": "b.{0..1}.scale",
      "source": "h.{0..1}.norm",
      "transform": "",
      "count": 2,
      "label": "certain",
      "reason": "only"
    },
"""
        in text
    )
    assert '"shape": [2, 2],' in text
    assert list(json.loads(text)) == [
        "schema_version", "source", "target", "rows", "missing", "unused", "doubts", "notes",
    ]  # fmt: skip


def test_the_fingerprint_goes_by_names_and_shapes() -> None:
    """Another order is the same side, another shape or name is not."""
    turned = ParameterTable("old.pt", list(SOURCE.tensors)[::-1], "file")
    assert fingerprint(turned) == fingerprint(SOURCE)
    assert fingerprint(table("old.pt", a=(1,))) != fingerprint(table("old.pt", a=(2,)))


def test_another_side_is_noted(tmp_path: Path) -> None:
    """A plan that was made for another source fits or doesn't; that it is another is said."""
    path = tmp_path / "plan.json"
    write_plan_file(plan(), str(path))
    more = ParameterTable("new.pt", [*SOURCE, TensorInfo("x", FLOAT32, (1,), None)], "file")
    back = read_plan_file(str(path), more, TARGET)
    assert "was made for a source of other names or shapes (old.pt)" in back.notes[-1]
    assert Unused("x", (1,), "no row of the plan takes it") in back.unused


def test_an_edited_source_counts(tmp_path: Path) -> None:
    """The row's new source is taken; what is unused follows."""
    back = edited(tmp_path, row1={"source": "h.{1..2}.norm"})
    assert back.assignments[3].sources == ("h.1.norm",)
    assert [each.name for each in back.unused] == ["h.0.norm", "pooler"]


def test_a_deleted_row_is_missing(tmp_path: Path) -> None:
    """Its targets are listed as not filled."""
    back = edited(tmp_path, row0=None)
    assert [each.name for each in back.missing[:3]] == ["b.0.qkv", "b.1.qkv", "b.2.qkv"]
    assert back.missing[0].why == "no row of the plan fills it"


def test_a_label_that_is_set_settles_a_doubt(tmp_path: Path) -> None:
    """A person who says certain has decided; the doubt is gone."""
    at = next(i for i, row in enumerate(json.loads(plan_text(plan()))["rows"]) if row["label"] == "ambiguous")
    back = edited(tmp_path, **{f"row{at}": {"label": "certain"}})
    assert not back.doubts
    assert not back.is_ambiguous


def test_a_short_file_is_enough(tmp_path: Path) -> None:
    """Rows with a target and a source; everything else has a default."""
    path = tmp_path / "plan.json"
    rows = [
        {"target": "b.{0..2}.scale", "source": "h.{0..2}.norm"},
        {
            "target": "b.0.qkv",
            "source": ["h.0.q", {"name": "h.0.k"}, "h.0.v"],
            "transform": "transpose|cat(0,1)",
        },
    ]
    path.write_text(json.dumps({"rows": rows}))
    back = read_plan_file(str(path), SOURCE, TARGET)
    assert [each.target for each in back.assignments] == ["b.0.qkv", "b.0.scale", "b.1.scale", "b.2.scale"]
    assert {each.label for each in back.assignments} == {"certain"}
    assert back.assignments[0].pieces[1].steps == parse_steps("transpose")


def test_sources_with_steps_of_their_own(tmp_path: Path) -> None:
    """In a list a source may be an object with a transform; it comes before what all have."""
    path = tmp_path / "plan.json"
    sources = [{"name": "h.0.q", "transform": "transpose"}, {"name": "", "transform": "zeros(12, 4)"}]
    row = {"target": "b.0.qkv", "source": sources, "transform": "cat(0, 1)"}
    path.write_text(json.dumps({"rows": [row]}))
    (made,) = read_plan_file(str(path), SOURCE, TARGET).assignments
    assert made.pieces == (Piece("h.0.q", parse_steps("transpose")), Piece("", parse_steps("zeros(12, 4)")))
    assert json.loads(plan_text(read_plan_file(str(path), SOURCE, TARGET)))["rows"][0]["source"] == sources


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"source": "h.{0..2}.nrm"},
            "row 2, b.{0..1}.scale: {0..2} has 3 values, and the target's {0..1} has 2",
        ),
        ({"source": "h.{0..1}.nrm"}, "the source has no tensor 'h.0.nrm'; did you mean 'h.0.norm'?"),
        ({"target": "b.{0..1}.scal"}, "the target has no tensor 'b.0.scal'; did you mean 'b.0.scale'?"),
        ({"source": "h.{0..1}.q"}, "'b.0.scale' is of shape [6], and this makes [4, 6]"),
        ({"transform": "transpose"}, "'b.0.scale' can't be made: transpose does not fit the shape [6]"),
        ({"target": "b.{0..1}.qkv"}, "'b.0.qkv' is filled by row 1 already"),
        ({"label": "sure"}, "its label is 'sure': expected one of certain, likely, ambiguous, proven"),
        ({"source": None}, "its source is no name, nor a list of names"),
        ({"source": []}, "it names no source"),
        ({"source": ["h.{0..1}.norm", "h.{0..1}.norm"]}, "2 sources and no cat or stack that joins them"),
        ({"source": ""}, "a source without a name is a constant"),
        ({"sauce": "x"}, "it has 'sauce', which means nothing here"),
        ({"target": 3}, "its target is no text"),
        ({"target": ""}, "it names no target"),
        (
            {"source": [{"name": "h.0.q", "steps": ""}]},
            "a source is a name, or an object with name and transform",
        ),
        ({"source": "h.{0..1.norm"}, "has a { that nothing goes with"),
        ({"transform": "spin"}, "'spin' is no step"),
    ],
)
def test_a_slip_names_its_row(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    """Each way of being wrong is one message that says which row, and what about it."""
    with pytest.raises(UsageError) as caught:
        edited(tmp_path, row1=change)
    assert "plan.json has a row that can't be used" in str(caught.value)
    assert "row 2, " in str(caught.value) or "row 2:" in str(caught.value)
    assert said in str(caught.value)


def test_many_slips_are_counted(tmp_path: Path) -> None:
    """An error lists the first faults and says how many there are."""
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"rows": [{"target": f"x.{i}", "source": "y"} for i in range(50)] + [1]}))
    with pytest.raises(UsageError) as caught:
        read_plan_file(str(path), SOURCE, TARGET)
    assert "51 faults in its rows" in str(caught.value)
    assert "… and 39 more" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no plan: it is not JSON"),
        ("[]", "has no list of rows"),
        ('{"rows": 3}', "has no list of rows"),
        ('{"rows": [], "schema_version": 9}', "schema_version 9"),
        ("\xff", "is no plan"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """Something else that is given for a plan."""
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"plan\.json") as caught:
        read_plan_file(str(path), SOURCE, TARGET)
    assert said in str(caught.value)


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    """A path to nothing, and one to a folder."""
    for path in (tmp_path / "plan.json", tmp_path):
        with pytest.raises(ModelInspectError):
            read_plan_file(str(path), SOURCE, TARGET)


def test_lists_that_are_no_lists_are_left_aside(tmp_path: Path) -> None:
    """What is missing, unused, in doubt and noted is for people; odd entries do no harm."""
    path = tmp_path / "plan.json"
    odd = {"missing": 3, "unused": [4, {"source": "{"}], "doubts": [{}, 5], "notes": [6]}
    path.write_text(json.dumps({"rows": [], **odd}))
    back = read_plan_file(str(path), SOURCE, TARGET)
    assert (len(back.missing), len(back.unused), back.doubts, back.notes) == (
        len(TARGET),
        len(SOURCE),
        (),
        (),
    )
