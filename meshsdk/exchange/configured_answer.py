"""What a route answers by itself (RedirectAction, DirectResponseAction)."""

from __future__ import annotations

from ..routing import CompiledRoute, RequestHead
from ..routing.formatter import FormatContext
from .local_reply import LocalReply, cluster_not_found
from .request_changes import with_header

__all__ = ["configured_answer"]


def configured_answer(route: CompiledRoute, head: RequestHead, context: FormatContext) -> LocalReply:
    """The redirect or direct response of a route; its changes of response headers are still to be made."""
    headers: list[tuple[bytes, bytes]] = []
    if route.location is not None:
        headers.append((b"location", route.location(head).encode("latin-1", "replace")))
    if route.redirect is not None:
        rewritten = route.path_rewrite(head) if route.path_rewrite is not None else ""
        if rewritten:
            # Envoy rewrites the path of a request that it redirects, and remembers the old one.
            seen = context.head
            headers_seen = with_header(seen.raw_headers, b"x-envoy-original-path", head.target.encode("latin-1"))
            context.head = RequestHead(seen.method, seen.scheme, seen.authority, rewritten, headers_seen)
        return LocalReply(route.redirect.status, b"", tuple(headers), details="direct_response")
    direct = route.direct_response
    if direct is None:
        return cluster_not_found("", 503)
    body = direct.body
    if route.body_format is not None:
        context.body = body.decode("utf-8", "replace")
        body = route.body_format(context).encode()
    if body:
        headers.insert(0, (b"content-type", direct.content_type.encode("latin-1")))
    return LocalReply(direct.status, body, tuple(headers), details="direct_response")
