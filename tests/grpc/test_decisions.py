"""What grpc-core cannot do, meshsdk does to calls before it hands them over; by the same routes as for httpx."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import pytest

from tests.chance import spread
from tests.conftest import MakeMesh, service, virtual_service
from tests.grpc.conftest import MakeClient
from tests.grpc.xds import RATINGS, cluster, documents, endpoints, listener
from tests.grpc_client import SAY, Client, Status, counts
from tests.grpc_server import GrpcServer
from tests.servers import EchoServer

from ..patience import PATIENCE

Serve = Callable[..., GrpcServer]
TYPES = "type.googleapis.com/envoy.extensions.filters.http"


def to(name: str, **action: Any) -> dict[str, Any]:
    """A route's action that forwards to a cluster."""
    return {"cluster": name, "timeout": "0s", **action}


def one_route(port: int, route: dict[str, Any], **more: Any) -> str:
    """A mesh in which all calls to ratings take one route."""
    return documents(
        listener(RATINGS, [{"match": {"prefix": ""}, **route}], **more), cluster("a"), endpoints("a", [[port]])
    )


def test_headers_are_changed_on_the_way_out_and_back(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    server = serve("one")
    mesh = make_mesh(
        one_route(
            server.port,
            {
                "route": to("a"),
                "request_headers_to_add": [
                    {"header": {"key": "x-path", "value": "%REQ(:path)%"}},
                    {"header": {"key": "x-old", "value": "new"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"},
                ],
                "request_headers_to_remove": ["x-secret"],
                "response_headers_to_add": [{"header": {"key": "x-answered-by", "value": "%UPSTREAM_CLUSTER%"}}],
                "response_headers_to_remove": ["x-served-by"],
            },
        )
    )
    client = connect(mesh)
    sent = (("x-old", "old"), ("x-secret", "1"), ("x-kept-bin", b"\0\1"))
    initial, _ = client.metadata(metadata=sent)
    assert ("x-answered-by", "a") in initial
    assert not [name for name, _ in initial if name == "x-served-by"]
    seen = server.calls[-1]["metadata"]
    assert seen["x-path"] == SAY
    assert seen["x-old"] == "new"
    assert "x-secret" not in seen
    assert seen["x-kept-bin"] == "\0\1"


def test_a_direct_response_is_a_status_and_no_server_hears_of_the_call(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve
) -> None:
    server = serve("one")
    answer = {"direct_response": {"status": 403, "body": {"inline_string": "not you, 100 %"}}}
    client = connect(make_mesh(one_route(server.port, answer)))
    with pytest.raises(Status) as caught:
        client.call()
    assert (caught.value.code, caught.value.details) == (grpc.StatusCode.PERMISSION_DENIED, "not you, 100 %")
    with pytest.raises(Status, match="not you"):
        client.down(3)
    assert not server.calls


def test_no_route_is_unimplemented_as_in_envoy(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    server = serve("one")
    only = {"match": {"prefix": "/test.Echo/S"}, "route": to("a")}
    mesh = make_mesh(documents(listener(RATINGS, [only]), cluster("a"), endpoints("a", [[server.port]])))
    client = connect(mesh)
    assert client.call()["name"] == "one"
    with pytest.raises(Status, match="no route for POST /test.Echo/Fail") as caught:
        client.call("/test.Echo/Fail", b"ABORTED")
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("abort", "code"),
    [
        ({"http_status": 503}, grpc.StatusCode.UNAVAILABLE),
        ({"http_status": 429}, grpc.StatusCode.UNAVAILABLE),
        ({"grpc_status": 8}, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_faults_abort_calls_and_streams(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, abort: dict[str, int], code: grpc.StatusCode
) -> None:
    server = serve("one")
    client = connect(make_mesh(one_route(server.port, {"route": to("a")}, filters=[fault(abort=abort)])))
    with pytest.raises(Status, match="fault filter abort") as caught:
        client.call()
    assert caught.value.code is code
    with pytest.raises(Status) as caught:
        client.down(1)
    assert caught.value.code is code
    assert not server.calls


def fault(**fields: Any) -> dict[str, Any]:
    full = {"percentage": {"numerator": 100}}
    config: dict[str, Any] = {"@type": f"{TYPES}.fault.v3.HTTPFault"}
    config.update({name: {**full, **value} for name, value in fields.items()})
    return {"name": "fault", "typed_config": config}


def test_a_fault_delays_within_the_calls_deadline(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    server = serve("one")
    client = connect(
        make_mesh(one_route(server.port, {"route": to("a")}, filters=[fault(delay={"fixed_delay": "0.4s"})]))
    )
    client.call(timeout=20)
    started = time.monotonic()
    assert client.call(timeout=10)["seconds"] < 9.7
    assert time.monotonic() - started >= 0.4
    endless = one_route(server.port, {"route": to("a")}, filters=[fault(delay={"fixed_delay": "60s"})])
    client = connect(make_mesh(endless))
    started = time.monotonic()
    with pytest.raises(Status) as caught:
        client.call(timeout=0.1)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 30
    assert len(server.calls) == 2


def test_a_share_of_faults_is_a_share_of_calls(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    server = serve("one")
    aborted = fault(abort={"http_status": 503, "percentage": {"numerator": 30}})
    client = connect(make_mesh(one_route(server.port, {"route": to("a")}, filters=[aborted])))
    seen = counts(client.try_many(600))
    assert abs(seen["UNAVAILABLE"] - 180) <= spread(600, 0.3), seen


def test_a_local_rate_limit_refuses_calls(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    server = serve("one")
    full = {"default_value": {"numerator": 100}}
    limit = {
        "name": "limit",
        "typed_config": {
            "@type": f"{TYPES}.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "x",
            "token_bucket": {"max_tokens": 3, "tokens_per_fill": 3, "fill_interval": "3600s"},
            "filter_enabled": full,
            "filter_enforced": full,
        },
    }
    client = connect(make_mesh(one_route(server.port, {"route": to("a")}, filters=[limit])))
    seen = client.try_many(5)
    assert counts(seen) == {"one": 3, "UNAVAILABLE": 2}
    assert "local_rate_limited" in seen[-1].details


def test_a_mirror_gets_a_copy_with_a_shadow_authority(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    server, shadow = serve("one"), serve("shadow")
    mesh = make_mesh(
        documents(
            listener(
                RATINGS,
                [{"match": {"prefix": ""}, "route": to("a", request_mirror_policies=[{"cluster": "copy"}])}],
            ),
            cluster("a"),
            endpoints("a", [[server.port]]),
            cluster("copy"),
            endpoints("copy", [[shadow.port]]),
        )
    )
    client = connect(mesh)
    assert {client.call(request=b"hello", metadata=[("x-id", "7")])["name"] for _ in range(5)} == {"one"}
    until = time.monotonic() + PATIENCE
    while len(copies := [one for one in shadow.calls if one["request"] == "hello"]) < 5:
        client.try_many(1, method="/test.Echo/Sleep", request=b"0.01")
        assert time.monotonic() < until
    assert copies[0]["metadata"]["x-id"] == "7"
    assert client.both([b"a"]) == [b"one:a"]  # Streams are not copied.


def test_paths_and_hosts_are_rewritten(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    server = serve("one")
    route = {
        "match": {"prefix": "/old.Echo/"},
        "route": to("a", prefix_rewrite="/test.Echo/", host_rewrite_literal="inner.example"),
    }
    mesh = make_mesh(documents(listener(RATINGS, [route]), cluster("a"), endpoints("a", [[server.port]])))
    answer = connect(mesh).call("/old.Echo/Say")
    assert answer["name"] == "one"
    assert answer["metadata"]["x-envoy-original-path"] == "/old.Echo/Say"


def test_a_call_may_name_its_cluster(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    one, two = serve("one"), serve("two")
    mesh = make_mesh(
        documents(
            listener(RATINGS, [{"match": {"prefix": ""}, "route": {"cluster_header": "x-cluster", "timeout": "0s"}}]),
            cluster("a"),
            endpoints("a", [[one.port]]),
            cluster("b"),
            endpoints("b", [[two.port]]),
        )
    )
    client = connect(mesh)
    assert client.call(metadata=[("x-cluster", "a")])["name"] == "one"
    assert client.call(metadata=[("x-cluster", "b")])["name"] == "two"
    with pytest.raises(Status, match="'nobody'") as caught:
        client.call(metadata=[("x-cluster", "nobody")])
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_clusters_of_a_split_change_headers_of_their_own(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve
) -> None:
    one, two = serve("one"), serve("two")

    def share(name: str, weight: int) -> dict[str, Any]:
        header = {"header": {"key": "x-share", "value": name}}
        return {"name": name, "weight": weight, "request_headers_to_add": [header]}

    split = {"weighted_clusters": {"clusters": [share("a", 30), share("b", 70)]}, "timeout": "0s"}
    mesh = make_mesh(
        documents(
            listener(RATINGS, [{"match": {"prefix": ""}, "route": split}]),
            cluster("a"),
            endpoints("a", [[one.port]]),
            cluster("b"),
            endpoints("b", [[two.port]]),
        )
    )
    answers = connect(mesh).try_many(600)
    assert {(one["name"], one["metadata"]["x-share"]) for one in answers} == {("one", "a"), ("two", "b")}
    assert abs(counts(answers)["one"] - 180) <= spread(600, 0.3)


def test_a_missing_cluster_is_named_at_once(make_mesh: MakeMesh, connect: MakeClient) -> None:
    mesh = make_mesh(documents(listener(RATINGS, [{"match": {"prefix": ""}, "route": to("gone")}])))
    started = time.monotonic()
    with pytest.raises(Status, match="'gone' of the route does not exist"):
        connect(mesh).call()
    assert time.monotonic() - started < 15, "it is waited for until the call's own deadline"


def answer_of_some_call(client: Client) -> dict[str, Any]:
    """What is answered once there is a connection, where a call's time may be too short to make one."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            answer: dict[str, Any] = client.call()
            return answer
        except Status:
            assert time.monotonic() < until


@pytest.mark.parametrize("timeout", ["0.3s"])
def test_a_routes_timeout_bounds_calls_of_one_request(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, timeout: str
) -> None:
    server = serve("one")
    client = connect(make_mesh(one_route(server.port, {"route": to("a", timeout=timeout)})))
    assert answer_of_some_call(client)["seconds"] < 0.5
    with pytest.raises(Status) as caught:
        client.call("/test.Echo/Sleep", b"3")
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_the_shortest_of_the_callers_the_routes_and_the_inbound_time_counts(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve
) -> None:
    from meshsdk import deadline

    server = serve("one")
    client = connect(make_mesh(one_route(server.port, {"route": to("a", timeout="80s")})))
    assert 45 < client.call(timeout=150)["seconds"] <= 80.1
    assert 25 < client.call(timeout=40)["seconds"] <= 40.1
    with deadline.limit(20.0):
        assert 1 < client.call(timeout=150)["seconds"] <= 20.1
    assert client.call(timeout=150)["seconds"] > 45


def test_max_stream_duration_ends_streams(make_mesh: MakeMesh, connect: MakeClient, serve: Serve) -> None:
    server = serve("one")
    action = to("a", max_stream_duration={"max_stream_duration": "0.3s"})
    client = connect(make_mesh(one_route(server.port, {"route": action})))
    with pytest.raises(Status) as caught:
        client.call("/test.Echo/Sleep", b"3")
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-bad", "line\nbreak"), ("x bad", "1"), ("x-null", "a\0b"), ("grpc-internal", "1"), ("x-non-ascii", "ü")],
)
@pytest.mark.parametrize("decided", [False, True])
def test_hostile_metadata_end_as_grpc_ends_them_and_the_channel_works_on(
    make_mesh: MakeMesh, connect: MakeClient, serve: Serve, name: str, value: str, decided: bool
) -> None:
    server = serve("one")
    changes = {"request_headers_to_add": [{"header": {"key": "x-a", "value": "%REQ(x-bad)%"}}]} if decided else {}
    client = connect(make_mesh(one_route(server.port, {"route": to("a"), **changes})))
    try:
        client.call(metadata=[(name, value)], timeout=5)
    except Exception as error:  # noqa: BLE001 - whatever grpc itself says to it.
        assert type(error).__module__.partition(".")[0] in ("grpc", "tests", "builtins"), error
    assert client.call()["name"] == "one"
    assert all("\n" not in text for one in server.calls for text in one["metadata"].values())


def test_the_same_folder_splits_httpx_and_grpc_traffic_alike(make_mesh: MakeMesh, serve: Serve, stack: Any) -> None:
    """Each engine has endpoints of its own protocol; shares, matches and header changes are one configuration."""
    hosts = {"http": [stack.enter_context(EchoServer(name)).port for name in ("v1", "v2")]}
    hosts["grpc"] = [serve(name).port for name in ("v1", "v2")]
    rules = "".join(
        service(name, *ports, versions={ports[0]: "v1", ports[1]: "v2"}, port=9080)
        + "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n"
        + f"metadata: {{name: {name}}}\nspec: {{host: {name}, subsets: [{{name: v1, labels: {{version: v1}}}},"
        + " {name: v2, labels: {version: v2}}]}\n"
        + virtual_service(
            name,
            "[{match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: NAME, subset: v2}}]},"
            " {route: [{destination: {host: NAME, subset: v1}, weight: 75},"
            " {destination: {host: NAME, subset: v2}, weight: 25}]}]".replace("NAME", name),
        )
        + "---\n"
        for name, ports in hosts.items()
    )
    mesh = make_mesh(rules)
    with mesh.client() as client, mesh.channel("grpc:9080") as channel:
        say = channel.unary_unary(SAY)

        def http(**headers: str) -> str:
            return str(client.get("http://http:9080/", headers=headers).json()["name"])

        def rpc(**headers: str) -> str:
            response = say(b"", timeout=20, metadata=list(headers.items()))
            return "v1" if b'"v1"' in response else "v2"

        for ask in (http, rpc):
            share = sum(ask() == "v1" for _ in range(600))
            assert abs(share - 450) <= spread(600, 0.75), (ask, share)
            assert {ask(**{"end-user": "jason"}) for _ in range(20)} == {"v2"}
    assert isinstance(client, httpx.Client)


def test_the_same_endpoints_fail_over_httpx_and_grpc_traffic_alike(
    make_mesh: MakeMesh, serve: Serve, stack: Any
) -> None:
    """Half of the first priority is unhealthy: 70 percent stay there, the rest goes to the second, for both."""
    ports = {
        "web": [stack.enter_context(EchoServer(name)).port for name in ("first", "first", "second")],
        "rpc": [serve(name).port for name in ("first", "first", "second")],
    }
    resources: list[Any] = []
    for name, (one, two, three) in ports.items():
        host = f"{name}.default.svc.cluster.local:9080"
        resources += [
            listener(host, [{"match": {"prefix": ""}, "route": to(name)}]),
            cluster(name),
            endpoints(name, [[{"port": one, "health_status": "UNHEALTHY"}, two], [three]]),
        ]
    mesh = make_mesh(documents(*resources))
    with mesh.client() as client, mesh.channel("rpc:9080") as channel:
        say = channel.unary_unary(SAY)
        say(b"", timeout=20)
        first = {
            "httpx": sum(client.get("http://web:9080/").json()["name"] == "first" for _ in range(600)),
            "gRPC": sum(b'"first"' in say(b"", timeout=20) for _ in range(600)),
        }
    assert all(abs(count - 420) <= spread(600, 0.7) for count in first.values()), first
