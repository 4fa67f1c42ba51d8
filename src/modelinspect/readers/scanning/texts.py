"""
Texts that loaders run or that tell them what to run: configurations, templates, Python.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from modelinspect.errors import visible
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.knowledge import is_dangerous

__all__ = ["check_template", "look_at_text"]

_MAX_PARSED = 1 << 21
_MAX_TEXT = 1 << 26
_MAX_STEPS = 500_000
_MAX_FOUND = 20
_WORDS = re.compile(rb'"auto_map"|"chat_template"|Lambda|__lambda__|"class_name"|"custom_pipelines"|\\u')
_ESCAPE = re.compile(
    r"__[a-zA-Z]+__|\bpopen\b|\bos\s*\.\s*system\b|\.mro\b|\bimport_module\b|\battr\(\s*['\"]_"
)
"""What a template needs to leave its sandbox: attributes with underscores on both sides."""
_PROGRAM = re.compile(r"\{[%{#]")
_TAGS = ("latest", "latest_checkpointed_iteration.txt")
"""Files that name the folder of a step (DeepSpeed, Megatron)."""
_MAX_TAG = 4_096
_PYTHON = re.compile(r"^\s*(import|from|def|class|exec|eval|@|if|for|with|print)\b", re.MULTILINE)


def look_at_text(scan: Scan, item: Item, name: str) -> None:
    """A text, by the end of its name."""
    source = item.source
    lowered = name.lower()
    if lowered.endswith(".py"):
        _look_at_python(scan, item)
        return
    if source.size - item.begin > _MAX_TEXT:
        scan.looked(item, "text", into=False, why=f"longer than {_MAX_TEXT:,} bytes")
        return
    raw = source.read_upto(item.begin, source.size - item.begin)
    _check_names(scan, item, lowered, raw)
    if lowered.endswith((".jinja", ".jinja2")):
        check_template(scan, item, raw.decode("utf-8", "replace"))
        scan.looked(item, "template")
    elif raw.lstrip()[:1] in (b"{", b"["):
        _look_at_json(scan, item, raw)
    else:
        scan.looked(item, "text")


def _check_names(scan: Scan, item: Item, name: str, raw: bytes) -> None:
    """Does the name of a step lead out of the folder?"""
    if name.rpartition("/")[2] not in _TAGS or len(raw) > _MAX_TAG:
        return
    tag = raw.strip()
    if tag.startswith(b"/") or b".." in tag.split(b"/"):
        shown = visible(tag[:200].decode("utf-8", "backslashreplace"))
        scan.find(item, "path-escape", f"it names a folder outside: {shown!r}")


def _look_at_python(scan: Scan, item: Item) -> None:
    scan.looked(item, "Python code", into=False, why="not analysed")
    if item.context == "package":
        scan.find(item, "python-code", "loading the package runs this module")


def check_template(scan: Scan, item: Item, text: str) -> None:
    """A Jinja template, which loaders render with more or less of a sandbox."""
    found = _ESCAPE.search(text)
    if found is not None:
        around = text[max(0, found.start() - 40) : found.end() + 40]
        scan.find(item, "template-escape", f"its template reaches for Python's internals: {around}")
    elif _PROGRAM.search(text):
        scan.find(
            item, "template-code", f"its template of {len(text):,} characters is a program that is rendered"
        )


def _look_at_json(scan: Scan, item: Item, raw: bytes) -> None:
    if _WORDS.search(raw) is None:
        scan.looked(item, "JSON")
        return
    if len(raw) > _MAX_PARSED:
        scan.find(item, "not-looked-into", f"JSON of {len(raw):,} bytes that names code or templates")
        return
    try:
        document = json.loads(raw)
    except RecursionError:
        scan.find(item, "not-looked-into", "JSON that is nested too deeply, and names code or templates")
        return
    except ValueError:
        scan.looked(item, "text", why="it is no JSON")
        return
    scan.looked(item, "JSON")
    found = 0
    for holder in _objects(document):
        found += _check_object(scan, item, holder)
        if found > _MAX_FOUND:
            return


def _objects(document: Any) -> Iterator[dict[str, Any]]:
    """Every object of a document, the outermost first."""
    waiting, steps = [document], 0
    while waiting and steps < _MAX_STEPS:
        value = waiting.pop()
        steps += 1
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _check_object(scan: Scan, item: Item, holder: dict[str, Any]) -> int:
    """What one object of a configuration says is to be run; the number of findings."""
    before = len(scan.findings)
    auto_map = holder.get("auto_map")
    if isinstance(auto_map, dict) and auto_map:
        named = ", ".join(_names_in(auto_map))[:200]
        scan.find(item, "custom-code", f"with trust_remote_code=True loading it runs {named}")
    template = holder.get("chat_template")
    for text in _templates_in(template):
        check_template(scan, item, text)
    class_name = holder.get("class_name")
    if isinstance(class_name, str):
        _check_keras(scan, item, class_name, holder)
    return len(scan.findings) - before


def _names_in(auto_map: dict[str, Any]) -> list[str]:
    names = []
    for value in auto_map.values():
        names += [
            visible(each) for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)
        ]
    return list(dict.fromkeys(names))


def _templates_in(value: Any) -> list[str]:
    """A template, or several with names: ``[{"name": ..., "template": ...}]``."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [
            each["template"]
            for each in value
            if isinstance(each, dict) and isinstance(each.get("template"), str)
        ]
    return [text for text in value.values() if isinstance(text, str)] if isinstance(value, dict) else []


def _check_keras(scan: Scan, item: Item, class_name: str, holder: dict[str, Any]) -> None:
    """
    A Keras object: ``{"class_name", "module", "config", "registered_name"}`` (keras 3, serialization_lib).
    """
    if class_name in ("Lambda", "__lambda__", "function") and _holds_code(holder):
        scan.find(
            item, "keras-lambda", f"its {class_name} holds marshalled Python code, which loading may run"
        )
        return
    module = holder.get("module")
    if not isinstance(module, str) or not module:
        return
    top = module.partition(".")[0]
    dotted = f"{module}.{class_name}"
    if is_dangerous(dotted):
        scan.find(item, "executes-code", f"names {dotted[:200]}")
    elif top not in ("keras", "keras_core", "tensorflow", "tf_keras", "builtins", "keras_hub", "keras_nlp"):
        scan.find(item, "unknown-global", f"imports {module[:100]}: {dotted[:200]}")


def _holds_code(holder: dict[str, Any]) -> bool:
    """Marshalled code is base64 text of some length, in ``function``, ``code`` or a list."""
    texts = json.dumps(holder, default=str)
    return (
        holder.get("class_name") != "function" or re.search(r'"code"|"function"\s*:\s*\[', texts) is not None
    )
