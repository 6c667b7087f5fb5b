"""Selectors that select nobody, and objects of which one alone can hold for a workload."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from ..controlplane.world import World
from .findings import Finding, finding
from .objects import NETWORKING, Objects, Thing, labels, listed, mapping, texts

__all__ = ["find_conflicts", "find_in_namespaces", "find_selectors"]

SECURITY = "security.istio.io"
TELEMETRY = "telemetry.istio.io"


class _Selecting(Struct, frozen=True):
    """An object that is for some workloads.

    Attributes:
        selector: None is all of a namespace.
        path: Of the selector's labels.
    """

    thing: Thing
    selector: Mapping[str, str] | None
    path: str


def _selecting(objects: Objects) -> Iterator[_Selecting]:
    for thing in objects.of_kind(NETWORKING, "Sidecar"):
        own = labels(thing.spec, "workloadSelector", "labels")
        yield _Selecting(thing, own or None, ".spec.workloadSelector.labels")
    policies = objects.of_kind(SECURITY, "AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication")
    for thing in (*policies, *objects.of_kind(TELEMETRY, "Telemetry")):
        if "targetRefs" not in thing.spec and "targetRef" not in thing.spec:
            own = labels(thing.spec, "selector", "matchLabels")
            yield _Selecting(thing, own or None, ".spec.selector.matchLabels")


def find_selectors(objects: Objects, world: World) -> Iterator[Finding]:
    """Objects that are for no workload at all."""
    if not objects.has_workloads:
        selecting = [one.thing for one in _selecting(objects) if one.selector is not None or _is_authorization(one)]
        if selecting:
            names = [f"{one.kind}/{one.name}" for one in selecting]
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            others = tuple(objects.place(one.document) for one in selecting)
            yield finding(
                "workloads-elsewhere", f"so it is not known for whom {', '.join(names[:5])}{more} are", others=others
            )
        return
    root = world.security.mesh.root_namespace
    for one in _selecting(objects):
        namespace = one.thing.namespace
        is_mesh_wide = namespace == root and one.thing.kind not in ("Sidecar", "Telemetry")
        if one.selector is None:
            if _is_authorization(one) and not is_mesh_wide and not objects.selected({}, namespace):
                yield finding(
                    "selects-nothing", f"namespace {namespace} has no workload", objects.place(one.thing.document)
                )
        elif not objects.selected(one.selector, "" if is_mesh_wide else namespace):
            shown = ", ".join(f"{name}={value}" for name, value in one.selector.items())
            elsewhere = objects.selected(one.selector)
            also = f"; {elsewhere[0].thing.label} has" if elsewhere else ""
            where = "no workload" if is_mesh_wide else f"no workload of namespace {namespace}"
            yield finding("selects-nothing", f"{where} has {shown}{also}", objects.place(one.thing.document, one.path))


def _is_authorization(one: _Selecting) -> bool:
    return one.thing.kind == "AuthorizationPolicy"


def find_conflicts(objects: Objects) -> Iterator[Finding]:
    """Sidecars and Telemetry objects that are for the same workloads."""
    for kind, code in (("Sidecar", "conflicting-sidecars"), ("Telemetry", "conflicting-telemetries")):
        of_all: dict[str, list[Thing]] = {}
        of_some: dict[tuple[str, ...], list[_Selecting]] = {}
        for one in _selecting(objects):
            if one.thing.kind == kind and one.selector is None:
                of_all.setdefault(one.thing.namespace, []).append(one.thing)
            elif one.thing.kind == kind and one.selector is not None:
                for workload in objects.selected(one.selector, one.thing.namespace):
                    of_some.setdefault(workload.thing.key, []).append(one)
        for namespace, things in of_all.items():
            if len(things) > 1:
                yield from _conflict(objects, code, things, f"all of namespace {namespace}")
        told: set[Thing] = set()
        for key, several in of_some.items():
            others = [one.thing for one in several]
            if len(others) > 1 and not told.issuperset(others):
                yield from _conflict(
                    objects, code, [one for one in others if one not in told], f"{key[1]} {key[3]}", others
                )
                told.update(others)


def _conflict(
    objects: Objects, code: str, things: list[Thing], for_whom: str, among: list[Thing] | None = None
) -> Iterator[Finding]:
    for thing in things:
        others = [one for one in (among or things) if one is not thing]
        names = ", ".join(one.name for one in others)
        places = tuple(objects.place(one.document) for one in others)
        yield finding(code, f"is for {for_whom}, as {names} is", objects.place(thing.document), places)


def find_in_namespaces(objects: Objects) -> Iterator[Finding]:
    """Namespaces that AuthorizationPolicies name; where the files have Namespaces, and so tell which there are."""
    known = {one.name for one in objects.of_kind("", "Namespace")}
    if not known:
        return
    known |= {one.namespace for one in objects.workloads}
    for policy in objects.of_kind(SECURITY, "AuthorizationPolicy"):
        for place, rule in listed(policy.spec, "rules"):
            for number, one in listed(rule, "from"):
                for name in ("namespaces", "notNamespaces"):
                    for index, value in enumerate(texts(mapping(one, "source"), name)):
                        if not any(_matches(value, namespace) for namespace in known):
                            path = f".spec.rules[{place}].from[{number}].source.{name}[{index}]"
                            text_of = f"{value!r} is none of these files' namespaces"
                            yield finding("unknown-namespace", text_of, objects.place(policy.document, path))


def _matches(pattern: str, namespace: str) -> bool:
    """A value of a source: exact, or with a star at one end."""
    if pattern == "*":
        return True
    if pattern.startswith("*"):
        return namespace.endswith(pattern[1:])
    return namespace.startswith(pattern[:-1]) if pattern.endswith("*") else namespace == pattern
