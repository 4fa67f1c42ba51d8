"""
View of :class:`~modelinspect.tensors.Checkpoint`: what a file is and which sections it holds.
"""

from __future__ import annotations

from modelinspect.render.sheet import Column, Line, Sheet
from modelinspect.tensors import Checkpoint

__all__ = ["checkpoint_sheet"]


def checkpoint_sheet(checkpoint: Checkpoint) -> Sheet:
    """
    The sections of a checkpoint, a row each; its format and size below.
    """
    columns = (
        Column("section", "section", "name"),
        Column("role", "role", "text"),
        Column("tensors", "tensors", "count"),
        Column("model", "taken for the model", "flag"),
    )
    rows = [
        (name or "(the file itself)", role, tensors, name == checkpoint.model_section)
        for name, role, tensors in checkpoint.sections
    ]
    files = len(checkpoint.files)
    return Sheet(
        "checkpoint",
        columns,
        rows,
        title=f"{checkpoint.source} · {checkpoint.format}",
        footer=(
            Line("file" if files == 1 else "files", files),
            Line("bytes", checkpoint.nbytes, "bytes"),
        ),
        notes=checkpoint.notes,
        rows_key="sections",
    )
