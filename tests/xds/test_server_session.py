"""What a client of the state of the world has asked for, as the server takes it (Envoy docs, xds_protocol)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from meshsdk.resources import ResourceType, resource_name
from meshsdk.xds.server_session import SotwServerSession
from tests.xds.test_ads_client import cluster

CLUSTER = ResourceType.CLUSTER


class _Three:
    """Has three clusters."""

    def for_client(self, node: Any) -> Mapping[tuple[ResourceType, str], bytes]:
        return {(CLUSTER, name): cluster(name).value for name in ("a", "b", "c")}


@pytest.mark.parametrize(
    "history",
    [
        [((), "abc"), ((), None)],
        [(("a",), "a"), ((), None), (("*",), "abc")],
        [((), "abc"), (("a",), "a"), ((), None), (("b",), "b")],
        [(("*",), "abc"), (("*", "a"), "abc"), (("a",), "a"), (("*",), "abc")],
        [(("a",), "a"), (("*", "a"), "abc"), (("b",), "b"), ((), None)],
    ],
)
def test_all_is_wanted_where_all_is_named_or_no_name_ever_was(
    history: list[tuple[tuple[str, ...], str | None]],
) -> None:
    """Each request, and the clusters of the response; None where there is nothing new to say."""
    session, nonce = SotwServerSession(_Three()), ""
    for names, expected in history:
        request = discovery_pb2.DiscoveryRequest(type_url=CLUSTER.type_url, resource_names=names, response_nonce=nonce)
        responses = list(session.receive(request))
        if expected is None:
            assert not responses
            continue
        [response] = responses
        nonce = response.nonce
        assert "".join(resource_name(CLUSTER, one.value) for one in response.resources) == expected
