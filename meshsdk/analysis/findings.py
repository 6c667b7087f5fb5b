"""What is found, where it stands, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from .rules import RULES, Severity

__all__ = ["Finding", "LeftOut", "Place", "Report", "finding"]


class Place(Struct, frozen=True):
    """Where something stands; what is not known is empty, or 0.

    Attributes:
        file: Its path, as it was given.
        line: From 1.
        document: Of its file, from 1.
        item: Of a `kind: List`, such as `item 3`.
        path: The field, such as `spec.http[0].route[1].destination.host`.
    """

    file: str = ""
    line: int = 0
    document: int = 0
    item: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    def __str__(self) -> str:
        document = f"document {self.document}" if self.document else ""
        named = f"{self.kind}/{self.name}" if self.name else self.kind
        whole = " ".join(text for text in (self.file, document, self.item, named) if text)
        return f"{whole}.{self.path}" if self.path and not self.path.startswith("[") else f"{whole}{self.path}"

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        of_what = {"kind": self.kind, "namespace": self.namespace, "name": self.name} if self.name else None
        return {
            "file": self.file,
            "line": self.line or None,
            "document": self.document or None,
            "item": self.item or None,
            "object": of_what,
            "field": self.path or None,
        }


NOWHERE = Place()


class Finding(Struct, frozen=True):
    """One thing that is found.

    Attributes:
        code: Of `RULES`.
        text: What is wrong.
        severity: The rule's, or less.
        others: Where else it stands, or what it has to do with.
    """

    code: str
    text: str
    severity: Severity
    place: Place = NOWHERE
    others: tuple[Place, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        rule = RULES[self.code]
        return {
            "code": self.code,
            "istio": list(rule.istio),
            "severity": self.severity.value,
            "text": self.text,
            "cure": rule.cure,
            **self.place.to_dict(),
            "others": [one.to_dict() for one in self.others],
        }


def finding(
    code: str, text: str, place: Place = NOWHERE, others: tuple[Place, ...] = (), severity: Severity | None = None
) -> Finding:
    """A finding, as bad as its rule says unless somebody knows better."""
    return Finding(code, text, RULES[code].severity if severity is None else severity, place, others)


class LeftOut(Struct, frozen=True):
    """Files that are no configuration before something has been made of them.

    Attributes:
        what: What they are.
        render: The command that makes configuration of them; empty where there is none.
    """

    what: str
    files: tuple[str, ...]
    render: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {"what": self.what, "files": list(self.files), "render": self.render or None}


class Report(Struct, frozen=True):
    """All that is found of some files.

    Attributes:
        paths: The files and folders that were asked for.
        findings: The worst first; of one kind in the order of the files.
        not_ours: Documents that nothing is made of, by kind.
        not_ours_files: In how many files they stand.
        left_out: Files that were not looked at.
        resources: xDS resources that come of the rest, by kind.
    """

    paths: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    not_ours: Mapping[str, int] = field(default_factory=dict)
    not_ours_files: int = 0
    left_out: tuple[LeftOut, ...] = ()
    resources: Mapping[str, int] = field(default_factory=dict)

    def of(self, severity: Severity) -> Sequence[Finding]:
        """The findings of a severity."""
        return [one for one in self.findings if one.severity is severity]

    def without_folder(self, folder: str) -> Report:
        """The same, with the files of a folder by their names alone: what came from elsewhere stands in no folder."""
        prefix = f"{folder}{os.sep}"

        def told(place: Place) -> Place:
            return replace(place, file=place.file.removeprefix(prefix))

        return replace(
            self,
            paths=tuple(one.removeprefix(prefix) for one in self.paths),
            findings=tuple(
                replace(
                    one,
                    text=one.text.replace(prefix, ""),
                    place=told(one.place),
                    others=tuple(map(told, one.others)),
                )
                for one in self.findings
            ),
            left_out=tuple(
                replace(one, files=tuple(file.removeprefix(prefix) for file in one.files)) for one in self.left_out
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """For programs; docs/check.md has the fields."""
        return {
            "version": 1,
            "paths": list(self.paths),
            "summary": {one.value: len(self.of(one)) for one in Severity},
            "findings": [one.to_dict() for one in self.findings],
            "not_ours": {"kinds": dict(self.not_ours), "files": self.not_ours_files},
            "left_out": [one.to_dict() for one in self.left_out],
            "resources": dict(self.resources),
        }
