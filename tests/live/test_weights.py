"""
Weights into a module and out of it: torch and safetensors say what is right.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ROOT
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file, load_model, save_file
from torch import nn

import modelinspect as mi
from modelinspect.errors import CheckpointError, DefinitionError, ModelInspectError, TargetError, UsageError
from modelinspect.live.weights import load_weights, save_weights, tensor_of
from modelinspect.readers.parts.storage_bytes import StorageReader

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu, torch.float4_e2m1fn_x2, torch.uint64, torch.complex32,
]  # fmt: skip

_NEWER = ("torch.uint16", "torch.uint32", "torch.uint64", "torch.float8", "torch.float4", "torch.complex32")
LEGACY = [dtype for dtype in DTYPES if not str(dtype).startswith(_NEWER)]
"""Types that the layout before torch 1.6 knows."""


def _of_file(path: Path, section: str | None = None) -> dict[str, torch.Tensor]:
    table = mi.open_checkpoint(path).section(section)
    with StorageReader() as reader:
        return {row.name: tensor_of(row, reader.read) for row in table}


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def assert_identical(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Names, shapes, types, and every bit."""
    assert set(mine) == set(theirs)
    for name, tensor in theirs.items():
        assert mine[name].dtype is tensor.dtype, name
        assert mine[name].shape == tensor.shape, name
        assert _bits(mine[name].resolve_conj().resolve_neg()) == _bits(tensor.resolve_conj().resolve_neg())


# ------------------------------------------------------------------------ one tensor


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_tensors_are_those_that_torch_loads(dtype: torch.dtype, tmp_path: Path) -> None:
    """Every type, bit for bit, also scalars, empty ones, views and transposed ones."""
    raw = torch.randint(0, 255, (64 * 16,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    if dtype is torch.bool:
        raw = raw % 2
    base = raw.view(dtype)[:48].reshape(6, 8)
    tensors = {
        "plain": base, "scalar": base[0, 0].clone(), "empty": base[:0].clone(), "transposed": base.t(),
        "view": base[1:3, 2:5], "expanded": base[:1].expand(4, 8),
    }  # fmt: skip
    path = tmp_path / "tensors.pt"
    torch.save(tensors, path)
    assert_identical(_of_file(path), torch.load(path))
    if dtype in LEGACY:
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
        assert_identical(_of_file(path), torch.load(path))


def test_conjugated_and_negated_views(tmp_path: Path) -> None:
    """They come back as such: the numbers are those that torch sees."""
    z = torch.randn(5, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "views.pt"
    for view in (z.conj(), z.conj().imag):
        torch.save({"view": view}, path)
        assert_identical(_of_file(path), torch.load(path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.int16, torch.int8])
def test_files_of_a_machine_of_the_other_byte_order(dtype: torch.dtype, tmp_path: Path) -> None:
    """Bytes are turned round as torch does it, the halves of a complex number each by itself."""
    little, big = tmp_path / "little.pt", tmp_path / "big.pt"
    torch.save({"w": torch.arange(48, dtype=torch.uint8).view(dtype).reshape(2, -1).t()}, little)
    with zipfile.ZipFile(little) as source, zipfile.ZipFile(big, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"big" if name.endswith("byteorder") else source.read(name))
    assert_identical(_of_file(big), torch.load(big))


def test_pairs_of_a_safetensors_file(tmp_path: Path) -> None:
    """That format counts numbers of four bits, torch pairs of them."""
    pairs = torch.arange(8, dtype=torch.uint8).reshape(2, 4).view(torch.float4_e2m1fn_x2)
    save_file({"w": pairs}, tmp_path / "pairs.safetensors")
    assert_identical(_of_file(tmp_path / "pairs.safetensors"), load_file(tmp_path / "pairs.safetensors"))


SPARSE = ("sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr")


@pytest.mark.parametrize("layout", SPARSE)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_tensors(layout: str, tmp_path: Path) -> None:
    """They come back sparse; torch's notice that they are a prototype is not passed on."""
    dense = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 3.0], [0.0, 0.0]])
    blocks = (2, 1) if layout == "sparse_bsr" else None
    torch.save(
        {"w": dense.to_sparse(layout=getattr(torch, layout), blocksize=blocks)}, tmp_path / "sparse.pt"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [found] = _of_file(tmp_path / "sparse.pt").values()
    assert str(found.layout) == f"torch.{layout}"
    assert torch.equal(found.to_dense(), dense)


def test_indices_beyond_the_shape_are_refused(tmp_path: Path) -> None:
    """Torch trusts them unless it is asked, and then writes where they point."""
    wrong = torch.sparse_coo_tensor(torch.tensor([[7]]), torch.ones(1), (3,), check_invariants=False)
    torch.save({"w": wrong}, tmp_path / "sparse.pt")
    with pytest.raises(CheckpointError, match=r"'w' can't be loaded: size is inconsistent with indices"):
        _of_file(tmp_path / "sparse.pt")


def _quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(3), 0.5, 0, torch.qint8)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.empty(3, device="meta"), "it was saved without any"),
        (_quantized, "qint8 is not read"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "it is nested"),
    ],
    ids=["meta", "quantized", "nested"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_has_no_values_is_said(make: Callable[[], torch.Tensor], reason: str, tmp_path: Path) -> None:
    """Which one, and why."""
    torch.save({"w": make()}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=f"the values of 'w' can't be loaded: {reason}"):
        _of_file(tmp_path / "odd.pt")


# ------------------------------------------------------------------------- loading


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.mark.parametrize("kind", ["pt", "legacy", "safetensors"])
def test_loading_is_load_state_dict(kind: str, tmp_path: Path) -> None:
    """The same parameters and buffers as torch gets, from each container."""
    source = _net()
    source(torch.randn(5, 3))
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save(source.state_dict(), path, _use_new_zipfile_serialization=kind == "pt")
    target = _net()
    assert load_weights(target, str(path)) == ()
    assert_identical(dict(target.state_dict()), dict(source.state_dict()))


def test_prefixes_and_sections(tmp_path: Path) -> None:
    """A wrapper's prefix is taken off and said; a section is chosen by name."""
    source = _net()
    path = tmp_path / "run.ckpt"
    wrapped = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": wrapped, "ema": _net().state_dict()}, path)
    target = _net()
    notes = load_weights(target, str(path))
    assert any("'module.' was in the way" in note for note in notes)
    assert_identical(dict(target.state_dict()), dict(source.state_dict()))
    load_weights(target, str(path), section="ema")
    assert_identical(dict(target.state_dict()), _of_file(path, "ema"))


def test_values_are_cast_to_the_modules_types(tmp_path: Path) -> None:
    """As load_state_dict does."""
    path = tmp_path / "half.pt"
    torch.save(_net().half().state_dict(), path)
    target, theirs = _net(), _net()
    notes = load_weights(target, str(path))
    theirs.load_state_dict(torch.load(path))
    assert_identical(dict(target.state_dict()), dict(theirs.state_dict()))
    [note] = notes
    assert note.startswith("weights: float16 is converted to float32: 0.weight, 0.bias, 1.weight")
    assert note.endswith(" and 3 more")


def test_lost_imaginary_parts_are_said(tmp_path: Path) -> None:
    """By us, once, and not by a warning of torch's."""
    path = tmp_path / "complex.pt"
    torch.save(nn.Linear(2, 2, bias=False, dtype=torch.complex64).state_dict(), path)
    notes = load_weights(nn.Linear(2, 2, bias=False), str(path))
    assert notes == ("weights: complex64 is converted to float32: weight; the imaginary parts are lost",)


@pytest.mark.parametrize("kept", ["a.weight", "b.weight"])
def test_tied_tensor_under_one_of_its_names(kept: str, tmp_path: Path) -> None:
    """Enough, whichever it is."""
    source, target = Tied(), Tied()
    state = source.state_dict()
    del state["b.weight" if kept == "a.weight" else "a.weight"]
    torch.save(state, tmp_path / "one.pt")
    assert load_weights(target, str(tmp_path / "one.pt")) == ()
    assert torch.equal(target.b.weight, source.a.weight)
    assert target.a.weight is target.b.weight


def test_tied_tensor_with_two_values(tmp_path: Path) -> None:
    """What torch takes, and a word about it."""
    state = {**Tied().state_dict(), "a.weight": torch.ones(3, 3), "b.weight": torch.zeros(3, 3)}
    torch.save(state, tmp_path / "two.pt")
    mine, theirs = Tied(), Tied()
    notes = load_weights(mine, str(tmp_path / "two.pt"))
    theirs.load_state_dict(state)
    assert_identical(dict(mine.state_dict()), dict(theirs.state_dict()))
    [note] = notes
    assert "b.weight and a.weight are one tensor in the model and differ in the file" in note
    assert note.endswith("it takes a.weight")


def test_a_checkpoint_in_hand_and_a_format_by_name(tmp_path: Path) -> None:
    """Either way."""
    source, target = _net(), _net()
    path = tmp_path / "weights.data"
    save_file(source.state_dict(), path)
    load_weights(target, mi.open_checkpoint(path))
    assert_identical(dict(target.state_dict()), dict(source.state_dict()))
    load_weights(target, str(path), read_as="safetensors")
    with pytest.raises(CheckpointError, match="truncated or damaged zip archive"):
        load_weights(target, str(path), read_as="torch-zip")


def test_module_in_a_wrapper(tmp_path: Path) -> None:
    """The prefix may be the model's."""
    source, target = _net(), nn.DataParallel(_net())
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    notes = load_weights(target, str(tmp_path / "weights.pt"))
    assert notes == ("weights: the model's prefix 'module.' was in the way and is left out",)
    assert_identical(dict(target.module.state_dict()), dict(source.state_dict()))


class Migrating(nn.Module):
    """Reads weights of its first version, which were half as large."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if metadata.get("version", 1) < 2:
            state[prefix + "weight"] = 2 * state[prefix + "weight"]
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize("wrap", [lambda module: module, nn.DataParallel])
@pytest.mark.parametrize("keep", [True, False], ids=["versions", "no versions"])
def test_versions_of_layouts_are_kept(
    keep: bool, wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    """A module that reads older layouts is told which one it is, also behind a prefix."""
    state = wrap(nn.Sequential(Migrating())).state_dict()
    torch.save(state if keep else dict(state), tmp_path / "weights.pt")
    target = nn.Sequential(Migrating())
    load_weights(target, str(tmp_path / "weights.pt"))
    assert target.state_dict()["0.weight"].tolist() == ([1.0, 1.0] if keep else [2.0, 2.0])


def test_versions_are_written(tmp_path: Path) -> None:
    """So that what is saved is not taken for an older layout."""
    save_weights(nn.Sequential(Migrating()), str(tmp_path / "out.pt"))
    for load in (load_weights, lambda model, path: model.load_state_dict(torch.load(path))):
        target = nn.Sequential(Migrating())
        load(target, str(tmp_path / "out.pt"))
        assert target.state_dict()["0.weight"].tolist() == [1.0, 1.0]


class Stateful(nn.Linear):
    """Saves more than tensors."""

    def __init__(self, extra: Any) -> None:
        super().__init__(2, 2)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


@pytest.mark.parametrize("extra", [{"seen": [1, 2.5, None, "text"]}, torch.ones(3)], ids=["data", "tensor"])
def test_extra_state_is_not_loaded(extra: Any, tmp_path: Path) -> None:
    """It may be anything, also bytes that the module unpickles: the module keeps its own."""
    path = tmp_path / "out.pt"
    assert save_weights(Stateful(extra), str(path)) == ()
    Stateful(None).load_state_dict(torch.load(path, weights_only=True))
    target = Stateful("mine")
    assert load_weights(target, str(path)) == (
        "weights: _extra_state: no tensors, and not loaded; they stay as the model makes them",
    )
    assert target.extra == "mine"


def test_extra_state_that_is_not_written(tmp_path: Path) -> None:
    """Objects not at all, and numbers not into safetensors; it is said."""
    for extra, name in ((object(), "out.pt"), ({"seen": 1}, "out.safetensors")):
        notes = save_weights(Stateful(extra), str(tmp_path / name))
        assert notes == ("_extra_state: no tensor, and not written",)
        load_weights(Stateful(None), str(tmp_path / name))


class Hooked(nn.Linear):
    """Its own code runs while it is loaded, and raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__(2, 2)
        self.error = error

    def _load_from_state_dict(self, *_: Any) -> None:
        raise self.error


@pytest.mark.parametrize("error", [KeyError("scale"), RuntimeError("no scale")], ids=repr)
def test_errors_of_a_modules_own_loading(error: Exception, tmp_path: Path) -> None:
    """What it raised, and where."""
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(DefinitionError, match=r"does not fit Hooked") as caught:
        load_weights(Hooked(error), str(tmp_path / "weights.pt"))
    assert "test_weights.py" in str(caught.value)
    assert "scale" in str(caught.value)


def test_module_on_the_meta_device(tmp_path: Path) -> None:
    """Nothing can be loaded into it, or saved from it."""
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UsageError, match="on the meta device"):
        load_weights(nn.Linear(2, 2, device="meta"), str(tmp_path / "weights.pt"))
    with pytest.raises(UsageError, match="weight is on the meta device"):
        save_weights(nn.Linear(2, 2, device="meta"), str(tmp_path / "out.pt"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": None}, "missing: 0.weight"),
        ({"extra": torch.ones(2)}, "unexpected: extra"),
        ({"2.bias": torch.ones(3)}, "of another shape: 2.bias ([3] for [2])"),
        ({"2.bias": torch.ones(2).to_sparse()}, "can't be loaded: 2.bias (a sparse_coo tensor is not copied"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_loaded(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Which names, and the command that shows both sides."""
    state = {**_net().state_dict(), **change}
    path = tmp_path / "weights.pt"
    torch.save({name: value for name, value in state.items() if value is not None}, path)
    target = _net()
    before = target.state_dict()["0.weight"].clone()
    with pytest.raises(DefinitionError) as caught:
        load_weights(target, str(path))
    assert message in str(caught.value)
    assert "--against" in str(caught.value)
    assert torch.equal(target.state_dict()["0.weight"], before)
    with pytest.raises(TargetError, match="no such file"):
        load_weights(target, str(tmp_path / "nowhere.pt"))


def test_lazy_modules_take_the_shapes_of_the_file(tmp_path: Path) -> None:
    """As torch's own load_state_dict does."""
    path = tmp_path / "weights.pt"
    torch.save(nn.Linear(3, 2).state_dict(), path)
    lazy = nn.LazyLinear(2)
    load_weights(lazy, str(path))
    assert lazy.weight.shape == (2, 3)


def test_nothing_of_a_pickle_runs(tmp_path: Path) -> None:
    """A payload beside the weights is an inert entry."""
    marker = tmp_path / "ran"

    class Payload:
        """Touches a file when it is unpickled."""

        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    path = tmp_path / "weights.pt"
    torch.save({"state_dict": nn.Linear(3, 2).state_dict(), "note": Payload()}, path)
    load_weights(nn.Linear(3, 2), str(path))
    assert not marker.exists()


# -------------------------------------------------------------------------- saving


class Tied(nn.Module):
    """Two names for one weight, and a view."""

    part: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.b, self.a = nn.Linear(3, 3), nn.Linear(3, 3)
        self.a.weight = self.b.weight
        self.register_buffer("part", torch.arange(100.0)[10:13])


def test_saved_files_load_with_the_ordinary_loaders(tmp_path: Path) -> None:
    """torch.load and safetensors, strictly; ties stay tied, and views drag no storage along."""
    model = Tied()
    assert save_weights(model, str(tmp_path / "out.pt")) == ()
    state = torch.load(tmp_path / "out.pt", weights_only=True)
    model.load_state_dict(state, strict=True)
    assert state["a.weight"].data_ptr() == state["b.weight"].data_ptr()
    assert state["part"].untyped_storage().nbytes() == 12
    save_weights(model, str(tmp_path / "out.safetensors"), metadata={"origin": "here"})
    other = Tied()
    other.part = torch.zeros(3)  # the library refuses to load into a model with a view
    missing, unexpected = load_model(other, tmp_path / "out.safetensors", strict=True)
    assert (list(missing), list(unexpected)) == ([], [])
    assert torch.equal(other.a.weight, model.b.weight)
    assert mi.open_checkpoint(tmp_path / "out.safetensors").metadata["origin"] == "here"
    for name in ("out.pt", "out.safetensors"):
        again = Tied()
        load_weights(again, str(tmp_path / name))
        assert_identical(dict(again.state_dict()), dict(model.state_dict()))
        assert again.a.weight is again.b.weight


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("file", ["regression.py", "tied.py", "convolutional.py", "tiny_lm.py"])
def test_models_of_the_repository_go_out_and_in(file: str, suffix: str, tmp_path: Path) -> None:
    """What is saved is loaded: the same state_dict, under another seed's fresh weights."""
    target = str(ROOT / "models" / file)
    source = mi.load_definition(target, real=True, seed=0).module
    path = tmp_path / f"weights.{suffix}"
    save_weights(source, str(path))
    other = mi.load_definition(target, real=True, seed=1).module
    load_weights(other, str(path))
    assert_identical(dict(other.state_dict()), dict(source.state_dict()))
    assert sum(row.numel for row in mi.params(path).tensors) >= mi.count(source).unique


class Odd(nn.Module):
    """Buffers of all kinds."""

    def __init__(self, **buffers: torch.Tensor) -> None:
        super().__init__()
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)


def _odd() -> Odd:
    z, base = torch.randn(2, 3, dtype=torch.complex64), torch.arange(6.0).reshape(2, 3)
    return Odd(
        conjugate=z.conj(), negative=z.conj().imag, transposed=base.t(), flat=base.view(6),
        bits=base.view(torch.int32), last=base[1], expanded=torch.ones(1).expand(4), empty=torch.ones(0, 2),
        scalar=torch.tensor(1.5), channels_last=torch.ones(1, 2, 3, 3).to(memory_format=torch.channels_last),
    )  # fmt: skip


def test_views_of_all_kinds(tmp_path: Path) -> None:
    """Conjugated, transposed, of one memory under two types: the values, and no more bytes than theirs."""
    model = _odd()
    expected = {name: value.resolve_conj().resolve_neg() for name, value in model.state_dict().items()}
    for name in ("out.pt", "out.safetensors"):
        assert save_weights(model, str(tmp_path / name)) == ()
        assert_identical(_of_file(tmp_path / name), expected)
    assert_identical(load_file(tmp_path / "out.safetensors"), expected)
    saved = torch.load(tmp_path / "out.pt", weights_only=True)
    assert_identical(saved, expected)
    for value in saved.values():
        assert value.is_contiguous()
        assert value.untyped_storage().nbytes() == value.nbytes


@pytest.mark.parametrize(
    ("make", "kind"), [(lambda: torch.eye(3).to_sparse(), "sparse_coo"), (_quantized, "quantized")]
)
@pytest.mark.filterwarnings("ignore")
def test_what_only_pt_holds(make: Callable[[], torch.Tensor], kind: str, tmp_path: Path) -> None:
    """Sparse and quantized tensors; safetensors has no place for them."""
    model = Odd(w=make())
    save_weights(model, str(tmp_path / "out.pt"))
    found = torch.load(tmp_path / "out.pt", weights_only=True)["w"]
    assert torch.equal(found.to_dense(), make().to_dense())
    with pytest.raises(UsageError, match=f"safetensors holds plain tensors, and w is {kind}"):
        save_weights(model, str(tmp_path / "out.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["out.pt"]


def test_lazy_module_that_never_ran(tmp_path: Path) -> None:
    """There is nothing to write."""
    with pytest.raises(UsageError, match="weight has no shape before the first forward pass"):
        save_weights(nn.LazyLinear(2), str(tmp_path / "out.pt"))


def test_model_is_not_changed_by_saving(tmp_path: Path) -> None:
    """Neither its tensors nor their memory; and what it was loaded from may be replaced."""
    path = tmp_path / "out.pt"
    model = Tied()
    places = {name: value.data_ptr() for name, value in model.state_dict().items()}
    save_weights(model, str(path))
    load_weights(model, str(path))
    save_weights(model, str(path))
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == places
    assert all(parameter.requires_grad for parameter in model.parameters())


@given(
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([d for d in DTYPES if not str(d).startswith(("torch.complex128", "torch.complex32"))]),
)
def test_any_buffer_goes_out_and_in(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], dtype: Any
) -> None:
    """Any shape and type, bit for bit, through both formats and our reader."""
    assume(shape or dtype is not torch.float4_e2m1fn_x2)  # safetensors has no scalar of half a byte
    folder = tmp_path_factory.mktemp("round")
    module = nn.Module()
    numel = torch.Size(shape).numel()
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (numel * dtype.itemsize,), dtype=torch.uint8)
    values = raw.view(dtype).reshape(shape) if numel else torch.empty(shape, dtype=dtype)
    module.register_buffer("values", values)
    save_weights(module, str(folder / "a.safetensors"))
    save_weights(module, str(folder / "a.pt"))
    assert_identical(_of_file(folder / "a.safetensors"), {"values": values})
    assert_identical(load_file(folder / "a.safetensors"), {"values": values})
    assert_identical(_of_file(folder / "a.pt"), {"values": values})


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.onnx", "its suffix says no format"), ("nowhere/out.pt", "cannot be written")],
)
def test_places_that_can_not_be_saved_to(name: str, message: str, tmp_path: Path) -> None:
    """The suffix, or the folder."""
    with pytest.raises(ModelInspectError) as caught:
        save_weights(nn.Linear(2, 2), str(tmp_path / name))
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_type_that_safetensors_lacks(tmp_path: Path) -> None:
    """Said, with the way out; the old file stays."""
    path = tmp_path / "out.safetensors"
    save_weights(nn.Linear(2, 2), str(path))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="has no data type complex128"):
        save_weights(nn.Linear(2, 2, dtype=torch.complex128), str(path))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
