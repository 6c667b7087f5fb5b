"""Everything that is found of some files, in one report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..controlplane.documents import Document
from ..controlplane.files import shown
from ..controlplane.kinds import CONFIG_MAP
from ..controlplane.lines import Places
from ..controlplane.mesh_config import MESH_CONFIG
from ..controlplane.state import FolderState, make_state
from ..grpc.check import notes_of
from .destinations import find_destinations
from .findings import Finding, Place, Report, finding
from .hosts import find_conflicting_hosts, find_in_fields, find_in_ports
from .mutual_tls import find_disagreements
from .objects import Objects, Thing, listed
from .reach import find_unreachable
from .rules import RULES, Severity
from .selecting import find_conflicts, find_in_namespaces, find_selectors
from .serving import find_in_port_policies, find_in_services
from .sources import Sources, read_sources
from .told import find_told, is_for_gateways

__all__ = ["analyze"]

TELEMETRY = "telemetry.istio.io"

_SEVERITIES = {severity: place for place, severity in enumerate(Severity)}
_CODES = {code: place for place, code in enumerate(RULES)}


def analyze(paths: Sequence[Path], domain: str = "cluster.local") -> Report:
    """Find what is wrong with files and folders, and what is hardly meant.

    Args:
        paths: Files and folders, which count as one configuration.
        domain: The cluster's DNS domain.

    Returns:
        The findings. Nothing raises: a file that cannot be read is one of them.
    """
    sources = read_sources(paths)
    files = [(path, sources.documents[path]) for path in sorted(sources.documents)]
    state = make_state(files, domain, list(sources.problems.values()))
    objects = Objects(sources.whole, Places({**dict.fromkeys(sources.problems, ()), **sources.whole}), domain)
    findings = dict.fromkeys(_findings(objects, state))
    counts, in_files = _not_ours(sources, state, objects)
    return Report(
        tuple(map(shown, paths)),
        tuple(sorted(findings, key=_order)),
        counts,
        in_files,
        tuple(sources.left_out),
        dict(sorted(Counter(kind.name.lower() for kind, _ in state.grpc).items())),
    )


def _findings(objects: Objects, state: FolderState) -> Iterator[Finding]:
    yield from find_told(state.problems, objects, has_mesh_config=bool(state.world.security.mesh_where))
    yield from find_destinations(objects)
    yield from find_unreachable(objects)
    yield from find_conflicting_hosts(objects)
    yield from find_in_services(objects, state.world)
    yield from find_in_port_policies(objects, state.world)
    yield from find_selectors(objects, state.world)
    yield from find_conflicts(objects)
    yield from find_in_namespaces(objects)
    yield from find_disagreements(objects, state)
    yield from find_in_ports(objects)
    yield from find_in_fields(objects)
    yield from _logs_without_provider(objects, state)
    yield from _alternatives(objects)
    yield from _over_grpc(state)


def _order(one: Finding) -> tuple[int, int, str, int, str]:
    return _SEVERITIES[one.severity], _CODES[one.code], one.place.file, one.place.line, one.text


def _logs_without_provider(objects: Objects, state: FolderState) -> Iterator[Finding]:
    """Entries of accessLogging that name no provider, where the MeshConfig has none for such."""
    defaults = state.world.defaults.logs
    if defaults.names or defaults.path:
        return
    for thing in objects.of_kind(TELEMETRY, "Telemetry"):
        for index, entry in listed(thing.spec, "accessLogging"):
            if entry.get("disabled") is not True and not any(True for _ in listed(entry, "providers")):
                place = objects.place(thing.document, f".spec.accessLogging[{index}]")
                yield finding("unknown-provider", "names no provider, and MeshConfig has none for such", place)


def _alternatives(objects: Objects) -> Iterator[Finding]:
    """Objects that stand several times: in one file by mistake, in several as variants."""
    in_files: dict[tuple[str, ...], list[Thing]] = {}
    for first, other in objects.alternatives:
        files = [objects.place(one.document) for one in (first, other)]
        if files[0].file == files[1].file:
            where = f"document {files[0].document}" + (f" (line {files[0].line})" if files[0].line else "")
            text = f"stands in {where} of the same file, too: a cluster has the last, a Mesh the first"
            yield finding("twice-in-file", text, files[1], (files[0],))
        else:
            in_files.setdefault(first.key, [first]).append(other)
    if in_files:
        names = [f"{things[0].kind}/{things[0].name} ({len(things)})" for things in in_files.values()]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        others = tuple(objects.place(one.document) for things in in_files.values() for one in things)
        yield finding("alternatives", f"stand several times: {', '.join(names[:3])}{more}", others=others)


# `cluster outbound|80||a: …` and `route 'default' of outbound|80||a: …`: what it is of, and what it is.
_NOTE = re.compile(r"((?:cluster|route|virtual host) .*?(?: of \S+)?): (.*)", re.DOTALL)


def _over_grpc(state: FolderState) -> Iterator[Finding]:
    """What gRPC channels do otherwise: by what it is, since a default is that of each service."""
    by_reason: dict[str, list[str]] = {}
    for note in notes_of(state.grpc):
        found = _NOTE.fullmatch(note)
        of_what, reason = (found[1], found[2]) if found is not None else ("", note)
        by_reason.setdefault(reason, []).append(of_what)
    for reason, names in by_reason.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield finding("over-grpc", f"{reason} ({names[0]}{more})" if names[0] else reason)


def _not_ours(sources: Sources, state: FolderState, objects: Objects) -> tuple[Mapping[str, int], int]:
    """How many documents of which kinds nothing is made of, and in how many files."""
    counts: Counter[str] = Counter(sources.others.values())
    files: set[Path] = set(sources.others)
    for path, documents in sources.documents.items():
        for one in documents:
            if _is_not_ours(one):
                counts[_kind_of(one, path)] += 1
                files.add(path)
    for_gateways: dict[Place, str] = {}
    for problem in state.problems:
        document, place, _ = objects.split(problem.text)
        if document is not None and document.kind is not None and is_for_gateways(problem.text):
            for_gateways[objects.place(document)] = f"{place.kind} for gateways"
            files.add(Path(place.file))
    counts.update(for_gateways.values())
    return dict(sorted(counts.items())), len(files)


def _is_not_ours(document: Document) -> bool:
    if document.kind == CONFIG_MAP:
        metadata = document.data.get("metadata")
        return document.fault is None and not (isinstance(metadata, dict) and metadata.get("name") == MESH_CONFIG)
    return document.kind is None and document.fault is None and "@type" not in document.data


def _kind_of(document: Document, path: Path) -> str:
    kind = document.data.get("kind")
    return kind if isinstance(kind, str) and kind else f"document without a kind ({path.name})"
