"""Load reports: the management server is told what its clusters' endpoints got, as often as it asks for it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk

from ..ads import AdsServer
from ..differential.subjects import Answer, Received, Upstream
from ..grpc.xds import cluster, endpoints, listener
from ..lrs import LoadReports
from ..patience import PATIENCE, eventually
from ..processes import envoy, fork_in, free_ports, http_listener
from ..servers import ScriptedServer, read_head
from .test_grfc_federation import OTHER, federated

SELF: dict[str, Any] = {"lrs_server": {"self": {}}}
TO_A = [{"match": {"prefix": "/"}, "route": {"cluster": "a"}}]


def by_path(request: Received, number: int) -> Answer:
    """`/503` is answered with that, `/reset` with nothing."""
    name = request.target.strip("/")
    return Answer(reset=True) if name == "reset" else Answer(int(name) if name.isdecimal() else 200)


class World:
    """A management server with one service, and a mesh over it."""

    def __init__(self, stack: ExitStack, lrs: LoadReports, *resources: dict[str, Any]) -> None:
        self.lrs = lrs
        self.ads = stack.enter_context(AdsServer(*resources, services=[lrs.add_to]))
        node = {"id": "shop-1", "cluster": "shop"}
        self.mesh = stack.enter_context(meshsdk.Mesh(bootstrap={**self.ads.bootstrap, "node": node}))
        self.client = stack.enter_context(self.mesh.client())

    @property
    def told(self) -> list[dict[str, Any]]:
        """Of each server, what status says."""
        return list(self.mesh.status().get("load_reports", ()))

    def begin(self, host: str = "a") -> None:
        """Have the mesh know the host, and wait until the server is to be told."""
        self.mesh.wait_ready(host, PATIENCE)
        eventually(lambda: (told := self.told) and all(one["interval_seconds"] for one in told))

    def send(self, *paths: str, host: str = "a") -> None:
        """Send requests, in turn by either kind of client."""
        for path in paths:
            try:
                self.client.get(f"http://{host}{path}")
            except httpx.TransportError:
                pass

    def send_async(self, *paths: str) -> None:
        async def run() -> None:
            async with self.mesh.async_client() as client:
                for path in paths:
                    try:
                        await client.get(f"http://a{path}")
                    except httpx.TransportError:
                        pass

        asyncio.run(run())


def service_a(*ports: Any, **fields: Any) -> list[dict[str, Any]]:
    return [listener("a", TO_A), cluster("a", **{**SELF, **fields}), endpoints("a", [list(ports)])]


@pytest.fixture
def upstream(stack: ExitStack) -> Upstream:
    return stack.enter_context(Upstream(by_path))


def test_successes_and_errors_are_told_by_locality(stack: ExitStack, upstream: Upstream) -> None:
    world = World(stack, LoadReports(send_all_clusters=True), *service_a(upstream.port))
    world.begin()
    world.send("/ok", "/404", "/503", "/reset")
    world.send_async("/ok", "/ok", "/500")
    totals = world.lrs.wait_for("a", succeeded=4, failed=3, issued=7)
    assert totals.places == {("zone-0", 0): (4, 3, 7)}
    assert totals.dropped == 0
    assert {one.cluster_service_name for one in totals.all} == {"a"}
    [first] = world.lrs.firsts
    assert (first.node.id, first.node.cluster, first.node.user_agent_name) == ("shop-1", "shop", "meshsdk")
    assert "envoy.lrs.supports_send_all_clusters" in first.node.client_features
    assert not first.cluster_stats
    intervals = [one.load_report_interval.ToMilliseconds() for one in totals.all[1:]]
    assert all(interval >= 990 for interval in intervals), "it is what was measured"


def test_each_priority_and_each_endpoint_may_be_told_by_itself(stack: ExitStack) -> None:
    first, second = (stack.enter_context(Upstream(by_path)) for _ in range(2))
    by_zone = [{"ports": [first.port], "priority": 0}, {"ports": [second.port], "priority": 0}]
    resources = [listener("a", TO_A), cluster("a", **SELF), endpoints("a", by_zone)]
    lrs = LoadReports(send_all_clusters=True, report_endpoint_granularity=True)
    world = World(stack, lrs, *resources)
    world.begin()
    world.send(*["/ok"] * 10)
    totals = lrs.wait_for("a", succeeded=10, issued=10)
    assert totals.places == {("zone-0", 0): (5, 0, 5), ("zone-1", 0): (5, 0, 5)}
    told: dict[int, int] = {}
    for one in totals.all:
        for locality in one.upstream_locality_stats:
            for each in locality.upstream_endpoint_stats:
                port = each.address.socket_address.port_value
                told[port] = told.get(port, 0) + each.total_issued_requests
    assert told == {first.port: 5, second.port: 5}


def test_what_the_server_does_not_ask_for_is_not_told(stack: ExitStack, upstream: Upstream) -> None:
    others = [listener("b", [{"match": {"prefix": "/"}, "route": {"cluster": "b"}}]), cluster("b", **SELF)]
    resources = [*service_a(upstream.port), *others, endpoints("b", [[upstream.port]])]
    lrs = LoadReports(clusters=["a", "no such cluster"])
    world = World(stack, lrs, *resources)
    world.begin()
    world.send("/ok")
    world.send("/ok", host="b")
    lrs.wait_for("a", succeeded=1)
    assert {one.cluster_name for report in lrs.reports for one in report.cluster_stats} == {"a"}
    lrs.ask(clusters=["b"])
    eventually(lambda: any(one.cluster_name == "b" for report in lrs.reports for one in report.cluster_stats))
    world.send("/ok", "/ok", host="b")
    totals = lrs.wait_for("b", succeeded=2)
    assert totals.issued == 2, "what was before it was asked for is not told"


def test_drops_are_told_by_category_and_with_those_of_circuit_breakers(stack: ExitStack, upstream: Upstream) -> None:
    drops = [
        {"category": "none", "drop_percentage": {"numerator": 0}},
        {"category": "all", "drop_percentage": {"numerator": 100}},
    ]
    limits = {"circuit_breakers": {"thresholds": [{"max_requests": 0}]}}
    resources = [
        listener("a", TO_A),
        cluster("a", **SELF),
        endpoints("a", [[upstream.port]], policy={"drop_overloads": drops}),
        listener("b", [{"match": {"prefix": "/"}, "route": {"cluster": "b"}}]),
        cluster("b", **SELF, **limits),
        endpoints("b", [[upstream.port]]),
    ]
    lrs = LoadReports(send_all_clusters=True)
    world = World(stack, lrs, *resources)
    world.mesh.wait_ready("b", PATIENCE)
    world.begin()
    world.send("/ok", "/ok", "/ok")
    world.send("/ok", "/ok", host="b")
    totals = lrs.wait_for("a", dropped=3, issued=0, succeeded=0, failed=0)
    assert totals.categories == {"all": 3}
    assert lrs.wait_for("b", dropped=2, issued=0, succeeded=0, failed=0).categories == {}
    assert upstream.received == []


GRPC_CALL = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2\r\nok\r\n0\r\ngrpc-status: %d\r\nendpoint-load-metrics: TEXT eps=1\r\n\r\n"
)


def test_calls_of_grpc_over_httpx_are_told_by_the_status_in_their_trailers(stack: ExitStack) -> None:
    statuses = [0, 5, 13, 14]

    def script(connection: socket.socket, number: int) -> None:
        while read_head(connection):
            connection.sendall(GRPC_CALL % statuses.pop(0))

    server = stack.enter_context(ScriptedServer(script))
    lrs = LoadReports(send_all_clusters=True)
    world = World(stack, lrs, *service_a(server.port, lrs_report_endpoint_metrics=["eps"]))
    world.begin()
    for _ in range(4):
        assert world.client.get("http://a/", headers={"content-type": "application/grpc"}).status_code == 200
    totals = lrs.wait_for("a", succeeded=2, failed=2, issued=4)
    assert totals.metrics == {"eps": (4, 4.0)}


METRICS = ["named_metrics.foo", "request_cost.*", "cpu_utilization", "no such metric"]


@pytest.mark.parametrize(
    "report",
    [
        "TEXT named_metrics.foo=2.5, named_metrics.bar=1, request_cost.db=3, cpu_utilization=0.5, mem_utilization=0.1",
        'JSON {"named_metrics": {"foo": 2.5, "bar": 1}, "request_cost": {"db": 3}, "cpu_utilization": 0.5}',
    ],
    ids=["as text", "as JSON"],
)
def test_metrics_of_endpoints_are_told_as_far_as_the_cluster_names_them(stack: ExitStack, report: str) -> None:
    upstream = stack.enter_context(Upstream(lambda request, number: Answer(headers={"endpoint-load-metrics": report})))
    lrs = LoadReports(send_all_clusters=True)
    world = World(stack, lrs, *service_a(upstream.port, lrs_report_endpoint_metrics=METRICS))
    world.begin()
    world.send("/ok")
    world.send_async("/ok")
    totals = lrs.wait_for("a", succeeded=2)
    assert totals.metrics == {
        "named_metrics.foo": (2, 5.0),
        "request_cost.db": (2, 6.0),
        "own cpu_utilization": (2, 1.0),
    }
    [note] = [note for one in world.mesh.status()["resources"] for note in one["notes"]]
    assert "no such metric" in note


def test_an_endpoint_cannot_fill_the_memory_with_names(stack: ExitStack) -> None:
    def answer(request: Received, number: int) -> Answer:
        named = {f"{number}-{index}": 1 for index in range(90)}
        return Answer(headers={"endpoint-load-metrics": "JSON " + json.dumps({"named_metrics": named, "eps": 1e999})})

    upstream = stack.enter_context(Upstream(answer))
    lrs = LoadReports(send_all_clusters=True)
    world = World(stack, lrs, *service_a(upstream.port, lrs_report_endpoint_metrics=["eps", "named_metrics.*"]))
    world.begin()
    world.send(*["/ok"] * 5)
    assert len(lrs.wait_for("a", succeeded=5).metrics) == 100


def test_under_traffic_no_request_is_lost_or_told_twice(stack: ExitStack, upstream: Upstream) -> None:
    lrs = LoadReports(send_all_clusters=True)
    world = World(stack, lrs, *service_a(upstream.port))
    world.begin()
    sent = 0
    while len(lrs.reports) < 3:
        world.send("/ok")
        sent += 1
    lrs.wait_for("a", succeeded=sent, issued=sent)


def test_requests_under_way_are_told_as_such(stack: ExitStack) -> None:
    released = threading.Event()
    upstream = stack.enter_context(Upstream(lambda request, number: Answer(when=released.is_set)))
    lrs = LoadReports(send_all_clusters=True)
    world = World(stack, lrs, *service_a(upstream.port))
    world.begin()
    sending = threading.Thread(target=world.send, args=("/ok",))
    sending.start()
    places = eventually(
        lambda: [
            place
            for report in lrs.reports
            for one in report.cluster_stats
            for place in one.upstream_locality_stats
            if place.total_requests_in_progress
        ]
    )
    assert (places[0].total_issued_requests, places[0].total_successful_requests) == (1, 0)
    released.set()
    sending.join()
    lrs.wait_for("a", succeeded=1, issued=1)


def test_a_stream_that_ends_is_opened_again(stack: ExitStack, upstream: Upstream) -> None:
    lrs = LoadReports(send_all_clusters=True)
    world = World(stack, lrs, *service_a(upstream.port))
    world.begin()
    lrs.end()
    eventually(lambda: len(lrs.firsts) == 2)
    world.begin()
    world.send("/ok")
    lrs.wait_for("a", succeeded=1)


def test_a_server_that_takes_no_reports_is_told_of_and_that_is_all(stack: ExitStack, upstream: Upstream) -> None:
    ads = stack.enter_context(AdsServer(*service_a(upstream.port)))
    with meshsdk.Mesh(bootstrap=ads.bootstrap) as mesh, mesh.client() as client:
        assert client.get("http://a/ok").status_code == 200
        problem = eventually(lambda: mesh.status()["load_reports"][0]["problem"])
        assert "UNIMPLEMENTED" in problem
        assert mesh.status()["problem"] == ""


def test_reports_begin_and_end_with_the_configuration(stack: ExitStack, upstream: Upstream) -> None:
    lrs = LoadReports(send_all_clusters=True)
    world = World(stack, lrs, *service_a(upstream.port, lrs_server=None))
    world.send("/ok")
    assert "load_reports" not in world.mesh.status()
    assert world.mesh._runtime.directory.clusters["a"].load is None
    world.ads.publish(*service_a(upstream.port))
    world.begin()
    world.send("/ok")
    assert lrs.wait_for("a", succeeded=1).issued == 1
    world.ads.publish(*service_a(upstream.port, lrs_server=None))
    eventually(lambda: lrs.streams == 0)
    assert world.told == []


def test_only_the_own_server_is_reported_to(stack: ExitStack, upstream: Upstream) -> None:
    ads = stack.enter_context(AdsServer(*service_a(upstream.port, lrs_server={"ads": {}})))
    with meshsdk.Mesh(bootstrap=ads.bootstrap) as mesh:
        mesh.wait_ready("a", PATIENCE)
        [note] = [note for one in mesh.status()["resources"] for note in one["notes"]]
        assert "lrs_server" in note
        assert "load_reports" not in mesh.status()


def test_a_cluster_of_another_authority_is_told_to_its_own_servers_alone(stack: ExitStack, upstream: Upstream) -> None:
    ours, theirs = LoadReports(send_all_clusters=True), LoadReports(send_all_clusters=True)
    of_other = [
        {**one, **SELF} if one["@type"].endswith(".Cluster") else one for one in federated(OTHER, "a", upstream.port)
    ]
    top = stack.enter_context(AdsServer(*service_a(upstream.port), services=[ours.add_to]))
    other = stack.enter_context(AdsServer(*of_other, services=[theirs.add_to]))
    document = {**top.bootstrap, "authorities": {OTHER: {"xds_servers": [other.entry]}}}
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=document))
    mine = stack.enter_context(mesh.client(timeout=PATIENCE))
    their = stack.enter_context(mesh.client(timeout=PATIENCE, authority=OTHER))
    for host in ("a", f"xds://{OTHER}/a"):
        mesh.wait_ready(host, PATIENCE)
    eventually(lambda: sum(bool(one["interval_seconds"]) for one in mesh.status()["load_reports"]) == 2)
    assert {client.get("http://a/ok").status_code for client in (mine, their)} == {200}
    name = f"xdstp://{OTHER}/envoy.config.cluster.v3.Cluster/c"
    ours.wait_for("a", succeeded=1)
    theirs.wait_for(name, succeeded=1)
    assert {one.cluster_name for report in ours.reports for one in report.cluster_stats} == {"a"}
    assert {one.cluster_name for report in theirs.reports for one in report.cluster_stats} == {name}


def test_endpoints_that_leave_are_told_and_then_forgotten(stack: ExitStack) -> None:
    first, second = (stack.enter_context(Upstream(by_path)) for _ in range(2))
    lrs = LoadReports(send_all_clusters=True)
    world = World(stack, lrs, *service_a(first.port))
    world.begin()
    world.send("/ok", "/ok")
    world.ads.publish(*service_a(second.port))
    eventually(
        lambda: (
            {str(one.address) for _, one in world.mesh._runtime.directory.clusters["a"]} == {f"127.0.0.1:{second.port}"}
        )
    )
    world.send("/ok")
    lrs.wait_for("a", succeeded=3, issued=3)
    load = world.mesh._runtime.directory.clusters["a"].load
    assert load is not None
    eventually(lambda: [one.address.port for one in load.endpoints] == [second.port])


# In a process of its own: one in which others have used gRPC, as that of tests, does not survive every fork.
FORKED = """
import json, os, sys, time, meshsdk

def wait(condition):
    while not condition(mesh.status().get("load_reports") or [{"interval_seconds": None, "reports": 0}]):
        time.sleep(0.02)

with meshsdk.Mesh(bootstrap=json.loads(sys.argv[1])) as mesh, mesh.client() as client:
    mesh.wait_ready("a", 60)
    wait(lambda told: told[0]["interval_seconds"])
    client.get("http://a/ok")
    wait(lambda told: told[0]["reports"] >= 2)
    child = os.fork()
    if not child:
        code = 1
        try:
            mesh.wait_ready("a", 60)
            wait(lambda told: told[0]["interval_seconds"])
            for _ in range(2):
                client.get("http://a/503")
            wait(lambda told: told[0]["reports"] >= 3)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
sys.exit(status and 1)
"""


def test_a_forked_child_reports_for_itself(stack: ExitStack, upstream: Upstream) -> None:
    lrs = LoadReports(send_all_clusters=True)
    ads = stack.enter_context(AdsServer(*service_a(upstream.port), services=[lrs.add_to]))
    fork_in(FORKED, json.dumps(ads.bootstrap))
    # Of attempts that grpc-core did not survive, the parent's.
    attempts = len(lrs.firsts) - 1
    assert attempts >= 1
    lrs.wait_for("a", succeeded=attempts, failed=2, issued=attempts + 2)


def test_envoy_tells_the_same_of_the_same_requests(stack: ExitStack, upstream: Upstream, tmp_path: Path) -> None:
    paths = ["/ok", "/ok", "/404", "/500", "/503", "/reset", "/ok"]
    ours = LoadReports(send_all_clusters=True)
    world = World(stack, ours, *service_a(upstream.port))
    world.begin()
    world.send(*paths)
    theirs = envoys(stack, tmp_path, static_cluster("a", "127.0.0.1", upstream.port), *paths)
    told = theirs.wait_for("a", succeeded=4, failed=3, issued=7)
    assert ours.wait_for("a", succeeded=4, failed=3, issued=7).places == told.places


@pytest.mark.parametrize("limit", ["drop_overloads", "circuit breaker"])
def test_envoy_tells_the_same_of_what_is_dropped(
    stack: ExitStack, upstream: Upstream, tmp_path: Path, limit: str
) -> None:
    policy, more = {}, {}
    if limit == "drop_overloads":
        policy = {"policy": {"drop_overloads": [{"category": "all", "drop_percentage": {"numerator": 100}}]}}
    else:
        more = {"circuit_breakers": {"thresholds": [{"max_requests": 0, "max_pending_requests": 0}]}}
    ours = LoadReports(send_all_clusters=True)
    resources = [listener("a", TO_A), cluster("a", **SELF, **more), endpoints("a", [[upstream.port]], **policy)]
    world = World(stack, ours, *resources)
    world.begin()
    world.send("/ok", "/ok")
    for_envoy = {**static_cluster("a", "127.0.0.1", upstream.port), **more}
    for_envoy["load_assignment"].update(policy)
    told = envoys(stack, tmp_path, for_envoy, "/ok", "/ok").wait_for("a", dropped=2, issued=0)
    assert ours.wait_for("a", dropped=2, issued=0).categories == told.categories


def envoys(stack: ExitStack, folder: Path, one: dict[str, Any], *paths: str) -> LoadReports:
    """What an Envoy before a cluster tells of some requests."""
    lrs = LoadReports(send_all_clusters=True)
    server = stack.enter_context(AdsServer(services=[lrs.add_to]))
    [port] = free_ports(1)
    stack.enter_context(envoy(envoy_config(port, one, server), [port], folder))
    eventually(lambda: any(told.cluster_name == "a" for report in lrs.reports for told in report.cluster_stats))
    with httpx.Client() as bare:
        for path in paths:
            bare.get(f"http://127.0.0.1:{port}{path}")
    return lrs


def envoy_config(port: int, one: dict[str, Any], lrs: AdsServer) -> dict[str, Any]:
    """An Envoy before one cluster, that reports its load."""
    address = lrs.bootstrap["xds_servers"][0]["server_uri"].rpartition(":")
    options = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    service = {"envoy_grpc": {"cluster_name": "lrs"}}
    return {
        "node": {"id": "envoy", "cluster": "shop"},
        "cluster_manager": {
            "load_stats_config": {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service]}
        },
        "static_resources": {
            "listeners": [http_listener(port, TO_A)],
            "clusters": [
                one,
                {**static_cluster("lrs", address[0], int(address[2])), "typed_extension_protocol_options": options},
            ],
        },
    }


def static_cluster(name: str, host: str, port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": host, "port_value": port}}
    place = {"locality": {"zone": "zone-0"}, "lb_endpoints": [{"endpoint": {"address": address}}]}
    return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": [place]}}
