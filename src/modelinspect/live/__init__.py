"""
The only room where torch is alive and a user's code runs.

Importing any module of this room imports torch first, before a user's folder is
on ``sys.path``, and says in one line what to install where that fails.
"""

from modelinspect.errors import MissingDependencyError

INSTALL_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"

try:
    import torch as torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise MissingDependencyError(
            f"torch can't be imported: it needs {error.name}, which is not installed", hint=INSTALL_TORCH
        ) from error
    raise MissingDependencyError(
        "a model definition needs torch, which is not installed",
        details=("commands on checkpoints work without it",),
        hint=INSTALL_TORCH,
    ) from error
except Exception as error:
    # A broken installation fails in its own way: OSError for a missing library, ImportError
    # for one of another version, RuntimeError from a mixed one.
    raise MissingDependencyError(
        "a model definition needs torch, which is installed and can't be imported",
        details=(f"{type(error).__name__}: {error}".splitlines()[0],),
        hint=INSTALL_TORCH,
    ) from error
