"""
Two processes under torchrun: the figures of one, printed once.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, Cli, plain_environment


def torchrun(*arguments: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    """Two processes on this machine; the port is one that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
         "--master-addr", "127.0.0.1", "--master-port", str(port), *arguments],
        cwd=ROOT, env={**plain_environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("target", "flags", "parallel"),
    [
        ("models/tiny_lm.py", (), "fsdp"),
        ("models/tiny_lm.py", (), "ddp"),
        ("models/convolutional.py", (), "fsdp"),
        ("models/tied.py", ("--loss", "sum"), "ddp"),
        ("models/regression.py", ("--data", "models/regression.csv", "--steps", "5", "--lr", "0.01"), "fsdp"),
        ("models/regression.py", ("--data", "models/regression.csv", "--steps", "5", "--lr", "0.01"), "ddp"),
    ],
)
def test_two_processes_give_the_figures_of_one(
    target: str, flags: tuple[str, ...], parallel: str, cli: Cli
) -> None:
    """Sharded or replicated: the same norms, zeros and verdicts, in one document."""
    alone = json.loads(cli("grads", target, "--json", *flags).stdout)
    done = torchrun("-m", "modelinspect", "grads", target, "--json", "--parallel", parallel, *flags)
    assert done.returncode == 0, done.stderr
    together = json.loads(done.stdout)
    assert together["global_norm"] == pytest.approx(alone["global_norm"], rel=1e-5)
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    for mine, theirs in zip(together["parameters"], alone["parameters"], strict=True):
        assert (mine["name"], mine["shape"], mine["verdict"]) == (
            theirs["name"], theirs["shape"], theirs["verdict"],
        )  # fmt: skip
        for figure in ("norm", "largest", "l1", "weight_norm"):
            expected = theirs[figure]
            assert (mine[figure] is None) == (expected is None)
            assert expected is None or mine[figure] == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_ddp_is_what_torchrun_gets_if_nothing_is_said() -> None:
    """Rank 0 prints, the other is silent."""
    done = torchrun("-m", "modelinspect", "grads", "models/regression.py", "-q")
    assert done.returncode == 0, done.stderr
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [
        "0.weight", "0.bias", "2.weight", "2.bias",
    ]  # fmt: skip


SCRIPT = """
import os
import sys
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
import modelinspect as mi

distributed.init_process_group("gloo")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
if sys.argv[2] == "fsdp":
    fully_shard(model[0])
    fully_shard(model)
elif sys.argv[2] == "ddp":
    model = nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
rank = distributed.get_rank()
with mi.watch(model, sys.argv[1], every=2):
    for step in range(4):
        optimizer.zero_grad()
        model(x[rank * 3 : rank * 3 + 3]).square().mean().backward()
        optimizer.step()
distributed.barrier()
distributed.destroy_process_group()
os._exit(0)  # threads of process groups may abort a process that takes things down in order
"""


@pytest.mark.parametrize("kind", ["fsdp", "ddp"])
def test_watch_records_global_norms(kind: str, tmp_path: Path) -> None:
    """Each process has half of the batch; the run's file holds the norms of the whole one's gradients."""
    import torch
    from torch import nn

    script, out = tmp_path / "train.py", tmp_path / "run.jsonl"
    script.write_text(SCRIPT, encoding="utf-8")
    done = torchrun(script, out, kind)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    recorded = [line for line in lines if "norms" in line]
    assert len(recorded) == 4
    assert [parameter["name"] for parameter in lines[0]["parameters"]] == [
        "0.weight", "0.bias", "2.weight", "2.bias",
    ]  # fmt: skip
    for line in recorded:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        norms = [
            parameter.grad.norm().item() for parameter in model.parameters() if parameter.grad is not None
        ]
        assert line["norms"] == pytest.approx(norms, rel=1e-5)
        optimizer.step()
