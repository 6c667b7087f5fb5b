"""Answers in the application's place: statuses, bodies, headers and details are Envoy's.

Sources: Envoy docs, http_conn_man/response_code_details, and the filters' own sources.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from ..exchange.local_reply import LocalReply, of_text
from .connection import Fact

__all__ = [
    "access_denied",
    "authorization_denied",
    "authorization_failed",
    "cors_preflight",
    "csrf_denied",
    "globally_limited",
    "jwt_denied",
    "locally_limited",
    "not_admitted",
    "not_configured",
    "not_told",
    "peer_refused",
    "rate_limiter_failed",
    "too_many_at_once",
    "upgrade_refused",
]

Headers = tuple[tuple[bytes, bytes], ...]

_TEXT = ((b"content-type", b"text/plain"),)


def access_denied(policy: str) -> LocalReply:
    """RBAC refuses (source/extensions/filters/http/rbac/rbac_filter.cc)."""
    details = f"rbac_access_denied_matched_policy[{policy}]".replace(" ", "_")
    return LocalReply(403, b"RBAC: access denied", _TEXT, details=details)


def jwt_denied(status: int, message: str, challenge: str) -> LocalReply:
    """jwt_authn refuses (source/extensions/filters/http/jwt_authn/filter.cc)."""
    headers: tuple[tuple[bytes, bytes], ...] = _TEXT if message else ()
    if challenge:
        headers = ((b"www-authenticate", challenge.encode("latin-1", "replace")), *headers)
    details = f"jwt_authn_access_denied{{{message.replace(' ', '_')}}}"
    return LocalReply(status, message.encode(), headers, flag="UAEX", details=details)


def csrf_denied() -> LocalReply:
    """csrf refuses (source/extensions/filters/http/csrf/csrf_filter.cc)."""
    return LocalReply(403, b"Invalid origin", _TEXT, details="csrf_origin_mismatch")


def cors_preflight(headers: tuple[tuple[bytes, bytes], ...]) -> LocalReply:
    """cors answers a preflight (source/extensions/filters/http/cors/cors_filter.cc)."""
    return LocalReply(200, b"", headers, details="cors_response")


def authorization_denied(status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> LocalReply:
    """An authorization server refuses, or cannot be asked."""
    return LocalReply(status, body, headers, flag="UAEX", details="ext_authz_denied")


def authorization_failed(status: int) -> LocalReply:
    """The authorization server cannot be asked, and requests do not pass without it."""
    return LocalReply(status, flag="UAEX", details="ext_authz_error")


def locally_limited(status: int, headers: Headers, grpc_status: int | None) -> LocalReply:
    """local_ratelimit refuses."""
    reply = LocalReply(status, b"local_rate_limited", of_text(headers), flag="RL", details="local_rate_limited")
    return replace(reply, grpc_code=grpc_status)


def globally_limited(status: int, body: bytes, headers: Headers, grpc_status: int | None) -> LocalReply:
    """The rate limit server says that it is enough (source/extensions/filters/http/ratelimit/ratelimit.cc)."""
    headers = of_text(headers) if body else headers
    return LocalReply(status, body, headers, flag="RL", details="request_rate_limited", grpc_code=grpc_status)


def rate_limiter_failed(status: int) -> LocalReply:
    """The rate limit server cannot be asked, and requests do not pass without it."""
    return LocalReply(status, flag="RLSE", details="rate_limiter_error")


def not_admitted() -> LocalReply:
    """admission_control refuses (source/extensions/filters/http/admission_control/admission_control.cc)."""
    return LocalReply(503, details="denied_by_admission_control")


def too_many_at_once(status: int) -> LocalReply:
    """adaptive_concurrency refuses (source/extensions/filters/http/adaptive_concurrency)."""
    return LocalReply(status, b"reached concurrency limit", _TEXT, details="reached_concurrency_limit")


def upgrade_refused() -> LocalReply:
    """Nobody here speaks what the peer wants to change to (source/common/http/conn_manager_impl.cc)."""
    return LocalReply(403, details="upgrade_failed")


def peer_refused(why: str) -> LocalReply:
    """The peer's certificate is not what the filter chain asks for; Envoy closes the connection."""
    return LocalReply(403, b"RBAC: access denied", _TEXT, flag="UPE", details=f"peer_not_accepted{{{why}}}")


def not_told(facts: Iterable[Fact]) -> LocalReply:
    """Policy has rules about what this server does not tell: nobody gets in."""
    names = " and ".join(sorted(fact.value for fact in facts))
    return not_configured(f"it has rules about {names}, which this server does not tell")


def not_configured(why: str) -> LocalReply:
    """There is no policy to decide by: nobody gets in. Why is for the log, and not for strangers."""
    return LocalReply(503, b"no inbound policy", _TEXT, details=f"no_inbound_policy{{{why}}}")
