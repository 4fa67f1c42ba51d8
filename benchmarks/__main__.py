"""
``python -m benchmarks [CASE …] [--rounds N]``: measure, and print budget and figure side by side.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib.metadata import version

from benchmarks.cases import CASES
from benchmarks.row import Row

_HEADINGS = ("work", "ours", "peer", "", "ratio", "budget", "")


def main() -> None:
    """Run the cases that were named, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all if left out")
    parser.add_argument("--rounds", type=int, help="runs that each median is of")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.cases if name not in CASES]
    if unknown:
        parser.error(f"no case is called {unknown[0]}; cases: {', '.join(CASES)}")
    print(_machine())
    print("Medians of runs taken in turns. A ratio below 1 means less than the peer.\n")
    _line(_HEADINGS)
    over = 0
    for name in chosen.cases or CASES:
        case, rounds = CASES[name]
        for row in case(chosen.rounds or rounds):
            _line(_cells(row))
            over += row.verdict == "over"
    print(f"\n{over} over budget" if over else "\nall within budget")


def _machine() -> str:
    names = ("modelinspect", "torch", "safetensors", "typer")
    facts = [
        f"{platform.system()} {platform.machine()}",
        f"{os.cpu_count()} CPUs",
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in names),
    ]
    return ", ".join(facts)


def _cells(row: Row) -> tuple[str, ...]:
    budget = ""
    if row.budget is not None:
        budget = f"≤ +{row.budget:g} {row.unit}" if row.excess else f"≤ {row.budget:g}"
    measured = f"{row.measured:+.3g} {row.unit}" if row.excess else f"{row.measured:.3g}"
    return (
        row.work,
        _figure(row.ours, row.unit),
        _figure(row.peer, row.unit),
        row.peer_name,
        measured,
        budget,
        row.verdict,
    )


def _figure(value: float, unit: str) -> str:
    if unit == "MiB":
        return f"{value:.0f} MiB"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def _line(cells: tuple[str, ...]) -> None:
    work, ours, peer, peer_name, ratio, budget, verdict = cells
    print(f"{work:<52} {ours:>9} {peer:>9} {peer_name:<21} {ratio:>10} {budget:>10} {verdict}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
