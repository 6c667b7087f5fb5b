"""How hosts and ports are found among a sidecar's listeners, and what stays in use while something of it is missing."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import any_pb2, json_format
from udpa.type.v1 import typed_struct_pb2

from meshsdk.discovery import ListenerView
from meshsdk.discovery.outbound import Outbound
from meshsdk.resources import ResourceType, decode, resource_name
from meshsdk.xds import CachedResource, ResourceCache, Status
from meshsdk.xds.packed import of_sidecars

LISTENER, ROUTES, CLUSTER = ResourceType.LISTENER, ResourceType.ROUTE_CONFIGURATION, ResourceType.CLUSTER


def packed(message: Any) -> any_pb2.Any:
    found = any_pb2.Any()
    found.Pack(message)
    return found


def of_http(route_name: str, *filters: tuple[str, Any]) -> dict[str, Any]:
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix="x")
    manager.rds.route_config_name = route_name
    manager.rds.config_source.ads.SetInParent()
    for name, config in (*filters, ("router", router_pb2.Router())):
        manager.http_filters.add(name=name).typed_config.CopyFrom(packed(config))
    return {"filters": [manager]}


def of_bytes(*clusters: str, **match: Any) -> dict[str, Any]:
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix="x")
    if len(clusters) == 1:
        proxy.cluster = clusters[0]
    else:
        for name in clusters:
            proxy.weighted_clusters.clusters.add(name=name, weight=1)
    return {"filters": [proxy], "match": match}


def listener(name: str, address: str, port: int, *chains: dict[str, Any], **fields: Any) -> bytes:
    message = listener_pb2.Listener(name=name, **fields)
    message.address.socket_address.address, message.address.socket_address.port_value = address, port
    for one in chains:
        chain = message.filter_chains.add()
        json_format.ParseDict(one.get("match", {}), chain.filter_chain_match)
        for config in one["filters"]:
            chain.filters.add(name="x").typed_config.CopyFrom(packed(config))
    return bytes(message.SerializeToString())


def virtual_outbound(cluster: str) -> bytes:
    own = of_bytes("BlackHoleCluster", destination_port=15001)
    return listener("virtualOutbound", "0.0.0.0", 15001, own, of_bytes(cluster), use_original_dst={"value": True})


def routes(name: str, *hosts: dict[str, Any]) -> bytes:
    data = {"name": name, "virtual_hosts": hosts, "ignore_port_in_host_matching": True}
    return bytes(json_format.ParseDict(data, route_pb2.RouteConfiguration()).SerializeToString())


def host(*domains: str, cluster: str = "c", **match: Any) -> dict[str, Any]:
    return {
        "name": domains[0],
        "domains": domains,
        "routes": [{"match": match or {"prefix": "/"}, "route": {"cluster": cluster}}],
    }


ANY = host("*", cluster="PassthroughCluster")


class World:
    """What has come of each type; what is asked for is known, and what has not come does not exist."""

    def __init__(self, *listeners: bytes) -> None:
        self.cache = ResourceCache()
        self.cache.packed = of_sidecars()
        self.outbound = Outbound(self.cache, lambda name: f"{name}.default.svc" if "." not in name else None)
        self.waits: set[tuple[ResourceType, str]] = set()
        self.wanted: list[tuple[ResourceType, str]] = []
        for one in listeners:
            self.put(LISTENER, one)
        self.cache.packed[LISTENER].is_known = bool(listeners)

    def put(self, kind: ResourceType, resource: bytes) -> None:
        name = resource_name(kind, resource)
        if kind is LISTENER:
            self.cache.packed[kind].put(name, resource, "")
        try:
            self.cache.accept(kind, name, decode(kind, resource, sidecar_profile=True), "", resource)
        except Exception as error:  # noqa: BLE001
            self.cache.reject(kind, name, str(error))

    def want(self, kind: ResourceType, name: str) -> CachedResource | None:
        self.wanted.append((kind, name))
        if (kind, name) in self.waits:
            return CachedResource(Status.REQUESTED)
        return self.cache.get(kind, name) or CachedResource(Status.DOES_NOT_EXIST, error="none")

    def view(self, root: str) -> ListenerView | None:
        self.wanted.clear()
        return self.outbound.view(root, self.want)

    def clusters(self, root: str) -> set[str]:
        found = self.view(root)
        assert found is not None
        assert found.routes is not None, found
        return set(found.routes.cluster_names)


def test_until_all_listeners_have_come_there_is_nothing_to_decide_by() -> None:
    world = World()
    world.waits.add((LISTENER, "0.0.0.0_80"))
    assert world.view("a:80") is None
    world.waits.clear()
    found = world.view("a:80")
    assert found is not None
    assert (found.does_not_exist, found.problem) == (True, "listeners: none")


@pytest.mark.parametrize(
    ("root", "cluster"),
    [
        ("10.0.0.1:80", "at the address"),
        ("[fd00::1]:80", "at another address"),
        ("web:80", "outbound|80||web.default.svc"),
        ("web.default.svc:80", "outbound|80||web.default.svc"),
        ("other:80", "of any"),
        ("127.0.0.1:81", "of the loopback"),
        ("other:81", "of the loopback"),
    ],
)
def test_a_services_own_address_comes_first_and_then_the_port(root: str, cluster: str) -> None:
    world = World(
        listener("0.0.0.0_80", "0.0.0.0", 80, of_bytes("of any")),
        listener("127.0.0.1_81", "127.0.0.1", 81, of_bytes("of the loopback")),
        listener("10.0.0.1_80", "10.0.0.1", 80, of_bytes("at the address")),
        listener("fd00::1_80", "fd00::1", 80, of_bytes("at another address")),
        listener("10.0.0.2_80", "10.0.0.2", 80, of_bytes("outbound|80||web.default.svc")),
        virtual_outbound("PassthroughCluster"),
    )
    assert world.clusters(root) == {cluster}


def test_a_listener_that_leaves_is_found_no_more() -> None:
    world = World(
        listener("10.0.0.2_80", "10.0.0.2", 80, of_bytes("outbound|80||web.default.svc")),
        virtual_outbound("PassthroughCluster"),
    )
    assert world.clusters("web:80") == {"outbound|80||web.default.svc"}
    world.cache.packed[LISTENER].remove(["10.0.0.2_80"])
    found = world.view("web:80")
    assert found is not None
    assert found.does_not_exist
    assert (LISTENER, "10.0.0.2_80") not in world.wanted


@pytest.mark.parametrize(("cluster", "status"), [("PassthroughCluster", None), ("BlackHoleCluster", 502)])
def test_what_no_listener_is_for_is_passed_on_or_refused_as_the_mesh_says(cluster: str, status: int | None) -> None:
    found = World(virtual_outbound(cluster)).view("other:80")
    assert found is not None
    assert found.does_not_exist is (status is None)
    if status is not None:
        assert found.routes is not None
        assert found.routes.virtual_hosts[0].routes[0].action.status == status  # type: ignore[union-attr]


def test_without_any_listener_for_it_a_host_is_unknown() -> None:
    found = World(listener("10.0.0.1_80", "10.0.0.1", 80, of_bytes("c"))).view("other:80")
    assert found is not None
    assert found.does_not_exist


def test_tls_goes_by_the_name_that_it_asks_for_and_requests_by_their_host() -> None:
    world = World(
        listener(
            "0.0.0.0_443",
            "0.0.0.0",
            443,
            of_http("443"),
            of_bytes("wide", server_names=["*.example.com"]),
            of_bytes("exact", server_names=["a.example.com"]),
            of_bytes("PassthroughCluster"),
        )
    )
    world.put(ROUTES, routes("443", host("web", cluster="http"), ANY))
    assert world.clusters("a.example.com:443") == {"exact"}
    assert world.clusters("a.example.com.:443") == {"exact"}
    assert world.clusters("b.example.com:443") == {"wide"}
    assert world.clusters("web:443") == {"http"}
    found = world.view("other:443")
    assert found is not None
    assert found.does_not_exist


def test_bytes_are_split_as_the_chain_says_and_never_tried_again() -> None:
    world = World(listener("10.0.0.1_80", "10.0.0.1", 80, of_bytes("a", "b")))
    found = world.view("10.0.0.1:80")
    assert found is not None
    assert found.routes is not None
    [route] = found.routes.virtual_hosts[0].routes
    assert [(one.name, one.weight) for one in route.action.clusters] == [("a", 1), ("b", 1)]  # type: ignore[union-attr]
    assert route.action.retry_policy is None  # type: ignore[union-attr]
    assert world.view("10.0.0.1:80") is found


def test_only_the_virtual_host_of_the_host_is_taken_and_stays_the_same_where_others_change() -> None:
    world = World(listener("0.0.0.0_80", "0.0.0.0", 80, of_http("80")))
    world.put(ROUTES, routes("80", host("a", cluster="a"), host("b", cluster="b"), ANY))
    before = world.view("a:80")
    assert world.clusters("a:80") == {"a"}
    world.put(ROUTES, routes("80", host("a", cluster="a"), host("b", cluster="changed"), ANY))
    assert world.view("a:80") is before
    world.put(ROUTES, routes("80", host("a", cluster="changed"), ANY))
    assert world.clusters("a:80") == {"changed"}
    gone = world.view("b:80")
    assert gone is not None
    assert gone.does_not_exist


def test_a_virtual_host_that_breaks_leaves_the_last_good_one_in_use(caplog: pytest.LogCaptureFixture) -> None:
    world = World(listener("0.0.0.0_80", "0.0.0.0", 80, of_http("80")))
    broken = host("a", safe_regex={"regex": "("})
    world.put(ROUTES, routes("80", host("a", cluster="good")))
    assert world.clusters("a:80") == {"good"}
    world.put(ROUTES, routes("80", broken, host("b", cluster="b")))
    assert world.clusters("a:80") == {"good"}
    assert world.clusters("a:80") == {"good"}
    assert world.clusters("b:80") == {"b"}
    [told] = caplog.messages
    assert told.startswith("route configuration 80: ")
    assert told.endswith("for a:80 the last good one stays in use")
    fresh = World(listener("0.0.0.0_80", "0.0.0.0", 80, of_http("80")))
    fresh.put(ROUTES, routes("80", broken))
    found = fresh.view("a:80")
    assert found is not None
    assert "route configuration 80" in found.problem
    assert "regex" in found.problem
    assert not found.does_not_exist, "its requests must not go past the mesh"


def test_a_virtual_host_that_does_not_parse_leaves_the_last_good_one_in_use() -> None:
    world = World(listener("0.0.0.0_80", "0.0.0.0", 80, of_http("80")))
    world.put(ROUTES, routes("80", host("a", cluster="good")))
    assert world.clusters("a:80") == {"good"}
    # Its name and its domain, and routes that are none.
    world.put(ROUTES, routes("80", host("b", cluster="b")) + b"\x12\x0a" + b"\x0a\x01a\x12\x01a\x1a\x02\xff\xff")
    assert world.clusters("a:80") == {"good"}
    assert world.clusters("b:80") == {"b"}


@pytest.mark.parametrize("port", ["9" * 5000, "70000", "٣", "-1", ""])
def test_a_port_that_is_none_is_nothing_to_other_listeners(port: str) -> None:
    world = World(
        listener("10.0.0.2_80", "10.0.0.2", 80, of_bytes(f"outbound|{port}||other.default.svc")),
        listener("10.0.0.3_80", "10.0.0.3", 80, of_bytes("outbound|80||web.default.svc")),
    )
    assert world.clusters("web:80") == {"outbound|80||web.default.svc"}


def test_a_host_without_a_virtual_host_has_no_route() -> None:
    world = World(listener("0.0.0.0_80", "0.0.0.0", 80, of_http("80")))
    world.put(ROUTES, routes("80", host("a")))
    found = world.view("b:80")
    assert found is not None
    assert found.routes is not None
    assert found.routes.virtual_hosts == ()


def test_what_is_still_to_come_is_waited_for() -> None:
    world = World(listener("0.0.0.0_80", "0.0.0.0", 80, of_http("80")))
    world.put(ROUTES, routes("80", host("a")))
    for one in ((LISTENER, "0.0.0.0_80"), (ROUTES, "80")):
        world.waits = {one}
        assert world.view("a:80") is None
    world.waits = set()
    assert world.view("a:80") is not None


def test_a_filter_that_is_not_known_refuses_the_ports_requests_and_says_which() -> None:
    unknown = typed_struct_pb2.TypedStruct(type_url="type.googleapis.com/x.Unknown")
    world = World(
        listener("0.0.0.0_80", "0.0.0.0", 80, of_http("80", ("mine", unknown))),
        listener("0.0.0.0_81", "0.0.0.0", 81, of_bytes("c")),
    )
    found = world.view("a:80")
    assert found is not None
    assert not found.does_not_exist
    assert "listener 0.0.0.0_80" in found.problem
    assert "'mine' (x.Unknown) is not known and not optional" in found.problem
    assert world.clusters("a:81") == {"c"}


def test_what_istio_gives_every_listener_is_known() -> None:
    metadata = typed_struct_pb2.TypedStruct(type_url="type.googleapis.com/io.istio.http.peer_metadata.Config")
    one = listener("0.0.0.0_80", "0.0.0.0", 80, of_http("80", ("istio", metadata), ("cors", cors_pb2.Cors())))
    assert decode(LISTENER, one, sidecar_profile=True).notes == ()
