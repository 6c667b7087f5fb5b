"""Local rate limiting (envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2

from .header_mutations import NO_MUTATIONS, HeaderMutations, parse_addition
from .matchers import FractionalPercent, parse_runtime_fraction
from .notes import Notes
from .values import optional, seconds, unpack

__all__ = ["LOCAL_RATE_LIMIT_TYPE", "LocalRateLimit", "parse_local_rate_limit"]

LOCAL_RATE_LIMIT_TYPE = local_rate_limit_pb2.LocalRateLimit.DESCRIPTOR.full_name

_ACTED_ON = frozenset(
    "stat_prefix status token_bucket filter_enabled filter_enforced response_headers_to_add"
    " request_headers_to_add_when_not_enforced local_rate_limit_per_downstream_connection".split()
)

NEVER = FractionalPercent(0, 100)


@dataclass(frozen=True, slots=True)
class LocalRateLimit:
    """A bucket of tokens: a request takes one, and is answered with `status` where there is none.

    Attributes:
        max_tokens: Size of the bucket; 0 where there is no bucket, and nothing is limited.
        tokens_per_fill, fill_seconds: What is put back, and how often.
        enabled: Share of the requests that take a token.
        enforced: Share of the requests over the limit that are refused.
        response_headers: Added to the refusal.
        request_headers_unenforced: Added to requests over the limit that are let through.
    """

    max_tokens: int = 0
    tokens_per_fill: int = 1
    fill_seconds: float = 1.0
    status: int = 429
    enabled: FractionalPercent = NEVER
    enforced: FractionalPercent = NEVER
    response_headers: HeaderMutations = NO_MUTATIONS
    request_headers_unenforced: HeaderMutations = NO_MUTATIONS


def parse_local_rate_limit(container: Any, where: str, notes: Notes) -> LocalRateLimit:
    """The LocalRateLimit inside a google.protobuf.Any."""
    message = unpack(container, local_rate_limit_pb2.LocalRateLimit, where)
    notes.unless_acted_on(message, where, _ACTED_ON)
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
    )
