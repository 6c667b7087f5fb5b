"""The objects by which a mesh knows a workload: a Service, a WorkloadEntry, and how it is to be spoken to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ..errors import ConfigError
from .held_port import HOST

__all__ = ["Workload", "make_objects"]


class Workload(Struct, frozen=True):
    """One workload of a service.

    Attributes:
        service: The service's name.
        namespace: The service's, and its own.
        port: Of the service.
        protocol: That the port speaks, as Istio has it in a port's name: `http`, `http2`, `grpc`, …
        labels: Besides those by which the service selects it.
        service_account: Who it is.
        mtls: Mode of a PeerAuthentication for the service's workloads; None is what else is said.
    """

    service: str
    namespace: str
    port: int
    protocol: str
    labels: Mapping[str, str]
    service_account: str
    mtls: str | None = None

    def all_labels(self, selector: Mapping[str, str]) -> dict[str, str]:
        """Its labels where its service selects by these."""
        return {**selector, **self.labels}


def make_objects(
    workload: Workload, name: str, own_port: int, known: Mapping[str, Any] | None
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The objects, and the workload's labels.

    Args:
        workload: What they are for.
        name: Of this one.
        own_port: That it listens on, on the loopback.
        known: The Service, where there is one already.

    Raises:
        ConfigError: That Service has no such port, or selects nothing.
    """
    objects: list[dict[str, Any]] = []
    if known is None:
        selector, port_name = {"app": workload.service}, workload.protocol
        ports = [{"name": port_name, "port": workload.port}]
        objects.append(_object("v1", "Service", workload.service, workload, {"selector": selector, "ports": ports}))
    else:
        selector, port_name = _of_service(known, workload)
    labels = workload.all_labels(selector)
    entry = {
        "address": HOST,
        "labels": labels,
        "serviceAccount": workload.service_account,
        "ports": {port_name: own_port},
    }
    objects.append(_object("networking.istio.io/v1", "WorkloadEntry", name, workload, entry))
    if workload.mtls is not None:
        peers = {"selector": {"matchLabels": selector}, "mtls": {"mode": workload.mtls}}
        objects.append(_object("security.istio.io/v1", "PeerAuthentication", workload.service, workload, peers))
    return objects, labels


def _object(version: str, kind: str, name: str, workload: Workload, spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": workload.namespace}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _of_service(known: Mapping[str, Any], workload: Workload) -> tuple[dict[str, str], str]:
    where = f"Service {workload.namespace}/{workload.service}"
    spec = known.get("spec") or {}
    selector = spec.get("selector")
    if not selector:
        raise ConfigError(f"{where}.spec.selector", "selects nothing, so no workload can be of it")
    ports = {port.get("port"): port.get("name", "") for port in spec.get("ports") or ()}
    if workload.port not in ports:
        raise ConfigError(f"{where}.spec.ports", f"has no port {workload.port} (has {sorted(ports)})")
    return dict(selector), ports[workload.port]
