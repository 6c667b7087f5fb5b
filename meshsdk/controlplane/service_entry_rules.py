"""What a ServiceEntry and a WorkloadEntry must be for Istio's own servers to take them.

Source: istio pkg/config/validation/validation.go (ValidateServiceEntry, validateWorkloadEntry).
"""

from __future__ import annotations

from .authorization_rules import parse_network
from .checks import (
    check_address_or_host,
    check_export_to,
    check_full_host,
    check_host,
    check_labels,
    check_name,
    check_ports,
    check_selector,
    is_address,
)
from .fields import Fields

__all__ = ["check_service_entry", "check_workload_entry"]

_UNIX = "unix://"
_HTTP_OR_TLS = ("HTTP", "HTTP2", "HTTP_PROXY", "GRPC", "GRPC-WEB", "HTTPS", "TLS")
_PROTOCOLS = ("", *_HTTP_OR_TLS, "TCP", "UDP", "MONGO", "REDIS", "MYSQL")
_DNS = ("DNS", "DNS_ROUND_ROBIN")


def check_service_entry(spec: Fields, namespace: str) -> None:
    """All of it."""
    resolution, hosts = spec.text("resolution") or "NONE", spec.texts("hosts")
    selector = spec.child("workloadSelector")
    endpoints = list(spec.children("endpoints"))
    if selector is not None:
        check_selector(selector, "labels")
        if endpoints:
            raise spec.error("endpoints", "cannot stand beside workloadSelector")
    for host in hosts:
        check_host(spec, "hosts", host)
        if host == "*":
            raise spec.error("hosts", "'*' is no host of a service")
        if resolution in _DNS and not endpoints:
            check_full_host(spec, "hosts", host)
    _check_addresses(spec, resolution)
    ports = _check_service_ports(spec, hosts, resolution)
    if endpoints and resolution == "NONE":
        raise spec.error("endpoints", "cannot stand beside resolution NONE")
    if len(endpoints) > 1 and resolution == "DNS_ROUND_ROBIN":
        raise spec.error("endpoints", "must be one at most with resolution DNS_ROUND_ROBIN")
    for endpoint in endpoints:
        _check_endpoint(endpoint, ports, may_be_host=resolution in _DNS)
    check_export_to(spec, namespace, may_be_nobody=True)


def _check_addresses(spec: Fields, resolution: str) -> None:
    for address in spec.texts("addresses"):
        try:
            parse_network(address)
        except ValueError as error:
            raise spec.error("addresses", f"{address!r} is no address or range: {error}") from error
        if "/" in address and resolution not in ("NONE", "STATIC"):
            raise spec.error("addresses", f"{address!r}: ranges are for resolution NONE and STATIC")


def _check_service_ports(spec: Fields, hosts: tuple[str, ...], resolution: str) -> dict[str, int]:
    ports: dict[str, int] = {}
    for port in spec.children("ports"):
        name, number = port.required_text("name"), port.integer("number", low=1, high=65535) or 0
        check_name(port, "name", name)
        if name in ports:
            raise port.error("name", f"{name!r} stands twice")
        if number in ports.values():
            raise port.error("number", f"{number} stands twice")
        protocol = port.text("protocol").upper()
        if protocol not in _PROTOCOLS:
            raise port.error("protocol", f"{port.text('protocol')!r} is not known")
        if len(hosts) > 1 and resolution != "NONE" and protocol not in _HTTP_OR_TLS:
            raise port.error("protocol", "must be HTTP or TLS: without either hosts cannot be told apart")
        ports[name] = number
    return ports


def _check_endpoint(endpoint: Fields, ports: dict[str, int], *, may_be_host: bool) -> None:
    address = endpoint.text("address")
    if address and not may_be_host and not address.startswith(_UNIX) and not is_address(address):
        raise endpoint.error("address", f"{address!r} must be an IP address: the service's resolution is STATIC")
    if address.startswith(_UNIX) and may_be_host:
        raise endpoint.error("address", f"{address!r} must be a host or an IP address: the service's resolution is DNS")
    if address.startswith(_UNIX) and len(ports) != 1:
        raise endpoint.error("address", "needs a service with one port: it is a unix socket")
    check_workload_entry(endpoint, ports)


def check_workload_entry(spec: Fields, ports: dict[str, int] | None = None) -> None:
    """A WorkloadEntry, or an endpoint of a ServiceEntry.

    Args:
        spec: The entry.
        ports: Those of the ServiceEntry.
    """
    address = spec.text("address")
    if not address and not spec.text("network"):
        raise spec.error("address", "must be set")
    if address.startswith(_UNIX):
        path = address.removeprefix(_UNIX)
        if not path.startswith("@") and (not path.startswith("/") or path.endswith("/")):
            raise spec.error("address", f"{address!r} must name a socket by an absolute path, or begin with @")
        if spec.integers("ports"):
            raise spec.error("ports", "cannot stand beside a unix socket")
    elif address:
        check_address_or_host(spec, "address", address)
    check_ports(spec, ports)
    check_labels(spec, "labels")
