"""Types that are subscribed to as a whole, in both variants: all comes, and stays packed until something is wanted."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2

from meshsdk.resources import Cluster, DnsDiscovery, ResourceType
from meshsdk.resources.cluster import original_name
from meshsdk.xds import CachedResource, ResourceCache, Status
from meshsdk.xds.delta import DeltaSession
from meshsdk.xds.packed import of_sidecars
from meshsdk.xds.session import Session
from meshsdk.xds.sotw import SotwSession
from tests.xds.test_ads_client import cluster

CLUSTER, LISTENER, ROUTES = ResourceType.CLUSTER, ResourceType.LISTENER, ResourceType.ROUTE_CONFIGURATION


def listener(name: str, port: int) -> any_pb2.Any:
    address = {"socket_address": {"address": "0.0.0.0", "port_value": port}}
    return any_pb2.Any(
        type_url=LISTENER.type_url, value=listener_pb2.Listener(name=name, address=address).SerializeToString()
    )


def original(name: str) -> any_pb2.Any:
    message = cluster_pb2.Cluster(name=name, type="ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED")
    return any_pb2.Any(type_url=CLUSTER.type_url, value=message.SerializeToString())


class Whole:
    """A session whose listeners and clusters come as a whole, and a server that has what the test says."""

    def __init__(self, make: type[Session], **options: Any) -> None:
        self.cache = ResourceCache()
        self.cache.packed = of_sidecars()
        self.session = make(base_pb2.Node(id="me"), self.cache, takes_all=True, **options)
        self.first = self.session.open()
        self._sent: dict[ResourceType, dict[str, Any]] = {}

    def has(self, kind: ResourceType, **resources: Any) -> Any:
        """The server has these of a type, and tells of them as its variant does."""
        before = self._sent.get(kind, {})
        self._sent[kind] = resources
        if not self.session.is_incremental:
            whole = discovery_pb2.DiscoveryResponse(
                type_url=kind.type_url, version_info="v", nonce="n", resources=resources.values()
            )
            return self.session.receive(whole).answers[0]
        new = [
            discovery_pb2.Resource(name=name.replace("__", "|"), version="v", resource=one)
            for name, one in resources.items()
            if before.get(name) != one
        ]
        gone = [name.replace("__", "|") for name in before.keys() - resources.keys()]
        response = discovery_pb2.DeltaDiscoveryResponse(
            type_url=kind.type_url, nonce="n", resources=new, removed_resources=gone
        )
        return self.session.receive(response).answers[0]

    def want(self, kind: ResourceType, *names: str) -> Any:
        return self.session.subscribe(kind, frozenset(names))

    def entry(self, kind: ResourceType, name: str) -> CachedResource:
        found = self.cache.get(kind, name)
        assert found is not None
        return found


@pytest.fixture(params=[SotwSession, DeltaSession])
def make(request: pytest.FixtureRequest) -> type[Session]:
    found: type[Session] = request.param
    return found


def test_a_stream_begins_by_asking_for_all_and_names_none_of_it(make: type[Session]) -> None:
    one = Whole(make)
    assert [request.type_url for request in one.first] == [LISTENER.type_url, CLUSTER.type_url]
    assert (one.first[0].node.id, one.first[1].HasField("node")) == ("me", False)
    assert one.want(CLUSTER, "a") is None
    again = one.session.open()
    assert [request.type_url for request in again] == [LISTENER.type_url, CLUSTER.type_url]
    names = "resource_names_subscribe" if one.session.is_incremental else "resource_names"
    assert [list(getattr(request, names)) for request in (*one.first, *again)] == [[], [], [], []]


def test_nothing_is_parsed_before_it_is_wanted(make: type[Session]) -> None:
    one = Whole(make)
    ack = one.has(CLUSTER, a=cluster("a"), bad=cluster("bad", connect_timeout="-1s"))
    assert not ack.HasField("error_detail")
    assert list(one.cache) == []
    one.want(CLUSTER, "a", "bad", "none")
    assert isinstance(one.entry(CLUSTER, "a").resource, Cluster)
    assert one.entry(CLUSTER, "bad").status is Status.NACKED
    assert "connect_timeout" in one.entry(CLUSTER, "bad").error
    assert one.entry(CLUSTER, "none").status is Status.DOES_NOT_EXIST


def test_what_is_wanted_before_anything_has_come_is_waited_for(make: type[Session]) -> None:
    one = Whole(make)
    one.want(CLUSTER, "a", "none")
    assert one.entry(CLUSTER, "none").status is Status.REQUESTED
    assert one.session.undecided(CLUSTER) == frozenset(), "a whole tells of every name"
    one.has(CLUSTER, a=cluster("a"))
    assert one.entry(CLUSTER, "a").status is Status.ACKED
    assert one.entry(CLUSTER, "none").status is Status.DOES_NOT_EXIST


def test_what_is_wanted_follows_changes_and_the_rest_costs_nothing(make: type[Session]) -> None:
    one = Whole(make)
    one.has(CLUSTER, a=cluster("a"), b=cluster("b"))
    one.want(CLUSTER, "a")
    before = one.entry(CLUSTER, "a").resource
    one.cache.take_changed()
    one.has(CLUSTER, a=cluster("a"), b=cluster("b", connect_timeout="3s"))
    assert one.cache.take_changed() == set()
    assert one.entry(CLUSTER, "a").resource is before
    one.has(CLUSTER, a=cluster("a", connect_timeout="3s"), b=cluster("b", connect_timeout="3s"))
    changed = one.entry(CLUSTER, "a").resource
    assert isinstance(changed, Cluster)
    assert changed.connect_timeout_seconds == 3.0
    one.has(CLUSTER, b=cluster("b"))
    assert one.entry(CLUSTER, "a").status is Status.DOES_NOT_EXIST
    assert one.entry(CLUSTER, "a").was_there
    one.has(CLUSTER, a=cluster("a"), b=cluster("b"))
    assert one.entry(CLUSTER, "a").status is Status.ACKED


def test_a_bad_update_of_what_is_wanted_is_refused_and_the_last_good_one_serves_on(make: type[Session]) -> None:
    one = Whole(make)
    one.has(CLUSTER, a=cluster("a"))
    one.want(CLUSTER, "a")
    nack = one.has(CLUSTER, a=cluster("a", connect_timeout="-1s"))
    assert "connect_timeout" in nack.error_detail.message
    assert isinstance(one.entry(CLUSTER, "a").resource, Cluster)
    assert one.entry(CLUSTER, "a").status is Status.NACKED


def test_what_the_server_deletes_stays_where_the_bootstrap_says_so(make: type[Session]) -> None:
    one = Whole(make, keep_deleted=True)
    one.has(CLUSTER, a=cluster("a"), b=cluster("b"))
    one.want(CLUSTER, "a")
    one.has(CLUSTER)
    assert one.entry(CLUSTER, "a").resource is not None
    one.want(CLUSTER, "a", "b")
    assert one.entry(CLUSTER, "b").status is Status.ACKED


def test_another_set_of_listeners_is_a_change_though_none_of_them_is_wanted(make: type[Session]) -> None:
    one = Whole(make)
    one.has(LISTENER, x=listener("x", 80))
    assert one.cache.take_changed() == {(LISTENER, "*")}
    one.cache.packed[LISTENER].take_changed()
    seen = one.cache.changes
    one.has(LISTENER, x=listener("x", 80))
    assert one.cache.changes == seen
    one.has(LISTENER)
    assert one.cache.take_changed() == {(LISTENER, "*")}


def test_a_cluster_of_original_destinations_is_another_one_for_each_host(make: type[Session]) -> None:
    one = Whole(make)
    one.has(CLUSTER, outbound__80____api=original("outbound|80||api"))
    assert one.cache.packed[CLUSTER].marked == {"outbound|80||api"}
    assert one.cache.take_changed() == {(LISTENER, "*")}, "whoever leads there must know"
    name = original_name("x.example", 80, "outbound|80||api")
    one.want(CLUSTER, name)
    found = one.entry(CLUSTER, name).resource
    assert isinstance(found, Cluster)
    assert isinstance(found.discovery, DnsDiscovery)
    [group] = found.discovery.endpoints.localities
    assert (found.name, str(group.endpoints[0].address)) == (name, "x.example:80")
    one.has(CLUSTER, outbound__80____api=cluster("outbound|80||api", connect_timeout="3s"))
    changed = one.entry(CLUSTER, name).resource
    assert isinstance(changed, Cluster)
    assert changed.connect_timeout_seconds == 3.0
    assert one.cache.packed[CLUSTER].marked == set()
    assert (LISTENER, "*") in one.cache.take_changed()
    one.has(CLUSTER)
    assert one.entry(CLUSTER, name).status is Status.DOES_NOT_EXIST
    one.want(CLUSTER)
    assert list(one.cache) == []


def test_other_types_are_asked_for_by_name_as_ever(make: type[Session]) -> None:
    one = Whole(make)
    request = one.want(ROUTES, "80")
    names = request.resource_names_subscribe if one.session.is_incremental else request.resource_names
    assert list(names) == ["80"]


def test_a_new_stream_tells_what_is_there_so_that_only_changes_come() -> None:
    one = Whole(DeltaSession)
    one.has(CLUSTER, a=cluster("a"), b=cluster("b"))
    one.want(CLUSTER, "a")
    one.has(CLUSTER, a=cluster("a", connect_timeout="-1s"), b=cluster("b"))
    [_, clusters] = one.session.open()
    assert dict(clusters.initial_resource_versions) == {"a": "", "b": "v"}, "what was refused must come again"


def test_another_server_may_not_have_what_the_one_before_had() -> None:
    one = Whole(DeltaSession)
    one.has(CLUSTER, a=cluster("a"), b=cluster("b"))
    one.want(CLUSTER, "a", "b")
    [_, clusters] = one.session.open(is_same_server=False)
    assert dict(clusters.initial_resource_versions) == {}
    response = discovery_pb2.DeltaDiscoveryResponse(
        type_url=CLUSTER.type_url,
        nonce="n",
        resources=[discovery_pb2.Resource(name="b", version="w", resource=cluster("b"))],
    )
    one.session.receive(response)
    assert one.entry(CLUSTER, "a").status is Status.DOES_NOT_EXIST
    assert one.entry(CLUSTER, "b").status is Status.ACKED


def test_a_response_that_cannot_be_read_deletes_nothing() -> None:
    one = Whole(SotwSession)
    one.has(CLUSTER, a=cluster("a"))
    one.want(CLUSTER, "a")
    nack = one.has(CLUSTER, b=any_pb2.Any(type_url=LISTENER.type_url))
    assert nack.HasField("error_detail")
    assert one.entry(CLUSTER, "a").status is Status.ACKED
