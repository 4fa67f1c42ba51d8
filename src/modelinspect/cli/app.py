"""
The door: which commands there are, and loading the one that runs.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from modelinspect.cli.boundary import guarded
from modelinspect.errors import UsageError, visible

__all__ = ["COMMANDS", "app", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "info": ("modelinspect.cli.info", "Say what a file is: format, sections, training, what it would run."),
    "count": ("modelinspect.cli.count", "Count parameters, buffers and bytes."),
    "params": ("modelinspect.cli.params", "List parameters: names, shapes, data types, ties."),
    "bytes": ("modelinspect.cli.bytes", "Say where the bytes of a checkpoint went, and what is waste."),
    "scan": (
        "modelinspect.cli.scan",
        "Say what would run if a file were loaded, running none of it.",
    ),
    "grads": ("modelinspect.cli.grads", "Show gradients: norms, verdicts, training, optimizer state."),
    "transplant": (
        "modelinspect.cli.transplant",
        "Fill a model with another's weights, whatever their names.",
    ),
    "completion": ("modelinspect.cli.completion", "Print the script that completes in your shell."),
}
"""Name to the module whose ``command`` it is, and the line that ``--help`` shows."""


class LazyGroup(TyperGroup):
    """Commands that are imported when they are run, not when they are listed."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        if cmd_name not in COMMANDS:
            if not ctx.resilient_parsing and not cmd_name.startswith("-"):
                from modelinspect.targets import did_you_mean

                hint = did_you_mean(cmd_name, COMMANDS) or "modelinspect --help lists the commands"
                raise UsageError(f"there is no command {visible(cmd_name)!r}", hint=hint)
            return None
        small = typer.Typer(add_completion=False, rich_markup_mode=None)
        function = import_module(COMMANDS[cmd_name][0]).command
        small.command(cmd_name, no_args_is_help=False)(function)
        return typer.main.get_command(small)

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        return guarded(lambda: super(LazyGroup, self).invoke(ctx), debug="--debug" in sys.argv)


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"modelinspect {version('modelinspect')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and leave.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """
    Inspect neural networks: a PyTorch model definition (net.py:Net) or a saved
    checkpoint in any container (safetensors, torch.save, TorchScript, DCP, GGUF, ONNX
    and others). A file is read without running any of it.
    """


def main() -> NoReturn:
    """The console script."""
    # One short run makes no garbage worth collecting; a header of 100,000 tensors
    # makes a million objects that the collector would walk again and again.
    gc.disable()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Closed by the shell, 2>&-: what is said there goes nowhere.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if "_MODELINSPECT_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]

        completion_init()
    code = guarded(lambda: app(prog_name="modelinspect", standalone_mode=False))
    if "modelinspect.live" in sys.modules:
        # A definition's own code ran here; what it prints at exit is not part of the result.
        os.dup2(2, 1)
        if "RANK" in os.environ:
            # Of several processes: the threads of process groups that are still there when
            # C++ takes things down may abort one, and torchrun then reports a failure.
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)
