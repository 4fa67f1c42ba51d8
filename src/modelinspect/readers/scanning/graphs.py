"""
ONNX models: files that they read from elsewhere, and operators that need libraries.

Field numbers are those of ``onnx.proto`` (onnx 1.23).
"""

from __future__ import annotations

import os

from modelinspect.errors import CheckpointError, RefusedError, visible
from modelinspect.readers.parts.forward import Forward
from modelinspect.readers.parts.inside import inside
from modelinspect.readers.parts.protobuf import Message, Rule, Rules, read_message
from modelinspect.readers.scanning.item import Item, Scan

__all__ = ["look_at_graph"]

_RULES: Rules = {
    "model": {
        1: Rule("ir_version", "number"),
        7: Rule("graph", "graph"),
        8: Rule("opset", "opset"),
        20: Rule("training", "training"),
        25: Rule("function", "function"),
    },
    "opset": {1: Rule("domain", "text")},
    "training": {1: Rule("graph", "graph"), 2: Rule("graph", "graph")},
    "function": {7: Rule("node", "node"), 9: Rule("opset", "opset")},
    "graph": {
        1: Rule("node", "node"),
        5: Rule("initializer", "tensor"),
        15: Rule("sparse_initializer", "sparse"),
    },
    "node": {4: Rule("operator", "text"), 5: Rule("attribute", "attribute"), 7: Rule("domain", "text")},
    "attribute": {
        5: Rule("t", "tensor"),
        6: Rule("g", "graph"),
        10: Rule("t", "tensor"),
        11: Rule("g", "graph"),
        22: Rule("sparse", "sparse"),
        23: Rule("sparse", "sparse"),
    },
    "sparse": {1: Rule("values", "tensor"), 2: Rule("indices", "tensor")},
    "tensor": {8: Rule("name", "text"), 13: Rule("external", "pair")},
    "pair": {1: Rule("key", "text"), 2: Rule("value", "text")},
}
_KNOWN = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training")
_MAX_FOUND = 20
_CODE = ("PyOp", "PythonOp", "ATen")
"""Operators that run Python, of ONNX Runtime's own domains."""


class _Graph:
    """What the messages of one model say."""

    def __init__(self) -> None:
        self.domains: dict[str, str] = {}
        """Domain to the first operator of it."""
        self.locations: dict[str, str] = {}
        """File to the first tensor in it."""
        self.graphs = 0

    def finished(self, message: Message, parent: Message) -> bool:
        """Take what a message says as it ends."""
        if message.kind == "node":
            domain = _text(message.first("domain", ""))
            self.domains.setdefault(domain, _text(message.first("operator", "")))
        elif message.kind == "opset":
            self.domains.setdefault(_text(message.first("domain", "")), "")
        elif message.kind == "pair":
            if _text(message.first("key", "")) == "location":
                parent.values["place"] = [_text(message.first("value", ""))]
        elif message.kind == "tensor":
            for place in message.all("place"):
                self.locations.setdefault(place, _text(message.first("name", "")))
        elif message.kind == "graph":
            self.graphs += 1
        return True


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def look_at_graph(scan: Scan, item: Item, certain: bool) -> bool:
    """
    A model, if it is one.

    Args:
        scan: Takes what is found.
        item: Holds it.
        certain: Its name says that it is one.
    """
    graph, is_whole = _Graph(), True
    try:
        read_message(Forward(item.source, "<", item.record or scan.file), "model", _RULES, graph.finished)
    except CheckpointError as error:
        if not certain and not graph.graphs:
            return False
        is_whole = False
        reason = error.details[0] if error.details else error.message
        scan.find(item, "header", f"it is no ONNX model, or a damaged one: {reason}")
    if not graph.graphs and not graph.domains:
        return False
    scan.looked(item, "ONNX model")
    for domain, operator in list(graph.domains.items())[:_MAX_FOUND]:
        if domain not in _KNOWN:
            code = operator in _CODE
            text = f"needs operators of {visible(domain[:100])!r}, which a library brings"
            text += f": {visible(operator[:60])}" if operator else ""
            scan.find(item, "custom-operators", text, level="error" if code else None)
    folder = os.path.dirname(item.source.path)
    for place, tensor in list(graph.locations.items())[:_MAX_FOUND]:
        _check_place(scan, item, folder, place, tensor)
    if is_whole and not item.depth:
        _check_tensors(scan, item)
    return True


def _check_tensors(scan: Scan, item: Item) -> None:
    """Shapes, types and lengths of its tensors, as the reader takes them."""
    from modelinspect.readers.formats.onnx import read
    from modelinspect.readers.registry import NotThisFormat

    try:
        read(item.source, scan.file)
    except (RefusedError, NotThisFormat):
        return  # files elsewhere are told above
    except CheckpointError as error:
        reason = error.details[0] if error.details else error.message
        scan.find(item, "header", f"its tensors can't be believed: {reason}")


def _check_place(scan: Scan, item: Item, folder: str, place: str, tensor: str) -> None:
    shown = f"tensor {visible(tensor[:80])} is read from {visible(place[:200])!r}"
    if item.depth:
        parts = place.replace("\\", "/").split("/")
        if ".." in parts or not parts[0]:
            scan.find(item, "external-data", f"{shown}, outside the folder")
        return
    try:
        inside(folder or ".", place, item.source.path)
    except RefusedError:
        scan.find(item, "external-data", f"{shown}, outside the folder")
