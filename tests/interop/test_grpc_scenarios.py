"""The scenarios of gRPC's xDS interoperability tests that one machine can stage (grpc/grpc
doc/xds-test-descriptions.md; grpc/psm-interop), against real grpcio servers, with sync and asyncio channels.

Each test is named for its scenario. Server authorization (RBAC) is a scenario of servers and not staged here.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

import meshsdk
from tests.chance import spread
from tests.conftest import MakeMesh
from tests.grpc.xds import RATINGS, cluster, documents, endpoints, listener
from tests.grpc_client import Client, Status, counts, failures, make_client
from tests.grpc_server import EchoService, GrpcServer, server_process

from ..patience import PATIENCE, eventually
from ..processes import free_ports

MakeClient = Callable[..., Client]


@pytest.fixture(params=["sync", "aio"])
def connect(request: pytest.FixtureRequest, stack: ExitStack) -> Iterator[MakeClient]:
    """Opens clients of one kind."""
    with ExitStack() as clients:

        def make(mesh: meshsdk.Mesh, target: str = "ratings:9080", **options: Any) -> Client:
            client = make_client(request.param, mesh, target, **options)
            clients.callback(client.close)
            return client

        yield make


@pytest.fixture
def serve(stack: ExitStack) -> Callable[[str], GrpcServer]:
    return lambda name: stack.enter_context(GrpcServer(name))


Serve = Callable[[str], GrpcServer]


@pytest.fixture
def restartable(stack: ExitStack) -> GrpcServer:
    """The server `a`, on a port that nobody else is given while it is away."""
    return stack.enter_context(GrpcServer("a", port=free_ports(1)[0]))


def route(cluster_name: str, **match: Any) -> dict[str, Any]:
    return {"match": match or {"prefix": ""}, "route": {"cluster": cluster_name, "timeout": "0s"}}


def test_ping_pong(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    """Calls succeed and reach every backend."""
    servers = [serve(name) for name in ("a", "b", "c")]
    ports = [server.port for server in servers]
    mesh = make_mesh(documents(listener(RATINGS, [route("x")]), cluster("x"), endpoints("x", [ports])))
    client = connect(mesh)
    eventually(lambda: set(counts(client.try_many(30))) == {"a", "b", "c"})


def test_round_robin(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    """Calls are spread evenly over the backends."""
    ports = [serve(name).port for name in ("a", "b", "c", "d")]
    mesh = make_mesh(documents(listener(RATINGS, [route("x")]), cluster("x"), endpoints("x", [ports])))
    client = connect(mesh)
    eventually(lambda: len(counts(client.try_many(40))) == 4)  # All connections are up.
    assert set(counts(client.try_many(100)).values()) == {25}


def test_backends_restart(make_mesh: MakeMesh, connect: MakeClient, serve: Serve, restartable: GrpcServer) -> None:
    """A backend that stops gets no calls, and gets them again when it is back."""
    one, two = restartable, serve("b")
    mesh = make_mesh(documents(listener(RATINGS, [route("x")]), cluster("x"), endpoints("x", [[one.port, two.port]])))
    client = connect(mesh, options=[("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)])
    eventually(lambda: len(counts(client.try_many(10))) == 2)
    one.stop()
    eventually(lambda: counts(client.try_many(20)) == {"b": 20})
    with GrpcServer("a again", port=one.port):
        eventually(lambda: counts(client.try_many(20))["a again"] == 10)


def test_new_instance_group_receives_traffic(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, tmp_path: Any
) -> None:
    """Endpoints that are added in a second locality get their share."""
    one, two = serve("a"), serve("b")
    names = [listener(RATINGS, [route("x")]), cluster("x", common_lb_config={"locality_weighted_lb_config": {}})]

    def localities(*ports: int) -> dict[str, Any]:
        return endpoints("x", [{"ports": [port], "priority": 0, "load_balancing_weight": 1} for port in ports])

    client = connect(make_mesh(documents(*names, localities(one.port))))
    assert counts(client.try_many(10)) == {"a": 10}
    (tmp_path / "mesh" / "mesh.yaml").write_text(documents(*names, localities(one.port, two.port)))
    eventually(lambda: counts(client.try_many(20))["b"])
    assert abs(counts(client.try_many(600))["a"] - 300) <= spread(600, 0.5)


def test_change_backend_service(make_mesh: MakeMesh, connect: MakeClient, serve: Serve, tmp_path: Any) -> None:
    """The route moves to another cluster while calls go on; none fails."""
    one, two = serve("a"), serve("b")
    rest = [cluster("x"), endpoints("x", [[one.port]]), cluster("y"), endpoints("y", [[two.port]])]
    client = connect(make_mesh(documents(listener(RATINGS, [route("x")]), *rest)))
    answers = client.try_many(20)
    assert counts(answers) == {"a": 20}
    (tmp_path / "mesh" / "mesh.yaml").write_text(documents(listener(RATINGS, [route("y")]), *rest))

    def moved() -> bool:
        answers.extend(client.try_many(20))
        return bool(answers[-1]["name"] == "b")

    eventually(moved)
    assert not failures(answers)


def test_traffic_splitting(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    """Weighted clusters share the calls by their weights."""
    one, two = serve("a"), serve("b")
    clusters = [{"name": "x", "weight": 20}, {"name": "y", "weight": 80}]
    split = {"match": {"prefix": ""}, "route": {"weighted_clusters": {"clusters": clusters}, "timeout": "0s"}}
    rest = [cluster("x"), endpoints("x", [[one.port]]), cluster("y"), endpoints("y", [[two.port]])]
    client = connect(make_mesh(documents(listener(RATINGS, [split]), *rest)))
    seen = counts(client.try_many(1000))
    assert abs(seen["a"] - 200) <= spread(1000, 0.2), seen


@pytest.mark.parametrize(
    ("match", "takes", "leaves"),
    [
        ({"prefix": "/test.Echo/S"}, "/test.Echo/Say", "/test.Echo/Fail"),
        ({"path": "/test.Echo/Say"}, "/test.Echo/Say", "/test.Echo/Sleep"),
        ({"safe_regex": {"regex": "/.*/Say"}}, "/test.Echo/Say", "/test.Echo/Sleep"),
        ({"prefix": "/TEST.echo/s", "case_sensitive": False}, "/test.Echo/Say", "/test.Other/Say"),
    ],
)
def test_path_matching(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, match: Any, takes: str, leaves: str
) -> None:
    """Prefix, full path, regular expression, and any case."""
    one, two = serve("a"), serve("b")
    rest = [cluster("x"), endpoints("x", [[one.port]]), cluster("y"), endpoints("y", [[two.port]])]
    client = connect(make_mesh(documents(listener(RATINGS, [route("x", **match), route("y")]), *rest)))
    assert client.call(takes)["name"] == "a"
    before = len(one.calls)
    client.try_many(1, method=leaves, request=b"0")
    assert len(one.calls) == before


@pytest.mark.parametrize(
    ("header", "takes", "leaves"),
    [
        ({"string_match": {"exact": "1"}}, [("x-h", "1")], [("x-h", "2")]),
        ({"string_match": {"prefix": "ab"}}, [("x-h", "abc")], [("x-h", "ba")]),
        ({"string_match": {"suffix": "bc"}}, [("x-h", "abc")], [("x-h", "cb")]),
        ({"string_match": {"contains": "B", "ignore_case": True}}, [("x-h", "abc")], [("x-h", "ac")]),
        ({"string_match": {"safe_regex": {"regex": "a+"}}}, [("x-h", "aaa")], [("x-h", "ab")]),
        ({"range_match": {"start": 100, "end": 200}}, [("x-h", "150")], [("x-h", "200")]),
        ({"present_match": True}, [("x-h", "")], []),
        ({"string_match": {"exact": "1"}, "invert_match": True}, [("x-h", "2")], [("x-h", "1")]),
        ({"present_match": True, "invert_match": True}, [], [("x-h", "1")]),
    ],
)
def test_header_matching(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, header: Any, takes: Any, leaves: Any
) -> None:
    """Every kind of condition on metadata."""
    one, two = serve("a"), serve("b")
    rest = [cluster("x"), endpoints("x", [[one.port]]), cluster("y"), endpoints("y", [[two.port]])]
    conditional = route("x", prefix="", headers=[{"name": "x-h", **header}])
    client = connect(make_mesh(documents(listener(RATINGS, [conditional, route("y")]), *rest)))
    assert {client.call(metadata=takes)["name"] for _ in range(5)} == {"a"}
    assert {client.call(metadata=leaves)["name"] for _ in range(5)} == {"b"}


def test_runtime_fraction(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    """A share of the calls takes a route."""
    one, two = serve("a"), serve("b")
    rest = [cluster("x"), endpoints("x", [[one.port]]), cluster("y"), endpoints("y", [[two.port]])]
    share = route("x", prefix="", runtime_fraction={"default_value": {"numerator": 25}})
    client = connect(make_mesh(documents(listener(RATINGS, [share, route("y")]), *rest)))
    assert abs(counts(client.try_many(1000))["a"] - 250) <= spread(1000, 0.25)


def test_secondary_locality_gets_requests_on_primary_failure(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, restartable: GrpcServer
) -> None:
    """The second priority takes over when the first is gone, and gives back when it is there again."""
    one, two = restartable, serve("b")
    mesh = make_mesh(documents(listener(RATINGS, [route("x")]), cluster("x"), endpoints("x", [[one.port], [two.port]])))
    client = connect(mesh, options=[("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)])
    assert counts(client.try_many(20)) == {"a": 20}
    one.stop()
    eventually(lambda: counts(client.try_many(20)) == {"b": 20})
    with GrpcServer("a again", port=one.port):
        eventually(lambda: counts(client.try_many(20)) == {"a again": 20})


def test_secondary_locality_gets_no_requests_on_partial_primary_failure(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve
) -> None:
    one, two, three = serve("a"), serve("b"), serve("c")
    mesh = make_mesh(
        documents(listener(RATINGS, [route("x")]), cluster("x"), endpoints("x", [[one.port, two.port], [three.port]]))
    )
    client = connect(mesh)
    eventually(lambda: set(counts(client.try_many(20))) == {"a", "b"})
    one.stop()
    eventually(lambda: counts(client.try_many(20)) == {"b": 20})


def test_gentle_failover(make_mesh: MakeMesh, connect: MakeClient, serve: Serve, tmp_path: Any) -> None:
    """As more of the first priority is unhealthy, more of the calls go to the second (Envoy's overprovisioning)."""
    ports = [serve("first").port for _ in range(4)]
    second = serve("second").port

    def mesh_with(unhealthy: int) -> str:
        first: list[Any] = [{"port": port, "health_status": "UNHEALTHY"} for port in ports[:unhealthy]]
        return documents(
            listener(RATINGS, [route("x")]), cluster("x"), endpoints("x", [first + ports[unhealthy:], [second]])
        )

    client = connect(make_mesh(mesh_with(1)))
    assert counts(client.try_many(50)) == {"first": 50}  # 1.4 times 3/4 is more than all.
    (tmp_path / "mesh" / "mesh.yaml").write_text(mesh_with(2))
    eventually(lambda: counts(client.try_many(20))["second"])
    # 1.4 times 2/4: 70 percent stay.
    assert abs(counts(client.try_many(800))["first"] - 560) <= spread(800, 0.7)
    (tmp_path / "mesh" / "mesh.yaml").write_text(mesh_with(4))
    eventually(lambda: counts(client.try_many(20)) == {"second": 20})


def test_remove_neg(make_mesh: MakeMesh, connect: MakeClient, serve: Serve, tmp_path: Any) -> None:
    """Endpoints that are taken out get no calls, and a call that is under way there is not disturbed."""
    one, two = serve("a"), serve("b")
    names = [listener(RATINGS, [route("x")]), cluster("x")]
    mesh = make_mesh(documents(*names, endpoints("x", [[one.port, two.port]])))
    client = connect(mesh)
    eventually(lambda: len(counts(client.try_many(10))) == 2)
    with mesh.channel("ratings:9080") as channel:
        sleep = channel.unary_unary("/test.Echo/Sleep")
        under_way = [sleep.future(b"2", timeout=20) for _ in range(4)]
        (tmp_path / "mesh" / "mesh.yaml").write_text(documents(*names, endpoints("x", [[two.port]])))
        eventually(lambda: counts(client.try_many(20)) == {"b": 20})
        assert all(b'"name"' in future.result(timeout=20) for future in under_way)


def test_circuit_breaking(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    """More calls at once than max_requests: the rest is refused at once."""
    server = serve("a")
    limits = {"circuit_breakers": {"thresholds": [{"max_requests": 3}]}}
    mesh = make_mesh(
        documents(
            listener(RATINGS, [route("limited")]), cluster("limited", **limits), endpoints("limited", [[server.port]])
        )
    )
    client = connect(mesh)
    client.call()
    answers = client.try_many(10, at_once=10, method="/test.Echo/Sleep", request=b"3")
    assert counts(answers) == {"a": 3, "UNAVAILABLE": 7}
    assert {one.details.partition(" (")[0] for one in failures(answers)} == {"circuit breaker drop"}
    assert client.call()["name"] == "a"


def test_timeout(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    """The shorter of the caller's and the route's time ends a call; other routes are not touched."""
    server = serve("a")
    limited = {
        "match": {"path": "/test.Echo/Sleep"},
        "route": {"cluster": "x", "max_stream_duration": {"max_stream_duration": "0.5s"}},
    }
    mesh = make_mesh(documents(listener(RATINGS, [limited, route("x")]), cluster("x"), endpoints("x", [[server.port]])))
    client = connect(mesh)
    assert client.call()["name"] == "a"  # To connect may take longer than the limit.
    eventually(lambda: not failures(client.try_many(1, method="/test.Echo/Sleep", request=b"0")))
    assert server.calls[-1]["seconds"] < 1
    with pytest.raises(Status) as caught:
        client.call("/test.Echo/Sleep", b"3")
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(Status):
        client.call("/test.Echo/Sleep", b"3", timeout=0.2)
    assert client.call()["seconds"] > 10


def test_api_listener_change_and_deletion(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, tmp_path: Any
) -> None:
    """A listener that is deleted leaves an unknown host; one that comes back is used again."""
    server = serve("a")
    rest = [cluster("x"), endpoints("x", [[server.port]])]
    text = documents(listener(RATINGS, [route("x")]), *rest)
    client = connect(make_mesh(text, unknown_hosts="deny"))
    assert client.call()["name"] == "a"
    (tmp_path / "mesh" / "mesh.yaml").write_text(documents(*rest))
    eventually(lambda: bool(failures(client.try_many(1, timeout=5))))
    (tmp_path / "mesh" / "mesh.yaml").write_text(text)
    eventually(lambda: not failures(client.try_many(1, timeout=5)))


def test_outlier_detection(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    """A backend that keeps failing is ejected, and comes back; by consecutive errors, as Istio configures it."""
    bad, good = serve("bad"), serve("good")
    detection = {
        "consecutive_5xx": 3,
        "interval": "0.2s",
        "base_ejection_time": "1s",
        "max_ejection_percent": 100,
        "enforcing_success_rate": 0,
    }
    mesh = make_mesh(
        documents(
            listener(RATINGS, [route("x")]),
            cluster("x", outlier_detection=detection, common_lb_config={"healthy_panic_threshold": {"value": 0}}),
            endpoints("x", [[bad.port, good.port]]),
        )
    )
    client = connect(mesh)
    eventually(lambda: len(counts(client.try_many(10))) == 2)
    bad.service.status = grpc.StatusCode.UNAVAILABLE
    ejected: list[str] = []

    def is_left_alone() -> bool:
        seen = counts(client.try_many(20))
        ejected[:] = [one["address"] for one in mesh.status()["clusters"]["x"] if one["is_ejected"]]
        return bool(seen == {"good": 20} and ejected)  # For a second only, and then once more.

    eventually(is_left_alone)
    assert [address.rpartition(":")[2] for address in ejected] == [str(bad.port)]
    bad.service.status = None
    eventually(lambda: set(counts(client.try_many(20))) == {"bad", "good"})


def test_a_server_cannot_have_another_one_ejected(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, stack: ExitStack
) -> None:
    """A server that fails says, in the cookie by which meshsdk knows endpoints, that it was its neighbour."""
    good = serve("good")
    said = base64.b64encode(
        f"127.0.0.1:{good.port};xdstp://meshsdk/envoy.config.cluster.v3.Cluster/1/x".encode()
    ).decode()

    class Liar(EchoService):
        def say(self, request: bytes, context: Any) -> bytes:
            context.send_initial_metadata((("set-cookie", f"meshsdk-peer={said}; HttpOnly"),))
            context.abort(grpc.StatusCode.UNAVAILABLE, "it was not me")
            raise AssertionError

    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Liar("liar"),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(lambda: server.stop(0))
    detection = {"consecutive_5xx": 3, "base_ejection_time": "60s", "max_ejection_percent": 100}
    mesh = make_mesh(
        documents(
            listener(RATINGS, [route("x")]),
            cluster("x", outlier_detection=detection, common_lb_config={"healthy_panic_threshold": {"value": 0}}),
            endpoints("x", [[port, good.port]]),
        )
    )
    client = connect(mesh)
    eventually(lambda: counts(client.try_many(20)) == {"good": 20})
    (ejected,) = [one for one in mesh.status()["clusters"]["x"] if one["is_ejected"]]
    assert ejected["address"].endswith(f":{port}")


def test_outlier_detection_by_success_rate(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    """gRPC's own two kinds (gRFC A50) are carried out as well."""
    bad = serve("bad")
    good = [serve("good").port for _ in range(4)]
    detection = {
        "interval": "1s",
        "base_ejection_time": "30s",
        "max_ejection_percent": 100,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "failure_percentage_threshold": 50,
        "enforcing_failure_percentage": 100,
        "failure_percentage_minimum_hosts": 2,
        "failure_percentage_request_volume": 5,
    }
    mesh = make_mesh(
        documents(
            listener(RATINGS, [route("x")]),
            cluster("x", outlier_detection=detection),
            endpoints("x", [[bad.port, *good]]),
        )
    )
    client = connect(mesh)
    bad.service.status = grpc.StatusCode.INTERNAL
    eventually(lambda: counts(client.try_many(50)) == {"good": 50})


def test_affinity(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    """Ring hash: calls with one value of a header go to one backend; values are spread."""
    ports = [serve(name).port for name in ("a", "b", "c")]
    hashed = route("x")
    hashed["route"]["hash_policy"] = [{"header": {"header_name": "x-user"}}]
    mesh = make_mesh(
        documents(listener(RATINGS, [hashed]), cluster("x", lb_policy="RING_HASH"), endpoints("x", [ports]))
    )
    client = connect(mesh)
    # Where backends are on the ring goes by their ports. A quarter of it is the least that one of them has.
    placed = {
        user: {client.call(metadata=[("x-user", user)])["name"] for _ in range(3)} for user in map(str, range(100))
    }
    assert all(len(names) == 1 for names in placed.values())
    assert len(set().union(*placed.values())) == 3


def test_session_affinity(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    """A cookie keeps a session with its backend (gRFC A55)."""
    ports = [serve(name).port for name in ("a", "b", "c")]
    types = "type.googleapis.com/envoy.extensions"
    state = {
        "@type": f"{types}.http.stateful_session.cookie.v3.CookieBasedSessionState",
        "cookie": {"name": "session", "ttl": "60s"},
    }
    session = {
        "name": "session",
        "typed_config": {
            "@type": f"{types}.filters.http.stateful_session.v3.StatefulSession",
            "session_state": {"name": "cookie", "typed_config": state},
        },
    }
    mesh = make_mesh(
        documents(listener(RATINGS, [route("x")], filters=[session]), cluster("x"), endpoints("x", [ports]))
    )
    client = connect(mesh)
    eventually(lambda: len(counts(client.try_many(30))) == 3)
    initial, _ = client.metadata()
    cookie = next(value for name, value in initial if name == "set-cookie").partition(";")[0]
    seen = {client.call(metadata=[("cookie", cookie)])["name"] for _ in range(12)}
    assert len(seen) == 1


@pytest.mark.parametrize("shuffle", [False])
def test_pick_first(make_mesh: MakeMesh, connect: MakeClient, serve: Serve, shuffle: bool) -> None:
    ports = [serve(name).port for name in ("a", "b")]
    types = "type.googleapis.com/envoy.extensions.load_balancing_policies.pick_first.v3.PickFirst"
    policy = {"name": "pick_first", "typed_config": {"@type": types, "shuffle_address_list": shuffle}}
    mesh = make_mesh(
        documents(
            listener(RATINGS, [route("x")]),
            cluster("x", load_balancing_policy={"policies": [{"typed_extension_config": policy}]}),
            endpoints("x", [ports]),
        )
    )
    # A quarter of a second without an answer, and grpc-core would connect to the second beside the first.
    client = connect(mesh, options=[("grpc.happy_eyeballs_connection_attempt_delay_ms", 2000)])
    assert counts(client.try_many(20)) == {"a": 20}


def test_aggregate_cluster(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    """Clusters in order of preference (gRFC A37)."""
    one, two = serve("a"), serve("b")
    types = "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig"
    both = {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": "both",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": {"@type": types, "clusters": ["x", "y"]}},
    }
    rest = [cluster("x"), endpoints("x", [[one.port]]), cluster("y"), endpoints("y", [[two.port]])]
    client = connect(make_mesh(documents(listener(RATINGS, [route("both")]), both, *rest)))
    answers = client.try_many(20)
    assert counts(answers) == {"a": 20}, failures(answers)[:1]
    one.stop()
    eventually(lambda: counts(client.try_many(20)) == {"b": 20})


@pytest.mark.parametrize("kind", ["STRICT_DNS", "LOGICAL_DNS", "STATIC"])
def test_dns_and_static_clusters(make_mesh: MakeMesh, connect: MakeClient, serve: Serve, kind: str) -> None:
    server = serve("a")
    host = "127.0.0.1" if kind == "STATIC" else "localhost"
    address = {"socket_address": {"address": host, "port_value": server.port}}
    found = {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": "x",
        "type": kind,
        "dns_lookup_family": "V4_ONLY",
        "load_assignment": {
            "cluster_name": "x",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    assert connect(make_mesh(documents(listener(RATINGS, [route("x")]), found))).call()["name"] == "a"


@pytest.mark.parametrize("aio", [False, True])
def test_retries_save_calls_of_a_backend_that_is_killed_under_load(
    make_mesh: MakeMesh, connect: MakeClient, stack: ExitStack, aio: bool
) -> None:
    """One of three processes is killed while calls go on: with a retry policy for `unavailable`, none fails."""
    running = [stack.enter_context(server_process(name, aio=aio)) for name in ("a", "b", "c")]
    ports = [port for _, port in running]
    retried = route("x")
    retried["route"]["retry_policy"] = {
        "retry_on": "unavailable",
        "num_retries": 4,
        "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.1s"},
    }
    mesh = make_mesh(documents(listener(RATINGS, [retried]), cluster("x"), endpoints("x", [ports])))
    client = connect(mesh)
    eventually(lambda: len(counts(client.try_many(30))) == 3)
    answers: list[Any] = []

    def call_for(seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            # A method that sends its headers with its message: nothing is tried again once headers have come (gRFC A6).
            answers.extend(client.try_many(50, at_once=10, method="/test.Echo/Sleep", request=b"0"))
            if time.monotonic() > end:
                return

    call_for(0.5)
    killer = threading.Timer(0.2, running[0][0].kill)
    killer.start()
    while killer.is_alive():
        call_for(0.0)
    running[0][0].wait(PATIENCE)
    call_for(2.0)
    assert not failures(answers), [one.details for one in failures(answers)][:3]
    assert counts(answers)["a"]
    assert counts(client.try_many(20)).keys() == {"b", "c"}


def test_retries_follow_the_policys_codes_and_number(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    server = serve("a")
    retried = route("x")
    retried["route"]["retry_policy"] = {"retry_on": "internal", "num_retries": 2}
    mesh = make_mesh(documents(listener(RATINGS, [retried]), cluster("x"), endpoints("x", [[server.port]])))
    client = connect(mesh)
    server.service.status = grpc.StatusCode.INTERNAL
    with pytest.raises(Status):
        client.call()
    assert len(server.calls) == 3
    server.service.status = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(Status):
        client.call()
    assert len(server.calls) == 4
    remaining = iter([grpc.StatusCode.INTERNAL, None])

    def next_status() -> None:
        server.service.status = next(remaining)

    server.service.on_say = next_status
    assert client.call()["name"] == "a"
