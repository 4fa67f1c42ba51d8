"""
A plan for more than 100,000 tensors: a mixture of experts under the names of two libraries.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.corpus import ROOT
from benchmarks.measure import in_turns, inside
from benchmarks.row import Row

__all__ = ["plans"]

_SIDES = f"""\
import json, sys
sys.path.insert(0, {str(ROOT / "tests" / "support")!r})
from invented_pairs import MODEL
from modelinspect.transplant.match import match
from modelinspect.transplant.patterns import rows
fixture = MODEL()
source, target = fixture.source_side("safetensors"), fixture.target_side("definition")
entry = {{"dtype": "F32", "shape": [64, 48], "data_offsets": [0, 12288]}}
texts = [json.dumps({{row.name: entry for row in side.table}}) for side in (source, target)]
"""
_PLAN = "plan = rows(match(source, target))"
_HEADERS = "[json.loads(text) for text in texts]"
_MODELS = {
    "mixture": "60 blocks × 256 experts, 108,000 tensors",
    "irregular": "an irregular U-Net, 5,400 tensors",
}


def plans(rounds: int) -> Iterator[Row]:
    """From the tables of two headers to a plan's rows, beside reading the JSON of both headers."""
    peer = "json.loads, headers"
    for name, model in _MODELS.items():
        setup = _SIDES.replace("MODEL", name)
        taken = in_turns({"plan": inside(setup, _PLAN), peer: inside(setup, _HEADERS)}, rounds)
        ours, theirs = taken["plan"], taken[peer]
        yield Row(f"plan: {model}", ours.seconds, peer, theirs.seconds, budget=10.0, excess=True)
        yield Row(f"memory, {model}", ours.mib, peer, theirs.mib, unit="MiB")
