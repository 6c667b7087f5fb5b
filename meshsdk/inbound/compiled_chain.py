"""One filter chain of a server, compiled: what its connections' requests pass.

Theory of operation.

    request ──► made uniform ──► route ──► its filters, in order ──► the application
                  │ bad path       │ none: those of the listener
                  ▼                ▼
               400, 307        answers: 401, 403, 429, redirect, …

The route's own changes of headers and path come after the filters, as in Envoy's router; answers pass the response
changes of the filters that saw the request.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..errors import PeerIdentityError
from ..exchange.configured_answer import configured_answer
from ..exchange.local_reply import LocalReply, no_route, path_refused, redirect_to
from ..exchange.request_changes import changed_request
from ..request_id import NAME, carried
from ..resources import (
    ForwardAction,
    HeaderMutations,
    NonForwardingAction,
    RouteConfiguration,
    WeightedCluster,
)
from ..resources.listener import FilterChain, ServerManager
from ..routing import CompiledRoute, RequestHead, RouteTable, apply_mutations
from ..routing.compiled_forward import Destination, filter_levels, mutation_levels
from ..routing.header_mutation import MutationLevel
from ..routing.timeouts import is_grpc
from ..routing.tracing import Traced
from ..security import check_peer
from .asked import NOTHING, asked_of, header_facts
from .connection import Connection, Fact
from .filters.compiling import NO_LIMITS, FilterStates, Result
from .filters.descriptors import RouteLimits
from .filters.header_mutation import response_change
from .filters.registry import RouteFilters, compile_steps
from .odd_requests import asks_for_another, has_dots_with_parameters
from .peer import (
    check_changes,
    compile_changes,
    compile_client_certificate,
    compile_identification,
    compile_sanitizing,
    format_context,
    must_be_secured,
    remote_address,
)
from .replies import not_told, peer_refused, upgrade_refused
from .request import ROUTER, InboundRequest
from .waits import Wait

__all__ = ["CompiledChain"]

# Peers whose names are known to be good; a connection brings many requests, and a service few peers.
_MAX_ACCEPTED = 1024


class _RouteSteps(Struct, frozen=True):
    """One route's filters, and its changes of the request.

    Attributes:
        asks: What these look at, and not every server tells.
        of_destinations: In a split of which a cluster says something of filters: the same for each of its clusters.
        destination: The one that they are of.
    """

    route: CompiledRoute | None
    filters: RouteFilters
    request_levels: tuple[MutationLevel, ...] = ()
    asks: frozenset[Fact] = NOTHING
    of_destinations: tuple[_RouteSteps, ...] = ()
    destination: Destination | None = None

    def choose(self, request: InboundRequest) -> _RouteSteps:
        """Envoy chooses the cluster with the route; what that says of filters holds for the request."""
        assert self.route is not None
        assert self.route.forward is not None
        return self.of_destinations[self.route.forward.choose_place(request.head, random.random)]

    def destination_of(self, head: RequestHead) -> Destination:
        """Where a request would go to, had it to be forwarded."""
        if self.destination is not None:
            return self.destination
        assert self.route is not None
        assert self.route.forward is not None
        return self.route.forward.choose(head, random.random)


class CompiledChain:
    """A filter chain, ready to decide.

    Args:
        chain: As configured; it has a connection manager.
        routes: Its routes.
        states: What its filters remember.
        own_cluster: That this process is of, by its bootstrap.

    Attributes:
        trust: What its peers are held to; None where they show no certificate.

    Raises:
        ResourceError: A format string is wrong.
    """

    def __init__(
        self, chain: FilterChain, routes: RouteConfiguration, states: FilterStates, own_cluster: str = ""
    ) -> None:
        manager = chain.manager
        assert manager is not None
        self.manager: ServerManager = manager
        filters = manager.listener.filters
        # The table's own filters would be a client's.
        listener = replace(manager.listener, filters=())
        self.table = self._table_with_certificate = RouteTable(listener, routes)
        every_route = self.table.routes
        of_certificates = _for_certificates(routes)
        if of_certificates != routes:
            self._table_with_certificate = RouteTable(listener, of_certificates)
            every_route += self._table_with_certificate.routes
        self._normalizes = manager.listener.paths.normalize
        self._find_remote = partial(remote_address, manager)
        self.trust = chain.tls.trust if chain.tls is not None else None
        self._accepted: set[str] = set()
        self._requires_peer = chain.tls is not None and chain.tls.require_client_certificate
        self._sanitize = compile_sanitizing(manager, routes.internal_only_headers)
        self._identify = compile_identification(manager)
        self._mark_certificate = compile_client_certificate(manager)
        self._upgrades = manager.rules.upgrades
        if any(isinstance(route.route.action, NonForwardingAction) for route in every_route):
            # The application is the connection's end, and whatever it speaks is its own to refuse.
            self._upgrades |= {"websocket"}
        self._compile_steps = partial(compile_steps, filters, states=states)
        self._by_route = {id(route): self._compile_route(route, routes, own_cluster) for route in every_route}
        self._asks = _asked_by_choice(routes)
        without_route = self._compile_steps([routes.filters], where=routes.name, has_application=False)
        self._without_route = _RouteSteps(None, without_route, asks=without_route.asked.of_request())
        to_https = self._compile_steps([], where=routes.name, has_application=False)
        self._to_https = _RouteSteps(None, to_https, asks=to_https.asked.of_request())

    def _compile_route(self, route: CompiledRoute, routes: RouteConfiguration, own_cluster: str) -> _RouteSteps:
        where, action = f"{routes.name} {route.name}", route.route.action
        leads_on = route.redirect is None and route.direct_response is None
        limits = _limits(route, own_cluster)
        clusters = action.clusters if isinstance(action, ForwardAction) else ()

        def compiled(cluster: WeightedCluster | None) -> _RouteSteps:
            said = filter_levels(routes, route.virtual_host, route.route, cluster.filters if cluster else ())
            steps = self._compile_steps(said, where=where, has_application=leads_on, limits=limits)
            for is_response in (False, True):
                check_changes(_changes(routes, route, cluster, is_response), where)
            changes = _changes(routes, route, cluster, is_response=False)
            levels: tuple[MutationLevel, ...] = ()
            if isinstance(action, NonForwardingAction):
                levels = compile_changes(changes, where)
            return _RouteSteps(route, steps, levels, (steps.asked | asked_of(changes)).of_request())

        if len(clusters) == 1:
            return compiled(clusters[0])
        if not any(cluster.filters for cluster in clusters):
            every = [compiled(cluster) for cluster in (None, *clusters)]
            return replace(every[0], asks=NOTHING.union(*(one.asks for one in every)))
        assert route.forward is not None
        each = tuple(
            replace(compiled(cluster), destination=destination)
            for cluster, destination in zip(clusters, route.forward.destinations, strict=True)
        )
        return replace(compiled(None), of_destinations=each)

    def begin(self, request: InboundRequest) -> Result:
        """Decide on a request: see the module."""
        untold = request.connection.untold
        if untold and self._asks & untold:
            return not_told(self._asks & untold)
        if self.trust is not None:
            refusal = self._check_peer(request.connection)
            if refusal is not None:
                return refusal
        request.find_remote = self._find_remote
        if "#" in request.head.target or (self._normalizes and has_dots_with_parameters(request.head.path)):
            # Envoy: http_reject_path_with_fragment; one side might cut there, and the other not.
            return self._answered_early(request, path_refused())
        if self.table.prepare is not None:
            head, status = self.table.prepare(request.head)
            if status:
                is_refused = status == 400 or is_grpc(head)
                reply = path_refused() if is_refused else redirect_to(status, head.target, "path_normalization_failed")
                return self._answered_early(request, reply)
            request.head = head
        if not request.is_clean:
            self._clean(request)
        self._mark_certificate(request)
        if b"upgrade" in request.head.by_name() and asks_for_another(request.head, self._upgrades):
            return self._answered_early(request, upgrade_refused())
        table = self.table if request.connection.peer is None else self._table_with_certificate
        index = table.routes_for(request.head)
        if index is not None and index.require_tls and must_be_secured(request, index.spares_internal):
            # Envoy's route that leads to https: it says nothing of filters, which come before its answer all the same.
            route, compiled = None, self._to_https
        else:
            route = index.find(request.head, random.random) if index is not None else None
            compiled = self._by_route[id(route)] if route is not None else self._without_route
        if route is not None:
            request.route = route
            request.route_name = route.route.name
            request.route_metadata = route.route.metadata
            if compiled.of_destinations:
                compiled = compiled.choose(request)
        if untold and compiled.asks & untold:
            return not_told(compiled.asks & untold)
        if compiled.filters.response_levels:
            self._expect_answers(request, compiled)
        for number, step in enumerate(compiled.filters.steps):
            result = step(request)
            if result is None:
                continue
            if isinstance(result, LocalReply):
                return self._answered(request, compiled, result)
            return self._rest(request, compiled, number, result)
        return self._arrived(request, compiled)

    def trace(self, request: InboundRequest) -> Traced | None:
        """What the connection manager says of a request's trace, before the request is decided on; None is nothing."""
        if self.table.tracing is None:
            return None
        request.find_remote = self._find_remote
        self._clean(request)
        return request.traced

    def _clean(self, request: InboundRequest) -> None:
        """Take from a request what its caller has no say in, and give it an id that says whether it is traced."""
        request.is_clean = True
        self._sanitize(request)
        self._identify(request)
        tracing = self.table.tracing
        if tracing is not None:
            # x-envoy-force-trace was taken from strangers.
            request.head, request.traced = tracing.decide(request.head, random.random, may_force=True)
        request.request_id = carried(request.head.by_name().get(NAME))

    def _check_peer(self, connection: Connection) -> LocalReply | None:
        """Refuse a peer that the handshake let in and the chain's settings do not, or of whom the server tells nothing.

        Names and pins are not the handshake's to check; and a server that hands over no certificate has proven nothing.
        """
        assert self.trust is not None
        if connection.peer is None:
            return peer_refused("no client certificate is known") if self._requires_peer else None
        fingerprint = connection.peer.sha256
        if fingerprint in self._accepted:
            return None
        try:
            check_peer(connection.peer.der, self.trust)
        except PeerIdentityError as error:
            return peer_refused(str(error))
        if len(self._accepted) >= _MAX_ACCEPTED:
            self._accepted.clear()
        self._accepted.add(fingerprint)
        return None

    def _expect_answers(self, request: InboundRequest, compiled: _RouteSteps) -> None:
        for place, levels in compiled.filters.response_levels:
            request.response_changes.append((place, response_change(levels, request)))

    def _answered_early(self, request: InboundRequest, reply: LocalReply) -> LocalReply:
        """An answer before there is a route."""
        self._expect_answers(request, self._without_route)
        return self._answered(request, self._without_route, reply)

    def _rest(
        self, request: InboundRequest, compiled: _RouteSteps, number: int, waiting: Generator[Wait, Any, Any]
    ) -> Generator[Wait, Any, LocalReply | None]:
        """The steps from the first one on that waits for something."""
        result: Any = yield from waiting
        for step in compiled.filters.steps[number + 1 :]:
            if result is not None:
                break
            result = step(request)
            if result is not None and not isinstance(result, LocalReply):
                result = yield from result
        if result is not None:
            return self._answered(request, compiled, result)
        return self._arrived(request, compiled)

    def _arrived(self, request: InboundRequest, compiled: _RouteSteps) -> LocalReply | None:
        """The request has passed all filters: what the route itself does."""
        route, head = compiled.route, request.head
        if compiled is self._to_https:
            target = f"https://{head.authority}{head.target}"
            return self._answered(request, compiled, redirect_to(301, target, "direct_response"))
        if route is None:
            return self._answered(request, self._without_route, no_route(head.method, head.authority, head.path))
        if route.forward is not None:
            destination = compiled.destination_of(head)
            request.cluster = destination.cluster
            if not destination.is_plain:
                request.head = changed_request(route.forward, destination, head, format_context(request))
            levels = destination.response_levels
        elif isinstance(route.route.action, NonForwardingAction):
            if compiled.request_levels:
                context = format_context(request)
                changed = apply_mutations(compiled.request_levels, head.raw_headers, context, of_request=True)
                request.head = head.with_headers(changed)
            levels = route.response_levels
        else:
            context = format_context(request)
            reply = configured_answer(route, head, context)
            reply = reply.mutated(route.response_levels, context, is_the_routes=True)
            return self._answered(request, self._without_route, reply)
        if levels:
            request.response_changes.append((ROUTER, response_change(levels, request)))
        return None

    def _answered(self, request: InboundRequest, compiled: _RouteSteps, reply: LocalReply) -> LocalReply:
        """A filter's answer, as it leaves: with the route's changes of responses, and the filters'."""
        route = compiled.route
        # The filter cors answers preflights past the ways of other answers: routes do not see them, nor their status.
        is_preflight = reply.details == "cors_response"
        if (
            route is not None
            and not is_preflight
            and (route.forward is not None or isinstance(route.route.action, NonForwardingAction))
        ):
            levels = (
                compiled.destination_of(request.head).response_levels
                if route.forward is not None
                else route.response_levels
            )
            context = format_context(request, flags=reply.flag, details=reply.details)
            reply = reply.mutated(levels, context)
        headers = request.changed_response(list(reply.headers), 0 if is_preflight else reply.status)
        reply = replace(reply, headers=tuple(headers))
        return reply.as_grpc() if is_grpc(request.head) else reply


def _for_certificates(routes: RouteConfiguration) -> RouteConfiguration:
    """The routes as they are to requests that come with a client certificate."""
    virtual_hosts = []
    for host in routes.virtual_hosts:
        changed = [
            replace(route, match=replace(route.match, never=route.match.never_with_certificate))
            if route.match.never != route.match.never_with_certificate
            else route
            for route in host.routes
        ]
        virtual_hosts.append(replace(host, routes=tuple(changed)))
    return replace(routes, virtual_hosts=tuple(virtual_hosts))


def _changes(
    routes: RouteConfiguration, route: CompiledRoute, cluster: WeightedCluster | None, is_response: bool
) -> list[HeaderMutations]:
    return mutation_levels(routes, route.virtual_host, route.route, cluster, response=is_response)


def _asked_by_choice(routes: RouteConfiguration) -> frozenset[Fact]:
    """What a route is chosen by: a route that is never found has rules that refuse nobody."""
    domains = {domain for host in routes.virtual_hosts for domain in host.domains}
    by_header = routes.vhost_header.lower() or (":authority" if domains - {"*"} else "")
    matches = [route.match for host in routes.virtual_hosts for route in host.routes]
    facts = header_facts(by_header) | asked_of(matches).facts
    splits = [
        route.action.split_header
        for host in routes.virtual_hosts
        for route in host.routes
        if isinstance(route.action, ForwardAction)
    ]
    if any(host.require_tls for host in routes.virtual_hosts):
        facts |= {Fact.SECURED}
    if any(host.require_tls and host.spares_internal for host in routes.virtual_hosts):
        facts |= {Fact.SOURCE}
    return facts.union(*map(header_facts, splits))


def _limits(route: CompiledRoute, own_cluster: str) -> RouteLimits:
    """What a route's requests are counted by."""
    action, virtual_host = route.route.action, route.virtual_host
    if not isinstance(action, ForwardAction):
        return NO_LIMITS
    return RouteLimits(
        route=action.rate_limits,
        virtual_host=virtual_host.rate_limits,
        includes_virtual_host=action.includes_virtual_host_limits,
        own_cluster=own_cluster,
        cluster=action.clusters[0].name if action.clusters else "",
    )
