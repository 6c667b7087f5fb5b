"""Endpoints that take the place of others are what they are by themselves; those that are the same stay the same."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.endpoint.v3 import endpoint_pb2
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from meshsdk.errors import ResourceError
from meshsdk.resources import Endpoints, ResourceType, decode

E = ResourceType.ENDPOINTS


def packed(data: dict[str, Any]) -> bytes:
    made = json_format.ParseDict({"clusterName": "c", **data}, endpoint_pb2.ClusterLoadAssignment())
    return made.SerializeToString()


def endpoint(port: int, **more: Any) -> dict[str, Any]:
    return {"endpoint": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": port}}}, **more}


# Some break rules of Envoy's, some are refused by ours, some have what is noted, and metadata.
ENDPOINTS = st.one_of(
    st.builds(endpoint, st.integers(1, 4)),
    st.builds(lambda port: endpoint(port, loadBalancingWeight=port), st.integers(0, 3)),
    st.builds(lambda port: endpoint(port, metadata={"filterMetadata": {"envoy.lb": {"v": port}}}), st.integers(1, 3)),
    st.just(endpoint(0)),
    st.just(endpoint(70_000)),
    st.just({"endpointName": "x"}),
    st.just({"endpoint": {"address": {"socketAddress": {"address": "a.name", "portValue": 1}}}}),
    st.just({"endpoint": {**endpoint(9)["endpoint"], "additionalAddresses": [{"address": {"pipe": {"path": "/x"}}}]}}),
)
LOCALITIES = st.builds(
    lambda zone, weight, priority, ones: {
        "locality": {"zone": zone},
        "loadBalancingWeight": weight,
        "priority": priority,
        "lbEndpoints": ones,
    },
    st.sampled_from("ab"),
    st.integers(1, 2),
    st.sampled_from((0, 1, 200)),
    st.lists(ENDPOINTS, max_size=5),
)
ASSIGNMENTS = st.builds(lambda localities: packed({"endpoints": localities}), st.lists(LOCALITIES, max_size=3))


def made(one: bytes, before: tuple[bytes, Endpoints] | None = None) -> Any:
    try:
        return decode(E, one, before=before)
    except ResourceError as error:
        return error


@given(ASSIGNMENTS, ASSIGNMENTS)
def test_what_was_before_changes_nothing_of_what_is_made(first: bytes, second: bytes) -> None:
    before = made(first)
    alone, after = made(second), made(second, (first, before) if isinstance(before, Endpoints) else None)
    if isinstance(alone, ResourceError):
        # Of several faults another one may be told first.
        assert isinstance(after, ResourceError)
    else:
        assert after == alone


def test_the_fault_of_a_new_endpoint_is_told_by_its_place() -> None:
    first = packed({"endpoints": [{"lbEndpoints": [endpoint(1), endpoint(2)]}]})
    second = packed({"endpoints": [{"lbEndpoints": [endpoint(1), endpoint(70_000)]}]})
    alone, after = made(second), made(second, (first, made(first)))
    assert str(after) == str(alone)
    assert "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.port_value" in str(after)


def test_endpoints_that_are_the_same_stay_the_same_objects() -> None:
    first = packed({"endpoints": [{"lbEndpoints": [endpoint(port) for port in range(1, 11)]}]})
    second = packed({"endpoints": [{"lbEndpoints": [endpoint(port) for port in (11, *range(2, 11))]}]})
    before = decode(E, first)
    after = decode(E, second, before=(first, before))
    old, new = before.localities[0].endpoints, after.localities[0].endpoints
    assert [one is other for one, other in zip(old, new, strict=True)] == [False, *[True] * 9]


@pytest.mark.parametrize("noted", [{"endpoints": [{"lbEndpoints": [endpoint(1)], "proximity": 3}]}])
def test_what_was_noted_is_noted_again(noted: dict[str, Any]) -> None:
    first = packed(noted)
    before = decode(E, first)
    assert before.notes
    second = packed({"endpoints": [*noted["endpoints"], {"priority": 0, "lbEndpoints": [endpoint(2)]}]})
    assert decode(E, second, before=(first, before)).notes == decode(E, second).notes
