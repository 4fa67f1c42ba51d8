"""Counting: unique, named, stored, groups that add up, and what is not known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelinspect.analysis.count import Grouping, count_table
from modelinspect.dtypes import BY_NAME
from modelinspect.errors import UnknownAnswerError, UsageError
from modelinspect.tensors import (
    ParameterTable,
    Quantized,
    Storage,
    TensorInfo,
    contiguous_stride,
    unique_names,
)

FLOAT = BY_NAME["float32"]


def tensor(name: str, shape: tuple[int, ...], key: str | None = None, **fields: object) -> TensorInfo:
    """A row; equal keys are one storage."""
    dtype = fields.pop("dtype", FLOAT)
    numel = 1
    for length in shape:
        numel *= length
    nbytes = fields.pop("storage_bytes", dtype.nbytes(numel))  # type: ignore[attr-defined]
    storage = Storage("f", key or name, 0, nbytes)  # type: ignore[arg-type]
    return TensorInfo(name, dtype, shape, storage, **fields)  # type: ignore[arg-type]


def table(*tensors: TensorInfo, **fields: object) -> ParameterTable:
    """A table as read from a file."""
    return ParameterTable("t", tensors, **{"origin": "file", **fields})  # type: ignore[arg-type]


def test_tied_parameters_count_once_and_the_tie_is_named() -> None:
    """A tensor stored once under two names is one parameter with two names."""
    report = count_table(table(tensor("a", (4, 2), "s"), tensor("b", (4, 2), "s"), tensor("c", (3,))))
    assert (report.unique, report.named, report.stored, report.nbytes) == (11, 19, 11, 44)
    assert [(tie.names, tie.numel) for tie in report.ties] == [(("a", "b"), 8)]


def test_same_storage_at_another_offset_is_no_tie() -> None:
    """Weights packed into one storage are different parameters; the storage counts once."""
    whole = {"storage_bytes": 40}
    packed = table(tensor("a", (5,), "s", **whole), tensor("b", (5,), "s", storage_offset=5, **whole))
    report = count_table(packed)
    assert (report.unique, report.named, report.stored, report.nbytes, report.ties) == (10, 10, 10, 40, ())


def test_same_storage_with_another_stride_is_no_tie() -> None:
    """A square matrix and its transpose look into one storage and are two tensors."""
    pair = table(tensor("a", (2, 2), "s"), tensor("b", (2, 2), "s", explicit_stride=(1, 2)))
    assert count_table(pair).unique == 8
    assert count_table(pair).stored == 4


def test_a_view_drags_its_storage_along() -> None:
    """A slice of a larger storage: its own elements are unique, the storage's are stored."""
    report = count_table(table(tensor("view", (10,), storage_bytes=4000)))
    assert (report.unique, report.stored, report.nbytes) == (10, 1000, 4000)
    assert "3,960 of 4,000 bytes" in " ".join(report.notes)


def test_expanded_tensors_store_less_than_they_show() -> None:
    """Stride 0: torch's numel says 12, the file holds 3."""
    report = count_table(table(tensor("e", (4, 3), explicit_stride=(0, 1), storage_bytes=12)))
    assert (report.unique, report.stored) == (12, 3)


def test_packed_elements_count_as_what_they_stand_for() -> None:
    """float4_e2m1fn_x2 holds two values in each element of its shape."""
    report = count_table(table(tensor("w", (3, 4), dtype=BY_NAME["float4_e2m1fn_x2"])))
    assert (report.unique, report.stored, report.nbytes) == (24, 12, 12)


def test_buffers_do_not_count_and_the_inferred_ones_are_named() -> None:
    """Where the kind was inferred, a note says which names were taken for buffers."""
    report = count_table(
        table(
            tensor("bn.weight", (2,)),
            tensor("bn.running_mean", (2,), kind="buffer"),
            tensor("x", (5,), kind="buffer"),
        )
    )
    assert (report.unique, report.buffers, report.persistent_buffers) == (2, 7, 7)
    assert report.non_persistent_buffers is None, "a state_dict can't tell"
    assert any("running_mean" in note and "2 tensors" in note for note in report.notes)


def test_declared_buffers_need_no_remark() -> None:
    """A definition says what is a buffer, persistent or not."""
    report = count_table(
        table(
            tensor("a", (2,), kind="buffer", declared=True, persistent=True),
            tensor("b", (3,), kind="buffer", declared=True, persistent=False),
            origin="definition",
        )
    )
    assert (report.persistent_buffers, report.non_persistent_buffers, report.notes) == (2, 3, ())


def test_trainable_is_unknown_unless_every_parameter_says() -> None:
    """One parameter that does not say makes trainable and frozen unknown, and asking an error."""
    known = count_table(table(tensor("a", (2,), requires_grad=True), tensor("b", (3,), requires_grad=False)))
    assert (known.trainable, known.frozen) == (2, 3)
    unknown = count_table(table(tensor("a", (2,), requires_grad=True), tensor("b", (3,))))
    assert (unknown.trainable, unknown.frozen) == (None, None)
    with pytest.raises(UnknownAnswerError, match="does not say which parameters are trainable"):
        unknown.quantity("trainable")


def test_unknown_figure_is_refused() -> None:
    """A figure that does not exist names those that do."""
    with pytest.raises(UsageError, match="no figure is called 'uniq'"):
        count_table(table()).quantity("uniq")  # type: ignore[arg-type]


def test_a_quantized_layout_is_not_passed_off_as_a_count() -> None:
    """What looks like GPTQ and isn't understood is counted as stored, and that is said."""
    packed = table(tensor("l.qweight", (8, 64), dtype=BY_NAME["int32"]), tensor("l.scales", (1, 64)))
    assert any("quantized layout (qweight)" in note for note in count_table(packed).notes)
    assert not any("quantized" in note for note in count_table(table(tensor("l.weight", (8,)))).notes)


@pytest.mark.parametrize("names", [("l.centroids.weight", "l.indices"), ("l.dense_weights", "l.col_vals")])
def test_layouts_that_hide_their_shapes_are_named(names: tuple[str, str]) -> None:
    """VPTQ and SpQR keep no shape in the file: stored elements are counted, and that is said."""
    (note,) = (note for note in count_table(table(*(tensor(name, (3,)) for name in names))).notes)
    assert "counted as stored" in note


def test_packed_weights_count_as_what_they_stand_for() -> None:
    """Values in the headline, words in ``stored`` and in the data types; scales nowhere."""
    found = Quantized("GPTQ", (64, 64), 4096, 4, ("l.scales",))
    packed = tensor("l.qweight", (8, 64), dtype=BY_NAME["int32"], quantized=found)
    report = count_table(table(packed, tensor("l.scales", (1, 64), kind="buffer"), tensor("n", (3,))))
    assert (report.unique, report.named, report.stored, report.buffers) == (4099, 4099, 515, 64)
    assert [(each.title, each.weights, each.numel, each.nbytes) for each in report.quantized] == [
        ("GPTQ 4-bit", 1, 4096, 2048)
    ]
    assert [(each.dtype, each.numel, each.nbytes) for each in report.dtypes] == [
        ("int32", 512, 2048),
        ("float32", 67, 268),
    ]
    assert report.notes == ("1 tensor of scales is not counted as parameters: 64 elements, 256 bytes",)


def test_an_empty_table_counts_zero() -> None:
    """Nothing is nothing, not an error."""
    report = count_table(table())
    assert (report.unique, report.named, report.stored, report.nbytes, report.dtypes) == (0, 0, 0, 0, ())


def test_composites_count_their_shape_and_store_their_parts() -> None:
    """A sparse tensor is as large as its shape says; stored are indices and values."""
    parts = (tensor("w.indices", (2, 3), dtype=BY_NAME["int64"]), tensor("w.values", (3,)))
    sparse = TensorInfo("w", FLOAT, (10, 10), None, layout="sparse_coo", parts=parts)
    report = count_table(table(sparse))
    assert (report.unique, report.stored, report.nbytes) == (100, 9, 60)
    assert {row.dtype: row.nbytes for row in report.dtypes} == {"int64": 48, "float32": 12}


@pytest.mark.parametrize(
    ("by", "depth", "labels"),
    [
        ("prefix", None, ["h", "head"]),
        ("prefix", 2, ["h.0", "h.1", "head.weight"]),
        ("prefix", 0, [""]),
        ("module", None, ["h.0.attn", "h.1.attn", "head"]),
        ("module", 1, ["h", "head"]),
        ("dtype", None, ["float32", "float16"]),
        ("kind", None, ["parameter"]),
        ("shard", None, ["f"]),
    ],
)
def test_groups_are_labelled(by: Grouping, depth: int | None, labels: list[str]) -> None:
    """Each way of grouping names its groups in the order of the table."""
    rows = table(
        tensor("h.0.attn.weight", (2,)),
        tensor("h.1.attn.weight", (2,)),
        tensor("head.weight", (4,), dtype=BY_NAME["float16"]),
    )
    assert [group.label for group in count_table(rows, by=by, depth=depth).groups] == labels


def test_depth_without_meaning_is_refused() -> None:
    """--depth goes with prefix and module only, and is never negative."""
    with pytest.raises(UsageError, match="means nothing"):
        count_table(table(tensor("a", (1,))), by="dtype", depth=2)
    with pytest.raises(UsageError, match="negative"):
        count_table(table(tensor("a", (1,))), by="prefix", depth=-1)


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


@st.composite
def tables(draw: st.DrawFn) -> ParameterTable:
    """Random tables in which tensors may share storages, offsets, shapes and strides."""
    rows = []
    for name in draw(st.lists(NAMES, unique=True, max_size=12)):
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        stride = contiguous_stride(shape)
        rows.append(
            TensorInfo(
                name,
                FLOAT,
                shape,
                Storage("f", draw(st.sampled_from("pqrs")), 0, 400),
                draw(st.sampled_from([None, stride, tuple(reversed(stride))])),
                draw(st.integers(0, 2)),
                draw(st.sampled_from(["parameter", "buffer", "optimizer"])),
                requires_grad=draw(st.sampled_from([True, False])),
            )
        )
    return table(*rows)


@given(tables(), st.sampled_from(["dtype", "kind", "module", "prefix", "shard"]), st.integers(0, 3))
def test_groups_add_up_to_the_totals(rows: ParameterTable, by: Grouping, depth: int) -> None:
    """Whatever the grouping, the sums over its groups are the totals, to the byte."""
    report = count_table(rows, by=by, depth=depth if by in ("prefix", "module") else None)
    for figure in ("tensors", "unique", "named", "buffers", "nbytes"):
        assert sum(getattr(group, figure) for group in report.groups) == getattr(report, figure)
    assert sum(row.nbytes for row in report.dtypes) == report.nbytes
    assert sum(group.trainable or 0 for group in report.groups) == report.trainable


@given(tables())
def test_figures_are_ordered(rows: ParameterTable) -> None:
    """Unique is never more than named, and the difference is in the ties."""
    report = count_table(rows)
    assert report.named - report.unique == sum(tie.numel * (len(tie.names) - 1) for tie in report.ties)
    assert report.trainable is not None
    assert report.frozen is not None
    assert report.trainable + report.frozen == report.unique


def test_equal_names_are_told_apart() -> None:
    """Two paths may read the same; neither tensor is taken for the other, and each counts."""
    rows = unique_names([tensor("c", (4,), "s"), tensor("a.b", (4,), "t"), tensor("a.b", (4,), "s")])
    assert [row.name for row in rows] == ["c", "a.b", "a.b (2)"]
    again = unique_names([tensor("a", (1,), str(n)) for n in range(4)] + [tensor("a (2)", (1,))])
    assert [row.name for row in again] == ["a", "a (3)", "a (4)", "a (5)", "a (2)"]
    report = count_table(table(*rows))
    assert (report.unique, report.named) == (8, 12)
    assert [tie.names for tie in report.ties] == [("c", "a.b (2)")]
