"""What the embedded control plane says of a folder, as findings.

Its problems are sentences, which begin with where they stand. Here each gets its rule, by its words; what is found here
with more about it (`destinations`), or counted (what is not ours), is left to that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..controlplane.documents import Document
from ..controlplane.state import Problem
from .findings import Finding, Place, finding
from .objects import Objects, Thing
from .rules import Severity

__all__ = ["find_told", "is_for_gateways"]

# The first that is found in a problem says which rule it is; empty is told elsewhere.
_ERRORS = (
    (re.compile(r"is not YAML|cannot be read|is larger than|is being written|where a file must be"), "unreadable"),
    (re.compile(r"there is no such file or folder|is a link that leads nowhere|it is no stored file"), "unreadable"),
    (re.compile(r"is not carried out: "), "not-carried-out"),
    (re.compile(r"is also defined by "), "host-twice"),
    (re.compile(r"has another of this name"), "policy-twice"),
    (
        re.compile(r"this may be a policy|it may be the beginning of a policy|inside of it, without effect"),
        "unknown-kind",
    ),
    (re.compile(r"^\S* ?\S+ is not known; (did you mean v1|did you mean \S+/|known are )"), "unknown-kind"),
    (re.compile(""), "invalid"),
)
_WARNINGS = (
    (re.compile(r"destination host .* is not a known service|is not defined by any DestinationRule"), ""),
    (re.compile(r"kinds that are not translated, and have no effect"), ""),
    (re.compile(r"(is|are) for gateways"), ""),
    (re.compile(r"provider .* (is none of|is not Prometheus|there is no service)"), "unknown-provider"),
    (re.compile(r"there is no (Service|ServiceEntry|service) "), ""),
    (re.compile(r"there is no VirtualService .* to delegate to"), "unknown-delegate"),
    (re.compile(r"let nobody in"), "policy-not-carried-out"),
    (re.compile(r"endpoints of .* there is no such Service|names no service: the slice"), "endpoints-without-service"),
    (re.compile(r"is not known; did you mean .* it has no effect"), "unknown-field"),
    (re.compile(""), "no-effect"),
)
# Of which the problem names another object.
_OF_TWO = ("host-twice", "policy-twice")
_OTHER = re.compile(r".*(?:is also defined by|has another of this name:) ", re.DOTALL)
_NAMED = re.compile(r"(Telemetry) ([^/\s]+)/([^:\s]+): ((?:\.?[\w]+|\[\d+\]|\['[^']*'\])*: )?")


def is_for_gateways(problem: str) -> bool:
    """Whether a problem says that an object is for gateways, and so not for a Mesh."""
    return " for gateways" in problem


def find_told(problems: Sequence[Problem], objects: Objects, *, has_mesh_config: bool) -> Iterator[Finding]:
    """The problems, each with its rule.

    Args:
        problems: Of the embedded control plane.
        objects: All there are.
        has_mesh_config: Whether the files say which providers there are; else a cluster may.
    """
    alternatives = {thing.document.where for _, thing in objects.alternatives}
    for problem in problems:
        document, place, said = objects.split(problem.text)
        code = _code(said if place.file else problem.text, problem.is_error)
        if not code or (not problem.is_error and document is not None and _is_not_ours(document)):
            continue
        if code == "host-twice" and document is not None and document.where in alternatives:
            continue  # Of one object there are several texts, which is told by itself.
        other, other_place, _ = objects.split(_OTHER.sub("", problem.text))
        if code == "policy-twice" and document is not None and _stand_apart(place, other_place):
            continue
        if not place.file:
            place, said = _by_name(said, objects)
        others = (other_place,) if code in _OF_TWO and other is not None else ()
        is_unsure = code == "unknown-provider" and not has_mesh_config
        yield finding(code, said, place, others, severity=Severity.INFO if is_unsure else None)


def _stand_apart(one: Place, other: Place) -> bool:
    """Whether they are in different folders, as variants are."""
    return bool(other.file) and Path(one.file).parent != Path(other.file).parent


def _is_not_ours(document: Document) -> bool:
    return document.kind is None and document.fault is None and "@type" not in document.data


def _code(said: str, is_error: bool) -> str:
    return next(code for pattern, code in (_ERRORS if is_error else _WARNINGS) if pattern.search(said))


def _by_name(said: str, objects: Objects) -> tuple[Place, str]:
    """The place of a problem that names its object, and no file."""
    found = _NAMED.match(said)
    things = [one for one in objects.firsts if found is not None and _is_named(one, found)]
    if found is None or not things:
        return Place(), said
    return objects.place(things[0].document, f".{(found[4] or '').removesuffix(': ')}".rstrip(".")), said[found.end() :]


def _is_named(thing: Thing, found: re.Match[str]) -> bool:
    return (thing.kind, thing.namespace, thing.name) == (found[1], found[2], found[3])
