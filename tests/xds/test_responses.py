"""Large responses, whose resources are parsed as somebody looks at them, say what those say that are parsed at once."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from meshsdk.resources import ResourceType
from meshsdk.xds import ResourceCache, Status
from meshsdk.xds.responses import LargeResponse, reader
from meshsdk.xds.sotw import SotwSession
from tests.xds.test_ads_client import cluster

PADDING = any_pb2.Any(type_url="padding", value=b"x" * 300_000)


def of_the_world(*resources: Any) -> Any:
    return discovery_pb2.DiscoveryResponse(version_info="v", type_url="t", nonce="n", resources=resources)


def incremental(*resources: Any) -> Any:
    return discovery_pb2.DeltaDiscoveryResponse(
        system_version_info="v", type_url="t", nonce="n", resources=resources, removed_resources=["gone"]
    )


def test_a_small_one_is_a_message() -> None:
    found = reader(is_incremental=False)(of_the_world().SerializeToString())
    assert isinstance(found, discovery_pb2.DiscoveryResponse)


@pytest.mark.parametrize("is_incremental", [False, True])
def test_a_large_one_says_the_same(is_incremental: bool) -> None:
    if is_incremental:
        whole = incremental(
            discovery_pb2.Resource(name="a", version="1", resource=PADDING), discovery_pb2.Resource(name="b")
        )
    else:
        whole = of_the_world(PADDING, any_pb2.Any(type_url="b"))
    found = reader(is_incremental=is_incremental)(whole.SerializeToString())
    assert isinstance(found, LargeResponse)
    assert list(found.resources) == list(whole.resources)
    assert len(found.resources) == 2
    assert (found.type_url, found.nonce) == ("t", "n")
    if is_incremental:
        assert list(found.removed_resources) == ["gone"]
    else:
        assert found.version_info == "v"


@pytest.mark.parametrize("end", [-1, -200_000])
def test_one_that_ends_in_the_middle_does_not_parse(end: int) -> None:
    with pytest.raises(DecodeError):
        reader(is_incremental=False)(of_the_world(PADDING, PADDING).SerializeToString()[:end])


def test_a_resource_that_does_not_parse_is_refused_and_the_others_are_taken() -> None:
    good = cluster("a")
    packed = of_the_world(PADDING, good).SerializeToString()
    # The type URL of the first one is as long as the whole.
    broken = packed.replace(b"\x0a\x07padding", b"\x0a\x7fpadding")
    response = reader(is_incremental=False)(broken.replace(b"\x22\x01t", b""))
    assert isinstance(response, LargeResponse)
    assert [one.type_url for one in response.resources][1:] == [good.type_url]
    cache = ResourceCache()
    session = SotwSession(base_pb2.Node(), cache, takes_all=True)
    session.subscribe(ResourceType.CLUSTER, frozenset("a"))
    session.open()
    response._rest.type_url = ResourceType.CLUSTER.type_url
    [answer] = session.receive(response).answers
    assert answer.HasField("error_detail")
    entry = cache.get(ResourceType.CLUSTER, "a")
    assert entry is not None
    assert entry.status is Status.ACKED


@given(st.binary(max_size=60))
def test_no_bytes_are_a_fault(data: bytes) -> None:
    try:
        list(reader(is_incremental=True)(b"\x0a\x80\x80\x14" + b"x" * (20 << 14) + data).resources)
    except DecodeError:
        pass
