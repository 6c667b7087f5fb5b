"""A listener's routes, compiled."""

from __future__ import annotations

from ..resources import Listener, RouteConfiguration
from .compiled_route import CompiledRoute, compile_route
from .conditions import RandomFraction
from .request_head import RequestHead
from .route_index import RouteIndex
from .virtual_hosts import VirtualHostIndex

__all__ = ["RouteTable"]


class RouteTable:
    """Routes of one listener: from a request head to the route that matches.

    Raises:
        ResourceError: A header value's format is wrong.
    """

    def __init__(self, listener: Listener, configuration: RouteConfiguration) -> None:
        self.listener = listener
        self.configuration = configuration
        domains: dict[str, RouteIndex] = {}
        for virtual_host in configuration.virtual_hosts:
            index = RouteIndex(
                [compile_route(route, virtual_host, configuration, listener) for route in virtual_host.routes]
            )
            domains.update(dict.fromkeys(virtual_host.domains, index))
        self._virtual_hosts = VirtualHostIndex(domains, ignore_port=configuration.ignore_port_in_host_matching)

    def find(self, head: RequestHead, random_fraction: RandomFraction) -> CompiledRoute | None:
        """The first route that matches, or None where no virtual host or no route of it does."""
        index = self._virtual_hosts.find(head.authority)
        return None if index is None else index.find(head, random_fraction)

    def routes_for(self, authority: str) -> RouteIndex | None:
        """The routes of the virtual host of an authority."""
        return self._virtual_hosts.find(authority)
