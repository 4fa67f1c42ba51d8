"""
Callbacks that record gradients for training loops of others: Lightning, Hugging Face.

Each library is imported when a callback of its is asked for, and not before.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from typing import Any

from modelinspect.errors import MissingDependencyError
from modelinspect.live.watch import Watch, watch

__all__ = ["lightning_callback", "trainer_callback"]


def lightning_callback(path: str | os.PathLike[str], *, every: int = 10, **options: Any) -> Any:
    """
    A callback for a Lightning ``Trainer``: records each optimizer step, with the loss.

    Args:
        path: File of the record.
        every: Steps from one full table to the next.
        options: Further ones of :func:`modelinspect.watch`.

    Raises:
        MissingDependencyError: Neither lightning nor pytorch_lightning is installed.
    """
    library = _first_of("lightning.pytorch", "pytorch_lightning")

    class GradientsCallback(library.Callback):  # type: ignore[misc, name-defined]
        """Watches from the beginning of training to its end, however it ends."""

        _watch: Watch | None = None
        _steps = 0
        _loss: Any = None
        _complete_loss: Any = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self._finish(ended=False)
            self._watch = watch(pl_module, path, every=every, **options).__enter__()
            self._steps, self._loss = 0, None

        def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
            # Of accumulated batches each brings its share of the loss.
            is_share = pl_module.automatic_optimization and self._loss is not None
            self._loss = self._loss + loss.detach() if is_share else loss.detach()

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            self._complete_loss, self._loss = self._loss, None

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            # A step that mixed precision skipped is not recorded.
            if self._watch is not None and self._watch.steps != self._steps:
                self._steps = self._watch.steps
                self._watch.add_loss(self._complete_loss)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self._finish(ended=True)

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self._finish(ended=False)

        def _finish(self, *, ended: bool) -> None:
            if self._watch is not None:
                self._watch.close(ended=ended)
                self._watch = None

    return GradientsCallback()


def trainer_callback(path: str | os.PathLike[str], *, every: int = 10, **options: Any) -> Any:
    """
    A callback for the ``Trainer`` of transformers: records each optimizer step.

    The loss of a step stands in the record where the trainer logs it: with ``logging_steps=1``
    at each.

    Args:
        path: File of the record.
        every: Steps from one full table to the next.
        options: Further ones of :func:`modelinspect.watch`.

    Raises:
        MissingDependencyError: transformers is not installed.
    """
    library = _first_of("transformers")

    class GradientsCallback(library.TrainerCallback):  # type: ignore[misc, name-defined]
        """Watches from the beginning of training to its end."""

        _watch: Watch | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            # It is still there if training broke off.
            self._finish(ended=False)
            self._watch = watch(model, path, every=every, **options).__enter__()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            # It comes behind the step whose gradients the hook has recorded.
            if self._watch is not None and logs and "loss" in logs:
                self._watch.add_loss(float(logs["loss"]))

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._finish(ended=True)

        def _finish(self, *, ended: bool) -> None:
            if self._watch is not None:
                self._watch.close(ended=ended)
                self._watch = None

    return GradientsCallback()


def _first_of(*names: str) -> Any:
    for name in names:
        with suppress(ImportError):
            return import_module(name)
    raise MissingDependencyError(
        f"this callback needs {' or '.join(names)}, which can't be imported",
        hint=f"pip install {names[0].partition('.')[0]}",
    )
