"""Load balancing beside the real Envoy: the same host for the same hash, and the same shares of the traffic.

Shares are compared at six and a half standard deviations, as there are a hundred of them in each run; Envoy's own
chance cannot be seeded, meshsdk's is, and the seed is printed with a failure.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from envoy.config.route.v3 import route_pb2
from google.protobuf import json_format

from meshsdk.balancing import Cluster
from meshsdk.balancing.context import AnyRequest
from meshsdk.resources import Listener, ResourceType, decode
from meshsdk.resources.values import frozen
from meshsdk.routing import RequestHead, RouteTable
from meshsdk.routing.hash_key import hash_text

from .judge import EnvoyJudge, ManagerOptions, Request, running_judge
from .ours import make_clusters
from .upstream import EchoUpstreams

KEYS = 10_000
SEED = 20_260
AHEAD = 20  # Where a host answers each: for answers of its own Envoy may close the connection.
ENDPOINTS = [f"e{index}" for index in range(100)]


def endpoint(name: str, port: int, weight: int = 1, health: str = "HEALTHY", **lb: Any) -> dict[str, Any]:
    return {
        "endpoint": {
            "hostname": f"{name}.host",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        },
        "load_balancing_weight": weight,
        "health_status": health,
        "metadata": {"filter_metadata": {"envoy.lb": {"stage": "prod", **lb}}},
    }


def cluster(name: str, localities: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": localities},
        **fields,
    }


def hashed_clusters(ports: Mapping[str, int]) -> list[dict[str, Any]]:
    """Ring hash and maglev over 3, 10 and 100 endpoints of unequal weights, and their settings."""
    made = []
    for size in (3, 10, 100):
        hosts = [endpoint(name, ports[name], 1 + index * 7 % 5) for index, name in enumerate(ENDPOINTS[:size])]
        made += [
            cluster(f"ring-{size}", [{"lb_endpoints": hosts}], lb_policy="RING_HASH"),
            cluster(f"maglev-{size}", [{"lb_endpoints": hosts}], lb_policy="MAGLEV"),
        ]
    ten = [endpoint(name, ports[name], 1 + index) for index, name in enumerate(ENDPOINTS[:10])]
    by_hostname = {"consistent_hashing_lb_config": {"use_hostname_for_hashing": True}}
    localities = [
        {"locality": {"zone": "a"}, "load_balancing_weight": 3, "lb_endpoints": ten[:4]},
        {"locality": {"zone": "b"}, "load_balancing_weight": 1, "lb_endpoints": ten[4:]},
    ]
    murmur = {"hash_function": "MURMUR_HASH_2", "minimum_ring_size": 64, "maximum_ring_size": 256}
    keyed = [endpoint(name, ports[name], hash_key=f"key of {name}") for name in ENDPOINTS[:5]]
    sick = [
        endpoint(name, ports[name], 1, "UNHEALTHY" if index % 3 == 0 else "HEALTHY")
        for index, name in enumerate(ENDPOINTS[:10])
    ]
    made += [
        cluster("ring-murmur", [{"lb_endpoints": ten}], lb_policy="RING_HASH", ring_hash_lb_config=murmur),
        cluster(
            "ring-hostname",
            [{"lb_endpoints": ten}],
            type="STRICT_DNS",
            lb_policy="RING_HASH",
            common_lb_config=by_hostname,
        ),
        cluster(
            "ring-localities", localities, lb_policy="RING_HASH", common_lb_config={"locality_weighted_lb_config": {}}
        ),
        cluster("ring-hash-key", [{"lb_endpoints": keyed}], lb_policy="RING_HASH"),
        cluster("ring-unhealthy", [{"lb_endpoints": sick}], lb_policy="RING_HASH"),
        cluster(
            "ring-priorities",
            [
                {"lb_endpoints": sick, "priority": 0},
                {"lb_endpoints": [endpoint(n, ports[n]) for n in ENDPOINTS[10:15]], "priority": 1},
            ],
            lb_policy="RING_HASH",
        ),
        cluster("maglev-small", [{"lb_endpoints": ten}], lb_policy="MAGLEV", maglev_lb_config={"table_size": 101}),
        cluster(
            "maglev-hostname",
            [{"lb_endpoints": ten}],
            type="STRICT_DNS",
            lb_policy="MAGLEV",
            common_lb_config=by_hostname,
        ),
    ]
    return made


def spread_clusters(ports: Mapping[str, int]) -> list[dict[str, Any]]:
    """Clusters whose traffic is spread by chance or in turns."""

    def hosts(first: int, count: int, **fields: Any) -> list[dict[str, Any]]:
        return [endpoint(name, ports[name], **fields) for name in ENDPOINTS[first : first + count]]

    weighted = [endpoint(name, ports[name], weight) for name, weight in zip(ENDPOINTS, (1, 2, 3, 4), strict=False)]
    half_sick = hosts(0, 2) + hosts(2, 2, health="UNHEALTHY")
    subsets = {
        "fallback_policy": "DEFAULT_SUBSET",
        "default_subset": {"version": "1"},
        "subset_selectors": [{"keys": ["version"]}, {"keys": ["stage", "version"], "fallback_policy": "NO_FALLBACK"}],
    }
    versions = [
        endpoint(ENDPOINTS[0], ports["e0"], version="1"),
        endpoint(ENDPOINTS[1], ports["e1"], version="1"),
        endpoint(ENDPOINTS[2], ports["e2"], version="2"),
    ]
    localities = [
        {"locality": {"zone": "a"}, "load_balancing_weight": 3, "lb_endpoints": half_sick},
        {"locality": {"zone": "b"}, "load_balancing_weight": 1, "lb_endpoints": hosts(4, 1)},
    ]
    return [
        cluster("turns-weighted", [{"lb_endpoints": weighted}]),
        cluster("random", [{"lb_endpoints": weighted}], lb_policy="RANDOM"),
        cluster("least-request", [{"lb_endpoints": hosts(0, 4)}], lb_policy="LEAST_REQUEST"),
        cluster("least-request-weighted", [{"lb_endpoints": weighted}], lb_policy="LEAST_REQUEST"),
        cluster("localities", localities, common_lb_config={"locality_weighted_lb_config": {}}),
        cluster(
            "spill-over", [{"lb_endpoints": half_sick, "priority": 0}, {"lb_endpoints": hosts(4, 2), "priority": 1}]
        ),
        cluster("degraded", [{"lb_endpoints": hosts(0, 1) + hosts(1, 3, health="DEGRADED")}]),
        cluster("panic", [{"lb_endpoints": hosts(0, 1) + hosts(1, 3, health="UNHEALTHY")}]),
        cluster(
            "no-panic",
            [{"lb_endpoints": hosts(0, 1) + hosts(1, 3, health="UNHEALTHY")}],
            common_lb_config={"healthy_panic_threshold": {"value": 0}},
        ),
        cluster(
            "both-sick",
            [
                {"lb_endpoints": hosts(0, 1) + hosts(1, 4, health="UNHEALTHY"), "priority": 0},
                {"lb_endpoints": hosts(5, 1) + hosts(6, 2, health="DRAINING"), "priority": 1},
            ],
        ),
        cluster(
            "weighted-health",
            [
                {"lb_endpoints": [endpoint("e0", ports["e0"], 9, "UNHEALTHY"), *hosts(1, 2)]},
                {"lb_endpoints": hosts(5, 1), "priority": 1},
            ],
        ),
        cluster("subsets", [{"lb_endpoints": versions}], lb_subset_config=subsets),
    ]


@pytest.fixture(scope="module")
def upstreams() -> Iterator[EchoUpstreams]:
    with EchoUpstreams(None, ENDPOINTS) as running:
        yield running


@pytest.fixture(scope="module")
def ours(upstreams: EchoUpstreams) -> dict[str, Cluster]:
    return make_clusters(hashed_clusters(upstreams.ports) + spread_clusters(upstreams.ports))


@pytest.fixture(scope="module")
def judge(upstreams: EchoUpstreams, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoyJudge]:
    clusters = hashed_clusters(upstreams.ports) + spread_clusters(upstreams.ports)
    with running_judge(tmp_path_factory.mktemp("judge"), [ManagerOptions("plain")], clusters) as running:
        yield running


def route_to(judge: EnvoyJudge, name: str, **action: Any) -> None:
    route = {"match": {"prefix": "/"}, "route": {"cluster": name, **action}}
    configuration = {"virtual_hosts": [{"name": "v", "domains": ["a.test"], "routes": [route]}]}
    assert judge.configure("plain", json_format.ParseDict(configuration, route_pb2.RouteConfiguration()))


@pytest.mark.parametrize(
    "name",
    [
        "ring-3",
        "ring-10",
        "ring-100",
        "maglev-3",
        "maglev-10",
        "maglev-100",
        "ring-murmur",
        "ring-hostname",
        "ring-localities",
        "ring-hash-key",
        "ring-unhealthy",
        "ring-priorities",
        "maglev-small",
        "maglev-hostname",
    ],
)
def test_every_key_goes_to_envoys_host(
    name: str, judge: EnvoyJudge, ours: dict[str, Cluster], upstreams: EchoUpstreams
) -> None:
    count = KEYS if name[-1].isdigit() else 1_000
    keys = [f"user-{index * 7919}" for index in range(count)]
    route_to(judge, name, hash_policy=[{"header": {"header_name": "x-key"}}])
    theirs = [decision.cluster for decision in judge.ask("plain", [_keyed(key) for key in keys], AHEAD)]
    by_port = {port: host for host, port in upstreams.ports.items()}
    rng = random.Random(SEED)
    differences = []
    for key, host in zip(keys, theirs, strict=True):
        picked = ours[name].pick(AnyRequest(rng.random, hash_text(key)))
        mine = by_port[picked.address.port] if picked is not None else ""
        if mine != host:
            differences.append((key, host, mine))
    assert not differences, f"{len(differences)} of {count} keys, such as {differences[:3]}"
    assert len(set(theirs)) > 1


def _keyed(key: str) -> Request:
    return Request("GET", "a.test", "/", (("x-key", key),))


def shares(
    judge: EnvoyJudge, ours: Cluster, upstreams: EchoUpstreams, count: int, metadata: Mapping[str, Any] | None = None
) -> tuple[Counter[str], Counter[str]]:
    """How often each host was picked, by Envoy and by meshsdk."""
    theirs = Counter(one.cluster for one in judge.ask("plain", [Request("GET", "a.test", "/")] * count))
    by_port = {port: host for host, port in upstreams.ports.items()}
    criteria = tuple((key, frozen(value)) for key, value in sorted((metadata or {}).items()))
    context = AnyRequest(random.Random(SEED).random, metadata_match=criteria)
    mine: Counter[str] = Counter()
    for _ in range(count):
        picked = ours.pick(context)
        mine[by_port[picked.address.port] if picked is not None else ""] += 1
    return theirs, mine


def assert_same_shares(theirs: Counter[str], mine: Counter[str], count: int) -> None:
    """Two samples of one distribution differ by less than six and a half standard deviations."""
    for host in theirs | mine:
        share = (theirs[host] + mine[host]) / (2 * count)
        deviation = math.sqrt(2 * share * (1 - share) / count)
        gap = abs(theirs[host] - mine[host]) / count
        assert gap <= 6.5 * deviation + 2 / count, f"{host}: Envoy {theirs}, meshsdk {mine}, seed {SEED}"


@pytest.mark.parametrize(
    "name",
    [
        "turns-weighted",
        "random",
        "least-request",
        "least-request-weighted",
        "localities",
        "spill-over",
        "degraded",
        "panic",
        "no-panic",
        "both-sick",
        "weighted-health",
    ],
)
def test_traffic_is_spread_as_envoy_spreads_it(
    name: str, judge: EnvoyJudge, ours: dict[str, Cluster], upstreams: EchoUpstreams
) -> None:
    route_to(judge, name)
    assert_same_shares(*shares(judge, ours[name], upstreams, 5_000), 5_000)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"version": "1"},
        {"version": "2"},
        {"version": "3"},
        {"stage": "prod", "version": "2"},
        {"stage": "prod", "version": "3"},
        {"stage": "prod"},
        {"other": "x"},
    ],
)
def test_subsets_are_chosen_as_envoy_chooses_them(
    metadata: dict[str, Any], judge: EnvoyJudge, ours: dict[str, Cluster], upstreams: EchoUpstreams
) -> None:
    route_to(judge, "subsets", metadata_match={"filter_metadata": {"envoy.lb": metadata}})
    assert_same_shares(*shares(judge, ours["subsets"], upstreams, 1_000, metadata), 1_000)


def test_weighted_clusters_share_as_in_envoy(judge: EnvoyJudge, upstreams: EchoUpstreams) -> None:
    weights = {"ring-3": 70, "maglev-3": 20, "panic": 10}
    clusters = [
        {"name": name, "weight": weight, "response_headers_to_add": [{"header": {"key": "x-c", "value": name}}]}
        for name, weight in weights.items()
    ]
    route = {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": clusters}}}
    configuration = {"virtual_hosts": [{"name": "v", "domains": ["a.test"], "routes": [route]}]}
    message = json_format.ParseDict(configuration, route_pb2.RouteConfiguration())
    assert judge.configure("plain", message)
    count = 6_000
    theirs: Counter[str] = Counter()
    for decision in judge.ask("plain", [Request("GET", "a.test", "/")] * count):
        theirs[dict(decision.response_headers)["x-c"]] += 1
    message.name = "plain"
    parsed = decode(ResourceType.ROUTE_CONFIGURATION, message.SerializeToString())
    table = RouteTable(Listener("plain"), parsed)
    head = RequestHead("GET", "http", "a.test", "/", [])
    rng = random.Random(SEED)
    mine: Counter[str] = Counter()
    for _ in range(count):
        found = table.find(head, rng.random)
        assert found is not None
        assert found.forward is not None
        mine[found.forward.choose(head, rng.random).cluster] += 1
    assert_same_shares(theirs, mine, count)
