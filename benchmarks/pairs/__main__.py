"""
``python -m benchmarks.pairs [NAME…]``: prove pairs and write what the tests need of them.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import benchmarks.pairs
from benchmarks.pairs.pair import PAIRS, write_fixtures

_FOLDER = Path(__file__).parents[2] / "tests" / "transplant" / "pairs"


def main() -> None:
    """Import every file of pairs whose libraries are there, and write the chosen ones."""
    for found in pkgutil.iter_modules(benchmarks.pairs.__path__):
        if found.name in ("__main__", "pair"):
            continue
        try:
            importlib.import_module(f"benchmarks.pairs.{found.name}")
        except ImportError as error:
            print(f"{found.name}: {error}", file=sys.stderr)
    for name in sys.argv[1:] or PAIRS:
        write_fixtures(_FOLDER, [name])
        print(f"{name}: proven")


main()
