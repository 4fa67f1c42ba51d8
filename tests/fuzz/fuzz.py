"""
Fuzzing guided by coverage: ``make fuzz``, or ``python tests/fuzz/fuzz.py TARGET [--seconds N]``.

Runs one parser of ``fuzz_targets`` on inputs that libFuzzer makes of the corpus, until the time is over
or something other than an error of ours is raised, takes more than five seconds or more than 300 MB. What
it found new is kept under ``.cache/fuzz/TARGET``. ``--keep`` puts the shortest of that into the archive
``tests/fuzz/corpus/TARGET.zip``, which the tests try again each time.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from contextlib import redirect_stderr
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "fuzz"
sys.path.insert(0, str(ROOT / "tests" / "support"))


def main() -> None:
    """Parse the command line, instrument the parsers, fuzz."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", help="a name in fuzz_targets.TARGETS")
    parser.add_argument("--seconds", type=int, default=60, help="how long")
    parser.add_argument("--max-len", type=int, default=4096, help="bytes of an input")
    parser.add_argument("--keep", action="store_true", help="don't fuzz: keep what was found for the tests")
    asked = parser.parse_args()
    import atheris

    # It says of every module that it instruments it.
    with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["modelinspect"]):
        import fuzz_targets

        if asked.target not in fuzz_targets.TARGETS:
            parser.error(f"targets: {', '.join(fuzz_targets.TARGETS)}")
        fuzz_targets.run(asked.target, b"")
    import fuzz_corpus
    import fuzz_seeds

    fuzz_seeds.write(CACHE / "seeds")
    found = CACHE / asked.target
    if asked.keep:
        fuzz_corpus.keep(asked.target, found)
        return
    found.mkdir(parents=True, exist_ok=True)
    kept = CACHE / "kept" / asked.target
    fuzz_corpus.unpack(asked.target, kept)
    options = [
        f"-max_total_time={asked.seconds}",
        f"-max_len={asked.max_len}",
        "-timeout=5",
        "-rss_limit_mb=600",  # instrumented, with what libFuzzer itself holds
        f"-artifact_prefix={found}{os.sep}",
        "-print_final_stats=1",
        f"-dict={ROOT / 'tests' / 'fuzz' / 'words.dict'}",
    ]
    folders = [str(place) for place in (found, kept, CACHE / "seeds" / asked.target) if place.is_dir()]
    atheris.Setup([sys.argv[0], *options, *folders], lambda data: fuzz_targets.run(asked.target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
