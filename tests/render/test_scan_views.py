"""A scan's findings as a table, as JSON and as SARIF."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest

from modelinspect.analysis.scan import RULES, Finding, LookedAt, NamedGlobal, ScanReport
from modelinspect.render.output import Terminal, write_sheet
from modelinspect.render.to_sarif import sarif_chunks
from modelinspect.render.views.scan import scan_lines, scan_records, scan_table

URI = "a b/my model.pt"


@pytest.fixture
def report() -> ScanReport:
    """A file with a finding of each level."""
    file, record = "my model.pt", "m/data.pkl"
    return ScanReport(
        file,
        (
            LookedAt(file, record, "pickle of protocol 2", 1234, True, names=2),
            LookedAt(file, "*", "data", 99, False, "only how each record begins", records=3),
        ),
        (NamedGlobal("os", "system", "executes code", file, record, 2, ("os.system('id')",), 1),),
        (
            Finding("executes-code", "error", "runs os.system('id')", file, record, 37, 101, "one", URI),
            Finding("script-code", "note", "it holds TorchScript", file, record, None, None, "two", URI),
        ),
    )


def test_the_table_shows_findings_and_what_was_looked_at(report: ScanReport) -> None:
    """The headline, findings with their places, names by group, files with what was done."""
    stream = StringIO()
    for sheet in scan_table(report):
        write_sheet(sheet, "table", stream, terminal=Terminal(None, False))
    text = stream.getvalue()
    assert "my model.pt · what would run: os.system('id')" in text
    assert "  m/data.pkl@37  runs os.system('id')" in text
    assert "executes code: os.system" in text
    assert re.search(r"^\* +3 × data +99 B +no +only how each record begins", text, re.M)


def test_what_was_left_alone_for_one_reason_is_one_row(report: ScanReport) -> None:
    """Records of numbers that begin as a pickle could are many in a large file."""
    file, why = "my model.pt", "no format that is known begins so"
    data = [LookedAt(file, f"m/data/{n}", "data", 256, False, why) for n in range(30)]
    stream = StringIO()
    for sheet in scan_table(replace(report, looked_at=(*report.looked_at, *data))):
        write_sheet(sheet, "table", stream, terminal=Terminal(None, False))
    text = stream.getvalue()
    assert re.search(r"m/data/0 and 29 more +30 × data +7.5 KiB +no +no format that", text)
    assert "--json lists them" not in text


def test_findings_that_are_accepted_are_said(report: ScanReport) -> None:
    """With a baseline nothing new was found, which is not the same as nothing."""
    accepted = replace(report, findings=(), accepted=report.findings)
    assert accepted.headline.startswith("nothing but 2 accepted findings in: 1 pickle")


def test_plain_lines_are_level_rule_place_message(report: ScanReport) -> None:
    """Four fields with tabs between them."""
    stream = StringIO()
    write_sheet(scan_lines([report]), "plain", stream)
    first, second = stream.getvalue().splitlines()
    assert first == "error\texecutes-code\tmy model.pt!m/data.pkl@37\truns os.system('id')"
    assert second.startswith("note\tscript-code\tmy model.pt!m/data.pkl\t")


def test_json_holds_everything(report: ScanReport) -> None:
    """Findings, names and what was looked at, as the view documents them."""
    stream = StringIO()
    write_sheet(scan_records([report]), "json", stream)
    document = json.loads(stream.getvalue())
    assert document["report"] == "scan"
    assert document["findings"][0] == {
        "target": "my model.pt",
        "level": "error",
        "rule": "executes-code",
        "message": "runs os.system('id')",
        "file": "my model.pt",
        "record": "m/data.pkl",
        "position": 37,
        "offset": 101,
        "fingerprint": "one",
    }
    (target,) = document["targets"]
    assert set(target) == {"target", "headline", "found", "looked_at", "globals"}
    assert target["globals"][0]["calls"] == ["os.system('id')"]
    assert target["looked_at"][1]["records"] == 3


def check_sarif(document: dict[str, Any]) -> None:
    """What the schema of SARIF 2.1.0 asks of the objects that are used here."""
    assert document["version"] == "2.1.0"
    assert document["$schema"].endswith("sarif-schema-2.1.0.json")
    assert set(document) == {"$schema", "version", "runs"}
    for run in document["runs"]:
        driver = run["tool"]["driver"]
        assert driver["name"]
        ids = [rule["id"] for rule in driver["rules"]]
        assert len(set(ids)) == len(ids)
        for rule in driver["rules"]:
            assert rule["shortDescription"]["text"]
            assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
        for result in run["results"]:
            assert result["message"]["text"]
            assert result["level"] in ("none", "note", "warning", "error")
            assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
            assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
            for location in result["locations"]:
                place = location["physicalLocation"]
                assert re.fullmatch(
                    r"[A-Za-z0-9%\-._~:/?#\[\]@!$&'()*+,;=]+", place["artifactLocation"]["uri"]
                )
                assert place.get("region", {"byteOffset": 0})["byteOffset"] >= 0
                for logical in location.get("logicalLocations", []):
                    assert logical["fullyQualifiedName"]
            for suppression in result.get("suppressions", []):
                assert suppression["kind"] in ("inSource", "external")


def test_sarif_keeps_to_the_schema(report: ScanReport) -> None:
    """Rules, results, places and fingerprints as the standard wants them; accepted findings suppressed."""
    accepted = ScanReport("x", (), (), (), accepted=report.findings[:1])
    document = json.loads("".join(sarif_chunks([report, accepted], "1.2.3")))
    check_sarif(document)
    (run,) = document["runs"]
    first, second, third = run["results"]
    assert first["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "a%20b/my%20model.pt"},
        "region": {"byteOffset": 101},
    }
    assert "region" not in second["locations"][0]["physicalLocation"]
    assert "suppressions" not in first
    assert third["suppressions"]
    check_sarif(json.loads("".join(sarif_chunks([], "1"))))


def test_rules_have_titles() -> None:
    """Each rule is a sentence without a full stop."""
    for rule in RULES.values():
        assert rule.title[0].isupper()
        assert not rule.title.endswith(".")
