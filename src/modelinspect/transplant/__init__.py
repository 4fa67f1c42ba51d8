"""
Weights of one class for another: match, plan, prove, write.

The room is also the call of its name, ``mi.transplant(module_from, module_to)``: a
package's attribute is the module once anything in the module is imported.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        """See :func:`modelinspect.api.transplant`."""
        return import_module("modelinspect.api").transplant(*args, **options)


sys.modules[__name__].__class__ = _Room
