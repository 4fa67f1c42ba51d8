"""
What torch.save wrote before 1.6, and still writes when told to.

The layout is described in :mod:`modelinspect.readers.parts.legacy_layout`.
"""

from __future__ import annotations

from dataclasses import replace

from modelinspect.readers.parts.legacy_layout import LAYOUT_VERSION, LegacySave, read_legacy
from modelinspect.readers.parts.pickle_symbols import PickledDict
from modelinspect.readers.parts.torch_checkpoint import assemble
from modelinspect.readers.registry import NotThisFormat
from modelinspect.readers.source import ByteSource
from modelinspect.tensors import Checkpoint

__all__ = ["read"]


def read(source: ByteSource, target: str) -> Checkpoint:
    """
    Read the pickles and the storages' headers; no tensor's bytes are touched.

    Raises:
        NotThisFormat: It does not begin with the magic number.
        DamagedFileError: It is truncated or makes no sense.
        LimitError: It claims more than a limit allows.
    """
    save = read_legacy(source, target)
    if save is None:
        raise NotThisFormat("its first pickle is not the magic number of torch before 1.6")
    checkpoint = assemble(source, target, "torch-legacy", save.pickles, "", save.held, save.notes)
    return replace(checkpoint, version=str(LAYOUT_VERSION), facts={**_facts(save), **checkpoint.facts})


def _facts(save: LegacySave) -> dict[str, str]:
    """What the file says of the machine that wrote it."""
    machine = save.pickles[3]
    facts: dict[str, str] = {}
    if type(machine.value) is PickledDict:
        said = {key: value for key, value in machine.value.pairs() if type(key) is str}
        if type(said.get("little_endian")) is bool:
            # Of the machine: the numbers themselves are little-endian wherever they were saved.
            facts["saved on"] = f"a {'little' if said['little_endian'] else 'big'}-endian machine"
    return facts
