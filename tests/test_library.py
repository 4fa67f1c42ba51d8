"""The library as a user imports it: what each public call takes, and what it returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

import modelinspect as mi


class Tied(nn.Module):
    """Two names for one weight, a frozen part, a buffer of each kind, a stray tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 7)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("running_mean", torch.zeros(5))
        self.register_buffer("dropped", torch.zeros(4), persistent=False)
        self.h = torch.zeros(1)


@pytest.fixture
def net() -> nn.Module:
    """A module in hand."""
    return Tied()


@pytest.fixture
def path(tmp_path: Path, net: nn.Module) -> Path:
    """Its state_dict in a file."""
    torch.save(net.state_dict(), tmp_path / "net.pt")
    return tmp_path / "net.pt"


def inspectables(net: nn.Module, path: Path) -> dict[str, Any]:
    """The same parameters, spelt in every way that the calls take."""
    return {
        "text": str(path),
        "path": path,
        "checkpoint": mi.open_checkpoint(path),
        "table": mi.open_checkpoint(path).table,
        "module": net,
        "dict": net.state_dict(),
        "arrays": {name: tensor.numpy() for name, tensor in net.state_dict().items()},
    }


@pytest.mark.parametrize("kind", ["text", "path", "checkpoint", "table", "module", "dict", "arrays"])
def test_every_call_takes_every_spelling(net: nn.Module, path: Path, kind: str) -> None:
    """A target, a path, a checkpoint, a table, a module and a dict count the same."""
    what = inspectables(net, path)[kind]
    # Arrays made of tied tensors share their memory, but nothing says that they are one.
    truth = sum(p.numel() for p in net.parameters())
    assert mi.count(what).unique in ((truth, truth + 21) if kind == "arrays" else (truth,))
    names = [tensor.name for tensor in mi.params(what).tensors]
    expected = list(net.state_dict())
    assert [name for name in names if name != "dropped"] == expected


def test_a_module_in_hand_is_counted_as_torch_counts_it(net: nn.Module) -> None:
    """Unique, trainable, frozen, buffers: the sums that people write by hand."""
    report = mi.count(net)
    assert report.unique == sum(p.numel() for p in net.parameters())
    assert report.trainable == sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert report.frozen == sum(p.numel() for p in net.parameters() if not p.requires_grad)
    assert (report.persistent_buffers, report.non_persistent_buffers) == (5, 4)
    assert [tie.names for tie in report.ties] == [("embedding.weight", "head.weight")]
    assert any("h: " in note for note in report.notes)


def test_inspecting_does_no_harm(net: nn.Module) -> None:
    """The module comes back as it was: values, mode, gradients, random numbers."""
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.eval()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    mi.count(net)
    mi.params(net, values=True, tree=True)
    assert torch.equal(torch.rand(3), expected)
    assert not net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_values_of_a_module_in_hand_are_its_own(net: nn.Module) -> None:
    """Not a fresh initialisation: the numbers that are in the module now."""
    with torch.no_grad():
        net.get_parameter("head.bias").copy_(torch.arange(7.0))
    summaries = mi.params(net, values=True).values
    assert summaries is not None
    assert summaries["head.bias"].values == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_values_of_a_dict_and_of_a_file_agree(net: nn.Module, path: Path) -> None:
    """The same figures from memory and from the bytes of the file."""
    of_dict, of_file = mi.params(net.state_dict(), values=True).values, mi.params(path, values=True).values
    assert of_dict == of_file
    assert of_file is not None
    weight = net.get_parameter("embedding.weight").detach().double().numpy()
    assert of_file["embedding.weight"].mean == pytest.approx(float(np.mean(weight)))


def test_a_definition_is_built_and_stays_at_hand() -> None:
    """load_definition gives the module itself and its table; asked for, a real one."""
    definition = mi.load_definition("models/regression.py")
    assert [tensor.name for tensor in definition.table] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert next(definition.module.parameters()).is_meta
    real = mi.load_definition("models/regression.py", real=True, seed=1)
    assert real.module(torch.zeros(5, 1)).shape == (5, 1)
    assert mi.count(definition).unique == mi.count(real).unique == 40
    values = mi.params(real, values=True).values
    assert values is not None
    assert values["2.bias"].values == real.module.get_parameter("2.bias").tolist()


def test_fit_takes_what_is_in_hand(net: nn.Module, path: Path) -> None:
    """A module against a file, a dict against a definition."""
    assert mi.fit(net, path).fits
    assert not mi.fit(net, {}).fits


def test_reports_are_frozen(path: Path) -> None:
    """A report can't be changed by whoever gets it."""
    report = mi.count(path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.unique = 0  # type: ignore[misc]


def test_reports_show_themselves(net: nn.Module, path: Path) -> None:
    """Rich prints each report as the command does; a notebook gets a table; a repr is short."""
    definition = mi.load_definition("models/regression.py")
    reports = [
        mi.count(net),
        mi.params(net),
        mi.fit(net, path),
        mi.open_checkpoint(path),
        definition,
        definition.table,
        mi.plan_transplant(net, net),
    ]
    for report in reports:
        console = Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(report)
        assert console.export_text().strip()
        html = report._repr_html_()
        assert html is not None
        assert html.startswith("<table>")
        assert len(repr(report)) < 1500
        console.file.close()


def test_names_in_html_are_data(tmp_path: Path) -> None:
    """A name that is a script is text in a notebook."""
    save_file({"<script>alert(1)</script>": torch.zeros(1)}, tmp_path / "x.safetensors")
    html = mi.params(tmp_path / "x.safetensors")._repr_html_()
    assert html is not None
    assert "<script>" not in html


class Old(nn.Module):
    """A small network by one author."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.hidden = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> Any:
        """Token numbers to two numbers each."""
        return self.out(self.norm(self.hidden(self.embed(x))))


class New(nn.Module):
    """The same by another."""

    def __init__(self) -> None:
        super().__init__()
        self.tok = nn.Embedding(9, 4)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))

    def forward(self, x: torch.Tensor) -> Any:
        """The same function."""
        return self.body(self.tok(x))


class Wider(New):
    """With a head that nothing fills."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 11)


@pytest.fixture
def old() -> nn.Module:
    """A model whose running statistics are its own."""
    model = Old()
    model(torch.arange(9))
    return model.eval()


@pytest.mark.parametrize("kind", ["text", "path", "checkpoint", "module", "dict"])
def test_a_module_is_filled_from_whatever_has_weights(old: nn.Module, tmp_path: Path, kind: str) -> None:
    """In place: afterwards it does what the other one did."""
    path = tmp_path / "old.pt"
    torch.save(old.state_dict(), path)
    new = New().eval()
    plan = mi.transplant(inspectables(old, path)[kind], new)
    assert plan.is_complete
    assert len(plan.assignments) == 10
    assert torch.equal(old(torch.arange(9)), new(torch.arange(9)))


def test_a_plan_is_applied_to_tensors_and_to_arrays(old: nn.Module) -> None:
    """``apply`` takes a state_dict of torch or of numpy and gives one that loads strictly."""
    plan = mi.plan_transplant(old, New())
    new = New().eval()
    new.load_state_dict(plan.apply(old.state_dict()), strict=True)
    assert torch.equal(old(torch.arange(9)), new(torch.arange(9)))
    arrays = plan.apply({name: tensor.numpy() for name, tensor in old.state_dict().items()})
    assert all(np.array_equal(arrays[name], tensor.numpy()) for name, tensor in new.state_dict().items())


def test_a_plan_is_written_saved_emitted_and_inverted(old: nn.Module, tmp_path: Path) -> None:
    """What a plan can become, each by one call."""
    path, out, saved = tmp_path / "old.pt", str(tmp_path / "new.safetensors"), str(tmp_path / "plan.json")
    torch.save(old.state_dict(), path)
    plan = mi.plan_transplant(path, New())
    assert plan.write(out).tensors == 10
    plan.save(saved)
    assert mi.plan_transplant(path, New(), plan=saved).assignments == plan.assignments
    names: dict[str, Any] = {}
    exec(plan.to_python(), names)
    new = New().eval()
    new.load_state_dict(names["convert"](torch.load(path)))
    assert mi.fit(new, out).fits
    back = plan.inverted().apply(new.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in old.state_dict().items())


def test_a_module_with_a_gap_is_left_alone(old: nn.Module) -> None:
    """Missing tensors raise before anything is changed; allowed, they stay as they are."""
    new = Wider()
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    with pytest.raises(mi.ModelInspectError, match="2 tensors get nothing"):
        mi.transplant(old, new)
    assert all(torch.equal(before[name], tensor) for name, tensor in new.state_dict().items())
    mi.transplant(old, new, allow_missing=True)
    assert torch.equal(new.head.weight, before["head.weight"])
    assert torch.equal(new.tok.weight, old.get_parameter("embed.weight"))


def test_a_module_on_the_meta_device_is_filled(old: nn.Module) -> None:
    """A target without memory gets the tensors themselves."""
    with torch.device("meta"):
        new = New()
    mi.transplant(old, new)
    assert torch.equal(new.eval()(torch.arange(9)), old(torch.arange(9)))


def test_a_source_definition_in_hand_proves(old: nn.Module) -> None:
    """Both models are run, and come back as they were."""
    before = old.state_dict()["hidden.weight"].clone()
    plan = mi.plan_transplant(old, New(), source_definition=old, inputs="int64[9]<9")
    assert plan.proof is not None
    assert plan.proof.equal
    assert torch.equal(old.state_dict()["hidden.weight"], before)


def test_transplants_that_make_no_sense_are_refused(old: nn.Module, tmp_path: Path) -> None:
    """A target that is no module, hints beside a plan, a checkpoint for a definition."""
    torch.save(old.state_dict(), tmp_path / "old.pt")
    mi.plan_transplant(old, New()).save(str(tmp_path / "plan.json"))
    calls: tuple[Callable[[], object], ...] = (
        lambda: mi.transplant(old, {}),
        lambda: mi.plan_transplant(old, New(), maps=["a=b"], plan=tmp_path / "plan.json"),
        lambda: mi.plan_transplant(old, New(), source_definition=str(tmp_path / "old.pt")),
        lambda: mi.plan_transplant(old, New(), section="x"),
    )
    for call in calls:
        with pytest.raises(mi.ModelInspectError):
            call()


def test_the_room_and_the_call_share_a_name(old: nn.Module) -> None:
    """``mi.transplant`` can be called whatever was imported before, and is a package all the same."""
    from modelinspect.transplant import plan as room

    assert room.Plan is mi.Plan
    assert mi.transplant(old, New()).is_complete


@pytest.mark.parametrize("wrong", [3, None, [1, 2], object()])
def test_other_things_are_refused_with_what_is_expected(wrong: object) -> None:
    """An error of the family that lists what the calls take."""
    with pytest.raises(mi.ModelInspectError, match="can't be inspected"):
        mi.count(wrong)


def test_contradictory_arguments_are_refused(net: nn.Module, path: Path) -> None:
    """Sections of what has none, negative counts, an order of groups without groups."""
    for call in (
        lambda: mi.count(net, section="x"),
        lambda: mi.count(net, by="section"),
        lambda: mi.count(path, sort="unique"),
        lambda: mi.params(path, top=-1),
        lambda: mi.params(path, tree=True, depth=-1),
        lambda: mi.params(mi.open_checkpoint(path).table, sort="colour"),
        lambda: mi.params(mi.load_definition("models/regression.py").table, values=True),
    ):
        with pytest.raises(mi.ModelInspectError):
            call()


def test_unknown_names_of_the_package_are_attribute_errors() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="no attribute 'coun'"):
        _ = mi.coun
    assert mi.__version__
