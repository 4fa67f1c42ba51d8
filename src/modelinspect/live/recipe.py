"""
How gradients are to be made: input, loss, mode, device, training. What the flags of ``grads`` say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from modelinspect.analysis.gradients import NormOrder, Thresholds
from modelinspect.errors import UsageError, visible
from modelinspect.targets import did_you_mean

__all__ = ["Recipe", "dtype_of"]

_FLOATS = {
    name: dtype
    for name, dtype in vars(torch).items()
    if isinstance(dtype, torch.dtype) and (dtype.is_floating_point or dtype.is_complex)
}


@dataclass(frozen=True)
class Recipe:
    """
    What is done to a model to get its gradients.
    """

    inputs: Sequence[str] = ()
    """As ``--input`` spells them; empty: worked out from the model."""
    data: str | None = None
    """A file, or ``file.py:dataloader``."""
    data_inputs: Sequence[str] = ()
    """Columns or keys of the data that are inputs."""
    data_target: Sequence[str] = ()
    loss: str | None = None
    """None: chosen by the output and the target."""
    seed: int = 0
    """Of weights, inputs, dropout and the order of batches."""
    mode: Literal["train", "eval"] | None = None
    """None: as the model is; a fresh one is in training mode."""
    device: str | None = None
    dtype: str | None = None
    autocast: str | None = None
    """Data type of ``torch.autocast``; None: off."""
    order: NormOrder = "2"
    thresholds: Thresholds = field(default_factory=Thresholds)
    per_sample: bool = False
    values: bool = False
    steps: int | None = None
    epochs: int | None = None
    optimizer: str | None = None
    """As typed: ``adam``, ``sgd(momentum=0.9)``. None: Adam."""
    lr: float | None = None
    """None: the optimizer's own default."""
    batch_size: int | None = None
    """Samples of the data a step; None: all of them."""
    clip: float | None = None
    """Global norm that gradients are scaled down to before a step."""
    every: int | None = None
    """Record norms every so many steps."""
    parallel: Literal["ddp", "fsdp"] | None = None
    """Under torchrun: how the model is spread over the processes."""

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.steps is not None and self.epochs is not None:
            raise UsageError("--steps and --epochs are two ways to say how long to train: give one")
        if not self.trains:
            only = {
                "--optimizer": self.optimizer,
                "--lr": self.lr,
                "--clip": self.clip,
                "--every": self.every,
            }
            given = [flag for flag, value in only.items() if value is not None]
            if given:
                raise UsageError(f"{given[0]} is of training", hint="add --steps N or --epochs N")
        if self.data is None and (self.data_inputs or self.data_target or self.batch_size):
            raise UsageError("--x, --y and --batch-size are of data", hint="add --data FILE")
        if self.data is not None and self.inputs:
            raise UsageError("--data and --input are two ways to say what goes in: give one")

    def _check_numbers(self) -> None:
        for flag, value in (("--steps", self.steps), ("--epochs", self.epochs), ("--every", self.every),
                            ("--batch-size", self.batch_size)):  # fmt: skip
            if value is not None and not isinstance(value, int):
                raise UsageError(f"{flag} is {value!r}, and must be an integer")
            if value is not None and value < 1:
                raise UsageError(f"{flag} is {value}, and must be at least 1")
        if not -(2**63) <= self.seed < 2**64:
            raise UsageError(f"--seed {self.seed} is out of range", hint="from -2^63 up to 2^64 - 1")
        for flag, number in (("--lr", self.lr), ("--clip", self.clip)):
            if number is not None and not 0 < number < float("inf"):
                raise UsageError(f"{flag} is {number}, and must be a positive number")

    @property
    def trains(self) -> bool:
        """Are steps taken before the gradients are looked at?"""
        return self.steps is not None or self.epochs is not None

    def module_dtype(self) -> torch.dtype | None:
        """What the model is cast to; None leaves it."""
        return None if self.dtype is None else dtype_of(self.dtype, "--dtype")

    def autocast_dtype(self) -> torch.dtype | None:
        """What autocast computes in; None: it is off."""
        dtype = None if self.autocast is None else dtype_of(self.autocast, "--autocast")
        if dtype not in (None, torch.bfloat16, torch.float16):
            raise UsageError(f"--autocast computes in bfloat16 or float16, not {visible(str(self.autocast))}")
        return dtype


def dtype_of(name: str, flag: str) -> torch.dtype:
    """
    The floating-point type of that name, ``bf16`` and ``fp16`` included.

    Raises:
        UsageError: There is none.
    """
    short: Mapping[str, Any] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    found = short.get(name) or _FLOATS.get(name.removeprefix("torch."))
    if found is None:
        raise UsageError(
            f"{flag}: torch has no floating-point type {visible(name)!r}",
            hint=did_you_mean(name, _FLOATS) or "for example bfloat16, float16, float64",
        )
    return found
