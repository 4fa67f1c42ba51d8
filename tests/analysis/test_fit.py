"""Does it fit? The truth is what torch's own load_state_dict says, pair by pair."""

from __future__ import annotations

import random
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import modelinspect as mi
from modelinspect.analysis.fit import FitReport, FitRow, fit
from modelinspect.dtypes import dtype_named
from modelinspect.live.module_table import module_table, tensors_table
from modelinspect.tensors import ParameterTable, Quantized, TensorInfo

StateDict = Mapping[str, torch.Tensor]
Make = Callable[[], nn.Module]


def loads(module: nn.Module, state: StateDict) -> bool:
    """Does torch load it, strictly?"""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # complex to real, and the like
            module.load_state_dict(dict(state), strict=True)
    except (RuntimeError, NotImplementedError):
        return False
    return True


def compared(module: nn.Module, state: StateDict) -> FitReport:
    """Our answer, which must be torch's."""
    report = fit(module_table(module, "net"), tensors_table(dict(state), "file"))
    assert report.fits == loads(module, state), report.notes
    return report


def statuses(report: FitReport) -> dict[str, str]:
    """Name to status of the rows that are not ok."""
    return {row.name: row.status for row in report.rows if row.status != "ok"}


class Net(nn.Module):
    """Two layers, batch norm, a buffer that is saved and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 2, bias=False)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("cache", torch.zeros(5), persistent=False)


class Tied(nn.Module):
    """An embedding and a head that are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_its_own_state_dict_fits() -> None:
    """All names, in the definition's order; the non-persistent buffer is not asked for."""
    report = compared(Net(), Net().state_dict())
    assert report.fits
    assert [row.name for row in report.rows] == list(Net().state_dict())
    assert report.notes == ()


def test_what_is_missing_and_what_is_unexpected() -> None:
    """Definition's order first, then what only the checkpoint has."""
    state = Net().state_dict()
    state["extra"] = torch.zeros(2)
    state["cache"] = torch.zeros(5)
    del state["first.bias"]
    report = compared(Net(), state)
    assert statuses(report) == {"first.bias": "missing", "extra": "unexpected", "cache": "unexpected"}
    assert [row.name for row in report.rows][-2:] == ["extra", "cache"]
    assert FitRow("first.bias", "missing", report.definition["first.bias"], None) in report.rows


def test_another_shape() -> None:
    """The row holds both tensors; equal numel does not help."""
    state = Net().state_dict()
    state["last.weight"] = torch.zeros(4, 2)
    report = compared(Net(), state)
    row = next(row for row in report.rows if row.status != "ok")
    assert (row.name, row.status) == ("last.weight", "shape")
    assert row.expected is not None
    assert row.found is not None
    assert (row.expected.shape, row.found.shape) == ((2, 4), (4, 2))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "int64", "bool", "complex64", "float8_e5m2"])
def test_another_data_type_is_converted(dtype: str) -> None:
    """Torch casts while it copies: shown, and it fits."""
    state = Net().state_dict()
    state["last.weight"] = state["last.weight"].to(getattr(torch, dtype))
    report = compared(Net(), state)
    assert report.fits
    assert statuses(report) == {"last.weight": "dtype"}


UNCOPIED: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.zeros(2, 4).to_sparse(),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(2, 4), 0.1, 0, torch.qint8),
    "bits": lambda: torch.zeros(2, 4, dtype=torch.uint8).view(torch.bits8),
    "float4": lambda: torch.zeros(2, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    "uninitialised": nn.UninitializedParameter,
}


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions")
@pytest.mark.parametrize("kind", UNCOPIED)
def test_what_torch_does_not_copy(kind: str) -> None:
    """A layout or type that no plain parameter takes: shown as such, with a reason."""
    report = compared(Net(), {**Net().state_dict(), "last.weight": UNCOPIED[kind]()})
    assert statuses(report) == {"last.weight": "layout"}
    assert any("last.weight" in note for note in report.notes)


QUANTIZED = Quantized("GPTQ", (2, 4), 8, 4, ("last.scales", "last.qzeros"))


def packed(stands_for: Quantized, *names: str) -> ParameterTable:
    """The state_dict with its last layer packed as GPTQ packs it."""
    rows = [row for row in tensors_table(Net().state_dict(), "file") if row.name != "last.weight"]
    words = torch.zeros(1, 2, dtype=torch.int32)
    extra = {"last.qweight": words, "last.scales": torch.zeros(1, 2), "last.qzeros": words}
    more = tensors_table({name: extra.get(name, words) for name in (*extra, *names)}, "file")
    marked = [row._replace(quantized=stands_for) if row.name == "last.qweight" else row for row in more]
    return ParameterTable("file", [*rows, *marked], "file")


def test_a_quantized_weight_is_named_as_one() -> None:
    """Its logical shape fits, its words don't load; its scales are no strangers."""
    state = {**Net().state_dict(), "last.qweight": torch.zeros(1)}
    del state["last.weight"]
    assert not loads(Net(), state)
    report = fit(module_table(Net(), "net"), packed(QUANTIZED))
    assert not report.fits
    (row,) = [row for row in report.rows if row.status != "ok"]
    assert (row.name, row.status, row.note) == ("last.weight", "quantized", "GPTQ 4-bit of [2, 4]")
    assert report.notes == (
        "1 weight is quantized: the shapes agree, but load_state_dict refuses what is stored",
    )


def test_a_quantized_weight_of_another_shape() -> None:
    """What it stands for is compared; where only the number of values is known, that."""
    definition = module_table(Net(), "net")
    other = fit(definition, packed(QUANTIZED._replace(shape=(3, 4), numel=12)))
    assert statuses(other) == {"last.weight": "shape"}
    assert statuses(fit(definition, packed(QUANTIZED._replace(shape=None)))) == {"last.weight": "quantized"}
    assert statuses(fit(definition, packed(QUANTIZED._replace(shape=None, numel=9)))) == {
        "last.weight": "shape"
    }


def test_a_quantized_definition_takes_its_own_file() -> None:
    """A class with packed weights of its own is compared name by name."""

    class Packed(Net):
        """As GPTQ's layers register theirs."""

        def __init__(self) -> None:
            super().__init__()
            del self.last
            layer = nn.Module()
            layer.register_buffer("qweight", torch.zeros(1, 2, dtype=torch.int32))
            layer.register_buffer("scales", torch.zeros(1, 2))
            layer.register_buffer("qzeros", torch.zeros(1, 2, dtype=torch.int32))
            self.add_module("last", layer)

    assert fit(module_table(Packed(), "net"), packed(QUANTIZED)).fits


def test_every_pair_of_data_types() -> None:
    """Which types torch converts into which: all pairs, as copy_ answers."""
    names = [
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
        "uint16", "uint32", "uint64", "complex128", "complex64", "float8_e4m3fn", "float8_e5m2",
        "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2",
        "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2",
    ]  # fmt: skip
    tables = {name: _table({"w": name}) for name in names}
    for mine in names:
        for its in names:
            target = torch.empty(4, dtype=getattr(torch, mine))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    target.copy_(torch.empty(4, dtype=getattr(torch, its)))
                copies = True
            except (RuntimeError, NotImplementedError):
                copies = False
            assert fit(tables[mine], tables[its]).fits == copies, (mine, its)


def test_a_scalar_takes_a_tensor_of_one() -> None:
    """Torch 0.3 knew no scalars; a tensor of two does not do."""
    one = compared(Net(), {**Net().state_dict(), "scale": torch.ones(1)})
    assert one.fits
    assert any("scalar" in note for note in one.notes)
    assert statuses(compared(Net(), {**Net().state_dict(), "scale": torch.ones(2)})) == {"scale": "shape"}


def test_batch_norm_fills_in_its_counter() -> None:
    """A state_dict without version numbers may lack num_batches_tracked: missing, and harmless."""
    state = Net().state_dict()
    del state["norm.num_batches_tracked"]
    report = compared(Net(), state)
    assert report.fits
    assert statuses(report) == {"norm.num_batches_tracked": "missing"}
    assert any("batch norm" in note for note in report.notes)


def test_lazy_parameters_take_any_shape() -> None:
    """A definition that has no shapes yet is content with those of the file."""
    report = compared(
        nn.Sequential(nn.LazyLinear(4)), {"0.weight": torch.zeros(4, 7), "0.bias": torch.zeros(4)}
    )
    assert report.fits
    assert any("any shape" in note for note in report.notes)


def test_a_file_that_keeps_ties_once() -> None:
    """Safetensors drops the second name: missing for torch, and the note says what it is tied to."""
    state = Tied().state_dict()
    del state["head.weight"]
    report = compared(Tied(), state)
    assert statuses(report) == {"head.weight": "missing"}
    assert "tied to embedding.weight, which is there" in report.notes[0]
    state = Tied().state_dict()
    del state["embedding.weight"]
    assert "tied to head.weight, which is there" in compared(Tied(), state).notes[0]


def test_a_section_is_named() -> None:
    """load_state_dict must be given the section, not the file."""
    table = replace(tensors_table(Net().state_dict(), "file"), section="state_dict")
    assert fit(module_table(Net(), "net"), table).notes == (
        "the section 'state_dict' of the checkpoint was compared",
    )


def test_other_names_of_the_same_shapes_are_pointed_out() -> None:
    """As many as could be paired, no more."""
    state = {name.replace("first", "encoder"): tensor for name, tensor in Net().state_dict().items()}
    state["another"] = torch.zeros(9, 9)
    assert compared(Net(), state).notes == (
        "2 of 2 missing tensors have the shape of an unexpected one: another naming?",
    )


def _table(dtypes: Mapping[str, str]) -> ParameterTable:
    """One number a name."""
    rows = [TensorInfo(name, dtype_named(dtype), (1,), None) for name, dtype in dtypes.items()]
    return ParameterTable("t", rows, "memory")


# ------------------------------------------------------------------ prefixes


def renamed(state: StateDict, rename: Callable[[str], str]) -> dict[str, torch.Tensor]:
    """The same tensors under other names."""
    return {rename(name): tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "net.0.body."])
def test_only_the_checkpoint_has_a_prefix(prefix: str) -> None:
    """Every row is ok under the stripped name, and it does not fit; the note's recipe makes it fit."""
    state = renamed(Net().state_dict(), lambda name: prefix + name)
    report = compared(Net(), state)
    assert (report.checkpoint_prefix, report.definition_prefix) == (prefix, "")
    assert not statuses(report)
    assert not report.fits
    assert (
        report.notes[0] == f"only a prefix differs: the checkpoint's names have {prefix!r}, the other's don't"
    )
    assert compared(Net(), _follow(report.notes[1], state)).fits


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "net.body."])
def test_only_the_definition_has_a_prefix(prefix: str) -> None:
    """The same the other way round; rows bear the definition's names."""
    module: nn.Module = Net()
    for part in reversed(prefix.rstrip(".").split(".")):
        outer = nn.Module()
        outer.add_module(part, module)
        module = outer
    state = Net().state_dict()
    report = compared(module, state)
    assert (report.checkpoint_prefix, report.definition_prefix) == ("", prefix)
    assert [row.name for row in report.rows] == [prefix + name for name in state]
    assert not statuses(report)
    assert compared(module, _follow(report.notes[1], state)).fits


def test_both_have_a_prefix() -> None:
    """``model.`` here, ``module.`` there."""
    module = nn.ModuleDict({"model": Net()})
    state = renamed(Net().state_dict(), lambda name: "module." + name)
    report = compared(module, state)
    assert (report.checkpoint_prefix, report.definition_prefix) == ("module.", "model.")
    assert not statuses(report)
    assert compared(module, _follow(report.notes[1], state)).fits


def test_what_prefixes_share_is_not_reported() -> None:
    """``module.body.x`` against ``body.x`` differs by ``module.``."""
    module = nn.ModuleDict({"body": Net()})
    report = compared(module, renamed(module.state_dict(), lambda name: "module." + name))
    assert (report.checkpoint_prefix, report.definition_prefix) == ("module.", "")


def test_wrappers_inside_names() -> None:
    """A part of the model was compiled: ``_orig_mod`` stands in the middle of some names."""
    state = renamed(Net().state_dict(), lambda name: name.replace("first.", "first._orig_mod."))
    report = compared(Net(), state)
    assert report.checkpoint_prefix == "_orig_mod."
    assert not statuses(report)
    assert compared(Net(), _follow(report.notes[1], state)).fits


def test_a_compiled_definition_with_its_own_names_has_no_prefix_to_report() -> None:
    """Wrappers on both sides are no difference, also when something else is missing."""
    module = nn.ModuleDict({"_orig_mod": Net()})
    state = dict(module.state_dict())
    assert compared(module, state).fits
    del state["_orig_mod.first.bias"]
    report = compared(module, state)
    assert (report.checkpoint_prefix, report.definition_prefix) == ("", "")
    assert statuses(report) == {"_orig_mod.first.bias": "missing"}


def test_a_prefix_and_other_differences() -> None:
    """Both are said; what differs apart from the prefix is in the rows."""
    state = renamed(Net().state_dict(), lambda name: "module." + name)
    state["module.last.weight"] = torch.zeros(9, 9)
    state["step"] = torch.zeros(())
    report = compared(Net(), state)
    assert report.checkpoint_prefix == "module."
    assert statuses(report) == {"last.weight": "shape", "step": "unexpected"}
    assert report.notes == (
        "names are compared without a prefix: the checkpoint's names have 'module.', the other's don't",
    )


def test_names_that_would_fall_together_stay_apart() -> None:
    """``module.w`` and ``w`` are two tensors; neither is lost."""
    state = renamed(Net().state_dict(), lambda name: "module." + name)
    state["first.bias"] = torch.zeros(4)
    report = compared(Net(), state)
    assert sum(row.found is not None for row in report.rows) == len(state)


def test_a_small_definition_is_no_part_of_everything() -> None:
    """``weight`` and ``bias`` end many names; that is no prefix."""
    report = compared(nn.Linear(3, 4), Net().state_dict())
    assert report.checkpoint_prefix == ""


def _follow(note: str, state: StateDict) -> dict[str, torch.Tensor]:
    """Do what the note says."""
    made: dict[str, torch.Tensor] = eval(note.removeprefix("it loads as "), {"state_dict": state})
    return made


# ---------------------------------------------------------------- properties


def mutations(state: StateDict, rng: random.Random) -> dict[str, torch.Tensor]:
    """A state_dict after a few things that happen to state_dicts."""
    made: dict[str, torch.Tensor] = OrderedDict(state)
    for _ in range(rng.randrange(3)):
        name = rng.choice([*made, "new"])
        choice = rng.randrange(7)
        if choice == 0:
            made.pop(name, None)
        elif choice == 1:
            made[f"{name}.more"] = torch.zeros(2)
        elif choice == 2 and name in made:
            made[name] = made[name].unsqueeze(0)
        elif choice == 3 and name in made:
            made[name] = made[name].to(rng.choice([torch.float16, torch.int32, torch.bfloat16]))
        elif choice == 4:
            prefix = rng.choice(["module.", "_orig_mod.", "a.b."])
            made = {prefix + key: value for key, value in made.items()}
        elif choice == 5 and name in made:
            made[name.upper()] = made.pop(name)
        elif choice == 6 and name in made:
            made[name] = made[name].reshape(-1)
    return made


MODULES: list[Make] = [
    Net,
    Tied,
    lambda: nn.Linear(2, 2),
    lambda: nn.Sequential(nn.Conv1d(1, 1, 1), nn.BatchNorm1d(1), nn.Sequential(nn.Linear(1, 1))),
    lambda: nn.ModuleDict({"module": Net()}),
    lambda: nn.LSTM(2, 2),
    nn.Identity,
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MODULES), st.sampled_from(MODULES), st.integers(0, 2**32))
def test_our_answer_is_torchs(
    make: Callable[[], nn.Module], other: Callable[[], nn.Module], seed: int
) -> None:
    """Over random modules and damaged state_dicts: fits exactly when load_state_dict succeeds."""
    rng = random.Random(seed)
    source = make() if rng.random() < 0.8 else other()
    report = compared(make(), mutations(source.state_dict(), rng))
    assert len({id(row) for row in report.rows}) == len(report.rows)


@given(st.sampled_from(MODULES))
def test_everything_fits_itself(make: Make) -> None:
    """fit(a, a) is ok in every row."""
    table = module_table(make(), "net")
    report = fit(table, table)
    assert report.fits
    assert not statuses(report)


NAME = st.lists(st.sampled_from(["module", "_orig_mod", "a", "b"]), min_size=1, max_size=4).map(".".join)
NAMES = st.lists(NAME, unique=True)


@given(NAMES, NAMES)
def test_no_tensor_is_lost(ours: list[str], theirs: list[str]) -> None:
    """Whatever the names: each tensor of either side stands in exactly one row."""
    report = fit(*(_table(dict.fromkeys(names, "float32")) for names in (ours, theirs)))
    assert sorted(row.expected.name for row in report.rows if row.expected) == sorted(ours)
    assert sorted(row.found.name for row in report.rows if row.found) == sorted(theirs)
    assert report.fits == (set(ours) == set(theirs))


class Extra(nn.Module):
    """Keeps something that is no tensor in its state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def get_extra_state(self) -> object:
        """Torch asks for it in state_dict()."""
        return {"version": 1}

    def set_extra_state(self, state: object) -> None:
        """Torch gives it back in load_state_dict()."""


class TensorExtra(Extra):
    """The same with a tensor."""

    def get_extra_state(self) -> object:
        """A tensor is saved like any other entry."""
        return torch.ones(3)


@pytest.mark.parametrize(
    "build", [lambda: nn.Linear(2, 3), Extra, TensorExtra, lambda: nn.Sequential(Extra())]
)
@pytest.mark.parametrize("change", ["as it is", "a counter", "texts", "without extra", "prefixed"])
def test_entries_without_tensors_decide_as_in_torch(
    build: Callable[[], nn.Module], change: str, tmp_path: Path
) -> None:
    """A counter beside the weights, extra state there or gone: the verdict is that of the strict load."""
    module = build()
    state_dict = dict(module.state_dict())
    if change == "a counter":
        state_dict["epoch"] = 7
    elif change == "texts":
        state_dict.update(note=None, name="x", more={})
    elif change == "without extra":
        state_dict = {name: value for name, value in state_dict.items() if "_extra_state" not in name}
    elif change == "prefixed":
        state_dict = {f"module.{name}": value for name, value in state_dict.items()}
    torch.save(state_dict, tmp_path / "x.pt")
    verdict = loads(build(), state_dict)
    assert mi.fit(module, tmp_path / "x.pt").fits == verdict
    assert mi.fit(module, state_dict).fits == verdict


@pytest.mark.parametrize("keeps_versions", [True, False])
def test_versions_decide_whether_a_lost_counter_does_harm(keeps_versions: bool, tmp_path: Path) -> None:
    """num_batches_tracked may be missing from a state_dict of old or unknown version, not of version 2."""
    module = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2))
    state_dict = module.state_dict()
    del state_dict["1.num_batches_tracked"]
    kept = state_dict if keeps_versions else dict(state_dict)
    torch.save(kept, tmp_path / "x.pt")
    try:
        module.load_state_dict(kept, strict=True)
        verdict = True
    except RuntimeError:
        verdict = False
    assert verdict == (not keeps_versions)
    assert mi.fit(module, tmp_path / "x.pt").fits == verdict
    assert mi.fit(module, kept).fits == verdict


def test_lazy_conjugation_is_copied(tmp_path: Path) -> None:
    """A state_dict of conjugated views loads, and so it fits."""
    module = nn.Linear(2, 2, dtype=torch.complex64)
    state_dict = {name: tensor.conj() for name, tensor in module.state_dict().items()}
    torch.save(state_dict, tmp_path / "x.pt")
    assert loads(module, state_dict)
    assert mi.fit(module, tmp_path / "x.pt").fits
