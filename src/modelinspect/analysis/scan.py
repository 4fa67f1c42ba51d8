"""
What would run if a file were loaded: the report of ``modelinspect scan``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from modelinspect.display import Displayed
from modelinspect.errors import ModelInspectError, UnrecognisedFileError, visible
from modelinspect.readers.registry import is_stream
from modelinspect.readers.scanning.folders import Found, files_of, shards_of
from modelinspect.readers.scanning.item import Item, Scan
from modelinspect.readers.scanning.parts import Held
from modelinspect.readers.scanning.scanner import UNKNOWN, scan_source
from modelinspect.readers.scanning.seen import RULES, Finding, LookedAt, NamedGlobal
from modelinspect.readers.source import open_local

__all__ = ["RULES", "Finding", "LookedAt", "NamedGlobal", "ScanReport", "scan_target", "without_accepted"]

_SHOWN = 3
_RUNS = ("executes-code", "computed-name", "extension", "changes-global")


@dataclass(frozen=True)
class ScanReport(Displayed):
    """
    What one target holds that would run, and what was looked at to say so.
    """

    target: str
    looked_at: tuple[LookedAt, ...]
    """Files and records, in the order in which they were looked at."""
    globals: tuple[NamedGlobal, ...]
    """Every name that a pickle would import."""
    findings: tuple[Finding, ...]
    accepted: tuple[Finding, ...] = ()
    """Findings that a baseline lists."""
    notes: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """Is there a finding that is more than a note?"""
        return any(finding.level != "note" for finding in self.findings)

    @property
    def headline(self) -> str:
        """One sentence: what would run or be imported; else what was looked at."""
        runs = list(dict.fromkeys(each.message for each in self.findings if each.rule in _RUNS))
        if runs:
            return f"what would run: {_listed([text.removeprefix('runs ') for text in runs])}"
        unknown = [one.dotted for one in self.globals if one.group == "unknown"]
        if unknown and any(finding.rule == "unknown-global" for finding in self.findings):
            return f"loading it imports {_listed(list(dict.fromkeys(unknown)))}"
        levels = [finding for finding in self.findings if finding.level != "note"]
        if levels:
            return f"{len(levels):,} finding{'' if len(levels) == 1 else 's'}, none of code that would run"
        if self.accepted:
            count = len(self.accepted)
            return f"nothing but {count:,} accepted finding{'' if count == 1 else 's'} in: {self.summary}"
        return f"nothing found in: {self.summary}"

    @property
    def summary(self) -> str:
        """What was looked at, in one sentence."""
        pickles = [each for each in self.looked_at if each.what.startswith("pickle")]
        others = [each for each in self.looked_at if not each.what.startswith("pickle")]
        said = []
        if pickles:
            said.append(_of_pickles(pickles))
            names = len({(each.module, each.name) for each in self.globals})
            understood = all(each.group == "understood" for each in self.globals)
            known = ", all understood" if names and understood else ""
            said.append(f"{names:,} name{'' if names == 1 else 's'}{known}")
        kinds: dict[str, int] = {}
        for each in others:
            what = each.what if each.looked_into else f"{each.what} (not looked into)"
            kinds[what] = kinds.get(what, 0) + each.records
        said += [what if count == 1 else f"{count:,} × {what}" for what, count in kinds.items()]
        return ", ".join(said) or "nothing"


def _listed(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN:,} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more


def _of_pickles(pickles: list[LookedAt]) -> str:
    if len(pickles) > 1:
        return f"{len(pickles):,} pickles"
    only = pickles[0]
    where = f"{only.record}, " if only.record else ""
    return f"1 pickle ({where}{only.nbytes:,} bytes)"


def scan_target(path: str, target: str) -> ScanReport:
    """
    Look into a file, or into every file below a folder.

    Args:
        path: What to open; ``-`` is standard input. A pipe is read to its end first.
        target: How the user spelt it.

    Raises:
        TargetError: There is nothing to read.
        RefusedError: It is no regular file.
        UnrecognisedFileError: It is nothing that is known here.
    """
    if is_stream(path):
        from modelinspect.readers.parts.stream import as_file

        return _of_files(as_file(path), target, [])
    if os.path.isdir(path):
        return _report(path, target, _scans(_with_indexes(path, target)))
    shards = shards_of(path, target) if path.endswith(".index.json") else ()
    return _of_files(path, target, _scans(shards))


def _with_indexes(folder: str, target: str) -> Iterator[Found]:
    """The files below a folder, and what indexes among them name outside their own."""
    for found in files_of(folder, target):
        yield found
        if found.name.endswith(".index.json") and not found.reason:
            for named in shards_of(found.path, found.name):
                if named.rule == "path-escape":
                    yield named


def _of_files(path: str, target: str, more: Sequence[Scan]) -> ScanReport:
    scan = _scan_file(path, target)
    if not scan.findings and not more and all(each.why == UNKNOWN for each in scan.looked_at):
        raise UnrecognisedFileError(
            f"{visible(target)} is nothing that is looked into here",
            details=("no pickle, archive, checkpoint or text begins so",),
        )
    return _report(path, target, [scan, *more])


def _scan_file(path: str, name: str) -> Scan:
    with open_local(path) as source:
        if not source.size:
            raise UnrecognisedFileError(f"{visible(name)} is empty", details=("it has 0 bytes",))
        return scan_source(source, name)


def _scans(files: Iterable[Found]) -> list[Scan]:
    scans = []
    for found in files:
        if found.reason:
            scans.append(_left_out(found))
            continue
        try:
            scans.append(_scan_file(found.path, found.name))
        except UnrecognisedFileError:
            scans.append(_left_out(found._replace(reason="it is empty")))
        except ModelInspectError as error:
            scans.append(_left_out(found._replace(reason=error.message, rule="not-looked-into")))
    return scans


def _left_out(found: Found) -> Scan:
    from modelinspect.readers.scanning.budget import Budget

    scan = Scan(found.name, Budget(0))
    item = Item(Held(found.path, b""), "")
    if found.rule:
        scan.find(item, found.rule, found.reason)
    scan.looked(item, "left out", into=False, why=found.reason)
    return scan


def _report(path: str, target: str, scans: Iterable[Scan]) -> ScanReport:
    scans = list(scans)
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    findings = [
        finding._replace(uri=path if scan.file == target else os.path.join(folder, finding.file))
        for scan in scans
        for finding in scan.findings
    ]
    order = {"error": 0, "warning": 1, "note": 2}
    return ScanReport(
        target=target,
        looked_at=tuple(each for scan in scans for each in scan.looked_at),
        globals=tuple(each for scan in scans for each in scan.names),
        findings=tuple(sorted(findings, key=lambda finding: order[finding.level])),
    )


def without_accepted(report: ScanReport, accepted: Collection[str]) -> ScanReport:
    """The report with findings of those fingerprints put aside."""
    return replace(
        report,
        findings=tuple(each for each in report.findings if each.fingerprint not in accepted),
        accepted=tuple(each for each in report.findings if each.fingerprint in accepted),
    )
