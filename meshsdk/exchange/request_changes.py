"""A request's target, headers and host as its route has them sent.

Source: Envoy source/common/router/config_impl.cc (RouteEntryImplBase::finalizeRequestHeaders): header changes first,
then the path, then the host; each sees what the ones before made of the request.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..balancing import Cluster, Endpoint
from ..request_id import NAME
from ..routing import CompiledRoute, RequestHead, apply_mutations
from ..routing.compiled_forward import CompiledForward, Destination
from ..routing.formatter import FormatContext

__all__ = [
    "changed_request",
    "format_context",
    "with_forwarded_host",
    "with_header",
    "with_host",
    "with_original_host",
    "with_request_id",
]

Headers = Sequence[tuple[bytes, bytes]]


def changed_request(
    forward: CompiledForward, destination: Destination, head: RequestHead, context: FormatContext
) -> RequestHead:
    """The request as it goes to the destination's cluster, but for what each attempt adds."""
    headers: Headers = head.raw_headers
    if destination.request_levels:
        headers = apply_mutations(destination.request_levels, headers, context, of_request=True)
    changed = head.with_headers(headers)
    authority = destination.host_rewrite or head.authority
    target = head.target
    if forward.path_rewrite is not None:
        # A rewrite to nothing is none.
        rewritten = forward.path_rewrite(changed)
        if rewritten:
            target = rewritten
            headers = with_header(headers, b"x-envoy-original-path", head.target.encode("latin-1"))
    if forward.host_rewrite is not None:
        rewritten = forward.host_rewrite(changed)
        if rewritten:
            headers = with_original_host(headers, authority)
            authority = rewritten
            if forward.action.append_x_forwarded_host:
                headers = with_forwarded_host(headers, destination.host_rewrite or head.authority)
    if authority != head.authority:
        headers = with_host(headers, authority)
    return RequestHead(head.method, head.scheme, authority, target, headers)


def with_header(headers: Headers, name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    """The headers with one set to a value, whatever it was."""
    length = len(name)
    for known, _ in headers:
        # Written out, since every request of Istio's routes comes by here, and hardly one has the header.
        if len(known) == length and known.lower() == name:
            return [*(header for header in headers if header[0].lower() != name), (name, value)]
    return [*headers, (name, value)]


def with_forwarded_host(headers: Headers, host: str) -> list[tuple[bytes, bytes]]:
    """RouteAction.append_x_forwarded_host: the host is added to the list, unless it is the last of it already."""
    known = [value for name, value in headers if name.lower() == b"x-forwarded-host"]
    joined = b",".join(known)
    added = host.encode("latin-1")
    if not known:
        return [*headers, (b"x-forwarded-host", added)]
    if joined.rpartition(b",")[2].strip() == added:
        return list(headers)
    return with_header(headers, b"x-forwarded-host", joined + b"," + added)


def with_original_host(headers: Headers, authority: str) -> list[tuple[bytes, bytes]]:
    """The headers with the authority that the request came with (x-envoy-original-host)."""
    return with_header(headers, b"x-envoy-original-host", authority.encode("latin-1"))


def with_request_id(headers: Headers, head: RequestHead) -> list[tuple[bytes, bytes]]:
    """The headers of a response with its request's id (always_set_request_id_in_response)."""
    request_id = head.header("x-request-id")
    return with_header(headers, NAME, request_id.encode("latin-1")) if request_id else list(headers)


def with_host(headers: Headers, authority: str) -> list[tuple[bytes, bytes]]:
    """The headers with another Host, which stands first, as RFC 9110 section 7.2 advises."""
    changed = [header for header in headers if header[0].lower() != b"host"]
    changed.insert(0, (b"host", authority.encode("latin-1")))
    return changed


def format_context(
    head: RequestHead, cluster: Cluster, route: CompiledRoute | None, attempts: int, endpoint: Endpoint | None
) -> FormatContext:
    """What format strings are filled in from; an `endpoint` of None is not known."""
    context = FormatContext(head, cluster.name, route=route.route.name if route is not None else "")
    context.cluster_metadata = cluster.config.metadata
    context.attempts = attempts
    if endpoint is not None:
        context.upstream_address = endpoint.name
        context.upstream_hostname = endpoint.config.hostname
        context.upstream_metadata = endpoint.config.metadata
    return context
