"""What a checkpoint says of itself, and whether loading it would execute code, as torch itself has it."""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import io
import os
import pathlib
import pickle
import warnings
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch._weights_only_unpickler import _get_allowed_globals

import modelinspect as mi
from modelinspect.analysis import adapters, info
from modelinspect.analysis.info import InfoReport, checkpoint_info
from modelinspect.analysis.loading import _ALLOWED, how_it_loads, torch_allows
from modelinspect.errors import UsageError
from modelinspect.tensors import Checkpoint


class Foreign:
    """An object of a class that no library of torch's knows."""

    def __init__(self) -> None:
        self.weight = torch.ones(2)


class Sub(torch.Tensor):
    """A subclass of Tensor."""


Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - pickled, not typed


class Runs:
    """An object whose unpickling calls a function of the standard library."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.getcwd, ()


class Loads:
    """What torch makes of a storage that is pickled without torch.save."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.storage._load_from_bytes, (self.content,)


def saved(path: Path, value: object, **options: Any) -> Checkpoint:
    """What we read of an object that torch.save wrote."""
    torch.save(value, path, **options)
    return mi.open_checkpoint(path)


def torch_takes(path: Path) -> bool:
    """Does torch.load take the file as it does by default?"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.load(path, weights_only=True)
        except Exception:  # noqa: BLE001 - whatever it says, it refuses
            return False
    return True


# ----------------------------------------------------------------- executes code?

WEIGHT = torch.arange(6.0).reshape(2, 3)
OBJECTS: dict[str, object] = {
    "state_dict": nn.Linear(2, 3).state_dict(),
    "parameters": {"w": nn.Parameter(WEIGHT), "frozen": nn.Parameter(WEIGHT, requires_grad=False)},
    "buffer": {"b": nn.Buffer(WEIGHT)},
    "parameter with attributes": {"w": nn.Parameter(WEIGHT)},
    "module": nn.Linear(2, 3),
    "sequential": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
    "nested": {"a": [{"w": WEIGHT}, ({"v": WEIGHT.half()},)], "epoch": 3, "lr": 0.1, "on": True, "no": None},
    "optimizer": torch.optim.Adam(nn.Linear(2, 3).parameters()).state_dict(),
    "dtypes": {str(d): torch.zeros(2, dtype=d) for d in (torch.bool, torch.bfloat16, torch.complex64)},
    "odd dtypes": {str(d): torch.zeros(2).to(d) for d in (torch.float8_e4m3fn, torch.float8_e5m2)},
    "unsigned": {"u": torch.zeros(2, dtype=torch.uint16), "dtype": getattr(torch, "int3", None)},
    "sparse coo": {"w": WEIGHT.to_sparse()},
    "meta": {"w": torch.empty(2, device="meta")},
    "conjugate": {"w": torch.zeros(2, dtype=torch.complex64).conj()},
    "size and device": {"w": WEIGHT, "size": WEIGHT.shape, "device": torch.device("cpu")},
    "storage": {"w": WEIGHT.untyped_storage()},
    "bytes": {"w": WEIGHT, "b": b"\x00\xff"},
    "bytearray": {"w": WEIGHT, "b": bytearray(b"12")},
    "set": {"w": WEIGHT, "s": {1, 2}},
    "frozenset": {"w": WEIGHT, "s": frozenset({1, 2})},
    "complex": {"w": WEIGHT, "c": 1 + 2j},
    "large integer": {"w": WEIGHT, "i": 2**80},
    "Counter": {"w": WEIGHT, "c": Counter("aab")},
    "OrderedDict": OrderedDict(w=WEIGHT),
    "defaultdict": {"w": WEIGHT, "d": defaultdict(list)},
    "deque": {"w": WEIGHT, "d": deque([1])},
    "named tuple": {"w": WEIGHT, "p": Pair(1, 2)},
    "numpy array": {"w": WEIGHT, "a": np.ones(3)},
    "numpy scalar": {"w": WEIGHT, "a": np.float64(3.0)},
    "path": {"w": WEIGHT, "p": pathlib.PurePosixPath("a")},
    "date": {"w": WEIGHT, "t": dt.datetime(2024, 1, 1)},  # noqa: DTZ001
    "fraction": {"w": WEIGHT, "f": fractions.Fraction(1, 3), "d": decimal.Decimal(1)},
    "slice and range": {"w": WEIGHT, "r": range(3)},
    "function": {"w": WEIGHT, "f": torch.nn.functional.relu},
    "class": {"w": WEIGHT, "c": nn.Linear},
    "layout": {"w": WEIGHT, "l": torch.strided},
    "foreign": {"w": WEIGHT, "x": Foreign()},
    "subclass": {"w": WEIGHT.as_subclass(Sub)},
    "runs": {"w": WEIGHT, "x": Runs()},
}
setattr(OBJECTS["parameter with attributes"]["w"], "note", "kept")  # type: ignore[index]  # noqa: B010
with warnings.catch_warnings():
    # torch warns of what it calls beta or deprecated.
    warnings.simplefilter("ignore")
    OBJECTS["sparse csr"] = {"w": torch.eye(3).to_sparse_csr()}
    OBJECTS["quantized"] = {"w": torch.quantize_per_tensor(WEIGHT, 0.1, 0, torch.qint8)}


# torch 2.13 writes untyped storages in the old layout and can't read them itself.
UNREADABLE = {(name, "legacy") for name in ("odd dtypes", "unsigned", "storage")}
WAYS = [(name, how) for name in OBJECTS for how in ("zip", "legacy") if (name, how) not in UNREADABLE]


@pytest.mark.parametrize(("name", "how"), WAYS)
def test_what_torch_refuses_is_what_we_say_it_refuses(tmp_path: Path, name: str, how: str) -> None:
    """`no` where torch.load takes a file as it does by default, `refused` where it does not."""
    path = tmp_path / "x.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = how_it_loads(saved(path, OBJECTS[name], _use_new_zipfile_serialization=how == "zip"))
    assert found.verdict == ("no" if torch_takes(path) else "refused"), found
    assert (found.verdict == "refused") == bool(found.names)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("how", ["zip", "legacy"])
def test_protocols_are_refused_as_torch_does(tmp_path: Path, protocol: int, how: str) -> None:
    """Opcodes of later protocols are refused, whatever the names."""
    path = tmp_path / "x.pt"
    new = how == "zip"
    found = how_it_loads(
        saved(path, {"w": WEIGHT}, pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    )
    assert found.verdict == ("no" if torch_takes(path) else "refused"), found
    assert not found.names


def test_the_list_is_torchs_own() -> None:
    """Every name that torch takes and no other."""
    ours = {f"{module}.{name}" for module, names in _ALLOWED.items() for name in names}
    assert ours == set(_get_allowed_globals())


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        ("__builtin__", "set", True),
        ("copy_reg", "_reconstructor", False),
        ("__builtin__", "eval", False),
        ("os", "system", False),
        ("torch", "load", False),
    ],
)
def test_names_of_python_2_count_as_those_of_python_3(module: str, name: str, expected: bool) -> None:
    """Torch maps them before it looks them up."""
    assert torch_allows(module, name) is expected


def test_names_of_nobodys_library_come_first(tmp_path: Path) -> None:
    """What a person should look at is not the fourth of a list."""
    found = how_it_loads(saved(tmp_path / "x.pt", {"model": nn.Linear(2, 3), "x": Foreign()}))
    assert found.names[0].endswith(".Foreign")
    assert "torch.nn.modules.linear.Linear" in found.names


@pytest.mark.parametrize(
    ("form", "verdict"),
    [
        ("safetensors", "no"),
        ("sharded safetensors", "no"),
        ("gguf", "no"),
        ("pickle", "no"),
        ("torch-package", "yes"),
        ("torchscript", "yes"),
        ("torch-tar", "refused"),
        ("sharded safetensors and torch-package", "yes"),
        ("something new", "unknown"),
    ],
)
def test_formats_have_their_own_answers(tmp_path: Path, form: str, verdict: str) -> None:
    """By how files of a format are loaded; of several the worst."""
    checkpoint = saved(tmp_path / "x.pt", {"w": WEIGHT})
    plain = () if "tar" not in form else checkpoint.globals
    assert how_it_loads(replace(checkpoint, format=form, globals=plain)).verdict == verdict


def test_a_pickle_that_names_more_would_execute_it(tmp_path: Path) -> None:
    """pickle.load takes whatever there is."""
    checkpoint = replace(saved(tmp_path / "x.pt", {"w": WEIGHT, "x": Runs()}), format="pickle")
    found = how_it_loads(checkpoint)
    assert (found.verdict, found.call) == ("yes", "pickle.load")
    assert found.names == (f"{os.getcwd.__module__}.getcwd",)


def test_byte_strings_that_are_unpickled_are_not_vouched_for(tmp_path: Path) -> None:
    """A file of torch.save inside a pickle is loaded without restriction, whatever is in it."""
    inner = io.BytesIO()
    torch.save({"x": Runs()}, inner)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"w": Loads(inner.getvalue()), "v": WEIGHT}))
    assert how_it_loads(mi.open_checkpoint(tmp_path / "x.pkl")).verdict in ("unknown", "yes")


def test_pickles_beside_the_weights_count(tmp_path: Path) -> None:
    """Of a folder of safetensors and a training state the answer is of the worse."""
    checkpoint = saved(tmp_path / "x.pt", {"w": WEIGHT, "x": Runs()})
    found = how_it_loads(replace(checkpoint, format="safetensors"))
    assert (found.verdict, found.call) == ("refused", "torch.load")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_of_objects_are_refused_as_numpy_does(tmp_path: Path, kind: str) -> None:
    """numpy.load takes numbers, and objects only when it is told to."""
    save: Any = {"npy": np.save, "npz": np.savez}[kind]
    for dtype, verdict in (("float32", "no"), (object, "refused")):
        save(tmp_path / f"x.{kind}", np.array([1, 2], dtype))
        assert how_it_loads(mi.open_checkpoint(tmp_path / f"x.{kind}")).verdict == verdict
    with pytest.raises(ValueError, match="allow_pickle"):
        list(dict(np.load(tmp_path / f"x.{kind}")))


def test_what_a_configuration_would_run_is_said(tmp_path: Path) -> None:
    """Code of auto_map and templates run in other places than the loader."""
    save_file({"w": WEIGHT}, tmp_path / "x.safetensors", {"config.auto_map.AutoModel": "a.py"})
    assert "trust_remote_code" in how_it_loads(mi.open_checkpoint(tmp_path / "x.safetensors")).beside[0]


# -------------------------------------------------------------------- the report


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Path]:
    """A training checkpoint: model, two optimizers, EMA, counters."""
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False), nn.Linear(10, 10))
    model[1].weight = model[0].weight
    adam = torch.optim.AdamW(list(model.parameters()), lr=0.25, betas=(0.5, 0.75), weight_decay=0.125)
    sgd = torch.optim.SGD(list(model.parameters()), lr=1.0, momentum=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    adam.step()
    sgd.step()
    torch.save(
        {
            "state_dict": model.state_dict(),
            "ema": {"w": torch.ones(3)},
            "optimizer_states": [adam.state_dict(), sgd.state_dict()],
            "epoch": 7,
            "global_step": 1200,
            "args": {"epoch": 99, "step": 98, "arch": "tiny"},
            "pytorch-lightning_version": "2.4.0",
        },
        tmp_path / "last.ckpt",
    )
    return tmp_path / "last.ckpt"  # type: ignore[return-value]


def test_training_is_found(training: Path) -> None:
    """Epoch and step of the training, not those that its arguments ask for."""
    report = mi.info(training)
    assert (report.epoch, report.step, report.architecture) == ("7", "1200", "tiny")
    assert report.writer.startswith("PyTorch Lightning 2.4.0")
    adam, sgd = report.optimizers
    assert adam.kind == "Adam-like: exp_avg, exp_avg_sq"
    assert (adam.parameters, adam.states["exp_avg"]) == (3, 3)
    assert (adam.settings["lr"], adam.settings["betas"]) == (0.25, (0.5, 0.75))
    assert sgd.kind == "SGD with momentum: momentum_buffer"


def test_sections_add_up(training: Path) -> None:
    """Each section with its role, elements and bytes; the figures are the model's."""
    report = mi.info(training)
    found = {each.name: (each.role, each.numel, each.nbytes, each.is_model) for each in report.sections}
    assert found["state_dict"] == ("model", 150, 600, True)
    assert found["ema"] == ("ema", 3, 12, False)
    assert found["optimizer_states.0"] == ("optimizer", 303, 1212, False)
    assert report.count.unique == 150
    assert report.count.ties[0].names == ("0.weight", "1.weight")
    assert mi.info(training, section="ema").count.unique == 3
    with pytest.raises(UsageError, match="no section"):
        mi.info(training, section="nothing")


def test_who_names_a_section_is_not_told_which_is_the_models(training: Path) -> None:
    """The note on which section was taken is for those who left it open."""
    for report in (mi.count, mi.params):
        said = [
            any("taken for the model" in n for n in report(training, section=s).notes) for s in (None, "ema")
        ]
        assert said == [True, False]


def test_what_the_report_says_itself_is_no_note(training: Path) -> None:
    """Sections and what loading would run have lines of their own."""
    checkpoint = mi.open_checkpoint(training)
    assert any("is taken for the model" in note for note in checkpoint.notes)
    assert checkpoint_info(checkpoint).notes == (
        "the optimizer's state is of 300 elements, more than were counted",
    )


def test_devices_are_those_at_the_time_of_saving(training: Path, tmp_path: Path) -> None:
    """Of all sections; safetensors keeps none."""
    report = mi.info(training)
    assert [each.device for each in report.devices] == ["cpu"]
    assert report.devices[0].tensors == sum(each.tensors for each in report.sections)
    assert report.devices[0].nbytes == sum(each.nbytes for each in report.sections)
    save_file({"w": WEIGHT}, tmp_path / "x.safetensors")
    assert mi.info(tmp_path / "x.safetensors").devices == ()


def test_blocks_are_one_of_the_largest(tmp_path: Path) -> None:
    """Equal tensors of many layers are one line; two that happen to be alike are two."""
    tensors = {f"h.{n}.w": torch.zeros(8, 8) for n in range(4)}
    save_file(
        {**tensors, "head.0": torch.zeros(9, 9), "head.1": torch.zeros(9, 9), "b": torch.zeros(3)},
        tmp_path / "x.safetensors",
    )
    largest = mi.info(tmp_path / "x.safetensors").largest
    assert [each.names for each in largest] == [tuple(tensors), ("head.0",), ("head.1",), ("b",)]
    assert (largest[0].numel, largest[0].nbytes, largest[0].shape) == (256, 1024, (8, 8))
    assert sum(each.share for each in largest) == pytest.approx(1)


def test_ties_count_once_among_the_largest(training: Path) -> None:
    """A second name is no second tensor."""
    assert mi.info(training).largest[0].names == ("2.weight",)


def test_a_module_saved_whole_shows_its_classes(tmp_path: Path) -> None:
    """The root is the architecture, what is inside is counted."""
    torch.save(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), tmp_path / "x.pt")
    report = mi.info(tmp_path / "x.pt")
    assert report.architecture == "Sequential"
    assert report.modules == {"Linear": 2, "ReLU": 1}


def test_modules_and_tables_in_hand() -> None:
    """The same call takes a module; it has no file, so nothing is said of one."""
    report = mi.info(nn.Sequential(nn.Linear(2, 3)))
    assert (report.origin, report.format, report.loading, report.count.unique) == ("memory", "", None, 9)
    assert [each.device for each in report.devices] == ["cpu"]


def test_a_definition_has_no_devices() -> None:
    """It lies on the meta device, which says nothing of it."""
    report = mi.info("models/regression.py")
    assert (report.origin, report.devices, report.architecture) == ("definition", (), "Regression")


def test_steps_that_are_stored_as_numbers_are_read(tmp_path: Path) -> None:
    """Torch before 1.12 kept the steps as plain numbers."""
    state = {0: {"step": 41, "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}}
    torch.save({"state": state, "param_groups": [{"lr": 0.1, "params": [0]}]}, tmp_path / "opt.pt")
    (optimizer,) = mi.info(tmp_path / "opt.pt").optimizers
    assert (optimizer.step, optimizer.parameters) == (41, 1)


def test_every_adapter_is_looked_for() -> None:
    """What saves the search in most files leaves out no name that adapters know."""
    for name in (*adapters._PEFT, "to_q_lora.down", "lora.up"):
        assert any(mark in name for mark in info._MARKS), name


def test_adapters_are_found(tmp_path: Path) -> None:
    """A LoRA's rank and targets, told from names and shapes."""
    name = "base_model.model.h.0.q_proj.lora_{}.weight"
    save_file(
        {name.format("A"): torch.zeros(8, 4), name.format("B"): torch.zeros(4, 8)},
        tmp_path / "adapter_model.safetensors",
    )
    (adapter,) = mi.info(tmp_path / "adapter_model.safetensors").adapters
    assert (adapter.kind, dict(adapter.ranks), dict(adapter.targets)) == ("LoRA", {8: 1}, {"q_proj": 1})


def test_a_file_without_tensors_has_a_report(tmp_path: Path) -> None:
    """Nothing is divided by nothing."""
    torch.save({"epoch": 3}, tmp_path / "x.pt")
    report: InfoReport = mi.info(tmp_path / "x.pt")
    assert (report.largest, report.count.unique, report.epoch) == ((), 0, "3")


def test_only_headers_are_read(tmp_path: Path) -> None:
    """The report of a file costs what its header costs."""
    torch.save({"w": torch.zeros(1_000_000)}, tmp_path / "x.pt")
    report = mi.info(tmp_path / "x.pt")
    assert report.nbytes > 4_000_000
    assert report.bytes_read < 20_000
