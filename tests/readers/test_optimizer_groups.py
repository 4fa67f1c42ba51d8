"""What optimizers say beside their tensors, from honest files and from others."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_truth
from torch import nn

from modelinspect.readers.parts import optimizer_groups
from modelinspect.readers.parts.optimizer_groups import OptimizerReader
from modelinspect.readers.parts.pickle_symbols import Call, PickledDict
from modelinspect.readers.registry import open_checkpoint
from modelinspect.tensors import Checkpoint, OptimizerGroup, OptimizerState


def opened(path: Path, value: Any, **how: Any) -> Checkpoint:
    """Write with torch, open as a user does."""
    return open_checkpoint(str(torch_truth.save(value, path, **how)))


def stepped(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state_dict after a step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("how", [{}, {"legacy": True}, {"protocol": 4}])
def test_groups_are_those_of_the_optimizer(how: dict[str, Any], tmp_path: Path) -> None:
    """Parameters, names and short settings of every group, from each layout."""
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    groups: list[dict[str, Any]] = [
        {"params": list(net[0].named_parameters()), "lr": 0.5},
        {"params": list(net[1].named_parameters()), "betas": (0.8, 0.9)},
    ]
    state = stepped(torch.optim.Adam(groups))
    found = opened(tmp_path / "x.pt", {"model": net.state_dict(), "optimizer": state}, **how).optimizers
    assert list(found) == ["optimizer"]
    assert found["optimizer"].steps == {}
    assert not found["optimizer"].fault
    for ours, theirs in zip(found["optimizer"].groups, state["param_groups"], strict=True):
        rest = {key: value for key, value in theirs.items() if key not in ("params", "param_names")}
        assert ours.params == tuple(theirs["params"])
        assert ours.names == tuple(theirs["param_names"])
        assert ours.settings == rest


def test_every_optimizer_has_its_own(tmp_path: Path) -> None:
    """Lightning's list, a GAN's two, and the file that is nothing but a state_dict."""
    net = nn.Linear(2, 1)
    first, second = (
        stepped(torch.optim.Adam(net.parameters(), lr=0.25)),
        stepped(torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)),
    )
    for value, names in (
        (
            {"state_dict": net.state_dict(), "optimizer_states": [first, second]},
            [f"optimizer_states.{n}" for n in "01"],
        ),
        ({"G": net.state_dict(), "opt_G": first, "opt_D": second}, ["opt_G", "opt_D"]),
    ):
        found = opened(tmp_path / "x.pt", value).optimizers
        assert {name: said.groups[0].settings["lr"] for name, said in found.items()} == dict(
            zip(names, (0.25, 0.5))
        )
    alone = opened(tmp_path / "optimizer.pt", first)
    assert alone.roles == {"": "optimizer"}
    assert alone.optimizers[""].groups[0].params == (0, 1)


def test_steps_that_are_numbers(tmp_path: Path) -> None:
    """Numbers are kept by the key of their parameter; tensors stay in the section's table."""
    states = {
        140_231_000_000_000: {"step": 7, "exp_avg": torch.ones(1)},
        1: {"step": 2.5, "exp_avg": torch.ones(1)},
        2: {"step": torch.tensor(3.0), "exp_avg": torch.ones(1)},
        3: collections.OrderedDict(exp_avg=torch.ones(1)),
    }
    value = {"state": collections.defaultdict(dict, states), "param_groups": [{"params": list(states)}]}
    said = opened(tmp_path / "x.pt", value).optimizers[""]
    assert said == OptimizerState((OptimizerGroup(tuple(states)),), {"140231000000000": 7, "1": 2.5})


def test_only_optimizers_are_looked_into(tmp_path: Path) -> None:
    """Groups that stand anywhere else are nobody's."""
    value = {"model": {"w": torch.ones(1)}, "scheduler": {"state": {}, "param_groups": [{"params": [0]}]}}
    assert opened(tmp_path / "x.pt", value).optimizers == {}


def test_what_is_no_setting_is_left_out(tmp_path: Path) -> None:
    """Tensors, long texts, nested and long lists are no settings; names must be one a parameter."""
    group = {
        "params": [0, 1],
        "param_names": ["a"],
        "lr": torch.tensor(0.1),
        "note": "x" * 81,
        "x" * 81: 1,
        "nested": [[1, 2]],
        "long": list(range(9)),
        "empty": [],
        "betas": [0.9, 0.99],
        "flags": (True, False),
        "name": "head",
        3: 4,
    }
    value = {"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": [group]}
    (found,) = opened(tmp_path / "x.pt", value).optimizers[""].groups
    assert found == OptimizerGroup((0, 1), (), {"betas": (0.9, 0.99), "name": "head", "3": 4})


@pytest.mark.parametrize(
    "groups",
    [
        None,
        3,
        "text",
        {"a": 1},
        [1, None, "x", [2]],
        [{"params": 3}, {"params": None}, {}],
        [{"params": [None, 1.5, (1, 2), True, torch.ones(1)]}],
    ],
)
def test_groups_of_wrong_types(groups: Any, tmp_path: Path) -> None:
    """Whatever stands in the place of groups, the file is listed and nothing is made up."""
    value = {"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": groups}
    checkpoint = opened(tmp_path / "x.pt", value)
    assert len(checkpoint.section("all")) >= 1
    for said in checkpoint.optimizers.values():
        assert not said.fault
        assert not any(group.params or group.names for group in said.groups)


def test_states_of_wrong_types(tmp_path: Path) -> None:
    """States that are no dictionaries have no steps."""
    state = {
        0: {"exp_avg": torch.ones(1), "step": "7"},
        1: [1],
        2: None,
        3: {"step": True},
        4: {"step": None},
    }
    value = {"state": state, "param_groups": []}
    assert opened(tmp_path / "x.pt", value).optimizers[""].steps == {}


def test_cyclic_groups(tmp_path: Path) -> None:
    """Groups that hold themselves end."""
    group: dict[Any, Any] = {"params": [0]}
    groups: list[Any] = [group]
    group["group"], group["groups"] = group, groups
    groups.append(groups)
    group["params"].append(group["params"])
    value = {"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": groups}
    said = opened(tmp_path / "x.pt", value).optimizers[""]
    assert said.groups == (OptimizerGroup((0,)),)


def test_one_group_named_a_million_times() -> None:
    """A list that costs two bytes each time it is named is not copied each time."""
    params = list(range(50_000))
    group = PickledDict(["params", params, "lr", 0.1])
    symbol = PickledDict(["state", PickledDict([]), "param_groups", [group] * 1_000_000])
    said = OptimizerReader(2_000_000).read(symbol)
    assert said.groups == ()
    assert "lead to more than 2,100,000 entries" in said.fault
    empty = OptimizerReader(2_000_000).read(
        PickledDict(["state", PickledDict([]), "param_groups", [PickledDict([])] * 500_000])
    )
    assert empty.groups == ()
    assert empty.fault


def test_the_budget_is_one_for_all_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred sections that are one object are not read a hundred times."""
    monkeypatch.setattr(optimizer_groups, "FREE_ENTRIES", 1_000)
    group = PickledDict(["params", list(range(300))])
    symbol = PickledDict(["state", PickledDict([]), "param_groups", [group]])
    reader = OptimizerReader(0)
    said = [reader.read(symbol) for _ in range(5)]
    assert [bool(each.groups) for each in said] == [True, True, True, False, False]
    assert [bool(each.fault) for each in said] == [False, False, False, True, True]


def test_what_is_no_state_dict_says_nothing() -> None:
    """Any symbol may stand in the place of an optimizer's state_dict."""
    for symbol in (
        None,
        3,
        [1],
        (),
        PickledDict([]),
        PickledDict([1]),
        Call(None, None),
        PickledDict(["state", 1]),
    ):
        assert OptimizerReader(0).read(symbol) == OptimizerState()


def test_a_hostile_file_is_still_listed(tmp_path: Path) -> None:
    """Groups that lead too far do not keep the tensors from being listed."""
    groups = [{"params": list(range(40_000))}] * 8
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": groups}
    checkpoint = opened(tmp_path / "x.pt", {"model": {"w": torch.ones(2)}, "optimizer": optimizer})
    assert [row.name for row in checkpoint.section("all")] == ["model.w", "optimizer.state.0.exp_avg"]
    assert checkpoint.optimizers["optimizer"].fault
    assert not checkpoint.optimizers["optimizer"].groups


def test_integers_too_long_to_keep(tmp_path: Path) -> None:
    """A key or step of a thousand digits is no number here."""
    state = {0: {"exp_avg": torch.ones(1), "step": 10**999}}
    value = {"state": state, "param_groups": [{"params": [10**999, 0]}]}
    said = opened(tmp_path / "x.pt", value).optimizers[""]
    assert said == OptimizerState((OptimizerGroup((0,)),))
