"""What a view makes of a request, as plain data under a few names."""

from __future__ import annotations

import re
from typing import Any

from meshsdk.exchange import LocalReply
from meshsdk.exchange.directory import begin
from meshsdk.exchange.request_changes import changed_request
from meshsdk.routing import CompiledForward, RequestHead, apply_mutations
from meshsdk.routing.compiled_forward import Destination
from meshsdk.routing.formatter import FormatContext

from .case import Request
from .istiod import PASSTHROUGH
from .plain import plain
from .view import View

__all__ = ["Decision", "decide", "decide_as_istiod", "leads_to_originals"]

# A fact's name to its value; `answer` says which others there are.
Decision = dict[str, Any]

_RESPONSE = [(b"server", b"upstream"), (b"x-old", b"1"), (b"x-kept", b"2"), (b"content-type", b"text/plain")]


def decide(view: View, request: Request, *, sees_through: bool = False) -> Decision:
    """What becomes of a request: `passthrough`, `no_route`, `reply` or `forward`, with all that goes with it.

    Args:
        view: What decides it.
        request: The request.
        sees_through: What is passed through by a route is told as what is forwarded, with all that the route says.
    """
    table = view.table_of(request)
    if table is None:
        return view.without_routes(request)
    head = _head(request)
    index = table.routes_for(head)
    route = index.find(head, _never) if index is not None else None
    if route is None:
        return {"answer": "no_route"}
    if route.forward is None:
        reply = begin(table, {}, head, _never)
        assert isinstance(reply, LocalReply)
        headers = sorted((name.decode().lower(), value.decode("latin-1")) for name, value in reply.headers)
        return {
            "answer": "reply",
            "status": reply.status,
            "body": plain(reply.body),
            "headers": plain(headers),
            "fault": [plain(one.fault) for one in route.filters.faults],
        }
    clusters = {one.cluster for one in route.forward.destinations}
    if all(map(view.passes_through, clusters)) and not (sees_through and PASSTHROUGH not in clusters):
        return {"answer": "passthrough", "has_listener": True}
    found = {"answer": "forward", **_forwarded(route.forward, head)}
    mirrored = {one.cluster for one in route.forward.mirrors}
    if any(view.is_original(cluster, request) for cluster in clusters | mirrored):
        found = _in_place_of_others(found)
        found["clusters"].sort()
        found["ways"].sort(key=repr)
    return found


def _in_place_of_others(value: Any) -> Any:
    """A decision, in which the clusters of what the request itself looks up have the names of those they stand for."""
    if isinstance(value, dict):
        return {name: _in_place_of_others(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_in_place_of_others(one) for one in value]
    return _ORIGINAL.sub("outbound", value) if isinstance(value, str) else value


_ORIGINAL = re.compile(r"^original_dst@[^|]*")


def decide_as_istiod(grpc: View, sidecar: View, request: Request, *, sees_through: bool = False) -> Decision:
    """What istiod has become of a request: by its profile for gRPC, and where that has no routes, by a sidecar's.

    A gRPC client knows Services only, and of those only what speaks HTTP. A sidecar also knows hosts that only a
    VirtualService has, passes on bytes, and knows whether hosts outside the mesh may be called at all.

    Where we look up what the application has looked up for a sidecar, its routes are compared all the same
    (`sees_through`).

    Timeouts are a sidecar's, where it sends a request to the same clusters: gRPC clients are told how long a stream may
    last in their place (route.go, setTimeout), which Envoy counts in another way. Where it does not, there are none to
    compare.
    """
    found = decide(grpc, request)
    if found["answer"] in ("passthrough", "no_route"):
        return decide(sidecar, request, sees_through=sees_through)
    beside = decide(sidecar, request, sees_through=True)
    if "timeouts" in found and "timeouts" in beside and found["clusters"] == beside["clusters"]:
        found["timeouts"] = beside["timeouts"]
    else:
        found.pop("timeouts", None)
    return found


def leads_to_originals(view: View, request: Request) -> bool:
    """Whether a request goes where its own host is looked up, by a route that names other hosts."""
    table = view.table_of(request)
    index = table.routes_for(_head(request)) if table is not None else None
    route = index.find(_head(request), _never) if index is not None else None
    forward = route.forward if route is not None else None
    return forward is not None and any(view.is_original(one.cluster, request) for one in forward.destinations)


def _never() -> float:
    """Chance that is never on the side of a fault or a mirror that is not for all."""
    return 0.999999


def _head(request: Request) -> RequestHead:
    headers = [(b"host", request.authority.encode())]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers]
    return RequestHead(request.method, "http", request.authority, request.target, headers)


def _forwarded(forward: CompiledForward, head: RequestHead) -> Decision:
    weights = [one.weight for one in forward.action.clusters] or [1]
    total = sum(weights)
    shares: dict[str, float] = {}
    for destination, weight in zip(forward.destinations, weights, strict=True):
        shares[destination.cluster] = shares.get(destination.cluster, 0.0) + weight / total
    ways = sorted((_way(forward, one, head) for one in forward.destinations), key=repr)
    timeouts = forward.timeouts if forward.timeouts_for is None else forward.timeouts_for(head)
    return {
        "clusters": [[name, round(share, 6)] for name, share in sorted(shares.items())],
        "ways": ways,
        "timeouts": plain(timeouts),
        "retry": plain(forward.retry_policy),
        "mirrors": sorted((plain(one) for one in forward.mirrors), key=repr),
        "hash": plain(forward.action.hash_policies),
        "attempt_count": forward.include_request_attempt_count,
        "cluster_not_found": forward.action.cluster_not_found_status,
        "internal_redirect": plain(forward.internal_redirect),
    }


def _way(forward: CompiledForward, destination: Destination, head: RequestHead) -> dict[str, Any]:
    """What a request is made into for one cluster, and what its response."""
    context = FormatContext(head, destination.cluster)
    changed = changed_request(forward, destination, head, context)
    response = apply_mutations(
        destination.response_levels, list(_RESPONSE), FormatContext(head, destination.cluster), of_request=False
    )
    return {
        "cluster": destination.cluster,
        "path": changed.target,
        "host": changed.authority,
        "request": _headers(changed.raw_headers),
        "response": _headers(response),
        "fault": [plain(one.fault) for one in destination.filters.faults],
    }


def _headers(headers: Any) -> list[list[str]]:
    """By name; those of one name stay in order."""
    found = [[name.decode("latin-1").lower(), value.decode("latin-1")] for name, value in headers]
    return sorted(found, key=lambda header: header[0])
