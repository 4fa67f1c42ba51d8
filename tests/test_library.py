"""The library as a user imports it: what each public call takes, and what it returns."""

from __future__ import annotations

import dataclasses
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
