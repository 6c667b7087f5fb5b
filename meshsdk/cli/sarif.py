"""Findings as SARIF 2.1.0 (OASIS), with what GitHub's code scanning asks of it.

Source: docs.oasis-open.org/sarif/sarif/v2.1.0; docs.github.com, code-security, SARIF support for code scanning.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..analysis import RULES, Finding, Place, Report, Severity
from ..version import VERSION

__all__ = ["to_sarif"]

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
# By which code scanning knows a finding again, on another line, too.
_FINGERPRINT = "meshsdkFinding/v1"


def to_sarif(report: Report) -> dict[str, Any]:
    """A log of one run."""
    codes = list(dict.fromkeys(one.code for one in report.findings))
    driver = {
        "name": "meshsdk",
        "version": VERSION,
        "semanticVersion": VERSION,
        "rules": [_rule(code) for code in codes],
    }
    results = [_result(one, codes.index(one.code), report) for one in report.findings]
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _rule(code: str) -> dict[str, Any]:
    rule = RULES[code]
    return {
        "id": code,
        "name": "".join(part.capitalize() for part in code.split("-")),
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.summary},
        "help": {"text": rule.cure, "markdown": rule.cure},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"tags": ["meshsdk", *rule.istio]},
    }


def _result(one: Finding, index: int, report: Report) -> dict[str, Any]:
    named = f"{one.place.kind}/{one.place.name}" if one.place.name else ""
    where = " ".join(filter(None, (named, one.place.path)))
    text = f"{where}: {one.text}" if where else one.text
    # Code scanning takes nothing that stands nowhere.
    whole = Place(file=report.paths[0] if report.paths else ".")
    found = {
        "ruleId": one.code,
        "ruleIndex": index,
        "level": _LEVELS[one.severity],
        "message": {"text": f"{text}. What to do: {RULES[one.code].cure}."},
        "locations": [_location(one.place if one.place.file else next(iter(one.others), whole))],
        "partialFingerprints": {_FINGERPRINT: _fingerprint(one)},
    }
    if one.others:
        found["relatedLocations"] = [_location(other) for other in one.others]
    return found


def _location(place: Place) -> dict[str, Any]:
    physical = {"artifactLocation": {"uri": _uri(place.file)}, "region": {"startLine": max(place.line, 1)}}
    location: dict[str, Any] = {"physicalLocation": physical}
    if place.name:
        name = f"{place.kind}/{place.namespace}/{place.name}"
        location["logicalLocations"] = [{"fullyQualifiedName": f"{name}.{place.path}" if place.path else name}]
    return location


def _uri(file: str) -> str:
    """Relative to where it runs, which in CI is the repository."""
    path = Path(os.path.relpath(file)) if os.path.isabs(file) else Path(file)
    return quote(Path(file).as_uri() if ".." in path.parts and os.path.isabs(file) else path.as_posix(), safe="/:%")


def _fingerprint(one: Finding) -> str:
    of_what = (one.code, one.place.file, one.place.kind, one.place.namespace, one.place.name, one.place.path, one.text)
    return hashlib.sha256(repr(of_what).encode(errors="surrogatepass")).hexdigest()[:32]
