"""What decisions cost by themselves: picks among many endpoints, updates of a few, and routes among many."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from google.protobuf import json_format
from google.protobuf.message import Message

from meshsdk import resources
from meshsdk.balancing import Cluster
from meshsdk.balancing.context import AnyRequest
from meshsdk.resources import (
    Address,
    EdsDiscovery,
    EndpointConfig,
    Endpoints,
    ForwardAction,
    Listener,
    LocalityEndpoints,
    PathMatch,
    PathMatchKind,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
    WeightedCluster,
)
from meshsdk.resources.cluster import parse_endpoints
from meshsdk.resources.cluster.lb_policy import (
    ClientSideWeightedRoundRobin,
    ConsistentHashing,
    LbPolicy,
    LeastRequest,
    Maglev,
    PickFirst,
    Random,
    RingHash,
    RoundRobin,
    SlowStart,
    Subset,
    SubsetSelector,
)
from meshsdk.routing import RequestHead, RouteTable

__all__ = ["picks_per_second", "route_cost_ratio", "update_ratio"]

ENDPOINTS = 10_000

POLICIES: dict[str, LbPolicy] = {
    "round robin": RoundRobin(),
    "round robin, slow start": RoundRobin(SlowStart(60.0)),
    "random": Random(),
    "least request": LeastRequest(),
    "ring hash": RingHash(),
    "ring hash, bounded": RingHash(common=ConsistentHashing(balance_factor=150)),
    "maglev": Maglev(),
    "pick first": PickFirst(),
    "client side weights": ClientSideWeightedRoundRobin(),
    "subset": Subset(RoundRobin(), selectors=(SubsetSelector(("version",)),)),
}


def _endpoint(index: int, weight: int = 1) -> EndpointConfig:
    address = Address(f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}", 8080)
    return EndpointConfig(address, weight=weight, metadata={"envoy.lb": {"version": str(index % 10)}})


def _endpoints(*, weighted: bool) -> tuple[EndpointConfig, ...]:
    return tuple(_endpoint(index, 1 + index % 5 if weighted else 1) for index in range(ENDPOINTS))


def _cluster(policy: LbPolicy, endpoints: tuple[EndpointConfig, ...]) -> Cluster:
    config = resources.Cluster("c", EdsDiscovery("c"), lb_policy=policy)
    cluster = Cluster(config)
    cluster.update(config, Endpoints("c", (LocalityEndpoints(endpoints),)))
    return cluster


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def picks_per_second() -> dict[str, float]:
    """Picks a second of each policy, the slower of equal and unequal weights."""
    found: dict[str, float] = {}
    count = 20_000
    for name, policy in POLICIES.items():
        for weighted in (False, True):
            cluster = _cluster(policy, _endpoints(weighted=weighted))
            rng = random.Random(1)
            contexts = [AnyRequest(rng.random, rng.getrandbits(64), (("version", "3"),)) for _ in range(count)]

            def pick_all(cluster: Cluster = cluster, contexts: list[AnyRequest] = contexts) -> None:
                for context in contexts:
                    cluster.pick(context)

            rate = count / min(_seconds(pick_all) for _ in range(3))
            found[name] = min(rate, found.get(name, rate))
    return found


def update_ratio() -> float:
    """Seconds to change one endpoint of ten thousand, over seconds to bring them all in."""
    first = _endpoints(weighted=False)
    changed = (_endpoint(ENDPOINTS + 1), *first[1:])
    config = resources.Cluster("c", EdsDiscovery("c"))
    before, after = Endpoints("c", (LocalityEndpoints(first),)), Endpoints("c", (LocalityEndpoints(changed),))
    whole, one = [], []
    for _ in range(5):
        cluster = Cluster(config)
        whole.append(_seconds(lambda cluster=cluster: cluster.update(config, before)))
        one.append(_seconds(lambda cluster=cluster: cluster.update(config, after)))
    return min(one) / min(whole)


def reading_ratio() -> float:
    """Seconds to read assignments of ten endpoints, over those that protobuf takes to make dictionaries of them."""
    packed = [_assignment(index).SerializeToString() for index in range(2_000)]

    def each(read: Callable[[Message], object]) -> None:
        for one in packed:
            read(ClusterLoadAssignment.FromString(one))

    ours = min(_seconds(lambda: each(parse_endpoints)) for _ in range(5))
    return ours / min(_seconds(lambda: each(json_format.MessageToDict)) for _ in range(3))


def _assignment(index: int) -> ClusterLoadAssignment:
    made = ClusterLoadAssignment(cluster_name=f"outbound|80||s{index}.shop.svc.cluster.local")
    locality = made.endpoints.add(locality={"region": "eu", "zone": "eu-1"}, load_balancing_weight={"value": 10})
    for one in range(10):
        address = {"address": f"10.{index >> 8}.{index & 255}.{one + 1}", "port_value": 8080}
        locality.lb_endpoints.add(endpoint={"address": {"socket_address": address}}, health_status="HEALTHY")
    return made


def route_cost_ratio(kind: PathMatchKind) -> float:
    """Seconds to find the last of a thousand routes, over seconds to find the last of ten."""

    def seconds(count: int) -> float:
        routes = tuple(
            Route(RouteMatch(PathMatch(kind, f"/service-{index}/api")), ForwardAction((WeightedCluster("c", 1),)))
            for index in range(count)
        )
        table = RouteTable(Listener("l"), RouteConfiguration("r", (VirtualHost("v", ("*",), routes),)))
        path = f"/service-{count - 1}/api"
        head = RequestHead("GET", "http", "h", path if kind is PathMatchKind.EXACT else f"{path}/x", [])

        def find_often() -> None:
            for _ in range(2_000):
                table.find(head, random.random)

        return min(_seconds(find_often) for _ in range(5))

    return seconds(1_000) / seconds(10)
