"""
Callbacks in the training loops of Lightning and of transformers.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_pre_hooks
from torch.utils.data import DataLoader, TensorDataset

import modelinspect as mi
from modelinspect.analysis.runs import read_run

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(dim=1, keepdim=True)


def _by_hand(steps: int) -> list[list[float]]:
    """Norms of plain SGD over the same batches of four."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    for step in range(steps):
        x, y = X[4 * (step % 3) :][:4], Y[4 * (step % 3) :][:4]
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        norms.append([float(p.grad.norm()) for p in model.parameters() if p.grad is not None])
        optimizer.step()
    return norms


def test_importing_the_adapters_imports_neither_library() -> None:
    """Only asking for a callback does."""
    code = (
        "import sys, modelinspect.live.adapters\n"
        "sys.exit(any(name in sys.modules for name in ('transformers', 'pytorch_lightning', 'lightning')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lightning(tmp_path: Path) -> None:
    """Each step of a fit is recorded, with its loss."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_lightning as lightning

        class Module(lightning.LightningModule):
            """A linear model."""

            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.net = nn.Linear(3, 1)

            def training_step(self, batch: Any, _: int) -> Tensor:
                """The loss of a batch."""
                return nn.functional.mse_loss(self.net(batch[0]), batch[1])

            def configure_optimizers(self) -> Any:
                """Plain SGD."""
                return torch.optim.SGD(self.parameters(), lr=0.1)

        trainer = lightning.Trainer(
            max_epochs=2, callbacks=[mi.lightning_callback(tmp_path / "run.jsonl", every=2)], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            accelerator="cpu", default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(Module(), DataLoader(TensorDataset(X, Y), batch_size=4))
    run = read_run(str(tmp_path / "run.jsonl"))
    assert [p.name for p in run.parameters] == ["net.weight", "net.bias"]
    assert [list(norms) for norms in run.by_parameter] == [
        pytest.approx(norms, rel=1e-5) for norms in _by_hand(6)
    ]
    assert all(loss is not None for loss in run.losses)
    assert run.is_finished


def test_hugging_face_trainer(tmp_path: Path) -> None:
    """Each step of train() is recorded, with the loss where it is logged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        class Model(nn.Module):
            """Returns its loss, as the Trainer wants it."""

            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.net = nn.Linear(3, 1)

            def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
                """The loss and the output."""
                output = self.net(x)
                return {"loss": nn.functional.mse_loss(output, labels), "logits": output}

        rows = [{"x": x, "labels": y} for x, y in zip(X, Y)]
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / "out"), per_device_train_batch_size=4, max_steps=3, logging_steps=1,
            report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True, learning_rate=0.1,
            optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0,
        )  # fmt: skip
        trainer = transformers.Trainer(
            model=Model(), args=arguments, train_dataset=rows,
            callbacks=[mi.trainer_callback(tmp_path / "run.jsonl", every=2)],
        )  # fmt: skip
        trainer.train()
    run = read_run(str(tmp_path / "run.jsonl"))
    assert [p.name for p in run.parameters] == ["net.weight", "net.bias"]
    assert run.steps == (1, 2, 3)
    assert all(loss is not None for loss in run.losses)
    assert run.is_finished


def test_lightning_accumulates_and_clips(tmp_path: Path) -> None:
    """A step is what the optimizer does; its loss is the mean of its batches, its norm the clipped one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_lightning as lightning

        losses: list[float] = []

        class Module(lightning.LightningModule):
            """A linear model."""

            def __init__(self) -> None:
                super().__init__()
                self.net = nn.Linear(3, 1)

            def training_step(self, batch: Any, _: int) -> Tensor:
                """The loss of a batch."""
                loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
                losses.append(loss.item())
                return loss

            def configure_optimizers(self) -> Any:
                """Plain SGD."""
                return torch.optim.SGD(self.parameters(), lr=0.1)

        trainer = lightning.Trainer(
            max_epochs=1, callbacks=[mi.lightning_callback(tmp_path / "run.jsonl")], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            accelerator="cpu", default_root_dir=tmp_path, accumulate_grad_batches=2, gradient_clip_val=1e-3,
        )  # fmt: skip
        trainer.fit(Module(), DataLoader(TensorDataset(X, Y), batch_size=3))
    run = read_run(str(tmp_path / "run.jsonl"))
    means = [(one + two) / 2 for one, two in zip(losses[::2], losses[1::2])]
    assert run.losses == pytest.approx(tuple(means), rel=1e-5)
    assert run.norms == pytest.approx((1e-3, 1e-3), rel=1e-2)


def test_hugging_face_trainer_that_broke_off_and_starts_again(tmp_path: Path) -> None:
    """The second record is whole: the first one no longer writes to the same file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        class Model(nn.Module):
            """Breaks at its third call."""

            calls = 0

            def __init__(self) -> None:
                super().__init__()
                self.net = nn.Linear(3, 1)

            def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
                """The loss and the output."""
                self.calls += 1
                if self.calls == 3:
                    raise KeyboardInterrupt
                output = self.net(x)
                return {"loss": nn.functional.mse_loss(output, labels), "logits": output}

        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / "out"), per_device_train_batch_size=4, max_steps=4, report_to=[],
            use_cpu=True, save_strategy="no", disable_tqdm=True, optim="sgd",
        )  # fmt: skip
        trainer = transformers.Trainer(
            model=Model(), args=arguments, train_dataset=[{"x": x, "labels": y} for x, y in zip(X, Y)],
            callbacks=[mi.trainer_callback(tmp_path / "run.jsonl", every=1)],
        )  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        trainer.train()
    run = read_run(str(tmp_path / "run.jsonl"))
    assert (run.steps, run.is_finished) == ((1, 2, 3, 4), True)
    assert not _global_optimizer_pre_hooks
