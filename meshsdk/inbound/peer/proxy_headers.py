"""Headers that only proxies may set: what strangers send of them is taken away before filters and routes see it.

Behind a proxy that is believed, :scheme is what X-Forwarded-Proto says. Hop-by-hop headers stay, since this is the
connection's end; and the application is not told of a proxy before it. Request ids are the affair of `request_ids`.

Source: source/common/http/conn_manager_utility.cc (mutateRequestHeaders, cleanInternalHeaders); Envoy docs,
http_conn_man/headers and header_sanitizing.
"""

from __future__ import annotations

from collections.abc import Callable

import re2

from ...resources.listener import ServerManager, Underscores
from ...routing import RequestHead
from ..connection import Fact, is_within, parse_address
from ..request import InboundRequest

__all__ = ["compile_sanitizing", "must_be_secured", "without_underscores"]

_IS_INTERNAL = b"x-envoy-internal"
_FORWARDED_FOR = b"x-forwarded-for"

# What callers tell a router, which takes it for itself.
_FOR_ROUTERS = frozenset(
    b"x-envoy-retriable-status-codes x-envoy-retriable-header-names x-envoy-retry-on x-envoy-retry-grpc-on"
    b" x-envoy-max-retries x-envoy-upstream-alt-stat-name x-envoy-upstream-rq-timeout-ms"
    b" x-envoy-upstream-rq-per-try-timeout-ms x-envoy-upstream-rq-timeout-alt-response"
    b" x-envoy-hedge-on-per-try-timeout".split()
)
# Of requests from outside, whether they come from the edge of the mesh or by a proxy. Envoy takes
# x-envoy-expected-rq-timeout-ms, too, and its router writes one for the application: here the caller's is the deadline.
_INTERNAL = frozenset({b"x-envoy-force-trace", b"x-envoy-ip-tags"})
# Of requests from the edge only.
_INTERNAL_AT_THE_EDGE = frozenset(
    b"x-envoy-decorator-operation x-envoy-downstream-service-cluster x-envoy-downstream-service-node"
    b" x-envoy-original-path x-envoy-original-host".split()
)


# A URL without user and fragment, or a reference relative to one (source/common/http/utility.cc, isValidRefererValue).
_REFERER = re2.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
    r"(?:[/?][!\x22$-~]*)?"
    r"|[!$-.0-9;=?-Z_a-z~]+(?:/[!$-;=?-Z_a-z~]*)?|/[!$-;=?-Z_a-z~]*"
)


def compile_sanitizing(manager: ServerManager, internal_only: tuple[str, ...]) -> Callable[[InboundRequest], None]:
    """A function that cleans a request's headers.

    Args:
        manager: Says whom to believe.
        internal_only: More headers that only internal requests may have (RouteConfiguration.internal_only_headers).
    """
    is_edge = manager.use_remote_address
    foreign = _INTERNAL.union(name.lower().encode("latin-1") for name in internal_only)
    if is_edge:
        foreign |= _INTERNAL_AT_THE_EDGE
    always = _FOR_ROUTERS | {_IS_INTERNAL}
    doubtful = foreign | always
    may_be_internal = bool(manager.internal_networks) or manager.internal_unix_sockets
    appends = is_edge and not manager.skip_xff_append
    drops_underscores = manager.rules.underscores is Underscores.DROP_HEADER

    def clean(request: InboundRequest) -> None:
        if drops_underscores:
            request.head = without_underscores(request.head)
        is_internal = may_be_internal and _is_internal(manager, request)
        if not doubtful.isdisjoint(request.head.by_name()):
            taken = always if is_internal else doubtful
            kept = [header for header in request.head.raw_headers if header[0].lower() not in taken]
            request.head = request.head.with_headers(kept)
        if b"referer" in request.head.by_name() and _REFERER.fullmatch(request.head.header("referer") or "") is None:
            request.remove_header(b"referer")
        if is_internal:
            request.set_header(_IS_INTERNAL, b"true")
        if is_edge:
            _tell_of_the_edge(manager, request, appends, is_internal)
        if b"x-forwarded-proto" in request.head.by_name() and request.connection.protocol != "HTTP/2":
            scheme = request.head.header("x-forwarded-proto")
            if scheme == "http" or scheme == "https":
                request.head.scheme = scheme

    return clean


def without_underscores(head: RequestHead) -> RequestHead:
    """The request without the headers whose names have an underscore (HeadersWithUnderscoresAction DROP_HEADER)."""
    if b"_" not in b"".join(head.by_name()):
        return head
    return head.with_headers([header for header in head.raw_headers if b"_" not in header[0]])


def must_be_secured(request: InboundRequest, spares_internal: bool) -> bool:
    """Whether a request is to be sent to https, where its virtual host requires that (VirtualHost.require_tls).

    Args:
        request: It was cleaned.
        spares_internal: Requests from inside may be insecure (EXTERNAL_ONLY).
    """
    proto = request.head.header("x-forwarded-proto")
    if (request.head.scheme if proto is None else proto) == "https":
        return False
    return not (spares_internal and request.head.header("x-envoy-internal") == "true")


def _is_internal(manager: ServerManager, request: InboundRequest) -> bool:
    """Envoy: the one address that is known must be trusted, and an internal one."""
    forwarded = request.arrived.header("x-forwarded-for")
    if manager.use_remote_address:
        is_known = forwarded is None
    else:
        is_known = forwarded is not None and not manager.trusted_hops and parse_address(forwarded.strip()) is not None
    if not is_known:
        return False
    remote = request.remote
    if remote is None:
        return manager.internal_unix_sockets and Fact.SOURCE not in request.connection.untold
    return is_within(remote, manager.internal_networks)


def _tell_of_the_edge(manager: ServerManager, request: InboundRequest, appends: bool, is_internal: bool) -> None:
    """Whoever is the first of the mesh to see a request says from whom it has come."""
    remote, peer = request.remote, request.connection.source_ip
    if appends and peer:
        before = request.head.header("x-forwarded-for")
        request.set_header(_FORWARDED_FOR, (f"{before},{peer}" if before else peer).encode("latin-1"))
    if not manager.trusted_hops or request.head.header("x-forwarded-proto") is None:
        request.set_header(b"x-forwarded-proto", b"https" if request.connection.is_tls else b"http")
    if not is_internal and remote is not None:
        request.set_header(b"x-envoy-external-address", str(remote).encode("latin-1"))
