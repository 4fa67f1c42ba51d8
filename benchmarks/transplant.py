"""
``python -m benchmarks.transplant``: of how many pairs are how many tensors matched, by us and by others.

Pairs are the proven ones of ``benchmarks/pairs``, by their small files in ``tests/transplant/pairs``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from invented_pairs import invented
from pair_scores import Score, Weights, score_plan
from pairs import SOURCES, TARGETS, Fixture, Form, fixtures

from benchmarks.baselines import BASELINES, is_installed, run_baseline
from benchmarks.live_pairs import importable_pairs, proven, settled
from benchmarks.report import failure_lines
from modelinspect.transplant.match import match

_OURS = "modelinspect"
_CLASS = "class"
_TARGET = "target"
_FORMS = {"pt": ".pt", "safetensors": ".safet.", _TARGET: "+ target", _CLASS: "+ class"}
"""What the source is given as: with the target's class that is run alone, with its own both are."""


class Result(NamedTuple):
    """One method on one pair."""

    method: str
    form: str
    """Of the source."""
    score: Score
    seconds: float


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transplant", description=__doc__)
    parser.add_argument("--pairs", default="*", metavar="GLOB", help="of names of pairs")
    parser.add_argument(
        "--failures", action="store_true", help="ours alone, with each tensor that is not right"
    )
    parser.add_argument("--invented", action="store_true", help="made-up pairs instead of the proven ones")
    parser.add_argument("--target", choices=TARGETS, default="definition", help="what the target is given as")
    parser.add_argument(
        "--definitions",
        action=argparse.BooleanOptionalAction,
        help="run the models of pairs whose libraries are here; as usual but with --failures",
    )
    chosen = parser.parse_args()
    found = fixtures(chosen.pairs)
    if chosen.invented:
        found = [each for each in invented() if fnmatch(each.name, chosen.pairs)]
    if not found:
        parser.error(f"no pair is called {chosen.pairs}")
    is_run = not (chosen.failures or chosen.invented) if chosen.definitions is None else chosen.definitions
    notes = [f"not imported: {name}: {why}" for name, why in importable_pairs()] if is_run else []
    ours = []
    print(f"{'pair':<44} {'from':<8} {'right':>6} {'wrong':>6} {'doubted':>8} {'missing':>8} {'seconds':>8}")
    for fixture in found:
        for result in _ours(fixture, chosen.target, is_run, notes):
            ours.append(result)
            is_first = result.form == SOURCES[0] or chosen.failures
            print(_ours_line(result, fixture.name if is_first else ""))
            if chosen.failures:
                _print(failure_lines(result.score))
            sys.stdout.flush()
    print()
    others = [] if chosen.failures else _baselines(found, chosen.target)
    if others:
        _print([*_others_table(others), ""])
    _print([*_totals([*ours, *others]), *notes])


def _ours(fixture: Fixture, target: Form, is_run: bool, notes: list[str]) -> Iterator[Result]:
    for form in SOURCES:
        source_side, target_side = fixture.source_side(form), fixture.target_side(target)
        start = time.perf_counter()
        plan = match(source_side, target_side)
        seconds = time.perf_counter() - start
        score = score_plan(fixture, plan, is_ordered=source_side.is_ordered)
        yield Result(_OURS, form, score, seconds)
    for what, run in ((_TARGET, settled), (_CLASS, proven)) if is_run else ():
        start = time.perf_counter()
        found = run(fixture)
        if isinstance(found, str):
            notes.append(f"not run: {fixture.name}: {found}")
        elif found is not None:
            yield Result(_OURS, what, found, time.perf_counter() - start)


def _baselines(found: Iterable[Fixture], target: Form) -> list[Result]:
    names = [name for name in (*BASELINES, "weightbridge") if is_installed(name)]
    results = []
    for fixture in found:
        weights, theirs = Weights(fixture), fixture.target_side(target)
        for form in SOURCES:
            side = fixture.source_side(form)
            for name in names:
                start = time.perf_counter()
                score = run_baseline(name, fixture, side, theirs, weights)
                results.append(Result(name, form, score, time.perf_counter() - start))
    return results


# --------------------------------------------------------------------------- tables


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line.rstrip())


def _count(number: int, width: int) -> str:
    return f"{number or '·':>{width}}"


def _ours_line(result: Result, name: str) -> str:
    score = result.score
    mark = "whole" if score.is_whole else "WRONG" if score.has_wrong else "open"
    right, wrong = _count(score.count("right"), 6), _count(score.count("wrong"), 6)
    doubted, missing = _count(score.count("doubted"), 8), _count(score.count("missing"), 8)
    figures = f"{right} {wrong} {doubted} {missing} {result.seconds:>8.3f}"
    return f"{name:<44} {_FORMS[result.form]:<8} {figures}  {mark}"


def _others_table(results: Sequence[Result]) -> Iterator[str]:
    methods = list(dict.fromkeys(each.method for each in results))
    yield "The others: tensors right / wrong; – where the method gives up"
    yield f"{'pair':<32} {'from':<8}" + "".join(f"{method:>13}" for method in methods)
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for each in results:
        cell = f"{each.score.count('right')} / {each.score.count('wrong') or '·'}"
        key = (each.score.fixture.name, each.form)
        lines.setdefault(key, {})[each.method] = "–" if each.score.gave_up else cell
    before = ""
    for (name, form), cells in lines.items():
        cut = "" if name == before else name if len(name) <= 32 else f"{name[:31]}…"
        yield f"{cut:<32} {_FORMS[form]:<8}" + "".join(f"{cells[method]:>13}" for method in methods)
        before = name


def _totals(results: Sequence[Result]) -> Iterator[str]:
    kinds = sorted({each.score.fixture.kind for each in results})
    yield (
        f"{'pairs':<13} {'method':<14} {'from':<8} {'whole':>9} {'with wrong':>11} {'right':>8} {'wrong':>6}"
        f" {'doubted':>8} {'missing':>8} {'seconds':>8}"
    )
    for kind in (*kinds, *(["all"] if len(kinds) > 1 else [])):
        chosen = [each for each in results if kind in (each.score.fixture.kind, "all")]
        for method in dict.fromkeys(each.method for each in chosen):
            for form in _FORMS:
                group = [each for each in chosen if each.method == method and each.form == form]
                if not group:
                    continue
                yield _total(kind, method, form, group)
                yield from _sureness(group) if method == _OURS else ()


def _total(kind: str, method: str, form: str, group: Sequence[Result]) -> str:
    scores = [each.score for each in group]
    tensors = sum(len(score.verdicts) for score in scores)
    counts = {name: sum(s.count(name) for s in scores) for name in ("right", "wrong", "doubted", "missing")}
    whole = f"{sum(score.is_whole for score in scores)} / {len(scores)}"
    return (
        f"{kind:<13} {method:<14} {_FORMS[form]:<8} {whole:>9} {_count(sum(s.has_wrong for s in scores), 11)}"
        f" {counts['right'] / tensors:>8.1%} {_count(counts['wrong'], 6)} {_count(counts['doubted'], 8)}"
        f" {_count(counts['missing'], 8)} {sum(each.seconds for each in group):>8.2f}"
    )


def _sureness(group: Sequence[Result]) -> Iterator[str]:
    """How much of what was called proven, certain and likely is wrong."""
    parts = []
    for label in ("proven", "certain", "likely"):
        tensors = sum(each.score.count("wrong", label) for each in group)
        rows = [each.score.rows_wrong(label) for each in group]
        wrong, found = (sum(column) for column in zip(*rows))
        if found:
            parts.append(f"{label} {wrong} of {found} ({tensors} tensors)")
    if parts:
        yield f"{'':<13} {'':<14} rows wrong: {', '.join(parts)}"


if __name__ == "__main__":
    main()
