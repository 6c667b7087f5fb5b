"""Following an upstream's redirect without the caller's notice (RouteAction.internal_redirect_policy).

Source: Envoy docs, http_conn_man/internal_redirects; source/common/router/router.cc (Filter::setupRedirect,
convertRequestHeadersForInternalRedirect). The new request goes through the same listener's routes.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence

from ..balancing import Cluster
from ..resources import InternalRedirectPolicy
from ..routing import RequestHead
from .directory import begin
from .exchange import Exchange
from .local_reply import LocalReply
from .request_changes import with_header, with_host

__all__ = ["follow"]

Headers = Sequence[tuple[bytes, bytes]]


def follow(
    exchange: Exchange, status: int, headers: Headers, clusters: Mapping[str, Cluster]
) -> Exchange | LocalReply | None:
    """The exchange that takes the place of a redirected one; None where the redirect goes to the caller."""
    policy = exchange.forward.internal_redirect if exchange.forward is not None else None
    if policy is None or exchange.table is None or status not in policy.statuses:
        return None
    if exchange.redirects >= policy.max_redirects:
        return None
    head = _redirected(exchange, status, headers, policy)
    if head is None:
        return None
    begun = begin(exchange.table, clusters, head, exchange.random_fraction)
    if isinstance(begun, LocalReply):
        # Envoy: a redirect to where there is no route is passed on.
        return None if begun.flag == "NR" else begun
    taken = (*exchange.routes_taken, exchange.route)
    route = begun.route
    if policy.previous_routes and route in taken:
        return None
    if policy.allowed_routes is not None and (route is None or route.route.name not in policy.allowed_routes):
        return None
    begun.redirects = exchange.redirects + 1
    begun.routes_taken = taken
    return begun


def _redirected(
    exchange: Exchange, status: int, headers: Headers, policy: InternalRedirectPolicy
) -> RequestHead | None:
    """The request to the redirect's target, or None where it may not be followed."""
    location = next((value for name, value in headers if name.lower() == b"location"), None)
    if location is None:
        return None
    head = exchange.head
    target = urllib.parse.urlsplit(
        urllib.parse.urljoin(f"{head.scheme}://{head.authority}", location.decode("latin-1"))
    )
    if target.scheme not in ("http", "https") or not target.netloc:
        return None
    if policy.same_scheme_only and target.scheme != head.scheme:
        return None
    if policy.safe_cross_scheme and (head.scheme, target.scheme) == ("http", "https"):
        return None
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    original = f"{head.scheme}://{head.authority}{head.target}"
    changed: Headers = with_header(head.raw_headers, b"x-envoy-original-url", original.encode("latin-1"))
    for name in policy.response_headers_to_copy:
        raw_name = name.encode("latin-1")
        value = next((value for key, value in headers if key.lower() == raw_name), None)
        if value is not None:
            changed = with_header(changed, raw_name, value)
    method = head.method
    if status == 303 and method not in ("GET", "HEAD"):
        # RFC 9110 section 15.4.4: see other, by GET and without the content.
        method = "GET"
        dropped = (b"content-length", b"content-type", b"transfer-encoding")
        changed = [header for header in changed if header[0].lower() not in dropped]
    changed = with_host(changed, target.netloc)
    return RequestHead(method, head.scheme, target.netloc, path, changed)
