"""Complete snapshots, make before break."""

from __future__ import annotations

from typing import Any

from meshsdk import resources
from meshsdk.discovery import CLUSTER_ROOT, DnsResolver, Graph, Snapshot
from meshsdk.resources import (
    Address,
    AggregateDiscovery,
    EdsDiscovery,
    EndpointConfig,
    Endpoints,
    ForwardAction,
    Listener,
    LocalityEndpoints,
    PathMatch,
    PathMatchKind,
    ResourceType,
    Route,
    RouteConfiguration,
    RouteMatch,
    ServerListener,
    VirtualHost,
    WeightedCluster,
)
from meshsdk.resources.cluster import original_name
from meshsdk.xds import ControlLoop, ResourceCache, Status
from meshsdk.xds.packed import of_sidecars

L, R, C, E = ResourceType.LISTENER, ResourceType.ROUTE_CONFIGURATION, ResourceType.CLUSTER, ResourceType.ENDPOINTS


def routes(*clusters: str) -> RouteConfiguration:
    action = ForwardAction(tuple(WeightedCluster(name, 1) for name in clusters))
    route = Route(RouteMatch(PathMatch(PathMatchKind.PREFIX, "/")), action)
    return RouteConfiguration("r", (VirtualHost("v", ("*",), (route,)),))


class World:
    """A cache that a test fills, and the graph over it."""

    def __init__(self, *roots: str, is_of_sidecar: bool = False) -> None:
        self.roots = roots or ("l",)
        self.now = 0.0
        self.cache = ResourceCache()
        if is_of_sidecar:
            self.cache.packed = of_sidecars()
        self.graph = Graph(self.cache, DnsResolver(ControlLoop("unused"), lambda: None))

    def put(self, kind: ResourceType, name: str, resource: Any) -> None:
        self.cache.accept(kind, name, resource, "1", b"")

    def put_cluster(self, name: str, *, ready: bool = True) -> None:
        self.put(C, name, resources.Cluster(name, EdsDiscovery(name)))
        if ready:
            self.put(E, name, Endpoints(name))

    def resolve(self) -> Snapshot:
        resolution = self.graph.resolve(self.roots, self.now)
        for kind, names in resolution.wanted.items():
            for name in names:
                self.cache.request(kind, name)
        self.wanted = resolution.wanted
        self.ends_at = resolution.ends_at
        return resolution.snapshot


def test_nothing_is_published_before_everything_below_is_there() -> None:
    world = World()
    for kind, name, resource in (
        (L, "l", Listener("l", route_name="r")),
        (R, "r", routes("a")),
        (C, "a", resources.Cluster("a", EdsDiscovery("e"))),
    ):
        assert not world.resolve().listeners
        assert name in world.wanted[kind]
        world.put(kind, name, resource)
    assert not world.resolve().listeners
    world.put(E, "e", Endpoints("e"))
    snapshot = world.resolve()
    assert snapshot.listeners["l"].routes is not None
    assert snapshot.clusters["a"].endpoints is not None


def test_a_route_moves_to_a_new_cluster_only_when_that_has_endpoints() -> None:
    world = World()
    world.put(L, "l", Listener("l", route_name="r"))
    world.put(R, "r", routes("old"))
    world.put_cluster("old")
    before = world.resolve()
    world.put(R, "r", routes("new"))
    world.put_cluster("new", ready=False)
    during = world.resolve()
    assert during.listeners["l"] is before.listeners["l"]
    assert {"old", "new"} <= world.wanted[C]
    assert "old" in during.clusters
    world.put(E, "new", Endpoints("new"))
    after = world.resolve()
    assert after.listeners["l"].routes == routes("new")
    assert "old" not in after.clusters
    assert "old" not in world.wanted[C]


class _Server(ServerListener, frozen=True):
    """One that names what its filters would."""

    routes_named: frozenset[str] = frozenset()
    asks: frozenset[str] = frozenset()

    @property
    def route_names(self) -> frozenset[str]:
        return self.routes_named

    @property
    def cluster_names(self) -> frozenset[str]:
        return self.asks


class _Logging(Listener, frozen=True):
    """One whose requests are told of."""

    tells: frozenset[str] = frozenset()

    @property
    def log_clusters(self) -> frozenset[str]:
        return self.tells


def test_what_a_published_server_asks_stays_while_the_next_one_is_not_whole() -> None:
    world = World("server: s")
    world.put(R, "old", routes("a"))
    world.put(L, "s", _Server("s", routes_named=frozenset({"old"}), asks=frozenset({"authz"})))
    world.put_cluster("a")
    world.put_cluster("authz")
    assert {"authz"} <= world.resolve().clusters.keys()
    world.put(L, "s", _Server("s", routes_named=frozenset({"new"}), asks=frozenset({"other"})))
    world.put_cluster("other")
    during = world.resolve()
    assert during.servers["s"].listener.cluster_names == {"authz"}  # type: ignore[union-attr]
    assert "authz" in during.clusters
    world.put(R, "new", routes("a"))
    after = world.resolve()
    assert after.servers["s"].listener.cluster_names == {"other"}  # type: ignore[union-attr]
    assert "authz" not in world.resolve().clusters


def test_whom_a_published_listener_tells_stays_while_the_next_one_is_not_whole() -> None:
    world = World()
    for name in ("a", "log", "other"):
        world.put_cluster(name)
    world.put(R, "old", routes("a"))
    world.put(L, "l", _Logging("l", route_name="old", tells=frozenset({"log"})))
    assert "log" in world.resolve().clusters
    world.put(L, "l", _Logging("l", route_name="new", tells=frozenset({"other"})))
    during = world.resolve()
    assert during.listeners["l"].listener.log_clusters == {"log"}  # type: ignore[union-attr]
    assert "log" in during.clusters
    world.put(R, "new", routes("a"))
    world.resolve()
    assert "log" not in world.resolve().clusters


def test_a_request_names_no_host_by_the_name_of_a_sidecars_cluster() -> None:
    name = original_name("169.254.169.254", 80, "outbound|80||*.example.com")
    world = World(f"{CLUSTER_ROOT}{name}", f"{CLUSTER_ROOT}outbound|80||a", is_of_sidecar=True)
    world.resolve()
    assert world.wanted[C] == {"outbound|80||a"}


def test_a_cluster_that_is_redefined_serves_on_with_its_old_endpoints() -> None:
    world = World()
    world.put(L, "l", Listener("l", route_configuration=routes("a")))
    world.put_cluster("a")
    before = world.resolve()
    world.put(C, "a", resources.Cluster("a", EdsDiscovery("elsewhere")))
    during = world.resolve()
    assert during.clusters["a"] is before.clusters["a"]
    assert {"a", "elsewhere"} <= world.wanted[E]
    world.put(E, "elsewhere", Endpoints("elsewhere"))
    after = world.resolve().clusters["a"].endpoints
    assert after is not None
    assert after.name == "elsewhere"


def test_a_cluster_known_to_be_missing_does_not_hold_the_rest_up() -> None:
    world = World()
    world.put(L, "l", Listener("l", route_configuration=routes("a", "gone")))
    world.put_cluster("a")
    world.cache.remove(C, "gone", Status.DOES_NOT_EXIST, "no such cluster")
    snapshot = world.resolve()
    assert "l" in snapshot.listeners
    assert "no such cluster" in snapshot.clusters["gone"].problem


def test_aggregates_wait_for_their_members_and_circles_end() -> None:
    world = World()
    world.put(L, "l", Listener("l", route_configuration=routes("top")))
    world.put(C, "top", resources.Cluster("top", AggregateDiscovery(("a", "b"))))
    world.put_cluster("a")
    assert not world.resolve().listeners
    world.put(C, "b", resources.Cluster("b", AggregateDiscovery(("top",))))
    snapshot = world.resolve()
    assert "l" in snapshot.listeners
    assert any("circle" in view.problem for view in snapshot.clusters.values())


def test_an_unchanged_world_is_the_same_snapshot() -> None:
    world = World()
    world.put(L, "l", Listener("l", route_configuration=routes("a")))
    world.put_cluster("a")
    assert world.resolve() is world.resolve()


def test_a_deleted_listener_says_that_it_does_not_exist() -> None:
    world = World()
    world.cache.remove(L, "l", Status.DOES_NOT_EXIST, "gone")
    assert world.resolve().listeners["l"].does_not_exist


def withdrawing(*clusters: str) -> World:
    """A world whose one route leads to these clusters, and that was published once."""
    world = World()
    world.put(L, "l", Listener("l", route_configuration=routes(*clusters)))
    for name in clusters:
        world.put_cluster(name)
    world.resolve()
    return world


def test_a_withdrawn_cluster_serves_on_as_long_as_a_resource_may_take_to_come() -> None:
    world = withdrawing("a")
    before = world.resolve()
    world.now = 100.0
    world.cache.remove(C, "a", Status.DOES_NOT_EXIST, "gone")
    assert world.resolve() is before
    assert world.ends_at == 115.0
    assert "a" in world.wanted[C]
    assert "a" in world.wanted[E]
    world.now = 114.9
    assert world.resolve() is before
    world.now = 115.0
    after = world.resolve()
    assert after.clusters["a"].cluster is None
    assert "gone" in after.clusters["a"].problem
    assert world.ends_at is None
    world.now = 200.0
    assert world.resolve() is after


def test_a_withdrawn_cluster_goes_with_the_last_route_that_leads_there() -> None:
    world = withdrawing("a")
    world.cache.remove(C, "a", Status.DOES_NOT_EXIST, "gone")
    assert "a" in world.resolve().clusters
    world.put(L, "l", Listener("l", route_configuration=routes("b")))
    world.put_cluster("b")
    assert set(world.resolve().clusters) == {"b"}
    assert world.ends_at is None


def test_a_withdrawn_cluster_that_comes_back_is_as_new() -> None:
    world = withdrawing("a")
    world.cache.remove(C, "a", Status.DOES_NOT_EXIST, "gone")
    world.resolve()
    world.put_cluster("a")
    world.resolve()
    assert world.ends_at is None
    world.now = 100.0
    world.cache.remove(C, "a", Status.DOES_NOT_EXIST, "gone again")
    assert world.resolve().clusters["a"].cluster is not None
    assert world.ends_at == 115.0


def test_a_withdrawn_cluster_keeps_its_endpoints_when_they_are_withdrawn_and_follows_them_when_they_change() -> None:
    world = withdrawing("a")

    def with_ports(*ports: int) -> Endpoints:
        hosts = tuple(EndpointConfig(Address("127.0.0.1", port)) for port in ports)
        return Endpoints("a", (LocalityEndpoints(hosts),))

    world.put(E, "a", with_ports(1, 2))
    world.resolve()
    world.cache.remove(C, "a", Status.DOES_NOT_EXIST, "gone")
    world.put(E, "a", with_ports(2))
    assert world.resolve().clusters["a"].endpoints == with_ports(2)
    world.put(E, "a", with_ports())
    assert world.resolve().clusters["a"].endpoints == with_ports(2)
    world.cache.remove(E, "a", Status.DOES_NOT_EXIST, "gone")
    assert world.resolve().clusters["a"].endpoints == with_ports(2)


def test_members_of_an_aggregate_that_are_withdrawn_serve_on() -> None:
    world = World()
    world.put(L, "l", Listener("l", route_configuration=routes("all")))
    world.put(C, "all", resources.Cluster("all", AggregateDiscovery(("a", "b"))))
    for name in ("a", "b"):
        world.put_cluster(name)
    before = world.resolve()
    world.cache.remove(C, "a", Status.DOES_NOT_EXIST, "gone")
    world.cache.remove(C, "all", Status.DOES_NOT_EXIST, "gone")
    assert world.resolve() is before


def test_a_cluster_that_is_withdrawn_before_it_could_serve_leaves_the_routes_before_in_use() -> None:
    world = withdrawing("a")
    before = world.resolve()
    world.put(L, "l", Listener("l", route_configuration=routes("b")))
    world.put_cluster("b", ready=False)
    assert world.resolve() is before
    world.cache.remove(C, "b", Status.DOES_NOT_EXIST, "gone")
    assert world.resolve() is before
    assert world.ends_at == 15.0
    world.put(L, "l", Listener("l", route_configuration=routes("c")))
    world.put_cluster("c")
    assert set(world.resolve().clusters) == {"c"}


def test_routes_to_a_cluster_that_went_before_it_could_serve_are_taken_over_after_a_time() -> None:
    world = withdrawing("a")
    world.put(L, "l", Listener("l", route_configuration=routes("b")))
    world.put_cluster("b", ready=False)
    world.resolve()
    world.cache.remove(C, "b", Status.DOES_NOT_EXIST, "gone")
    world.resolve()
    world.now = 15.0
    after = world.resolve()
    assert after.listeners["l"].routes == routes("b")
    assert after.clusters["b"].cluster is None
    world.now = 16.0
    assert world.resolve() is after
