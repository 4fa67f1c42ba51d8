"""
Run a user's code so that nothing of it is left in the process but its result.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress

import torch

__all__ = ["stdout_to_stderr", "undisturbed"]


@contextmanager
def undisturbed(seed: int | None = None, program: str | None = None) -> Iterator[None]:
    """
    Restore what a model definition may change: generators, defaults, folder, arguments.

    What it prints meanwhile goes to stderr. A process that it forks off ends here.

    Args:
        seed: Of torch's, Python's and NumPy's generators inside; None leaves them.
        program: Stands alone in ``sys.argv`` inside, so that a script which parses
            arguments does not take ours for its own.
    """
    with ExitStack() as stack:
        stack.enter_context(stdout_to_stderr())
        stack.enter_context(_generators())
        stack.enter_context(_torch_defaults())
        stack.enter_context(_process(program))
        stack.enter_context(_one_process())
        if seed is not None:
            _seed(seed)
        yield


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """
    Send to stderr what is printed: by Python, by C code, by child processes.
    """
    _flush()
    saved = _point_at_stderr()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        # While descriptor 1 still is stderr: what a buffer keeps would come out
        # among the results.
        _flush()
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


def _point_at_stderr() -> int | None:
    """Make descriptor 1 a copy of 2; a copy of the old one, None where it was closed."""
    try:
        saved = os.dup(1)
    except OSError:
        return None
    try:
        os.dup2(2, 1)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    return saved


def _flush() -> None:
    for stream in (sys.stdout, sys.__stdout__, sys.stderr):
        with suppress(Exception):
            stream.flush()  # type: ignore[union-attr]
    with suppress(Exception):
        ctypes.CDLL(None).fflush(None)


@contextmanager
def _generators() -> Iterator[None]:
    """The generators of torch, of Python and, where it is loaded, of NumPy."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    numpy_random = sys.modules.get("numpy.random")
    python_state = random.getstate()
    numpy_state = None if numpy_random is None else numpy_random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy_random is not None:
                numpy_random.set_state(numpy_state)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)


@contextmanager
def _torch_defaults() -> Iterator[None]:
    dtype, device, grad = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        if torch.get_default_device() != device:
            torch.set_default_device(None)
            if torch.get_default_device() != device:
                torch.set_default_device(device)


@contextmanager
def _process(program: str | None) -> Iterator[None]:
    arguments, folder = sys.argv, _current_folder()
    writes_bytecode = sys.dont_write_bytecode
    if program is not None:
        sys.argv = [program]
    # Looking at a definition leaves no __pycache__ beside it.
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.argv = arguments
        sys.dont_write_bytecode = writes_bytecode
        if folder is not None and _current_folder() != folder:
            os.chdir(folder)


@contextmanager
def _one_process() -> Iterator[None]:
    """A child that was forked inside ends in silence: the result is its parent's to give."""
    parent = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != parent:
            os._exit(0)


def _current_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None
