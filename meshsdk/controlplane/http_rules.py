"""Where requests go: VirtualServices and what stands in their http routes, by Istio's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct, field

from .age import UNKNOWN_AGE, Age
from .client import Client

__all__ = [
    "ByteMatch",
    "ByteRoute",
    "Destination",
    "HeaderOperations",
    "HttpFault",
    "HttpMatch",
    "HttpRedirect",
    "HttpRetry",
    "HttpRoute",
    "StringMatch",
    "VirtualService",
    "holds_for",
    "is_internal_header",
]


class StringMatch(Struct, frozen=True):
    """istio.networking.v1.StringMatch: `kind` is exact, prefix or regex.

    A path of Gateway API may also have a path_separated_prefix, which ends where a segment of the path does.
    """

    kind: str
    value: str


class HttpMatch(Struct, frozen=True):
    """istio.networking.v1.HTTPMatchRequest; all that is set must hold.

    Attributes:
        source_labels, source_namespace: Of clients.
    """

    name: str = ""
    uri: StringMatch | None = None
    ignore_uri_case: bool = False
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: Mapping[str, StringMatch | None] = field(default_factory=dict)
    without_headers: Mapping[str, StringMatch | None] = field(default_factory=dict)
    query_params: Mapping[str, StringMatch | None] = field(default_factory=dict)
    port: int | None = None
    source_labels: Mapping[str, str] = field(default_factory=dict)
    source_namespace: str = ""


class HeaderOperations(Struct, frozen=True):
    """istio.networking.v1.Headers.HeaderOperations."""

    set: Mapping[str, str] = field(default_factory=dict)
    add: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()

    @property
    def authority(self) -> str:
        """What Host or :authority is set or added to; empty where it is left as it is (route.go, isAuthorityHeader)."""
        found = [
            value
            for headers in (self.set, self.add)
            for name, value in headers.items()
            if name.lower() in ("host", ":authority")
        ]
        return found[0] if found else ""


def is_internal_header(name: str) -> bool:
    """Whether Envoy does not change it as a header (route.go, isInternalHeader)."""
    return name.startswith(":") or name.lower() == "host"


class Destination(Struct, frozen=True):
    """Where a route sends to (HTTPRouteDestination); host is a full name, or empty where nobody knows a host."""

    host: str
    subset: str = ""
    port: int | None = None
    weight: int = 0
    request_headers: HeaderOperations = HeaderOperations()
    response_headers: HeaderOperations = HeaderOperations()


class HttpRetry(Struct, frozen=True):
    """istio.networking.v1.HTTPRetry."""

    attempts: int
    per_try_timeout_seconds: float | None = None
    retry_on: str = ""
    backoff_seconds: float | None = None
    ignores_previous_hosts: bool | None = None
    uses_remote_localities: bool = False


class HttpFault(Struct, frozen=True):
    """istio.networking.v1.HTTPFaultInjection; percentages 0 to 100."""

    delay_seconds: float = 0.0
    delay_percent: float = 0.0
    abort_status: int = 0
    abort_grpc_status: int | None = None
    abort_percent: float = 0.0


class HttpRedirect(Struct, frozen=True):
    """istio.networking.v1.HTTPRedirect."""

    uri: str = ""
    authority: str = ""
    port: int | None = None
    scheme: str = ""
    code: int = 301
    keeps_request_port: bool = False
    prefix_rewrite: str = ""


class HttpRoute(Struct, frozen=True):
    """istio.networking.v1.HTTPRoute.

    Attributes:
        delegate: Namespace and name of the VirtualService whose routes take its place.
        missing_cluster_status: What requests to a destination get that there is not.
    """

    name: str = ""
    matches: tuple[HttpMatch, ...] = ()
    destinations: tuple[Destination, ...] = ()
    redirect: HttpRedirect | None = None
    direct_status: int | None = None
    direct_body: str | bytes = ""
    rewrite_uri: str = ""
    rewrite_regex: tuple[str, str] | None = None
    rewrite_authority: str = ""
    timeout_seconds: float | None = None
    retry: HttpRetry | None = None
    fault: HttpFault | None = None
    mirrors: tuple[tuple[Destination, float], ...] = ()
    request_headers: HeaderOperations = HeaderOperations()
    response_headers: HeaderOperations = HeaderOperations()
    delegate: tuple[str, str] | None = None
    missing_cluster_status: int = 503

    def every_destination(self) -> Iterator[Destination]:
        """Where it sends to, mirrors included."""
        yield from self.destinations
        yield from (destination for destination, _ in self.mirrors)


class ByteMatch(Struct, frozen=True):
    """istio.networking.v1.TLSMatchAttributes and L4MatchAttributes.

    Attributes:
        sni_hosts: Of a tls route; a host may be a wildcard.
    """

    sni_hosts: tuple[str, ...] = ()
    port: int | None = None
    source_labels: Mapping[str, str] = field(default_factory=dict)
    source_namespace: str = ""


def holds_for(client: Client, match: HttpMatch | ByteMatch, port: int) -> bool:
    """Whether a match is for a client at a port; the rest of it is about what the client sends."""
    return (
        match.port in (None, port)
        and client.has(match.source_labels)
        and match.source_namespace in ("", client.namespace)
    )


class ByteRoute(Struct, frozen=True):
    """istio.networking.v1.TLSRoute and TCPRoute: where connections go that carry bytes."""

    matches: tuple[ByteMatch, ...]
    destinations: tuple[Destination, ...]


class VirtualService(Struct, frozen=True):
    """istio.networking.v1.VirtualService; hosts are full names. One without hosts is for others to delegate to.

    Attributes:
        export_to: Namespaces for whose clients it holds; empty is all.
        is_of_gateway_api: It is made of HTTPRoutes and GRPCRoutes, which hold for clients of their own namespace, and
            for everybody where the service is of that namespace.
    """

    name: str
    namespace: str
    hosts: tuple[str, ...]
    routes: tuple[HttpRoute, ...]
    where: str = ""
    tls: tuple[ByteRoute, ...] = ()
    tcp: tuple[ByteRoute, ...] = ()
    export_to: tuple[str, ...] = ()
    age: Age = UNKNOWN_AGE
    is_of_gateway_api: bool = False

    def every_destination(self, client_namespace: str = "") -> Iterator[Destination]:
        """Where it sends to, mirrors included.

        Args:
            client_namespace: Without those of HTTP routes that are for clients of other namespaces; empty is for any.
        """
        for route in self.routes:
            if client_namespace:
                namespaces = {match.source_namespace for match in route.matches} - {""}
                if namespaces and client_namespace not in namespaces:
                    continue
            yield from route.every_destination()
        for route_of_bytes in (*self.tls, *self.tcp):
            yield from route_of_bytes.destinations
