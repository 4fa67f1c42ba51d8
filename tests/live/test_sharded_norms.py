"""
Norms of gradients that lie on two processes: those of the same gradients on one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sharded_gradients
import torch
from command import plain_environment

from modelinspect.live.norms import l2_norms
from modelinspect.live.weights import load_weights, save_weights

TOGETHER_SECONDS = 2 * sharded_gradients.SECONDS
"""A process that hangs is ended after that."""
TINY = 1e-210
"""Below it a figure is rounding: the 1e-200 of a case is not."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have left."""
    folder = tmp_path_factory.mktemp("ranks")
    script = str(Path(sharded_gradients.__file__))
    running = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(folder)],
            env={**plain_environment(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=TOGETHER_SECONDS)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each process makes of every case."""
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("case", sharded_gradients.CASES)
def test_every_process_knows_the_figures_of_the_whole(
    case: str, rank: int, ranks: list[dict[str, Any]]
) -> None:
    """Sizes and counts to the last element; norms to 1e-6, of gradients and of weights."""
    alone = sharded_gradients.measured(sharded_gradients.CASES[case](None))
    together = ranks[rank][case]
    assert len(together["figures"]) == len(alone["figures"]) > 0
    for found, expected in zip(together["figures"], alone["figures"], strict=True):
        numbers, weight = expected[:-1], expected[-1]
        assert found[:-1] == pytest.approx(numbers, rel=1e-6, abs=TINY, nan_ok=True)
        assert found[-1] == (weight if weight is None else pytest.approx(weight, rel=1e-6, nan_ok=True))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("case", [case for case in sharded_gradients.CASES if case != "extreme"])
def test_norms_of_every_step_are_those_of_the_whole(
    case: str, rank: int, ranks: list[dict[str, Any]]
) -> None:
    """The quick way, too; only what float64 can't square it leaves to the full table."""
    alone = sharded_gradients.measured(sharded_gradients.CASES[case](None))
    expected = [figures.l2 for figures in alone["figures"]]
    assert ranks[rank][case]["norms"] == pytest.approx(expected, rel=1e-6, abs=TINY, nan_ok=True)


@pytest.mark.parametrize(
    ("case", "exchanges"),
    [("fsdp", 1), ("partly sharded", 1), ("ddp", 0), ("broken", 1), ("partial", 0), ("strided shard", 1)],
)
def test_norms_of_a_step_take_one_exchange(case: str, exchanges: int, ranks: list[dict[str, Any]]) -> None:
    """However many gradients are sharded; none where nothing is."""
    assert [found[case]["exchanges"] for found in ranks] == [exchanges, exchanges]


def test_each_process_holds_a_part(ranks: list[dict[str, Any]]) -> None:
    """The model is what its case says: sharded, unevenly, and nothing is there twice."""
    whole = sharded_gradients.measured(sharded_gradients.CASES["fsdp"](None))
    held = [found["fsdp"]["held"] for found in ranks]
    assert sum(held) == whole["held"]
    assert held[0] > held[1] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("size", [4_096, 16_384, 16_385, 65_536])
def test_norms_of_every_step_are_exact(size: int, dtype: torch.dtype) -> None:
    """Equal numbers are the hardest: float32 rounds each of their sums in the same direction."""
    gradient = torch.full((size,), 0.1, dtype=dtype)
    [norm] = l2_norms([gradient]).tolist()
    assert norm == pytest.approx(gradient.double().norm().item(), rel=3e-7)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_sharded_models_are_saved_whole(suffix: str, folder: Path) -> None:
    """By the first process, and as from one: the same bytes, a tied weight once."""
    model = sharded_gradients.made_to_be_saved(0)
    save_weights(model, str(folder / f"alone.{suffix}"))
    assert (folder / f"saved.{suffix}").read_bytes() == (folder / f"alone.{suffix}").read_bytes()
    other = sharded_gradients.made_to_be_saved(1)
    assert load_weights(other, str(folder / f"saved.{suffix}")) == ()
    for mine, theirs in zip(other.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
