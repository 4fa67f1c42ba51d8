"""
The files to measure on, made once in ``.cache/benchmarks``. Every value in them is zero.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path

__all__ = ["ROOT", "huge_names", "made", "many_names", "safetensors_file", "torch_file"]

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "benchmarks"

Shapes = dict[str, tuple[int, ...]]


def made(name: str, make: Callable[[Path], None]) -> str:
    """Path of the file of that name, which *make* writes the first time."""
    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name("unfinished." + name)
        make(unfinished)
        unfinished.rename(path)
    return str(path)


def huge_names(width: int) -> Shapes:
    """
    A decoder of 16 layers: 1 GiB of float32 at width 1,280, a thousandth of it at width 40.
    """
    shapes: Shapes = {"embed.weight": (10 * width, width)}
    for layer in range(16):
        prefix = f"layers.{layer}"
        for name, factors in (("qkv", (3, 1)), ("out", (1, 1)), ("up", (3, 1)), ("down", (1, 3))):
            shapes[f"{prefix}.{name}.weight"] = (factors[0] * width, factors[1] * width)
            shapes[f"{prefix}.{name}.bias"] = (factors[0] * width,)
        shapes[f"{prefix}.norm.weight"] = (width,)
    return shapes


def many_names(tensors: int) -> Shapes:
    """A mixture of experts with that many small tensors."""
    parts = ("gate_proj", "up_proj", "down_proj")
    return {
        f"model.layers.{number // 768}.mlp.experts.{number // 3 % 256}.{parts[number % 3]}.weight": (4, 8)
        for number in range(tensors)
    }


def safetensors_file(shapes: Shapes) -> Callable[[Path], None]:
    """Write float32 tensors of these shapes; the zeros are a hole in the file."""

    def make(path: Path) -> None:
        header, position = {}, 0
        for name in sorted(shapes):
            end = position + 4 * prod(shapes[name])
            header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": (position, end)}
            position = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + position)

    return make


def torch_file(shapes: Shapes) -> Callable[[Path], None]:
    """Let torch.save write float32 tensors of these shapes, in a process of its own."""

    def make(path: Path) -> None:
        code = (
            "import json, sys, torch\n"
            "shapes = json.load(sys.stdin)\n"
            "torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, sys.argv[1])"
        )
        command = [sys.executable, "-c", code, os.fspath(path)]
        subprocess.run(command, input=json.dumps(shapes).encode(), check=True)

    return make
