"""Local rate limiting (envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit)."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import Struct

from ...errors import ResourceError
from .. import protos
from ..header_mutations import NO_MUTATIONS, HeaderMutations, parse_addition
from ..matching import FractionalPercent, parse_runtime_fraction
from ..notes import Notes
from ..values import optional, seconds, unpack
from .rate_limit_rules import RateLimitRule, VirtualHostRules, parse_rules_of_filter
from .settings import FilterSetting

__all__ = [
    "DescriptorLimit",
    "LocalRateLimit",
    "parse_client_rate_limit",
    "parse_local_rate_limit",
    "parse_local_rate_limit_per_route",
]


_ACTED_ON = frozenset(
    "stat_prefix status token_bucket filter_enabled filter_enforced response_headers_to_add"
    " request_headers_to_add_when_not_enforced".split()
)
_OF_SERVERS = _ACTED_ON | frozenset(
    "descriptors stage vh_rate_limits always_consume_default_token_bucket rate_limits max_dynamic_descriptors"
    " enable_x_ratelimit_headers rate_limited_as_resource_exhausted".split()
)
_MAX_DYNAMIC_DESCRIPTORS = 20  # LocalRateLimit.max_dynamic_descriptors
_SHORTEST_FILL_SECONDS = 0.05  # Envoy refuses shorter intervals.

NEVER = FractionalPercent(0, 100)


class DescriptorLimit(Struct, frozen=True, gc=False):
    """A bucket for the requests of one descriptor (LocalRateLimitDescriptor).

    Attributes:
        entries: Pairs of key and value; an empty value stands for any, each with a bucket of its own.
    """

    entries: tuple[tuple[str, str], ...]
    max_tokens: int
    tokens_per_fill: int = 1
    fill_seconds: float = 1.0


class LocalRateLimit(FilterSetting, Struct, frozen=True, gc=False):
    """A bucket of tokens: a request takes one, and is answered with `status` where there is none.

    Attributes:
        max_tokens: Size of the bucket; 0 where there is no bucket, and nothing is limited.
        tokens_per_fill, fill_seconds: What is put back, and how often.
        enabled: Share of the requests that take a token.
        enforced: Share of the requests over the limit that are refused.
        response_headers: Added to the refusal.
        request_headers_unenforced: Added to requests over the limit that are let through.
        descriptors: Buckets for some requests.
        takes_default_too: Requests of a descriptor take a token of the filter's own bucket as well.
        rules: Of the filter itself; where it has any, routes are not looked at.
        tells_limits: Responses carry X-RateLimit-Limit, -Remaining and -Reset.
    """

    counts_by_routes: ClassVar[bool] = True

    max_tokens: int = 0
    tokens_per_fill: int = 1
    fill_seconds: float = 1.0
    status: int = 429
    enabled: FractionalPercent = NEVER
    enforced: FractionalPercent = NEVER
    response_headers: HeaderMutations = NO_MUTATIONS
    request_headers_unenforced: HeaderMutations = NO_MUTATIONS
    descriptors: tuple[DescriptorLimit, ...] = ()
    takes_default_too: bool = True
    max_dynamic_descriptors: int = _MAX_DYNAMIC_DESCRIPTORS
    stage: int = 0
    virtual_host: VirtualHostRules = VirtualHostRules.OVERRIDE
    rules: tuple[RateLimitRule, ...] = ()
    tells_limits: bool = False
    as_resource_exhausted: bool = False


def parse_client_rate_limit(container: Any, where: str, notes: Notes) -> LocalRateLimit:
    """The LocalRateLimit of a client, who has one bucket and no descriptors."""
    message = unpack(container, protos.local_rate_limit_pb2.LocalRateLimit, where)
    notes.unless_acted_on(message, where, _ACTED_ON)
    return _parse(message, where, Notes())


def parse_local_rate_limit(container: Any, where: str, notes: Notes) -> LocalRateLimit:
    """The LocalRateLimit inside a google.protobuf.Any.

    Raises:
        ResourceError: A descriptor stands twice, or a bucket is filled too often.
    """
    message = unpack(container, protos.local_rate_limit_pb2.LocalRateLimit, where)
    notes.unless_acted_on(message, where, _OF_SERVERS)
    return _parse(message, where, notes)


def parse_local_rate_limit_per_route(container: Any, where: str, notes: Notes) -> LocalRateLimit:
    """The LocalRateLimit of a route.

    Raises:
        ResourceError: As for `parse_local_rate_limit`; or it has no bucket, which Envoy takes only of listeners.
    """
    message = unpack(container, protos.local_rate_limit_pb2.LocalRateLimit, where)
    if not message.HasField("token_bucket"):
        raise ResourceError(f"{where}.token_bucket", "must be set for a route")
    return parse_local_rate_limit(container, where, notes)


def _parse(message: Any, where: str, notes: Notes) -> LocalRateLimit:
    bucket = message.token_bucket

    def fraction(field: str) -> FractionalPercent:
        if not message.HasField(field):
            return NEVER
        return parse_runtime_fraction(getattr(message, field), f"{where}.{field}", notes)

    status = message.status.code
    return LocalRateLimit(
        max_tokens=bucket.max_tokens if message.HasField("token_bucket") else 0,
        tokens_per_fill=optional(bucket, "tokens_per_fill") or 1,
        fill_seconds=seconds(bucket, "fill_interval") or 1.0,
        # LocalRateLimit.status: below 400 it is 429.
        status=status if status >= 400 else 429,
        enabled=fraction("filter_enabled"),
        enforced=fraction("filter_enforced"),
        response_headers=HeaderMutations(
            tuple(
                parse_addition(option, f"{where}.response_headers_to_add[{index}]")
                for index, option in enumerate(message.response_headers_to_add)
            )
        ),
        request_headers_unenforced=HeaderMutations(
            tuple(
                parse_addition(option, f"{where}.request_headers_to_add_when_not_enforced[{index}]")
                for index, option in enumerate(message.request_headers_to_add_when_not_enforced)
            )
        ),
        descriptors=_parse_descriptors(message.descriptors, f"{where}.descriptors"),
        takes_default_too=(
            message.always_consume_default_token_bucket.value
            if message.HasField("always_consume_default_token_bucket")
            else True
        ),
        max_dynamic_descriptors=optional(message, "max_dynamic_descriptors") or _MAX_DYNAMIC_DESCRIPTORS,
        stage=message.stage,
        virtual_host=VirtualHostRules(message.vh_rate_limits),
        rules=parse_rules_of_filter(message.rate_limits, f"{where}.rate_limits"),
        tells_limits=bool(message.enable_x_ratelimit_headers),
        as_resource_exhausted=message.rate_limited_as_resource_exhausted,
    )


def _parse_descriptors(messages: Any, where: str) -> tuple[DescriptorLimit, ...]:
    found: dict[tuple[tuple[str, str], ...], DescriptorLimit] = {}
    for index, message in enumerate(messages):
        path, bucket = f"{where}[{index}]", message.token_bucket
        entries = tuple((entry.key, entry.value) for entry in message.entries)
        if entries in found:
            raise ResourceError(f"{path}.entries", "stand twice")
        fill_seconds = seconds(bucket, "fill_interval") or 0.0
        if fill_seconds < _SHORTEST_FILL_SECONDS:
            raise ResourceError(f"{path}.token_bucket.fill_interval", "must be 50 ms at least")
        found[entries] = DescriptorLimit(
            entries, bucket.max_tokens, optional(bucket, "tokens_per_fill") or 1, fill_seconds
        )
    return tuple(found.values())
