"""
Weights into a module and out of it: torch and safetensors say what is right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command import ROOT
from hypothesis import given
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
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip

LEGACY = [
    dtype for dtype in DTYPES if not str(dtype).startswith(("torch.uint16", "torch.uint32", "torch.float8"))
]
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


def test_what_has_no_values_is_said(tmp_path: Path) -> None:
    """A sparse tensor and one on the meta device can't be loaded into a parameter."""
    path = tmp_path / "odd.pt"
    torch.save({"meta": torch.empty(3, device="meta"), "sparse": torch.eye(3).to_sparse()}, path)
    table = mi.open_checkpoint(path).table
    with StorageReader() as reader:
        for row in table:
            with pytest.raises(CheckpointError, match="can't be loaded"):
                tensor_of(row, reader.read)


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
    target = _net()
    load_weights(target, str(path))
    assert target[0].weight.dtype is torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.weight": None}, "missing: 0.weight"),
        ({"extra": torch.ones(2)}, "unexpected: extra"),
        ({"2.bias": torch.ones(3)}, "of another shape: 2.bias"),
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


@given(
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([d for d in DTYPES if d is not torch.complex128]),
)
def test_any_buffer_goes_out_and_in(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], dtype: Any
) -> None:
    """Any shape and type, bit for bit, through both formats and our reader."""
    folder = tmp_path_factory.mktemp("round")
    module = nn.Module()
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).abs().to(dtype)
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
