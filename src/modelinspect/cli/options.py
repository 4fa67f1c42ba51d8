"""
Flags that several commands share, declared once.
"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from modelinspect.cli.complete import complete_name, complete_section, complete_target

OutputFormat = Literal["table", "plain", "json", "jsonl", "csv", "tsv", "markdown"]

TARGET_HELP = (
    "A checkpoint (file, *.index.json or directory) or a definition (net.py, net.py:Net(1, hidden=13), "
    "package.module:factory, timm:NAME, torchvision:NAME, transformers:DIR)."
)

Target = Annotated[
    str,
    typer.Argument(metavar="TARGET", help=TARGET_HELP, autocompletion=complete_target, show_default=False),
]
Targets = Annotated[
    list[str],
    typer.Argument(metavar="TARGET...", help=TARGET_HELP, autocompletion=complete_target, show_default=False),
]
Format = Annotated[
    OutputFormat | None,
    typer.Option(
        "--format",
        "-f",
        help="Form of the result. Left out: table on a terminal, plain into a pipe.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="The same as --format json.", show_default=False)]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the result to FILE; its suffix may choose the form."
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include", metavar="GLOB", help="Only names that match; * crosses dots. Repeatable.",
        autocompletion=complete_name, show_default=False,
    ),
]  # fmt: skip
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", metavar="GLOB", help="Not the names that match. Repeatable.",
        autocompletion=complete_name, show_default=False,
    ),
]  # fmt: skip
Sort = Annotated[
    str | None, typer.Option("--sort", metavar="COLUMN", help="Order rows by a column, e.g. numel.")
]
Reverse = Annotated[bool, typer.Option("--reverse", help="Turn the order round.", show_default=False)]
Top = Annotated[int | None, typer.Option("--top", metavar="N", min=0, help="Only the first N rows.")]
SectionName = Annotated[
    str | None,
    typer.Option(
        "--section", metavar="NAME", help="Section of a checkpoint (state_dict, ema, …), or all.",
        autocompletion=complete_section,
    ),
]  # fmt: skip
ReadAs = Annotated[
    str | None,
    typer.Option(
        "--read-as",
        metavar="NAME",
        help="Read a file as safetensors, torch-zip, gguf …; any other name lists them.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No notes on stderr.", show_default=False)]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.", show_default=False)]
