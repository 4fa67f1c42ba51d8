"""
What a scan hands over: files looked at, names found, findings and the rules that they stand for.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["RULES", "Finding", "Group", "Level", "LookedAt", "NamedGlobal", "Rule"]

Level = Literal["error", "warning", "note"]
Group = Literal["understood", "unknown", "executes code"]


class Finding(NamedTuple):
    """One thing that the person who loads the file should know."""

    rule: str
    """Key of :data:`RULES`."""
    level: Level
    message: str
    file: str
    """As the target spells it."""
    record: str
    """Of an archive, ``""`` for the file itself; ``!`` between archives inside each other."""
    position: int | None
    """Byte of the record."""
    offset: int | None
    """The same byte counted from the start of the file; None where it is not there as it is."""
    fingerprint: str
    """Of content, rule and record, not of where the file lies."""
    uri: str = ""
    """The file's path from where the command runs."""

    @property
    def place(self) -> str:
        """``file!record@position``."""
        record = f"!{self.record}" if self.record else ""
        return f"{self.file}{record}" + ("" if self.position is None else f"@{self.position}")


class LookedAt(NamedTuple):
    """A file or record and what was done with it."""

    file: str
    record: str
    what: str
    """e.g. ``pickle of protocol 2``."""
    nbytes: int
    looked_into: bool
    why: str = ""
    """Why not, or how far."""
    records: int = 1
    """Records that this line stands for."""
    names: int = 0
    """Distinct names that it would import."""


class NamedGlobal(NamedTuple):
    """A name that a pickle would import."""

    module: str
    name: str
    group: Group
    file: str
    record: str
    position: int
    """Byte of the record where it is first named."""
    calls: tuple[str, ...]
    """What would be called, with arguments, shortened."""
    times: int
    """How often it is called."""

    @property
    def dotted(self) -> str:
        """Module and name."""
        return f"{self.module}.{self.name}"


class Rule(NamedTuple):
    """A kind of finding."""

    level: Level
    title: str
    """One sentence, for whoever sees the rule's name in a list."""


RULES: dict[str, Rule] = {
    "executes-code": Rule("error", "Loading the file runs code that it chooses"),
    "computed-name": Rule("error", "The name of what is imported or called is itself computed"),
    "extension": Rule("error", "A code of the extension registry stands for an unknown name"),
    "changes-global": Rule("error", "Loading changes a class, function or module itself"),
    "unknown-global": Rule("warning", "Loading imports a module that is not known here and may call it"),
    "pickle-broken": Rule("warning", "The pickle breaks off; what stands before the break is run"),
    "pickle-odd": Rule("warning", "The pickle does something that no writer does"),
    "frame": Rule("error", "A frame of the pickle ends inside an argument: loaders read different programs"),
    "trailing-pickle": Rule("warning", "Another pickle follows the one that is loaded"),
    "trailing-bytes": Rule("warning", "Bytes follow the end of the pickle"),
    "size-lie": Rule("warning", "A size that the file claims is not the size of what is there"),
    "exhausts": Rule("error", "Loading would hang or exhaust the memory"),
    "compression-bomb": Rule("error", "A compressed record unpacks to far more than it takes"),
    "zip-name": Rule("error", "A record has another name in its local header"),
    "zip-duplicate": Rule("error", "Two records have the same name, or one but for upper and lower case"),
    "zip-hidden": Rule("error", "The archive holds a record that its directory does not list"),
    "zip-checksum": Rule("warning", "A record's checksum is wrong: some loaders refuse it, torch does not"),
    "zip-roots": Rule("warning", "A record lies outside the archive's root folder"),
    "zip-prefix": Rule("warning", "Bytes stand before the archive"),
    "zip-trailing": Rule("warning", "Bytes follow the archive"),
    "zip-gap": Rule("warning", "Bytes between the records belong to none"),
    "zip-flags": Rule("warning", "A record's flags differ, or say that it is encrypted"),
    "zip-size": Rule("warning", "A record has two sizes"),
    "zip-overlap": Rule("error", "Records share their bytes"),
    "zip-count": Rule("warning", "The directory does not hold the records that it claims"),
    "zip-damaged": Rule("warning", "The archive is damaged"),
    "path-escape": Rule("error", "A name leads out of the folder"),
    "polyglot": Rule("error", "The file is of two formats at once"),
    "not-looked-into": Rule("warning", "Something could not be looked into"),
    "native-code": Rule("error", "The file holds a program or library"),
    "python-code": Rule("error", "The file holds Python code that loading it runs"),
    "custom-code": Rule("warning", "The model's configuration asks for code of its own folder to be run"),
    "template-code": Rule("note", "The file holds a template, which is a program that loaders render"),
    "template-escape": Rule("error", "A template reaches for Python's internals"),
    "keras-lambda": Rule("error", "A Keras layer holds Python code"),
    "external-data": Rule("error", "The model reads data from outside its folder"),
    "custom-operators": Rule("note", "The model needs operators of an extension library"),
    "script-code": Rule("note", "The archive holds TorchScript, which is compiled and run by torch"),
    "header": Rule("warning", "The file's header is damaged or disagrees with itself"),
    "link": Rule("warning", "A link leads out of the folder and was not followed"),
    "more": Rule("warning", "There is more of the same"),
}
