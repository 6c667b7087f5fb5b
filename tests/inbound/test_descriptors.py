"""Limits that an earlier filter has told: from another server, so any number may come."""

from __future__ import annotations

import math

import pytest

from meshsdk.inbound.connection import Connection
from meshsdk.inbound.filters.descriptors import RouteLimits, compile_descriptors
from meshsdk.inbound.request import InboundRequest
from meshsdk.resources.filters.rate_limit_rules import ConstantEntry, LimitOverride, RateLimitRule
from meshsdk.routing import RequestHead


@pytest.mark.parametrize(
    ("told", "limit"),
    [
        (42.0, (42, "HOUR")),
        (0, (0, "HOUR")),
        (math.inf, None),
        (math.nan, None),
        (-1, None),
        (2**32, None),
        (True, None),
        ("42", None),
    ],
)
def test_a_limit_that_is_no_count_is_not_looked_at(told: object, limit: tuple[int, str] | None) -> None:
    rule = RateLimitRule((ConstantEntry("generic_key", "all"),), override=LimitOverride("ext", ("limit",)))
    head = RequestHead("GET", "http", "a.com", "/", [])
    request = InboundRequest(head, Connection())
    request.metadata["ext"] = {"limit": {"requests_per_unit": told, "unit": "hour"}}
    [descriptor] = compile_descriptors([rule], RouteLimits(), "rules")(request)
    assert descriptor.limit == limit
