"""
``python -m benchmarks.transplant``: how many tensors of how many pairs are matched, by us and by others.

Pairs are the proven ones of ``benchmarks/pairs``, by their small files in ``tests/transplant/pairs``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from pair_scores import Score, Verdict, Weights, score_plan
from pairs import SOURCES, TARGETS, Fixture, Form, fixtures

from modelinspect.transplant.match import match


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transplant", description=__doc__)
    parser.add_argument("--pairs", default="*", metavar="GLOB", help="of names of pairs")
    parser.add_argument("--failures", action="store_true", help="list each tensor that is not right, of ours")
    parser.add_argument("--target", choices=TARGETS, default="definition", help="what the target is given as")
    chosen = parser.parse_args()
    found = fixtures(chosen.pairs)
    if not found:
        parser.error(f"no pair is called {chosen.pairs}")
    for fixture in found:
        for form in SOURCES:
            score, seconds = _ours(fixture, form, chosen.target)
            print(_line(score, form, seconds))
            if chosen.failures:
                for line in _failures(score):
                    print(line)


def _ours(fixture: Fixture, source: Form, target: Form) -> tuple[Score, float]:
    sides = fixture.source_side(source), fixture.target_side(target)
    start = time.perf_counter()
    plan = match(*sides)
    seconds = time.perf_counter() - start
    return score_plan(fixture, plan, Weights(fixture)), seconds


def _line(score: Score, form: str, seconds: float) -> str:
    counts = [score.count(outcome) for outcome in ("right", "wrong", "doubted", "missing")]
    mark = "whole" if score.is_whole else "WRONG" if score.has_wrong else ""
    figures = " ".join(f"{count:>6}" if count else "     ." for count in counts)
    return f"{score.fixture.name:<44} {form:<12} {figures} {seconds:>8.3f} s {mark}"


def _failures(score: Score) -> Iterator[str]:
    order = {"wrong": 0, "doubted": 1, "missing": 2}
    for each in sorted(score.failures, key=lambda verdict: order[verdict.outcome]):
        yield _shown(each)


def _shown(each: Verdict) -> str:
    first = " (the first candidate is right)" if each.outcome == "doubted" and each.is_equal else ""
    label = f"{each.label}, " if each.label else ""
    return (
        f"    {label}{each.outcome}{first}: {each.target}\n        claimed {each.claimed}\n"
        f"        true    {each.true}" + (f"\n        because {each.reason}" if each.reason else "")
    )


if __name__ == "__main__":
    main()
