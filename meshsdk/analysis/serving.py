"""Who serves: services without endpoints, and ports that no workload has.

Theory of operation. Files of a cluster's state have Pods and EndpointSlices, and what nobody serves there is down.
Manifests have Deployments, of which a cluster makes pods: there a selector is compared with their templates. Files that
have neither say nothing of who serves, and are told so once.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from ..controlplane.world import Service, World
from .findings import Finding, finding
from .objects import NETWORKING, Objects, Thing, Workload, labels, listed, mapping, text, texts

__all__ = ["find_in_port_policies", "find_in_services"]


class _Unserved(Struct):
    """Services that nobody serves yet.

    Attributes:
        by_cluster: A cluster makes their pods.
        unknown: Nobody says.
    """

    by_cluster: list[Thing]
    unknown: list[Thing]


def find_in_services(objects: Objects, world: World) -> Iterator[Finding]:
    """Services, and ports of theirs, that nobody serves."""
    unserved = _Unserved([], [])
    for thing in objects.of_kind("", "Service"):
        if text(thing.spec, "type") != "ExternalName":
            service = world.services.get(objects.full_host(f"{thing.name}.{thing.namespace}.svc.{objects.domain}", ""))
            if service is not None:
                yield from _of_service(objects, thing, service, unserved)
    for thing in objects.of_kind(NETWORKING, "ServiceEntry"):
        yield from _of_entry(objects, thing, world, unserved)
    if unserved.by_cluster:
        places = tuple(objects.place(one.document) for one in unserved.by_cluster)
        yield finding("pods-elsewhere", f"a cluster makes the pods of {_named(unserved.by_cluster)}", others=places)
    if unserved.unknown:
        places = tuple(objects.place(one.document) for one in (*unserved.unknown, *_rules_with_subsets(objects)))
        said = f"nothing is known of who serves {_named(unserved.unknown)}"
        yield finding("workloads-elsewhere", said, others=places)


def _named(things: list[Thing]) -> str:
    names = [f"{one.namespace}/{one.name}" for one in things]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _rules_with_subsets(objects: Objects) -> Iterator[Thing]:
    """What would be looked up, were there any workload."""
    for rule in objects.of_kind(NETWORKING, "DestinationRule"):
        if any(True for _ in listed(rule.spec, "subsets")):
            yield rule


def _of_service(objects: Objects, thing: Thing, service: Service, unserved: _Unserved) -> Iterator[Finding]:
    selector = labels(thing.spec, "selector")
    workloads = objects.selected(selector, thing.namespace) if selector else []
    yield from _named_ports(objects, thing, workloads)
    served = {number for number, entries in service.endpoints.items() if any(one.is_ready for one in entries)}
    if not objects.has_workloads:
        unserved.unknown.append(thing)
        return
    if all(port.number in served for port in service.ports):
        return
    templates = [one for one in workloads if one.is_template]
    if objects.is_live and not selector and not objects.names_endpoints:
        return  # `kubectl get all` has pods, and neither EndpointSlices nor Endpoints, where alone it would stand.
    if templates and not objects.is_live:
        unserved.by_cluster.append(thing)
    elif not served:
        yield finding("no-endpoints", _why(objects, thing, service, workloads), objects.place(thing.document))
    else:
        for index, port in enumerate(service.ports):
            if port.number not in served:
                place = objects.place(thing.document, f".spec.ports[{index}]")
                yield finding("no-endpoints", f"nobody serves port {port.number} ({port.name or 'no name'})", place)


def _why(objects: Objects, thing: Thing, service: Service, workloads: list[Workload]) -> str:
    if any(entries for entries in service.endpoints.values()):
        return f"none of the endpoints of {service.host} is ready"
    selector = labels(thing.spec, "selector")
    if not selector:
        return f"{service.host} has no selector, and no EndpointSlice or Endpoints has its name"
    shown = ", ".join(f"{name}={value}" for name, value in selector.items())
    if workloads:
        return f"of those that {service.host} selects ({shown}) none has an address and its ports"
    elsewhere = objects.selected(selector)
    also = f"; {elsewhere[0].thing.label} has, in another namespace" if elsewhere else ""
    return f"no workload of namespace {thing.namespace} has the labels that {service.host} selects: {shown}{also}"


def _named_ports(objects: Objects, thing: Thing, workloads: list[Workload]) -> Iterator[Finding]:
    """A targetPort that is a name: some container must have it, or a WorkloadEntry."""
    for index, port in listed(thing.spec, "ports"):
        target = text(port, "targetPort")
        own = text(port, "name")
        if not target or not workloads or text(port, "protocol") not in ("", "TCP"):
            continue
        if not any(
            {target, own if one.thing.kind == "WorkloadEntry" else target} & one.port_names for one in workloads
        ):
            known = ", ".join(sorted({name for one in workloads for name in one.port_names})) or "none"
            text_of = f"no workload that {thing.name} selects has a port named {target!r}; named are {known}"
            yield finding(
                "port-without-workload", text_of, objects.place(thing.document, f".spec.ports[{index}].targetPort")
            )


def _of_entry(objects: Objects, thing: Thing, world: World, unserved: _Unserved) -> Iterator[Finding]:
    """A ServiceEntry whose selector selects nobody, or that names no endpoint though it looks none up."""
    for host in dict.fromkeys(texts(thing.spec, "hosts")):
        service = world.services.get(host.lower())
        if service is None or service.where.split(" ServiceEntry/")[0] != thing.document.where:
            continue
        if text(thing.spec, "resolution") not in ("STATIC", "DNS") or any(service.endpoints.values()):
            continue
        if not objects.has_workloads:
            unserved.unknown.append(thing)
        else:
            why = "no workload that it selects is there" if service.selector else "it names no endpoint"
            yield finding("no-endpoints", f"nobody serves {host}: {why}", objects.place(thing.document))
        return


def find_in_port_policies(objects: Objects, world: World) -> Iterator[Finding]:
    """`portLevelMtls` of a number that is a Service's port, and not the workload's, which it must be."""
    for policy in objects.of_kind("security.istio.io", "PeerAuthentication"):
        selector = labels(policy.spec, "selector", "matchLabels")
        own = objects.selected(selector, policy.namespace) if selector else []
        if not own:
            continue
        services = [
            service
            for service in world.services.values()
            if service.selector and any(service.namespace == one.namespace and _selects(service, one) for one in own)
        ]
        targets = {
            port.target if isinstance(port.target, int) else port.number for one in services for port in one.ports
        }
        has_names = any(isinstance(port.target, str) for one in services for port in one.ports)
        numbers = {number for one in own for number in _numbers(one)}
        for key in mapping(policy.spec, "portLevelMtls"):
            number = int(key) if isinstance(key, int | str) and str(key).isdecimal() else 0
            mapped = [port for service in services for port in service.ports if port.number == number != port.target]
            if not mapped or number in targets | numbers or has_names:
                continue
            port = mapped[0]
            text_of = (
                f"no workload that it selects has port {number}: it is the Service's, the workload's is {port.target}"
            )
            place = objects.place(policy.document, f".spec.portLevelMtls[{key!r}]")
            yield finding("port-without-workload", text_of, place)


def _selects(service: Service, workload: Workload) -> bool:
    return service.selector.items() <= workload.labels.items()


def _numbers(workload: Workload) -> Iterator[int]:
    data = workload.thing.spec
    if workload.thing.kind == "WorkloadEntry":
        yield from (one for one in mapping(data, "ports").values() if isinstance(one, int))
    pod = data if workload.thing.kind == "Pod" else mapping(data, "template", "spec")
    for _, container in listed(pod, "containers"):
        for _, port in listed(container, "ports"):
            number = port.get("containerPort")
            if isinstance(number, int):
                yield number
