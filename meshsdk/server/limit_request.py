"""Rate limits by gRPC: envoy.service.ratelimit.v3.RateLimitService.ShouldRateLimit."""

from __future__ import annotations

from typing import Any

import httpx
from envoy.service.ratelimit.v3 import rls_pb2
from envoy.type.v3 import ratelimit_unit_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from ..http.grpc_unary import read_call, write_call
from ..inbound.waits import AskRateLimit, LimitStatus, RateLimitAnswer

__all__ = ["read", "write"]

_METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
_LimitUnit = rls_pb2.RateLimitResponse.RateLimit.Unit
_UNITS = dict(ratelimit_unit_pb2.RateLimitUnit.items())
_Code = rls_pb2.RateLimitResponse.Code


def write(question: AskRateLimit) -> httpx.Request:
    """The call."""
    message = rls_pb2.RateLimitRequest(domain=question.domain)
    for descriptor in question.descriptors:
        asked = message.descriptors.add()
        for key, value in descriptor.entries:
            asked.entries.add(key=key, value=value)
        if descriptor.hits_addend is not None:
            asked.hits_addend.value = descriptor.hits_addend
        unit = _UNITS.get(descriptor.limit[1]) if descriptor.limit is not None else None
        if descriptor.limit is not None and unit is not None:
            asked.limit.requests_per_unit, asked.limit.unit = descriptor.limit[0], unit
    service = question.service
    return write_call(service.cluster, _METHOD, message.SerializeToString(), service.timeout_seconds, service.metadata)


def read(answer: httpx.Response) -> RateLimitAnswer:
    """What the server says.

    Raises:
        ValueError: The call failed, or the answer is none.
    """
    try:
        message = rls_pb2.RateLimitResponse.FromString(read_call(answer))
    except DecodeError as error:
        raise ValueError(f"the answer does not parse: {error}") from error
    if message.overall_code not in (_Code.OK, _Code.OVER_LIMIT):
        raise ValueError(f"the answer has the code {message.overall_code}")
    return RateLimitAnswer(
        is_over_limit=message.overall_code == _Code.OVER_LIMIT,
        body=message.raw_body,
        response_headers=_headers(message.response_headers_to_add),
        request_headers=_headers(message.request_headers_to_add),
        statuses=tuple(map(_status, message.statuses)),
        metadata=json_format.MessageToDict(message.dynamic_metadata),
    )


def _status(message: Any) -> LimitStatus:
    limit = message.current_limit
    has_limit = message.HasField("current_limit")
    return LimitStatus(
        requests_per_unit=limit.requests_per_unit if has_limit else None,
        unit=_LimitUnit.Name(limit.unit) if limit.unit in _LimitUnit.values() else "",
        name=limit.name,
        remaining=message.limit_remaining,
        reset_seconds=message.duration_until_reset.seconds,
    )


def _headers(messages: Any) -> tuple[tuple[bytes, bytes], ...]:
    """As bytes; what could begin a new line is taken out, since it comes from another server."""
    return tuple(
        (
            one.key.lower().encode("latin-1", "replace"),
            (one.value or one.raw_value.decode("latin-1"))
            .encode("latin-1", "replace")
            .replace(b"\r", b"")
            .replace(b"\n", b"")
            .replace(b"\0", b""),
        )
        for one in messages
        if one.key and not one.key.startswith(":") and one.key.lower() != "host"
    )
