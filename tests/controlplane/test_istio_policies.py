"""Istio's traffic policies, carried out by a client on the mesh: from YAML to what the servers see."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import httpx

from tests.conftest import MakeMesh, destination_rule, service, virtual_service
from tests.differential.subjects import Answer, Upstream, eventually, take_over_health


def test_consistent_hash_keeps_a_user_with_an_endpoint(make_mesh: MakeMesh, stack: ExitStack) -> None:
    servers = [
        stack.enter_context(Upstream(lambda request, number, name=name: Answer(body=name)))
        for name in (b"a", b"b", b"c")
    ]
    rule = "trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}"
    mesh = make_mesh(service("a", *(server.port for server in servers)) + destination_rule("a", rule))
    with mesh.client() as client:
        for user in ("ann", "bob", "eve"):
            found = {client.get("http://a/", headers={"x-user": user}).text for _ in range(8)}
            assert len(found) == 1
        # Where endpoints are on the ring goes by their ports. A quarter of it is the least that one of them has.
        everyone = {client.get("http://a/", headers={"x-user": str(number)}).text for number in range(100)}
    assert everyone == {"a", "b", "c"}


def test_consistent_hash_makes_a_cookie_that_is_missing(make_mesh: MakeMesh, stack: ExitStack) -> None:
    servers = [
        stack.enter_context(Upstream(lambda request, number, name=name: Answer(body=name)))
        for name in (b"a", b"b", b"c")
    ]
    rule = "trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: user, path: /, ttl: 60s}}}}"
    mesh = make_mesh(service("a", *(server.port for server in servers)) + destination_rule("a", rule))
    with mesh.client() as client:
        first = client.get("http://a/")
        assert first.headers["set-cookie"].startswith('user="')
        assert {client.get("http://a/").text for _ in range(8)} == {first.text}


def test_outlier_detection_leaves_a_sick_endpoint_alone(make_mesh: MakeMesh, stack: ExitStack) -> None:
    sick = stack.enter_context(Upstream(lambda request, number: Answer(500)))
    well = stack.enter_context(Upstream())
    rule = (
        "trafficPolicy: {outlierDetection: {consecutive5xxErrors: 2, interval: 10s, baseEjectionTime: 30s,"
        " maxEjectionPercent: 100}}"
    )
    mesh = make_mesh(service("a", sick.port, well.port) + destination_rule("a", rule))
    with mesh.client() as client:
        while len(sick.received) < 2:
            client.get("http://a/")
        assert eventually(lambda: any(one["is_ejected"] for one in next(iter(mesh.status()["clusters"].values()))))
        take_over_health(mesh)
        assert {client.get("http://a/").status_code for _ in range(10)} == {200}


def test_the_connection_pool_limits_what_is_under_way(make_mesh: MakeMesh, stack: ExitStack) -> None:
    from concurrent.futures import ThreadPoolExecutor

    refused: list[httpx.Response] = []

    def held(request: object, number: int) -> Answer:
        # The first request of all connects; those after it are under way until the others were refused.
        assert number == 0 or eventually(lambda: len(refused) == 4)
        return Answer()

    def get(client: httpx.Client) -> httpx.Response:
        response = client.get("http://a/")
        if response.status_code == 503:
            refused.append(response)
        return response

    server = stack.enter_context(Upstream(held))
    rule = "trafficPolicy: {connectionPool: {http: {http2MaxRequests: 2}}}"
    mesh = make_mesh(service("a", server.port) + destination_rule("a", rule))
    with mesh.client() as client, ThreadPoolExecutor(6) as pool:
        client.get("http://a/")
        responses = list(pool.map(lambda _: get(client), range(6)))
    assert Counter(response.status_code for response in responses) == {200: 2, 503: 4}
    assert {response.extensions["mesh"].flag for response in refused} == {"UO"}


def test_a_mirror_gets_copies(make_mesh: MakeMesh, stack: ExitStack) -> None:
    real, shadow = stack.enter_context(Upstream()), stack.enter_context(Upstream())
    http = "[{route: [{destination: {host: a}}], mirror: {host: b}, mirrorPercentage: {value: 100}}]"
    mesh = make_mesh(service("a", real.port) + "---\n" + service("b", shadow.port) + virtual_service("a", http))
    with mesh.client() as client:
        assert client.get("http://a/x").text == "ok"
        assert eventually(lambda: bool(shadow.received))
    assert shadow.received[0].target == "/x"
