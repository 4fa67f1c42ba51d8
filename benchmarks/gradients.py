"""
What gradients cost: the command beside a script by hand, a watched loop beside a bare one.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

from benchmarks.corpus import CACHE, ROOT
from benchmarks.measure import COMMAND, in_pipe, in_turns, python
from benchmarks.row import Row

__all__ = ["by_hand", "watching"]

MODELS = ROOT / "models"

# What people paste: one pass, and a line a parameter with the figures that the command shows.
_ONE_PASS = f"""\
import sys
sys.path.insert(0, {str(MODELS)!r})
import torch
from tiny_lm import TinyLM, example_input
torch.manual_seed(0)
model = TinyLM()
model(example_input()).sum().backward()
total = 0.0
for name, p in model.named_parameters():
    g = p.grad
    norm = g.norm().item()
    total += norm ** 2
    ratio, zeros = norm / (p.norm().item() + 1e-12), (g == 0).float().mean().item()
    print(name, tuple(p.shape), norm, g.abs().max().item(), ratio, zeros)
print(total ** 0.5)
"""
_TRAINING = f"""\
import csv, sys
sys.path.insert(0, {str(MODELS)!r})
import torch
from regression import Regression
with open({str(MODELS / "regression.csv")!r}) as file:
    rows = torch.tensor([[float(cell) for cell in row] for row in list(csv.reader(file))[1:]])
x, y = rows[:, :1], rows[:, 1:]
torch.manual_seed(0)
model = Regression()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(2000):
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
for name, p in model.named_parameters():
    print(name, p.grad.norm().item())
"""


def by_hand(rounds: int) -> Iterator[Row]:
    """Whole processes, the import of torch included."""
    training = ["--data", str(MODELS / "regression.csv"), "--epochs", "2000", "--lr", "0.01"]
    taken = in_turns(
        {
            "pass": in_pipe([COMMAND, "grads", str(MODELS / "tiny_lm.py"), "--loss", "sum"]),
            "pass by hand": in_pipe(python(_ONE_PASS)),
            "training": in_pipe([COMMAND, "grads", str(MODELS / "regression.py"), *training]),
            "training by hand": in_pipe(python(_TRAINING)),
        },
        rounds,
    )
    for work, name in (("grads of a small transformer", "pass"), ("grads after 2,000 epochs", "training")):
        yield Row(work, taken[name].seconds, "a script by hand", taken[f"{name} by hand"].seconds)


# Bare and watched steps in turns, in one process; the medians of both.
_LOOP = f"""\
import json, statistics, sys, time
sys.path.insert(0, {str(MODELS)!r})
import torch
from torch import nn
import modelinspect as mi
from tiny_lm import TinyLM
torch.manual_seed(0)
if sys.argv[1] == "CNN":
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )
    x, y = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
else:
    model, x = TinyLM(), torch.randint(256, (8, 64))
    y = x.flatten()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
watch = mi.watch(model, sys.argv[2], every=int(sys.argv[3]))


def step(watched):
    start = time.perf_counter()
    optimizer.zero_grad()
    output = model(x)
    loss = nn.functional.cross_entropy(output.flatten(0, -2), y)
    loss.backward()
    if watched:
        watch.step(loss)
    optimizer.step()
    return time.perf_counter() - start


for _ in range(5):
    step(False)
    step(True)
times = [(step(False), step(True)) for _ in range(300)]
watch.close()
bare, watched = zip(*times)
# Of a step, and of ten with the full table that is among them.
tens = [[sum(column[at : at + 10]) / 10 for at in range(0, 300, 10)] for column in (bare, watched)]
print(json.dumps([statistics.median(each) for each in (bare, watched, *tens)]))
"""


def watching(rounds: int) -> Iterator[Row]:
    """A step of training with the norms of every parameter recorded, and without."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for kind in ("CNN", "transformer"):
        runs = []
        for _ in range(rounds):
            command = [*python(_LOOP), kind, str(CACHE / "watched.jsonl"), "10"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout))
        bare, watched, _, _ = sorted(runs, key=lambda run: run[1] / run[0])[rounds // 2]
        yield Row(f"a watched step of a small {kind}", watched, "the bare step", bare, budget=1.05)
        _, _, bare, watched = sorted(runs, key=lambda run: run[3] / run[2])[rounds // 2]
        yield Row("the same, a full table every 10 steps", watched, "the bare step", bare)
