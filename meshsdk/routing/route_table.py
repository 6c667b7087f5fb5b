"""A listener's routes, compiled."""

from __future__ import annotations

from collections.abc import Callable

from ..resources import Listener, RouteConfiguration
from .compiled_filters import Buckets
from .compiled_route import CompiledRoute, compile_route
from .conditions import RandomFraction
from .path_normalization import compile_path_normalization, is_uniform
from .request_head import RequestHead
from .request_ids import compile_request_ids
from .rewrite import split_authority
from .route_index import RouteIndex
from .tracing import compile_tracing
from .virtual_hosts import VirtualHostIndex

__all__ = ["RouteTable"]

# A request made uniform, and the status of the answer that takes its place (400, or 307 to the new target); 0 is none.
Prepared = tuple[RequestHead, int]


class RouteTable:
    """Routes of one listener: from a request head to the route that matches.

    Attributes:
        routes: All of them, in no order.
        prepare: What the connection manager does to a request before its route is sought; None is nothing.
        identify: Gives a client's request its id.
        tells_ids: Responses have their request's.
        tracing: Decides on the traces of requests without a route; None leaves all to the application's OpenTelemetry.

    Raises:
        ResourceError: A format string is wrong.
    """

    def __init__(self, listener: Listener, configuration: RouteConfiguration) -> None:
        self.listener = listener
        self.configuration = configuration
        self.prepare = _compile_preparation(listener)
        self.identify = compile_request_ids(listener.request_ids)
        self.tells_ids = listener.request_ids.in_response
        self.tracing = compile_tracing(listener.tracing, listener.request_ids)
        self._vhost_header = configuration.vhost_header
        domains: dict[str, RouteIndex] = {}
        buckets = Buckets()
        for virtual_host in configuration.virtual_hosts:
            index = RouteIndex(
                [
                    compile_route(route, virtual_host, configuration, listener, buckets, place)
                    for place, route in enumerate(virtual_host.routes)
                ],
                ignore_parameters=configuration.ignore_path_parameters,
                require_tls=virtual_host.require_tls,
                spares_internal=virtual_host.spares_internal,
            )
            domains.update(dict.fromkeys(virtual_host.domains, index))
        self.routes = tuple(route for index in set(domains.values()) for route in index.routes)
        self._virtual_hosts = VirtualHostIndex(domains, ignore_port=configuration.ignore_port_in_host_matching)

    def find(self, head: RequestHead, random_fraction: RandomFraction) -> CompiledRoute | None:
        """The first route that matches, or None where no virtual host or no route of it does."""
        index = self.routes_for(head)
        return None if index is None else index.find(head, random_fraction)

    def routes_for(self, head: RequestHead) -> RouteIndex | None:
        """The routes of the virtual host of a request: by its authority, or by a header that takes its place."""
        if self._vhost_header:
            value = head.first_header(self._vhost_header)
            return None if value is None else self._virtual_hosts.find(value)
        return self._virtual_hosts.find(head.authority)


def _compile_preparation(listener: Listener) -> Callable[[RequestHead], Prepared] | None:
    if not (listener.paths or listener.strip_port or listener.strip_trailing_dot):
        return None
    normalize = compile_path_normalization(listener.paths)
    strips = bool(listener.strip_port or listener.strip_trailing_dot)

    def prepare(head: RequestHead) -> Prepared:
        target = head.target
        if not strips and is_uniform(target):
            return head, 0
        target, status = normalize(target)
        authority = _stripped(head, listener)
        if target == head.target and authority == head.authority:
            return head, status
        headers = head.raw_headers
        if authority != head.authority:
            host = authority.encode("latin-1")
            headers = [(name, host if name.lower() == b"host" else value) for name, value in headers]
        return RequestHead(head.method, head.scheme, authority, target, headers), status

    return prepare


def _stripped(head: RequestHead, listener: Listener) -> str:
    """The authority as strip_any_host_port, strip_matching_host_port and strip_trailing_host_dot leave it."""
    host, port = split_authority(head.authority)
    if listener.strip_port == "any" or (listener.strip_port == "matching" and port == _default_port(head.scheme)):
        port = ""
    if listener.strip_trailing_dot and host.endswith("."):
        host = host[:-1]
    return host + port


def _default_port(scheme: str) -> str:
    return ":443" if scheme == "https" else ":80"
