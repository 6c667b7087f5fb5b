"""The objects of some files, as they stand: also those with an error, and those that nothing is made of.

Theory of operation. What a Mesh makes of an object (`controlplane`) does not tell in which field a host was named, has
no Deployments, and leaves an object with an error out: nobody would know a Service's name any more, and every rule for
it would be told of, too. So rules are looked up here in the objects themselves, each value taken if it is of its kind.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..controlplane.documents import Document
from ..controlplane.labels import has_labels
from ..controlplane.lines import Places
from ..controlplane.names import full_host, service_host
from ..controlplane.world import covers_host, is_exported
from .places import PlaceBook

__all__ = ["Host", "Objects", "Thing", "Workload", "integer", "labels", "listed", "mapping", "text"]

NETWORKING = "networking.istio.io"
DISCOVERY = "discovery.k8s.io"
EXPORT_TO = "networking.istio.io/exportTo"

# Kinds whose pods a cluster makes, and where their template stands.
_TEMPLATES = {
    "Deployment": ("template",),
    "StatefulSet": ("template",),
    "DaemonSet": ("template",),
    "ReplicaSet": ("template",),
    "ReplicationController": ("template",),
    "Job": ("template",),
    "CronJob": ("jobTemplate", "spec", "template"),
    "DeploymentConfig": ("template",),
    "Rollout": ("template",),
}


def mapping(holder: Any, *names: str) -> Mapping[str, Any]:
    """What a path of fields leads to; empty where it is no object."""
    for name in names:
        holder = holder.get(name) if isinstance(holder, dict) else None
    return holder if isinstance(holder, dict) else {}


def listed(holder: Any, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a list, with their places; those that are no objects count, and are left out."""
    value = holder.get(name) if isinstance(holder, dict) else None
    for index, one in enumerate(value if isinstance(value, list) else ()):
        if isinstance(one, dict):
            yield index, one


def text(holder: Any, name: str) -> str:
    """A string; empty where it is none."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, str) else ""


def texts(holder: Any, name: str) -> list[str]:
    """The strings of a list."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def integer(holder: Any, name: str) -> int | None:
    """A whole number; None where it is none."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def labels(holder: Any, *names: str) -> dict[str, str]:
    """A map of strings, as far as it is one."""
    found = mapping(holder, *names)
    return {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, str)}


class Thing(Struct, frozen=True, eq=False):
    """One object."""

    group: str
    kind: str
    namespace: str
    name: str
    data: Mapping[str, Any]
    document: Document

    @property
    def spec(self) -> Mapping[str, Any]:
        """Its spec; empty where there is none."""
        return mapping(self.data, "spec")

    @property
    def label(self) -> str:
        """`VirtualService shop/reviews`."""
        return f"{self.kind} {self.namespace}/{self.name}"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """By which a cluster has one of it."""
        return self.group, self.kind, self.namespace, self.name


class Host(Struct, frozen=True, eq=False):
    """A host that rules may name.

    Attributes:
        ports: Their numbers; empty where nobody says.
        export_to: Namespaces that see it; empty is all.
        selector: Of its workloads.
    """

    host: str
    namespace: str
    ports: tuple[int, ...]
    export_to: tuple[str, ...]
    selector: Mapping[str, str]
    thing: Thing


class Workload(Struct, frozen=True, eq=False):
    """Who serves, or will: a Pod, a WorkloadEntry, or the pods that a Deployment and the like are for.

    Attributes:
        port_names: That targetPorts may name.
        is_template: A cluster makes pods of it, or is to run it.
    """

    namespace: str
    labels: Mapping[str, str]
    port_names: frozenset[str]
    thing: Thing
    is_template: bool = False


class Objects(PlaceBook):
    """All objects, those that a cluster would have: of several of one name the first.

    Args:
        files: Their documents.
        places: Where fields stand.
        domain: The cluster's DNS domain.
    """

    def __init__(self, files: Mapping[Path, tuple[Document, ...]], places: Places, domain: str) -> None:
        super().__init__(places)
        self.domain = domain
        self.every = [thing for found in files.values() for one in found if (thing := _thing(one)) is not None]
        firsts: dict[tuple[str, str, str, str], Thing] = {}
        self.alternatives: list[tuple[Thing, Thing]] = []
        for thing in self.every:
            first = firsts.setdefault(thing.key, thing)
            if first is not thing:
                self.alternatives.append((first, thing))
        self.firsts = list(firsts.values())

    def of_kind(self, group: str, *kinds: str, every: bool = False) -> list[Thing]:
        """The objects of some kinds.

        Args:
            group: Of their API.
            kinds: Their kinds.
            every: Those that stand beside others of the same name as well.
        """
        found = self._by_kind(self.every) if every else self._firsts_by_kind
        return [one for kind in kinds for one in found.get((group, kind), ())]

    @staticmethod
    def _by_kind(things: Iterable[Thing]) -> dict[tuple[str, str], list[Thing]]:
        found: dict[tuple[str, str], list[Thing]] = {}
        for one in things:
            found.setdefault((one.group, one.kind), []).append(one)
        return found

    @cached_property
    def _firsts_by_kind(self) -> dict[tuple[str, str], list[Thing]]:
        return self._by_kind(self.firsts)

    def full_host(self, host: str, namespace: str) -> str:
        """A host as Istio completes it."""
        return full_host(host, namespace, self.domain)

    @cached_property
    def hosts(self) -> dict[str, list[Host]]:
        """All hosts that Services and ServiceEntries define."""
        found: dict[str, list[Host]] = {}
        for host in self._hosts():
            found.setdefault(host.host, []).append(host)
        return found

    @cached_property
    def namespaces_of_services(self) -> frozenset[str]:
        """Those that Services stand in."""
        return frozenset(one.namespace for one in self.of_kind("", "Service"))

    @cached_property
    def _wildcards(self) -> list[Host]:
        return [one for name, found in self.hosts.items() if name.startswith("*") for one in found]

    def _hosts(self) -> Iterator[Host]:
        for thing in self.of_kind("", "Service"):
            ports = (number for _, one in listed(thing.spec, "ports") if (number := integer(one, "port")))
            annotation = labels(thing.data, "metadata", "annotations").get(EXPORT_TO, "")
            export_to = tuple(one.strip() for one in annotation.split(",") if one.strip())
            selector = labels(thing.spec, "selector")
            name = service_host(thing.name, thing.namespace, self.domain)
            yield Host(name, thing.namespace, tuple(ports), export_to, selector, thing)
        for thing in self.of_kind(NETWORKING, "ServiceEntry"):
            numbers = (number for _, one in listed(thing.spec, "ports") if (number := integer(one, "number")))
            ports_of_entry, export = tuple(numbers), tuple(texts(thing.spec, "exportTo"))
            selector = labels(thing.spec, "workloadSelector", "labels")
            for one in texts(thing.spec, "hosts"):
                yield Host(one.lower(), thing.namespace, ports_of_entry, export, selector, thing)

    def seen(self, host: str, namespace: str, export_to: Iterable[str] = ()) -> list[Host]:
        """The definitions of a host that clients see for whom a rule is.

        Args:
            host: In full.
            namespace: Of the rule.
            export_to: Of the rule; the namespaces of its clients.
        """
        clients = [namespace if one == "." else one for one in export_to] or [namespace]
        exact = self.hosts.get(host, [])
        covering = [one for one in self._wildcards if covers_host(one.host, host)]
        return [
            one
            for one in (*exact, *covering)
            if any(is_exported(one.export_to, one.namespace, client) for client in clients)
        ]

    def is_elsewhere(self, host: str) -> bool:
        """Whether the files do not say if there is a host: no Services of its namespace, and none that was meant."""
        if not self.hosts:
            return True
        inner = host.removesuffix(f".svc.{self.domain}")
        namespace = inner.partition(".")[2] if inner != host else ""
        return bool(namespace) and namespace not in self.namespaces_of_services and not self.meant(host)

    def meant(self, host: str) -> str:
        """The host that one is nearly: of the same namespace, or of the same name; empty where there is none."""
        domain = f".svc.{self.domain}"
        services = self.of_kind("", "Service")
        if not host.endswith(domain):
            others = [one for one in self.hosts if not one.endswith(domain)]
            return next(iter(difflib.get_close_matches(host, others, 1, 0.85)), "")
        name, _, namespace = host.removesuffix(domain).partition(".")
        names = [one.name for one in services if one.namespace == namespace]
        if near := difflib.get_close_matches(name, names, 1, 0.7):
            return f"{near[0]}.{namespace}{domain}"
        namespaces = [one.namespace for one in services if one.name == name]
        near = difflib.get_close_matches(namespace, namespaces, 1, 0.7)
        return f"{name}.{near[0]}{domain}" if near else ""

    @cached_property
    def workloads(self) -> list[Workload]:
        """All that serve, or will."""
        found = []
        for thing in self.firsts:
            metadata = mapping(thing.data, "metadata")
            if (thing.group, thing.kind) == ("", "Pod"):
                is_running = bool(text(mapping(thing.data, "status"), "podIP"))
                found.append(_of_pod(thing, labels(metadata, "labels"), thing.spec, is_template=not is_running))
            elif (thing.group, thing.kind) == (NETWORKING, "WorkloadEntry"):
                own = {**labels(thing.spec, "labels"), **labels(metadata, "labels")}
                found.append(Workload(thing.namespace, own, frozenset(mapping(thing.spec, "ports")), thing))
            elif thing.kind in _TEMPLATES:
                template = mapping(thing.spec, *_TEMPLATES[thing.kind])
                if template:
                    own = labels(template, "metadata", "labels")
                    found.append(_of_pod(thing, own, mapping(template, "spec"), is_template=True))
        return found

    @property
    def has_workloads(self) -> bool:
        """Whether the files say who serves, or will."""
        return bool(self.workloads) or self.names_endpoints

    @cached_property
    def names_endpoints(self) -> bool:
        """Whether there are EndpointSlices or Endpoints."""
        return bool(self.of_kind("", "Endpoints") or self.of_kind(DISCOVERY, "EndpointSlice"))

    @cached_property
    def is_live(self) -> bool:
        """Whether it is the state of a cluster: with pods that run, or endpoints that are pods."""
        if any(one.thing.kind == "Pod" and not one.is_template for one in self.workloads):
            return True
        slices = self.of_kind(DISCOVERY, "EndpointSlice")
        subsets = [one for thing in self.of_kind("", "Endpoints") for _, one in listed(thing.data, "subsets")]
        addresses = [address for one in subsets for _, address in listed(one, "addresses")]
        addresses += [endpoint for thing in slices for _, endpoint in listed(thing.data, "endpoints")]
        return any(text(mapping(one, "targetRef"), "kind") == "Pod" for one in addresses)

    def selected(self, selector: Mapping[str, str], namespace: str = "") -> list[Workload]:
        """The workloads that have some labels, of a namespace or of all."""
        of_labels = [self._by_label.get(label, []) for label in selector.items()]
        found = min(of_labels, key=len) if of_labels else self.workloads
        return [
            one for one in found if (not namespace or one.namespace == namespace) and has_labels(one.labels, selector)
        ]

    @cached_property
    def _by_label(self) -> dict[tuple[str, str], list[Workload]]:
        found: dict[tuple[str, str], list[Workload]] = {}
        for one in self.workloads:
            for label in one.labels.items():
                found.setdefault(label, []).append(one)
        return found


def _thing(document: Document) -> Thing | None:
    data = document.data
    kind, version = data.get("kind"), data.get("apiVersion")
    metadata = data.get("metadata")
    if document.fault is not None or not isinstance(kind, str) or not isinstance(version, str):
        return None
    if not isinstance(metadata, dict) or not (name := text(metadata, "name")):
        return None
    namespace = text(metadata, "namespace") or "default"
    return Thing(version.rpartition("/")[0], kind, namespace, name, data, document)


def _of_pod(thing: Thing, own: Mapping[str, str], spec: Mapping[str, Any], *, is_template: bool = False) -> Workload:
    containers = [one for name in ("containers", "initContainers") for _, one in listed(spec, name)]
    names = frozenset(text(port, "name") for one in containers for _, port in listed(one, "ports"))
    return Workload(thing.namespace, own, names - {""}, thing, is_template)
