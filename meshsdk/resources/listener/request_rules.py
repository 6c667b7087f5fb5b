"""What a connection manager takes for a request at all, before filters and routes see it.

Sources: HttpConnectionManager.max_request_headers_kb, request_headers_timeout, stream_idle_timeout, upgrade_configs,
common_http_protocol_options.{max_headers_count,headers_with_underscores_action} and
http_protocol_options.accept_http_10; their defaults are Envoy's, but for the timeouts that Envoy has switched off.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from ..notes import Notes
from ..values import optional, seconds

__all__ = ["NO_RULES", "RequestRules", "Underscores", "parse_request_rules", "strictest"]


class Underscores(Enum):
    """What is done with a header whose name has an underscore (HeadersWithUnderscoresAction)."""

    ALLOW = 0
    REJECT_REQUEST = 1
    DROP_HEADER = 2


class RequestRules(Struct, frozen=True, gc=False):
    """Bounds of a request's head, and which requests there are at all.

    Attributes:
        max_headers: How many headers.
        max_head_bytes: Names and values of all headers, and the target.
        underscores: Names that a CGI-like application cannot tell from those with hyphens.
        accepts_http_10: HTTP/1.0 is answered; otherwise with 426.
        upgrades: The protocols, in lower case, that a connection may change to.
        request_headers_timeout_seconds: Until a head is whole; None is the server's own.
        stream_idle_timeout_seconds: A body, or an answer that nobody takes, may stand still so long; None is the
            server's own, 0 for ever.
    """

    max_headers: int = 100
    max_head_bytes: int = 60 * 1024
    underscores: Underscores = Underscores.ALLOW
    accepts_http_10: bool = False
    upgrades: frozenset[str] = frozenset()
    request_headers_timeout_seconds: float | None = None
    stream_idle_timeout_seconds: float | None = None


NO_RULES = RequestRules()

_ACTED_ON = frozenset("max_headers_count headers_with_underscores_action".split())
# The others change nothing for the end of a connection, or what may only be refused is refused anyway.
_HTTP1_ACTED_ON = frozenset(
    "accept_http_10 allow_absolute_url allow_chunked_length header_key_format enable_trailers"
    " override_stream_error_on_invalid_http_message send_fully_qualified_url use_balsa_parser".split()
)


def parse_request_rules(manager: Any, where: str, notes: Notes) -> RequestRules:
    """The rules of an HttpConnectionManager."""
    common, http1 = manager.common_http_protocol_options, manager.http_protocol_options
    notes.unless_acted_on(common, f"{where}.common_http_protocol_options", _ACTED_ON)
    notes.unless_acted_on(http1, f"{where}.http_protocol_options", _HTTP1_ACTED_ON)
    if manager.codec_type in (manager.HTTP2, manager.HTTP3):
        notes.add(f"{where}.codec_type", "is not acted on: the server says which versions of HTTP it speaks")
    if http1.HasField("allow_absolute_url") and not http1.allow_absolute_url.value:
        notes.add(f"{where}.http_protocol_options.allow_absolute_url", "false is not acted on: their host counts")
    if http1.enable_trailers:
        notes.add(f"{where}.http_protocol_options.enable_trailers", "is not acted on: trailers are dropped")
    upgrades = set()
    for index, upgrade in enumerate(manager.upgrade_configs):
        if upgrade.filters:
            notes.add(f"{where}.upgrade_configs[{index}].filters", "is not acted on: upgrades pass the same filters")
        if not upgrade.HasField("enabled") or upgrade.enabled.value:
            upgrades.add(upgrade.upgrade_type.lower())
    return RequestRules(
        max_headers=optional(common, "max_headers_count") or NO_RULES.max_headers,
        max_head_bytes=(optional(manager, "max_request_headers_kb") or 60) * 1024,
        underscores=_underscores(common.headers_with_underscores_action, f"{where}.common_http_protocol_options"),
        accepts_http_10=http1.accept_http_10,
        upgrades=frozenset(upgrades),
        request_headers_timeout_seconds=seconds(manager, "request_headers_timeout") or None,
        stream_idle_timeout_seconds=seconds(manager, "stream_idle_timeout"),
    )


def _underscores(action: int, where: str) -> Underscores:
    if action not in _UNDERSCORES:
        raise ResourceError(f"{where}.headers_with_underscores_action", f"{action} is an action that is not known")
    return Underscores(action)


_UNDERSCORES = frozenset(action.value for action in Underscores)


def strictest(rules: Iterable[RequestRules]) -> RequestRules:
    """One for a server that looks at requests before it knows their filter chain: of each bound the smaller one.

    Upgrades are looked at when the chain is known.
    """
    every = list(rules)
    if not every:
        return NO_RULES
    return RequestRules(
        max_headers=min(one.max_headers for one in every),
        max_head_bytes=min(one.max_head_bytes for one in every),
        underscores=max((one.underscores for one in every), key=_STRICTNESS.__getitem__),
        accepts_http_10=all(one.accepts_http_10 for one in every),
        request_headers_timeout_seconds=_shortest(one.request_headers_timeout_seconds for one in every),
        stream_idle_timeout_seconds=_shortest(one.stream_idle_timeout_seconds for one in every),
    )


_STRICTNESS = {Underscores.ALLOW: 0, Underscores.DROP_HEADER: 1, Underscores.REJECT_REQUEST: 2}


def _shortest(seconds: Iterable[float | None]) -> float | None:
    """0 is for ever, and None the server's own."""
    every = [one for one in seconds if one is not None]
    return min((one for one in every if one), default=0.0 if every else None)
