"""Envoy's retry conditions, as a table (Envoy docs, http_filters/router_filter)."""

from __future__ import annotations

import pytest

from meshsdk.exchange import Failure, Outcome
from meshsdk.exchange.retry import should_retry
from meshsdk.resources import RetryPolicy
from meshsdk.resources.route.retry import parse_retry_on


def response(status: int, **headers: str) -> Outcome:
    table = {name.replace("_", "-"): value for name, value in headers.items()}
    return Outcome(status=status, header=table.get)


def failed(failure: Failure, *, began: bool = True) -> Outcome:
    return Outcome(failure=failure, request_began=began)


@pytest.mark.parametrize(
    ("retry_on", "outcome", "expected"),
    [
        ("5xx", response(500), True),
        ("5xx", response(404), False),
        ("5xx", failed(Failure.CONNECT), True),
        ("5xx", failed(Failure.PER_TRY_TIMEOUT), True),
        ("5xx", failed(Failure.ROUTE_TIMEOUT), False),
        ("gateway-error", response(502), True),
        ("gateway-error", response(500), False),
        ("gateway-error", failed(Failure.RESET), True),
        ("connect-failure", failed(Failure.CONNECT), True),
        ("connect-failure", failed(Failure.RESET), False),
        ("reset", failed(Failure.RESET), True),
        ("reset", failed(Failure.CONNECT), True),
        ("reset", response(503), False),
        ("reset-before-request", failed(Failure.CONNECT, began=False), True),
        ("reset-before-request", failed(Failure.RESET), False),
        ("refused-stream", failed(Failure.REFUSED_STREAM), True),
        ("refused-stream", failed(Failure.RESET), False),
        ("retriable-4xx", response(409), True),
        ("retriable-4xx", response(404), False),
        ("retriable-status-codes", response(418), True),
        ("retriable-status-codes", response(500), False),
        ("envoy-ratelimited", response(429, x_envoy_ratelimited="true"), True),
        ("5xx", response(503, x_envoy_ratelimited="true"), False),
        ("unavailable", response(200, grpc_status="14"), True),
        ("unavailable", response(200, grpc_status="13"), False),
        ("cancelled,internal", response(200, grpc_status="13"), True),
        ("deadline-exceeded", response(200, grpc_status="4"), True),
        ("resource-exhausted", response(200, grpc_status="8"), True),
        ("", response(503), False),
    ],
)
def test_retry_conditions(retry_on: str, outcome: Outcome, expected: bool) -> None:
    conditions, unknown = parse_retry_on(retry_on)
    assert not unknown
    policy = RetryPolicy(conditions=conditions, retriable_status_codes=frozenset([418]))
    assert should_retry(policy, outcome) is expected


def test_unknown_conditions_are_returned_by_name() -> None:
    assert parse_retry_on("5xx, sometimes")[1] == ["sometimes"]
