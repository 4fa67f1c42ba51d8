"""Plans carried out from file to file: the bytes are those that torch would make."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hand_plans import Rule, assert_same, assignment, bits, expected, load, plan_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_model, save_file
from torch import nn

from modelinspect.errors import ModelInspectError, UsageError
from modelinspect.live.module_table import module_table
from modelinspect.readers.registry import open_checkpoint
from modelinspect.transplant import arrays
from modelinspect.transplant.plan import Assignment, Piece, Plan
from modelinspect.transplant.transforms import Step
from modelinspect.transplant.write import ORIGIN, write_plan

OUTPUTS = (".safetensors", ".pt")

# Every way in which bytes come to their place: copied, cut, joined, moved, computed, made up.
RULES: dict[str, Rule] = {
    "copy": "q",
    "again": "q",
    "half": "h",
    "count": "n",
    "scalar": "s",
    "none": "e",
    "flat": ("q", "reshape(2, 32)"),
    "rows": ("q", "take(0, 2, 6, 1)"),
    "row": ("q", "index(0, 3)"),
    "turned": ("q", "transpose"),
    "turned half": ("h", "transpose"),
    "turned wide": ("c", "transpose"),
    "columns": ("q", "take(1, 1, 3, 2)"),
    "fused": ([("q", ""), ("k", ""), ("v", "")], "cat(0, 1)"),
    "fused by head": ([("q", ""), ("k", ""), ("v", "")], "cat(0, 4)"),
    "stacked": ([("q", ""), ("k", "transpose")], "stack(0)"),
    "deep": ([("q", ""), ("k", "")], "stack(2) | reshape(64, 2)"),
    "halves": ("q", "swap(0, 2, 2, 2)"),
    "gates": ("q", "reorder(0, 1, 0, 3, 2)"),
    "backwards": ("b", "flip(0)"),
    "longer": ("b", "pad(0, 3)"),
    "shifted": ("b", "add(1)"),
    "shifted half": ("h", "add(-1)"),
    "counted on": ("n", "add(2)"),
    "zero": ("", "zeros(2, 3)"),
    "with zeros": ([("b", ""), ("", "zeros(8)")], "cat(0, 1)"),
}


def _state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "q": torch.randn(8, 8),
        "k": torch.randn(8, 8),
        "v": torch.randn(8, 8),
        "h": torch.randn(4, 6).bfloat16(),
        "b": torch.randn(8),
        "n": torch.tensor([1, 2, 3]),
        "s": torch.tensor(2.5),
        "e": torch.zeros(0, 3),
        "c": torch.randn(2, 3, dtype=torch.complex64),
    }


def _big_endian(state: dict[str, torch.Tensor], path: Path) -> None:
    plain = path.with_name("little.pt")
    torch.save(state, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w") as new:
        for record in old.infolist():
            raw = old.read(record)
            number = record.filename.rpartition("/data/")[2]
            if record.filename.endswith("/byteorder"):
                raw = b"big"
            elif number.isdigit():
                tensor = list(state.values())[int(number)]
                width = tensor.element_size() // (2 if tensor.is_complex() else 1)
                raw = b"".join(raw[at : at + width][::-1] for at in range(0, len(raw), width))
            new.writestr(record.filename, raw)


def _deflated(state: dict[str, torch.Tensor], path: Path) -> None:
    plain = path.with_name("stored.pt")
    torch.save(state, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))


def _views(state: dict[str, torch.Tensor], path: Path) -> None:
    """Each tensor is a strided view; two share a storage."""
    together = torch.stack([state["q"], state["k"]], dim=-1)
    views = {name: tensor.unsqueeze(-1).repeat_interleave(3, -1)[..., 1] for name, tensor in state.items()}
    views.update(q=together[..., 0], k=together[..., 1], v=state["v"].T.contiguous().T)
    torch.save(views, path)


def _shards(state: dict[str, torch.Tensor], path: Path) -> None:
    names = list(state)
    where = {}
    path.mkdir()
    for number, some in enumerate((names[:4], names[4:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: state[name] for name in some}, path / file)
        where.update(dict.fromkeys(some, file))
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


SOURCES: dict[str, tuple[str, Callable[[dict[str, torch.Tensor], Path], None]]] = {
    "safetensors": ("source.safetensors", save_file),
    "torch zip": ("source.pt", torch.save),
    "torch legacy": (
        "source.pt",
        lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    ),
    "big-endian": ("source.pt", _big_endian),
    "deflated": ("source.pt", _deflated),
    "views": ("source.pt", _views),
    "shards": ("source", _shards),
}


@pytest.mark.parametrize("suffix", OUTPUTS)
@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_into_every_output(kind: str, suffix: str, tmp_path: Path) -> None:
    """Every transform, from every format: what the ordinary loaders read is what torch makes in memory."""
    name, save = SOURCES[kind]
    source, out, state = tmp_path / name, tmp_path / f"out{suffix}", _state()
    save(state, source)
    wanted = expected(state, RULES, {"zero": torch.zeros(1)})
    written = write_plan(plan_for(source, RULES, wanted), str(out))
    assert_same(load(out), wanted)
    assert written.files == (str(out),)
    assert written.nbytes == out.stat().st_size
    assert written.tensors == written.verified == written.copied + written.transformed == len(RULES)
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")) == []


def test_ranges_are_copied_where_nothing_moves(tmp_path: Path) -> None:
    """Slices of rows, joined rows and reshapes are ranges of the source's bytes."""
    source, out, state = tmp_path / "source.safetensors", tmp_path / "out.safetensors", _state()
    save_file(state, source)
    rules = {name: RULES[name] for name in ("copy", "flat", "rows", "row", "fused", "turned")}
    written = write_plan(plan_for(source, rules, expected(state, rules)), str(out))
    assert (written.copied, written.transformed) == (5, 1)


@pytest.mark.parametrize("suffix", OUTPUTS)
@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
)
def test_numbers_are_converted_as_torch_does(dtype: str, suffix: str, tmp_path: Path) -> None:
    """Floats only, moved or copied, from any of the types to any; integers and complex ones stay."""
    source, out, state = tmp_path / "source.pt", tmp_path / f"out{suffix}", _state()
    state["d"] = torch.randn(3, 4, dtype=torch.float64)
    state["f"] = torch.randn(3, 4).to(torch.float8_e4m3fn)
    torch.save(state, source)
    rules: dict[str, Rule] = {name: name for name in state}
    rules |= {"turned": ("h", "transpose"), "part": ("q", "take(0, 1, 3, 1)")}
    rules["mixed"] = ([("s", "reshape(1)"), ("h", "reshape(24)")], "cat(0, 1)")
    kind = getattr(torch, dtype)
    state["s"], mixed = state["s"], {"s": state["s"].float(), "h": state["h"].float()}
    wanted = expected(state, {name: rule for name, rule in rules.items() if name != "mixed"})
    wanted |= expected(mixed, {"mixed": rules["mixed"]})
    wanted = {
        name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in wanted.items()
    }
    write_plan(plan_for(source, rules, wanted), str(out), dtype=dtype)
    assert_same(load(out), wanted)


def test_ones_are_added_before_numbers_are_rounded(tmp_path: Path) -> None:
    """A bfloat16 norm that stores w - 1 becomes float32 without passing through bfloat16 again."""
    source, out = tmp_path / "source.pt", tmp_path / "out.pt"
    state = {"w": torch.randn(64).bfloat16() * 0.01}
    torch.save(state, source)
    wanted = {"w": state["w"].float() + 1}
    write_plan(plan_for(source, {"w": ("w", "add(1)")}, wanted), str(out), dtype="float32")
    assert_same(load(out), wanted)


# ----------------------------------------------------------------------- any steps


@st.composite
def _steps(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Step]:
    """A few steps that fit a shape of two axes, one after the other."""
    steps: list[Step] = []
    for _ in range(draw(st.integers(0, 3))):
        axis, kind = draw(st.integers(0, 1)), draw(st.integers(0, 6))
        length = shape[axis]
        if kind == 0:
            steps.append(Step("transpose"))
            shape = (shape[1], shape[0])
        elif kind == 1:
            steps.append(Step("flip", (axis,)))
        elif kind == 2:
            start = draw(st.integers(0, length - 1))
            stop = draw(st.integers(start + 1, length))
            steps.append(Step("take", (axis, start, stop, 1)))
            shape = (stop - start, shape[1]) if axis == 0 else (shape[0], stop - start)
        elif kind == 3:
            steps.append(Step("pad", (axis, 2)))
            shape = (length + 2, shape[1]) if axis == 0 else (shape[0], length + 2)
        elif kind == 4 and length % 2 == 0:
            steps.append(Step("swap", (axis, 1, 2, length // 2)))
        elif kind == 5:
            steps.append(Step("reshape", (shape[1], shape[0])))
            shape = (shape[1], shape[0])
        elif kind == 6:
            steps.append(Step("add", (draw(st.integers(-2, 2)),)))
    return steps


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_steps_as_torch_applies_them(data: st.DataObject, tmp_path: Path) -> None:
    """Steps drawn at random, on any type that computes, are what torch makes of them in memory."""
    dtype = data.draw(
        st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32])
    )
    torch.manual_seed(data.draw(st.integers(0, 99)))
    state, lines = {}, []
    for number in range(3):
        shape = (data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8)))
        state[f"s{number}"] = (torch.randn(shape) * 8).to(dtype)
        lines.append(Assignment(f"t{number}", (Piece(f"s{number}", tuple(data.draw(_steps(shape)))),)))
    # Additions that follow each other are rounded once here, each time by torch.
    lines = [line for line in lines if sum(step.op == "add" for step in line.pieces[0].steps) < 2]
    lines.append(Assignment("t9", (Piece("s0"),)))
    rules: dict[str, Rule] = {
        line.target: (line.pieces[0].name, " | ".join(map(str, line.pieces[0].steps))) for line in lines
    }
    wanted = expected(state, rules)
    source = tmp_path / "source.pt"
    torch.save(state, source)
    out = tmp_path / f"out{data.draw(st.sampled_from(OUTPUTS))}"
    write_plan(plan_for(source, rules, wanted), str(out))
    assert_same(load(out), wanted)


# ----------------------------------------------------------------------------- ties


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight


def _tied_plan(source: Path, rules: dict[str, Rule]) -> Plan:
    lines = tuple(assignment(name, rule) for name, rule in rules.items())
    return Plan(open_checkpoint(str(source)).table, module_table(_Tied(), "Tied"), lines)


@pytest.mark.parametrize("source_names", [("w", "w"), ("w", "x")])
def test_tied_names_of_a_definition(source_names: tuple[str, str], tmp_path: Path) -> None:
    """One storage in torch's file; one name in safetensors, and load_model is content with it."""
    weight = torch.randn(6, 4)
    source = tmp_path / "source.safetensors"
    save_file({"w": weight, "x": weight.clone()}, source)
    plan = _tied_plan(source, dict(zip(("embed.weight", "head.weight"), source_names)))
    write_plan(plan, str(tmp_path / "out.pt"))
    loaded = load(tmp_path / "out.pt")
    assert loaded["embed.weight"].data_ptr() == loaded["head.weight"].data_ptr()
    assert _Tied().load_state_dict(loaded, strict=True).missing_keys == []
    written = write_plan(plan, str(tmp_path / "out.safetensors"))
    assert list(load(tmp_path / "out.safetensors")) == ["embed.weight"]
    assert written.tied == {"head.weight": "embed.weight"}
    metadata = open_checkpoint(str(tmp_path / "out.safetensors")).metadata
    assert metadata["head.weight"] == "embed.weight"
    model = _Tied()
    load_model(model, tmp_path / "out.safetensors", strict=True)
    assert torch.equal(model.head.weight, weight)


def test_tied_names_from_sources_that_differ(tmp_path: Path) -> None:
    """Both are written, and a note says so."""
    source = tmp_path / "source.safetensors"
    save_file({"w": torch.randn(6, 4), "x": torch.randn(6, 4)}, source)
    plan = _tied_plan(source, {"embed.weight": "w", "head.weight": "x"})
    written = write_plan(plan, str(tmp_path / "out.safetensors"))
    assert set(load(tmp_path / "out.safetensors")) == {"embed.weight", "head.weight"}
    assert "embed.weight, head.weight" in written.notes[0]


def test_tied_names_of_a_file(tmp_path: Path) -> None:
    """A checkpoint as the target is asked for all of its names: both are in safetensors."""
    weight = torch.randn(6, 4)
    torch.save({"a": weight, "b": weight}, tmp_path / "target.pt")
    save_file({"w": weight}, tmp_path / "source.safetensors")
    target = open_checkpoint(str(tmp_path / "target.pt")).table
    plan = plan_for(tmp_path / "source.safetensors", {"a": "w", "b": "w"}, target)
    for suffix in OUTPUTS:
        write_plan(plan, str(tmp_path / f"out{suffix}"))
        assert_same(load(tmp_path / f"out{suffix}"), {"a": weight, "b": weight})
    loaded = load(tmp_path / "out.pt")
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()


def test_one_source_for_names_that_are_not_tied(tmp_path: Path) -> None:
    """Two tensors in torch's file, each with bytes of its own."""
    weight = torch.randn(6, 4)
    save_file({"w": weight}, tmp_path / "source.safetensors")
    wanted = {"a": weight, "b": weight.clone()}
    write_plan(
        plan_for(tmp_path / "source.safetensors", {"a": "w", "b": "w"}, wanted), str(tmp_path / "out.pt")
    )
    loaded = load(tmp_path / "out.pt")
    assert_same(loaded, wanted)
    assert loaded["a"].data_ptr() != loaded["b"].data_ptr()


# ------------------------------------------------------------------- metadata, shards


def test_metadata_is_kept_and_says_the_origin(tmp_path: Path) -> None:
    """All texts but those about names that the file no longer has."""
    source, out = tmp_path / "source.safetensors", tmp_path / "out.safetensors"
    save_file({"w": torch.zeros(3)}, source, metadata={"format": "mlx", "who": "me", "head": "w"})
    plan = plan_for(source, {"v": "w"}, {"v": torch.zeros(3)})
    write_plan(plan, str(out), metadata=open_checkpoint(str(source)).metadata)
    metadata = dict(open_checkpoint(str(out)).metadata)
    assert metadata.pop(ORIGIN).startswith("source.safetensors (modelinspect ")
    assert metadata == {"format": "mlx", "who": "me"}
    write_plan(plan, str(out))
    assert open_checkpoint(str(out)).metadata["format"] == "pt"
    write_plan(plan, str(tmp_path / "out.pt"), metadata={"who": "me"})
    with zipfile.ZipFile(tmp_path / "out.pt") as archive:
        texts = json.loads(archive.read("archive/extra/metadata.json"))
    assert texts["who"] == "me"
    assert texts[ORIGIN].startswith("source.safetensors ")


@pytest.mark.parametrize("suffix", OUTPUTS)
def test_same_plan_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    """Whatever the file is called."""
    source, state = tmp_path / "source.safetensors", _state()
    save_file(state, source)
    wanted = expected(state, RULES, {"zero": torch.zeros(1)})
    for name in ("one", "other"):
        write_plan(plan_for(source, RULES, wanted), str(tmp_path / f"{name}{suffix}"))
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"other{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("out", "file", "index"),
    [
        ("shards", "shards/model-{:05d}-of-{:05d}.safetensors", "shards/model.safetensors.index.json"),
        ("shards/net.bin", "shards/net-{:05d}-of-{:05d}.bin", "shards/net.bin.index.json"),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_shards_and_their_index(out: str, file: str, index: str, exists: bool, tmp_path: Path) -> None:
    """No shard's tensors take more than was asked for; all together are what they should be."""
    source, state = tmp_path / "source.pt", _state()
    torch.save(state, source)
    wanted = expected(state, RULES, {"zero": torch.zeros(1)})
    if exists:
        (tmp_path / "shards").mkdir(0o750)
    written = write_plan(plan_for(source, RULES, wanted), str(tmp_path / out), shard_size="600")
    total = len(written.files) - 1
    files = [tmp_path / file.format(number, total) for number in range(1, total + 1)]
    assert total > 2
    assert list(written.files) == [*map(str, files), str(tmp_path / index)]
    assert sorted(entry.name for entry in (tmp_path / "shards").iterdir()) == sorted(
        os.path.basename(path) for path in written.files
    )
    found: dict[str, torch.Tensor] = {}
    where = json.loads((tmp_path / index).read_text(encoding="utf-8"))
    for path in files:
        part = load(path)
        assert len(part) == 1 or sum(len(bits(tensor)) for tensor in part.values()) <= 600
        assert {where["weight_map"][name] for name in part} == {path.name}
        found |= part
    assert_same(found, wanted)
    assert where["metadata"]["total_size"] == sum(len(bits(tensor)) for tensor in wanted.values())
    if exists:
        assert (tmp_path / "shards").stat().st_mode & 0o777 == 0o750
    assert {row.name for row in open_checkpoint(str(tmp_path / "shards")).table} == set(wanted)


def test_what_fits_into_one_shard_is_one_file(tmp_path: Path) -> None:
    """Without an index; in a folder if one was named."""
    save_file({"w": torch.zeros(3)}, tmp_path / "source.safetensors")
    plan = plan_for(tmp_path / "source.safetensors", {"v": "w"}, {"v": torch.zeros(3)})
    for out, file in (("out.safetensors", "out.safetensors"), ("folder", "folder/model.safetensors")):
        written = write_plan(plan, str(tmp_path / out), shard_size=10**9)
        assert written.files == (str(tmp_path / file),)
        assert_same(load(tmp_path / file), {"v": torch.zeros(3)})


def test_progress_comes_to_an_end(tmp_path: Path) -> None:
    """Every byte counts twice, once written and once reread; it never goes back."""
    source, state = tmp_path / "source.safetensors", _state()
    save_file(state, source)
    wanted = expected(state, RULES, {"zero": torch.zeros(1)})
    seen: list[tuple[int, int]] = []
    out = str(tmp_path / "out.safetensors")
    write_plan(plan_for(source, RULES, wanted), out, progress=lambda done, of: seen.append((done, of)))
    assert seen == sorted(seen)
    total = 2 * sum(len(bits(tensor)) for tensor in wanted.values())
    assert {of for _, of in seen} == {total}
    assert seen[-1] == (total, total)


# ------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("sparse", "only plain tensors"),
        ("quantized", "only plain tensors"),
        ("meta", "without values"),
        ("absent", "which the source lacks"),
        (("w", "reshape(5)"), "can't be made"),
        (("w", "reshape(3, 1)"), r"the target's is \[3\]"),
        (
            ([("w", ""), ("half", "")], "cat(0, 1) | take(0, 0, 3, 1)"),
            "would join tensors of bfloat16, float32",
        ),
        (("flag", "add(1)"), "nothing can be added"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_can_not_be_written_is_said_before(rule: Rule, message: str, tmp_path: Path) -> None:
    """And what was there stays."""
    source, out = tmp_path / "source.pt", tmp_path / "out.pt"
    torch.save(
        {
            "w": torch.zeros(3),
            "half": torch.zeros(3).bfloat16(),
            "flag": torch.zeros(3, dtype=torch.bool),
            "sparse": torch.eye(3)[0].to_sparse(),
            "quantized": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
            "meta": torch.zeros(3, device="meta"),
        },
        source,
    )
    out.write_bytes(b"old")
    with pytest.raises(UsageError, match=message):
        write_plan(plan_for(source, {"v": rule}, {"v": torch.zeros(3)}), str(out))
    assert out.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("out", "settings", "message"),
    [
        ("out.onnx", {}, "says no format"),
        ("out", {}, "--shard-size"),
        ("out.pt", {"dtype": "int8"}, "known: float64"),
        ("shards", {"shard_size": "5 apples"}, "no size of a file"),
        ("shards", {"shard_size": 0}, "holds nothing"),
        ("no/out.pt", {}, "no folder"),
        (".", {"shard_size": 4}, "no empty folder"),
    ],
)
def test_places_and_settings_that_make_no_sense(
    out: str, settings: dict[str, str], message: str, tmp_path: Path
) -> None:
    """One message, before anything is made."""
    source = tmp_path / "source.pt"
    torch.save({"w": torch.zeros(3), "x": torch.zeros(3)}, source)
    plan = plan_for(source, {"v": "w", "u": "x"}, {"v": torch.zeros(3), "u": torch.zeros(3)})
    with pytest.raises(ModelInspectError, match=message):
        write_plan(plan, str(tmp_path / out), **settings)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [source]


def test_types_that_a_format_lacks(tmp_path: Path) -> None:
    """In safetensors there is no complex128; the error says what to do."""
    source, state = tmp_path / "source.pt", {"w": torch.zeros(3, dtype=torch.complex128)}
    torch.save(state, source)
    plan = plan_for(source, {"w": "w"}, state)
    with pytest.raises(UsageError, match=r"save as \.pt"):
        write_plan(plan, str(tmp_path / "out.safetensors"))
    assert list(tmp_path.iterdir()) == [source]
    write_plan(plan, str(tmp_path / "out.pt"))
    assert_same(load(tmp_path / "out.pt"), state)


def test_a_plan_of_tensors_in_memory_has_no_file(tmp_path: Path) -> None:
    """They can't be copied from anywhere."""
    save_file({"w": torch.zeros(3)}, tmp_path / "source.safetensors")
    plan = plan_for(tmp_path / "source.safetensors", {"v": "w"}, {"v": torch.zeros(3)})
    with pytest.raises(UsageError, match="in memory"):
        write_plan(
            replace(plan, source=plan.target, assignments=(assignment("v", "v"),)), str(tmp_path / "o.pt")
        )
    with pytest.raises(UsageError, match="nothing to write"):
        write_plan(replace(plan, assignments=()), str(tmp_path / "o.pt"))
    with pytest.raises(UsageError, match="says twice"):
        write_plan(replace(plan, assignments=plan.assignments * 2), str(tmp_path / "o.pt"))


def test_conjugated_and_negated_views(tmp_path: Path) -> None:
    """What torch saves unresolved is written as the numbers that it stands for."""
    source = tmp_path / "source.pt"
    torch.manual_seed(0)
    number = torch.randn(3, 2, dtype=torch.complex64)
    state = {"conj": number.conj(), "neg": number.clone().conj().imag}
    torch.save(state, source)
    for suffix in OUTPUTS:
        write_plan(plan_for(source, {"conj": "conj", "neg": "neg"}, state), str(tmp_path / f"out{suffix}"))
        assert_same(load(tmp_path / f"out{suffix}"), state)


def test_small_floats_keep_their_packing(tmp_path: Path) -> None:
    """4-bit numbers, of which torch counts pairs and safetensors each, go from one to the other."""
    pairs = torch.arange(8, dtype=torch.uint8).reshape(2, 4).view(torch.float4_e2m1fn_x2)
    save_file({"w": pairs}, tmp_path / "source.safetensors")
    target = open_checkpoint(str(tmp_path / "source.safetensors")).table
    for name in ("out.pt", "out.safetensors"):
        write_plan(plan_for(tmp_path / "source.safetensors", {"w": "w"}, target), str(tmp_path / name))
        found = load(tmp_path / name)["w"]
        assert found.dtype == torch.float4_e2m1fn_x2
        assert bits(found) == bytes(range(8))


def test_large_tensors_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into many parts, worked on side by side, turned in tiles: the same bytes as in one piece."""
    monkeypatch.setattr(arrays, "_BLOCK_BYTES", 1 << 12)
    torch.manual_seed(0)
    state = {
        "w": torch.randn(150, 203),
        "c": torch.randn(5, 70, 3, 90),
        "h": torch.randn(100, 300).bfloat16(),
    }
    rules: dict[str, Rule] = {
        "turned": ("w", "transpose"),
        "swapped": ("w", "swap(0, 5, 2, 15) | flip(1)"),
        "permuted": ("c", "permute(3, 0, 2, 1)"),
        "turned half": ("h", "transpose | reshape(30, 1000)"),
        "shifted": ("h", "transpose | add(1)"),
        "copied": "c",
    }
    source = tmp_path / "source.safetensors"
    save_file(state, source)
    wanted = expected(state, rules)
    for dtype in (None, "float16"):
        write_plan(plan_for(source, rules, wanted), str(tmp_path / "out.pt"), dtype=dtype)
        state = {name: tensor.float() if dtype else tensor for name, tensor in state.items()}
        wanted = {name: tensor.half() if dtype else tensor for name, tensor in expected(state, rules).items()}
        assert_same(load(tmp_path / "out.pt"), wanted)


def test_experts_from_more_files_than_are_open_at_a_time(tmp_path: Path) -> None:
    """One tensor out of forty shards: a range of each."""
    total, where = 40, {}
    (tmp_path / "source").mkdir()
    experts = [torch.randn(3, 4) for _ in range(total)]
    for number, expert in enumerate(experts):
        file = f"model-{number + 1:05d}-of-{total:05d}.safetensors"
        save_file({f"experts.{number}": expert}, tmp_path / "source" / file)
        where[f"experts.{number}"] = file
    index = json.dumps({"metadata": {}, "weight_map": where})
    (tmp_path / "source" / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    wanted = {"experts": torch.stack(experts)}
    rule: Rule = ([(name, "") for name in where], "stack(0)")
    for suffix in OUTPUTS:
        written = write_plan(
            plan_for(tmp_path / "source", {"experts": rule}, wanted), str(tmp_path / f"o{suffix}")
        )
        assert written.copied == 1
        assert_same(load(tmp_path / f"o{suffix}"), wanted)


def test_copies_need_neither_torch_nor_numpy(tmp_path: Path) -> None:
    """Nor do they import them; transforms need numpy alone."""
    state = {"w": torch.randn(3, 4)}
    save_file(state, tmp_path / "source.safetensors")
    script = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['safetensors'] = None\n"
        "from modelinspect.readers.registry import open_checkpoint\n"
        "from modelinspect.transplant.plan import Assignment, Piece, Plan\n"
        "from modelinspect.transplant.transforms import Step\n"
        "from modelinspect.transplant.write import write_plan\n"
        "table = open_checkpoint(sys.argv[1]).table\n"
        "for out in sys.argv[2:]:\n"
        "    write_plan(Plan(table, table, (Assignment('w', (Piece('w'),)),)), out)\n"
        "assert 'numpy' not in sys.modules\n"
        "steps = (Step('transpose'), Step('transpose'))\n"
        "for out in sys.argv[2:]:\n"
        "    write_plan(Plan(table, table, (Assignment('w', (Piece('w', steps),)),)), out, dtype='float16')\n"
    )
    outputs = [tmp_path / f"out{suffix}" for suffix in OUTPUTS]
    subprocess.run([sys.executable, "-c", script, tmp_path / "source.safetensors", *outputs], check=True)
    for path in outputs:
        assert_same(load(path), {"w": state["w"].half()})
