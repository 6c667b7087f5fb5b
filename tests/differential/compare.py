"""What counts as the same decision, and what is meant to differ (docs/envoy-differences.md)."""

from __future__ import annotations

from .judge import Decision

__all__ = ["compare"]

# Envoy tells upstreams about itself and its downstream; a client has no downstream, and says nothing in their place.
_ENVOYS_OWN_REQUEST_HEADERS = frozenset(["x-forwarded-proto", "x-envoy-expected-rq-timeout-ms", "content-length"])
# Date, framing and timing are not decisions.
_NOT_DECIDED = frozenset(["date", "content-length", "connection", "transfer-encoding", "x-envoy-upstream-service-time"])


def compare(theirs: Decision, ours: Decision) -> list[str]:
    """The differences of two decisions, in words."""
    found = [
        f"{name}: Envoy {getattr(theirs, name)!r}, meshsdk {getattr(ours, name)!r}"
        for name in ("status", "cluster", "target", "body")
        if getattr(theirs, name) != getattr(ours, name)
    ]
    if not found:
        found += _differ("request", theirs.headers, ours.headers, _ENVOYS_OWN_REQUEST_HEADERS)
        # The upstream's own content type passes; of answers without an upstream it is decided here.
        ignored = _NOT_DECIDED | {"content-type"} if theirs.cluster else _NOT_DECIDED
        found += _differ("response", theirs.response_headers, ours.response_headers, ignored)
    return found


def _differ(
    what: str, theirs: tuple[tuple[str, str], ...], ours: tuple[tuple[str, str], ...], ignored: frozenset[str]
) -> list[str]:
    """Headers differ where a name has other values, or the same in another order."""
    found = []
    names = dict.fromkeys([name for name, _ in theirs] + [name for name, _ in ours])
    for name in names:
        if name in ignored:
            continue
        # Envoy joins the values of headers that it knows by name; several lines mean the same as one with commas.
        their_values = (
            ",".join(value for key, value in theirs if key == name and value) if name in dict(theirs) else None
        )
        our_values = ",".join(value for key, value in ours if key == name and value) if name in dict(ours) else None
        if their_values != our_values:
            found.append(f"{what} header {name}: Envoy {their_values!r}, meshsdk {our_values!r}")
    return found
