"""What browsers of other origins may do: the filters cors and csrf.

Sources: envoy.extensions.filters.http.cors.v3.CorsPolicy, envoy.extensions.filters.http.csrf.v3.CsrfPolicy.
"""

from __future__ import annotations

from typing import Any

from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.csrf.v3 import csrf_pb2
from msgspec import Struct

from ..matching import FractionalPercent, StringMatcher, parse_runtime_fraction, parse_string_matcher
from ..notes import Notes
from ..values import optional, unpack
from .settings import FilterSetting

__all__ = [
    "Cors",
    "CorsPolicy",
    "Csrf",
    "parse_cors",
    "parse_cors_policy",
    "parse_csrf",
]


_ALWAYS = FractionalPercent(100, 100)


class Cors(FilterSetting, Struct, frozen=True, gc=False):
    """The filter itself, which does nothing without a route's policy."""


class CorsPolicy(FilterSetting, Struct, frozen=True, gc=False):
    """Cross-origin resource sharing of a route.

    Attributes:
        origins: One must match the request's Origin.
        enabled: Share of the requests for which it holds.
        forward_not_matching_preflights: Preflights of other origins go to the application; None is yes.
    """

    origins: tuple[StringMatcher, ...] = ()
    allow_methods: str = ""
    allow_headers: str = ""
    expose_headers: str = ""
    max_age: str = ""
    allow_credentials: bool | None = None
    allow_private_network: bool | None = None
    enabled: FractionalPercent = _ALWAYS
    forward_not_matching_preflights: bool | None = None

    def over(self, below: CorsPolicy) -> CorsPolicy:
        """This policy, and what it does not say from a less specific one, as Envoy looks through all levels."""
        forward, other = self.forward_not_matching_preflights, below.forward_not_matching_preflights
        return CorsPolicy(
            origins=self.origins or below.origins,
            allow_methods=self.allow_methods or below.allow_methods,
            allow_headers=self.allow_headers or below.allow_headers,
            expose_headers=self.expose_headers or below.expose_headers,
            max_age=self.max_age or below.max_age,
            allow_credentials=below.allow_credentials if self.allow_credentials is None else self.allow_credentials,
            allow_private_network=(
                below.allow_private_network if self.allow_private_network is None else self.allow_private_network
            ),
            enabled=self.enabled,
            forward_not_matching_preflights=other if forward is None else forward,
        )


class Csrf(FilterSetting, Struct, frozen=True, gc=False):
    """Requests that change something must come from their own origin, or from one of `origins`."""

    enabled: FractionalPercent
    origins: tuple[StringMatcher, ...] = ()


def parse_cors(container: Any, where: str, notes: Notes) -> Cors:
    """The Cors inside a google.protobuf.Any."""
    unpack(container, cors_pb2.Cors, where)
    return Cors()


_CORS_FIELDS = frozenset(
    "allow_origin_string_match allow_methods allow_headers expose_headers max_age allow_credentials filter_enabled"
    " allow_private_network_access forward_not_matching_preflights shadow_enabled".split()
)


def parse_cors_policy(container: Any, where: str, notes: Notes) -> CorsPolicy:
    """The CorsPolicy inside a google.protobuf.Any."""
    message = unpack(container, cors_pb2.CorsPolicy, where)
    notes.unless_acted_on(message, where, _CORS_FIELDS)
    enabled = _ALWAYS
    if message.HasField("filter_enabled"):
        enabled = parse_runtime_fraction(message.filter_enabled, f"{where}.filter_enabled", notes)
    return CorsPolicy(
        origins=_matchers(message.allow_origin_string_match, f"{where}.allow_origin_string_match"),
        allow_methods=message.allow_methods,
        allow_headers=message.allow_headers,
        expose_headers=message.expose_headers,
        max_age=message.max_age,
        allow_credentials=optional(message, "allow_credentials"),
        allow_private_network=optional(message, "allow_private_network_access"),
        enabled=enabled,
        forward_not_matching_preflights=optional(message, "forward_not_matching_preflights"),
    )


_CSRF_FIELDS = frozenset("filter_enabled additional_origins shadow_enabled".split())


def parse_csrf(container: Any, where: str, notes: Notes) -> Csrf:
    """The CsrfPolicy inside a google.protobuf.Any, a filter's or a route's."""
    message = unpack(container, csrf_pb2.CsrfPolicy, where)
    notes.unless_acted_on(message, where, _CSRF_FIELDS)
    return Csrf(
        enabled=parse_runtime_fraction(message.filter_enabled, f"{where}.filter_enabled", notes),
        origins=_matchers(message.additional_origins, f"{where}.additional_origins"),
    )


def _matchers(messages: Any, where: str) -> tuple[StringMatcher, ...]:
    return tuple(parse_string_matcher(message, f"{where}[{index}]") for index, message in enumerate(messages))
