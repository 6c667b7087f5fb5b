"""Following an upstream's redirect without the caller's notice (RouteAction.internal_redirect_policy).

Source: Envoy docs, http_conn_man/internal_redirects; source/common/router/router.cc (Filter::setupRedirect,
convertRequestHeadersForInternalRedirect). The new request goes through the same listener's routes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import httptools

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
    name = begun.route.route.name if begun.route is not None else ""
    if policy.previous_routes and name in exchange.routes_taken:
        return None
    if policy.allowed_routes is not None and name not in policy.allowed_routes:
        return None
    begun.redirects = exchange.redirects + 1
    begun.routes_taken = (*exchange.routes_taken, name)
    return begun


class _Url(NamedTuple):
    scheme: str
    host: str
    target: str


def _whole_url(location: bytes) -> _Url | None:
    """A URL with its scheme and host, as Envoy reads it (Http::Utility::Url); others are not followed."""
    try:
        parsed = httptools.parse_url(location)
    except httptools.HttpParserInvalidURLError:
        return None
    if not parsed.schema or not parsed.host or (parsed.query is not None and not parsed.path):
        return None
    scheme, _, rest = location.decode("latin-1").partition("#")[0].partition("://")
    authority, _, path = rest.partition("/")
    return _Url(scheme.lower(), authority.rpartition("@")[2], f"/{path}")


def _redirected(
    exchange: Exchange, status: int, headers: Headers, policy: InternalRedirectPolicy
) -> RequestHead | None:
    """The request to the redirect's target, or None where it may not be followed."""
    location = next((value for name, value in headers if name.lower() == b"location"), None)
    if location is None:
        return None
    head = exchange.head
    url = _whole_url(location)
    if url is None:
        return None
    # There: what is not http is https.
    is_http, becomes_http = head.scheme == "http", url.scheme == "http"
    if policy.same_scheme_only and is_http is not becomes_http:
        return None
    if policy.safe_cross_scheme and is_http and not becomes_http:
        return None
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
    changed = with_host(changed, url.host)
    return RequestHead(method, head.scheme, url.host, url.target, changed)
