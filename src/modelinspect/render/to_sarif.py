"""
Sink: findings of a scan as SARIF 2.1.0, which code hosts show beside a change.

Written after the OASIS standard (Static Analysis Results Interchange Format 2.1.0, sections
3.13 to 3.28).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from modelinspect.analysis.scan import RULES, Finding, ScanReport

__all__ = ["sarif_chunks"]

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_FINGERPRINT = "modelinspect/v1"


def sarif_chunks(reports: Sequence[ScanReport], version: str) -> list[str]:
    """
    One run with all findings.

    Args:
        reports: Of all targets.
        version: Of this tool.
    """
    used = [rule for rule in RULES if any(each.rule == rule for each in _all(reports))]
    run = {
        "tool": {
            "driver": {
                "name": "modelinspect",
                "semanticVersion": version,
                "rules": [_rule(name) for name in used],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [_result(each, report, used) for report in reports for each in report.findings]
        + [_result(each, report, used, accepted=True) for report in reports for each in report.accepted],
    }
    document = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return [json.dumps(document, ensure_ascii=True, indent=2), "\n"]


def _all(reports: Sequence[ScanReport]) -> list[Finding]:
    return [each for report in reports for each in (*report.findings, *report.accepted)]


def _rule(name: str) -> dict[str, Any]:
    rule = RULES[name]
    return {
        "id": name,
        "shortDescription": {"text": rule.title},
        "defaultConfiguration": {"level": rule.level},
    }


def _result(
    finding: Finding, report: ScanReport, used: list[str], *, accepted: bool = False
) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(finding.uri)}}
    if finding.offset is not None:
        place["region"] = {"byteOffset": finding.offset}
    location: dict[str, Any] = {"physicalLocation": place}
    if finding.record:
        location["logicalLocations"] = [{"fullyQualifiedName": finding.place, "kind": "member"}]
    result: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": used.index(finding.rule),
        "level": finding.level,
        "message": {"text": finding.message},
        "locations": [location],
        "partialFingerprints": {_FINGERPRINT: finding.fingerprint},
        "properties": {"target": report.target, "record": finding.record, "position": finding.position},
    }
    if accepted:
        result["suppressions"] = [{"kind": "external", "status": "accepted"}]
    return result


def _uri(path: str) -> str:
    """A relative reference stays one; everything that a URI can't hold is escaped."""
    # Names of files may hold any bytes; those that an index makes up, half surrogate pairs as well.
    is_half = any(0xD800 <= ord(letter) < 0xDC80 or 0xDCFF < ord(letter) < 0xE000 for letter in path)
    raw = path.encode("utf-8", "surrogatepass" if is_half else "surrogateescape")
    text = quote(raw, safe="/~!$&'()*+,;=@")
    return f"file://{text}" if path.startswith("/") else text
