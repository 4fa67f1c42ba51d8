"""
Inspect neural networks: the library under the ``modelinspect`` command.

Importing this package costs nothing; each public name is resolved on first use,
and torch is imported only when a model definition is built.

>>> import modelinspect as mi
>>> mi.count("models/regression.py").unique  # doctest: +SKIP
40
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modelinspect.display import install as _install_display

if TYPE_CHECKING:
    from modelinspect.analysis.count import CountReport as CountReport
    from modelinspect.analysis.fit import FitReport as FitReport
    from modelinspect.analysis.footprint import FootprintReport as FootprintReport
    from modelinspect.analysis.gradients import GradientsReport as GradientsReport
    from modelinspect.analysis.gradients import Thresholds as Thresholds
    from modelinspect.analysis.info import InfoReport as InfoReport
    from modelinspect.analysis.listing import ParamsReport as ParamsReport
    from modelinspect.analysis.scan import ScanReport as ScanReport
    from modelinspect.api import compare_runs as compare_runs
    from modelinspect.api import count as count
    from modelinspect.api import fit as fit
    from modelinspect.api import footprint as footprint
    from modelinspect.api import grads as grads
    from modelinspect.api import info as info
    from modelinspect.api import load_definition as load_definition
    from modelinspect.api import open_checkpoint as open_checkpoint
    from modelinspect.api import params as params
    from modelinspect.api import plan_transplant as plan_transplant
    from modelinspect.api import scan as scan
    from modelinspect.api import transplant as transplant
    from modelinspect.dtypes import DType as DType
    from modelinspect.errors import ModelInspectError as ModelInspectError
    from modelinspect.live.adapters import lightning_callback as lightning_callback
    from modelinspect.live.adapters import trainer_callback as trainer_callback
    from modelinspect.live.definition import Definition as Definition
    from modelinspect.live.watch import watch as watch
    from modelinspect.tensors import Checkpoint as Checkpoint
    from modelinspect.tensors import ParameterTable as ParameterTable
    from modelinspect.tensors import TensorInfo as TensorInfo
    from modelinspect.transplant.plan import Plan as Plan

    __version__: str

_HOME = {
    "Checkpoint": "tensors",
    "CountReport": "analysis.count",
    "DType": "dtypes",
    "Definition": "live.definition",
    "FitReport": "analysis.fit",
    "FootprintReport": "analysis.footprint",
    "GradientsReport": "analysis.gradients",
    "InfoReport": "analysis.info",
    "ModelInspectError": "errors",
    "ParameterTable": "tensors",
    "ParamsReport": "analysis.listing",
    "Plan": "transplant.plan",
    "ScanReport": "analysis.scan",
    "TensorInfo": "tensors",
    "Thresholds": "analysis.gradients",
    "compare_runs": "api",
    "count": "api",
    "fit": "api",
    "footprint": "api",
    "grads": "api",
    "lightning_callback": "live.adapters",
    "info": "api",
    "load_definition": "api",
    "open_checkpoint": "api",
    "params": "api",
    "plan_transplant": "api",
    "scan": "api",
    "trainer_callback": "live.adapters",
    "transplant": "api",
    "watch": "live.watch",
}

# Reports show themselves through this module, which is imported when one is shown.
_install_display("modelinspect.render.display")

__all__ = [
    "Checkpoint",
    "CountReport",
    "DType",
    "Definition",
    "FitReport",
    "FootprintReport",
    "GradientsReport",
    "InfoReport",
    "ModelInspectError",
    "ParameterTable",
    "ParamsReport",
    "Plan",
    "ScanReport",
    "TensorInfo",
    "Thresholds",
    "__version__",
    "compare_runs",
    "count",
    "fit",
    "footprint",
    "grads",
    "lightning_callback",
    "load_definition",
    "open_checkpoint",
    "params",
    "plan_transplant",
    "scan",
    "trainer_callback",
    "transplant",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("modelinspect")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
