"""
A list of accepted findings, to be reviewed by people and kept with the code.

``{"schema_version": 1, "accepted": [{"fingerprint": ..., "rule": ..., "message": ...}, ...]}``: the
fingerprint alone decides, the rest is for whoever reads it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from modelinspect.analysis.scan import ScanReport
from modelinspect.errors import UsageError, visible

__all__ = ["baseline_text", "read_baseline"]

VERSION = 1
MAX_BYTES = 1 << 26


def baseline_text(reports: Sequence[ScanReport]) -> str:
    """All findings of the reports, those that were accepted before included; a line each."""
    rows = {
        each.fingerprint: {
            "fingerprint": each.fingerprint,
            "rule": each.rule,
            "file": visible(each.file),
            "record": each.record,
            "message": each.message,
        }
        for report in reports
        for each in (*report.findings, *report.accepted)
        if each.level != "note"
    }
    lines = ",\n    ".join(json.dumps(row, ensure_ascii=True) for row in rows.values())
    inside = f"\n    {lines}\n  " if lines else ""
    return f'{{\n  "schema_version": {VERSION},\n  "accepted": [{inside}]\n}}\n'


def read_baseline(path: str) -> frozenset[str]:
    """
    The fingerprints that a file lists.

    Raises:
        UsageError: It can't be read, or is no such file.
    """
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise UsageError(f"{visible(path)} is too large for a baseline")
        with open(path, encoding="utf-8") as stream:
            document = json.load(stream)
        if document["schema_version"] != VERSION:
            raise UsageError(f"{visible(path)} is a baseline of another version")
        found = [row["fingerprint"] for row in document["accepted"]]
    except OSError as error:
        raise UsageError(f"{visible(path)} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{visible(path)} is no baseline", hint="--write-baseline FILE writes one"
        ) from error
    if not all(isinstance(each, str) for each in found):
        raise UsageError(f"{visible(path)} is no baseline", hint="--write-baseline FILE writes one")
    return frozenset(found)
