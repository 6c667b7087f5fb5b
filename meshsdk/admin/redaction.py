"""What nobody who looks may see: keys, passwords, and what lets a caller in.

Source: Envoy's protos mark their secret fields (udpa.annotations.sensitive), and /config_dump shows "[redacted]" for
them (Envoy docs, operations/admin). Headers and query parameters have no such mark; their names tell, and the form of
their values. Headers that nobody knows are shown only where routes look at them.
"""

from __future__ import annotations

from collections.abc import Collection

from ..routing import RequestHead
from ..sensitive import REDACTED, is_sensitive, is_telling, shown_target, shown_value

__all__ = ["REDACTED", "is_sensitive", "is_telling", "shown_error", "shown_head", "shown_reason", "shown_url"]

# Of requests, what says nothing of who has sent them.
_KNOWN_HEADERS = frozenset(
    "accept accept-encoding accept-language cache-control connection content-encoding content-length content-type date"
    " expect grpc-accept-encoding grpc-encoding grpc-timeout host if-modified-since if-none-match keep-alive pragma"
    " range te traceparent transfer-encoding upgrade user-agent via x-b3-sampled x-b3-spanid x-b3-traceid"
    " x-envoy-attempt-count x-envoy-expected-rq-timeout-ms x-envoy-max-retries x-envoy-retry-on x-forwarded-for"
    " x-forwarded-host x-forwarded-port x-forwarded-proto x-request-id".split()
)


def shown_head(head: RequestHead, names: Collection[str] = ()) -> RequestHead:
    """A request, as it may be shown.

    Args:
        names: Of headers that routes look at, in lower case.
    """
    headers = []
    for raw_name, raw in head.raw_headers:
        name, value = raw_name.decode("latin-1").lower(), raw.decode("latin-1")
        is_known = name in _KNOWN_HEADERS or name in names
        headers.append((raw_name, raw if is_known and shown_value(name, value) != REDACTED else REDACTED.encode()))
    return RequestHead(head.method, head.scheme, _host_of(head), shown_target(head.target), headers)


def _host_of(head: RequestHead) -> str:
    return head.authority.rpartition("@")[2]


def shown_url(head: RequestHead) -> str:
    """A request's URL, as it may be shown; the path alone where its host is not known."""
    host = _host_of(head)
    return f"{head.scheme}://{host}{shown_target(head.target)}" if host else shown_target(head.target)


def shown_reason(reason: str) -> str:
    """Why a route did not match, without what it wants of a header or a parameter that is secret."""
    for kind in ("header ", "query parameter "):
        if reason.startswith(kind):
            name = reason[len(kind) :].partition(" ")[0]
            if is_sensitive(name):
                return f"{kind}{name} does not match"
    return reason


def shown_error(error: str) -> str:
    """What is wrong with a resource, without the header's value that it is about."""
    before, mark, _ = error.partition("must be a legal HTTP header value, is ")
    return f"{before}must be a legal HTTP header value" if mark else error
