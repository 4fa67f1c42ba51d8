"""
Weights that packages ship, to try things on: fetched, unpacked, never installed or imported.

``python tests/support/shipped.py silero-vad==6.2.3`` prints the folder that the package lies in.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache" / "shipped"


class DownloadError(Exception):
    """The package did not come; the message is pip's."""


def unpacked(requirement: str) -> Path:
    """
    Folder of an unpacked wheel, which is downloaded the first time.

    Args:
        requirement: One version of one package, e.g. ``lpips==0.1.4``.

    Raises:
        DownloadError: pip could not fetch it.
    """
    folder = CACHE / requirement
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                _fetch(requirement, Path(scratch)).rename(folder)
    return folder


def _fetch(requirement: str, scratch: Path) -> Path:
    # Wheels only: to ask a source distribution for its metadata runs its setup.py.
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(scratch), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise DownloadError(f"pip could not download {requirement}\n{done.stderr.strip()}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(scratch / "unpacked")
    return scratch / "unpacked"


if __name__ == "__main__":
    try:
        print(unpacked(sys.argv[1]))
    except DownloadError as error:
        sys.exit(str(error))
