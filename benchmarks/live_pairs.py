"""
Pairs with both models in hand, where their libraries are installed: plans are proven by running them.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

from pair_scores import Score, score_plan
from pairs import Fixture, Form

import benchmarks.pairs
from modelinspect.errors import ModelInspectError
from modelinspect.transplant.match import match
from modelinspect.transplant.plan import Plan

__all__ = ["importable_pairs", "proven", "settled"]


def importable_pairs() -> Iterator[tuple[str, str]]:
    """
    Import what can be imported of ``benchmarks/pairs``.

    Yields:
        A file and why it could not be imported.
    """
    if importlib.util.find_spec("torch") is None:
        yield "benchmarks/pairs", "No module named 'torch'"
        return
    importlib.import_module("torch").set_num_threads(1)
    for found in pkgutil.iter_modules(benchmarks.pairs.__path__):
        if found.name in ("__main__", "pair"):
            continue
        try:
            importlib.import_module(f"benchmarks.pairs.{found.name}")
        except ImportError as error:
            yield f"benchmarks/pairs/{found.name}.py", str(error)


def proven(fixture: Fixture) -> Score | str | None:
    """
    The score of a pair's plan once both models were run.

    Returns:
        Why there is none, if they could not be run; None if their libraries are not here.
    """
    return _run(fixture, "definition", _proven)


def settled(fixture: Fixture) -> Score | str | None:
    """
    The score of a pair's plan once the target was run alone, the source being safetensors.

    Returns:
        As :func:`proven`.
    """
    return _run(fixture, "safetensors", _settled)


def _run(fixture: Fixture, form: Form, run: Callable[[Plan, Any, Any], Plan | str]) -> Score | str | None:
    if importlib.util.find_spec("torch") is None:
        return None
    registered = importlib.import_module("benchmarks.pairs.pair").PAIRS.get(fixture.name)
    if registered is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("torch").manual_seed(0)
        built = registered.build()
        source, target = fixture.source_side(form), fixture.target_side("definition")
        names = {row.name for row in target.table}
        if set(built.target.state_dict()) != names:
            return "its library names its tensors otherwise in this version"
        try:
            found = run(match(source, target), built.source.eval(), built.target.eval())
        except ModelInspectError as error:
            return error.message
    return found if isinstance(found, str) else score_plan(fixture, found, is_ordered=source.is_ordered)


def _proven(plan: Plan, source: Any, target: Any) -> Plan | str:
    prove = importlib.import_module("modelinspect.transplant.prove").prove
    found, proof = prove(plan, source, target)
    if not proof.input:
        return proof.notes[0] if proof.notes else "not run"
    return cast("Plan", found)


def _settled(plan: Plan, _source: Any, target: Any) -> Plan:
    settle = importlib.import_module("modelinspect.transplant.settle").settle_by_target
    return cast("Plan", settle(plan, target))
