"""Requests and calls by HTTPRoutes and GRPCRoutes of a folder, sent for real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.conftest import MakeMesh, service
from tests.grpc_client import Client, Status, make_client
from tests.grpc_server import GrpcServer
from tests.patience import PATIENCE

from .gateway_objects import SERVICE, backends, grpc_route, http_route

Echo = Callable[[str], Any]


def test_requests_go_by_the_most_specific_rule(make_mesh: MakeMesh, echo: Echo) -> None:
    a, b = echo("a"), echo("b")
    rules = f"[{{{backends('a')}}}, {{matches: [{{path: {{value: /b}}}}], {backends('b')}}}]"
    mesh = make_mesh(service("a", a.port) + "---\n" + service("b", b.port) + http_route(rules))
    with mesh.client() as client:
        served = [client.get(f"http://a{path}").json()["name"] for path in ("/", "/b", "/b/c", "/bc")]
    assert served == ["a", "b", "b", "a"]


def test_a_request_is_sent_as_its_rule_has_it(make_mesh: MakeMesh, echo: Echo) -> None:
    a = echo("a")
    filters = (
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}},"
        " {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: s}], remove: [x-gone]}},"
        " {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-back, value: b}]}}]"
    )
    rules = f"[{{matches: [{{path: {{value: /old}}}}], {filters}, {backends('a')}}}]"
    with make_mesh(service("a", a.port) + http_route(rules)).client() as client:
        response = client.get("http://a/old/x?y=z", headers={"x-gone": "1"})
    seen = response.json()
    assert (seen["path"], seen["headers"]["x-set"], response.headers["x-back"]) == ("/x?y=z", "s", "b")
    assert "x-gone" not in seen["headers"]


def test_an_asyncio_client_goes_by_them_too(make_mesh: MakeMesh, echo: Echo) -> None:
    b = echo("b")
    mesh = make_mesh(service("a") + "---\n" + service("b", b.port) + http_route(f"[{{{backends('b')}}}]"))

    async def ask() -> str:
        async with mesh.async_client() as client:
            return str((await client.get("http://a/x")).json()["name"])

    assert asyncio.run(ask()) == "b"


@pytest.mark.parametrize(
    ("rules", "flag"),
    [
        ("[{backendRefs: [{name: nobody, port: 80}]}]", "NC"),
        ("[{backendRefs: [{name: a, port: 81}]}]", "NC"),
        ("[{backendRefs: [{group: example.com, kind: Thing, name: t}]}]", "NC"),
        ("[{backendRefs: [{name: a, port: 80, weight: 0}]}]", ""),
    ],
)
def test_a_request_without_a_backend_gets_500(make_mesh: MakeMesh, rules: str, flag: str) -> None:
    with make_mesh(service("a", 1) + http_route(rules)).client() as client:
        response = client.get("http://a/", timeout=PATIENCE)
    assert (response.status_code, response.extensions["mesh"].flag or "") == (500, flag)


def test_a_request_is_copied_to_a_mirror(make_mesh: MakeMesh, echo: Echo) -> None:
    a, b = echo("a"), echo("b")
    mirror = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}}}]"
    yaml = service("a", a.port) + "---\n" + service("b", b.port) + http_route(f"[{{{mirror}, {backends('a')}}}]")
    mesh = make_mesh(yaml)
    with mesh.client() as client:
        assert client.post("http://a/x", content=b"body").json()["name"] == "a"
        deadline = time.monotonic() + PATIENCE
        while not b.seen and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [one["body"] for one in b.seen] == ["body"]


def test_an_edit_of_a_route_holds_at_once(make_mesh: MakeMesh, echo: Echo, tmp_path: Path) -> None:
    a, b = echo("a"), echo("b")
    services = service("a", a.port) + "---\n" + service("b", b.port)
    mesh = make_mesh(services + http_route(f"[{{{backends('a')}}}]"))
    with mesh.client() as client:
        assert client.get("http://a/").json()["name"] == "a"
        (tmp_path / "mesh" / "mesh.yaml").write_text(services + http_route(f"[{{{backends('b')}}}]"))
        assert _until(lambda: client.get("http://a/").json()["name"] == "b")


def _until(holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + PATIENCE
    while not (held := holds()) and time.monotonic() < ends:
        time.sleep(0.02)
    return held


@pytest.fixture
def call(make_mesh: MakeMesh, stack: ExitStack) -> Callable[..., Client]:
    """Opens a client of `a`, whose calls go by some objects; `a` and `b` are servers."""
    servers = [stack.enter_context(GrpcServer(name)) for name in "ab"]

    def make(kind: str, objects: str) -> Client:
        yaml = "---\n".join(service(name, one.port, port=9080) for name, one in zip("ab", servers, strict=True))
        client = make_client(kind, make_mesh(yaml + objects), "a:9080")
        stack.callback(client.close)
        return client

    return make


TO_B = "backendRefs: [{name: b, port: 9080}]"
TO_A = "backendRefs: [{name: a, port: 9080}]"


@pytest.mark.parametrize("kind", ["sync", "aio"])
@pytest.mark.parametrize(
    ("rules", "server"),
    [
        (f"[{{{TO_A}}}, {{matches: [{{method: {{service: test.Echo}}}}], {TO_B}}}]", "b"),
        (f"[{{matches: [{{method: {{service: test.Echo, method: Other}}}}], {TO_B}}}, {{{TO_A}}}]", "a"),
        (f"[{{matches: [{{headers: [{{name: x-user, value: ann}}]}}], {TO_B}}}, {{{TO_A}}}]", "b"),
    ],
)
def test_calls_go_by_service_method_and_metadata(
    call: Callable[..., Client], kind: str, rules: str, server: str
) -> None:
    client = call(kind, grpc_route(rules, parents=SERVICE))
    assert client.call(metadata=(("x-user", "ann"),))["name"] == server


@pytest.mark.parametrize("kind", ["sync", "aio"])
@pytest.mark.parametrize(
    ("rules", "server"),
    [
        (f"[{{{TO_A}}}, {{matches: [{{path: {{value: /test.Echo}}}}], {TO_B}}}]", "b"),
        (f"[{{matches: [{{path: {{type: Exact, value: /test.Echo/Other}}}}], {TO_B}}}, {{{TO_A}}}]", "a"),
        (f"[{{matches: [{{headers: [{{name: x-user, value: ann}}]}}], {TO_B}}}, {{{TO_A}}}]", "b"),
        (f"[{{matches: [{{method: GET}}], {TO_B}}}, {{{TO_A}}}]", "a"),
    ],
)
def test_calls_go_by_routes_for_http_too(call: Callable[..., Client], kind: str, rules: str, server: str) -> None:
    client, ann = call(kind, http_route(rules, parents=SERVICE)), (("x-user", "ann"),)
    assert client.call(metadata=ann)["name"] == server
    # Streams of a channel have a way of their own.
    assert client.both([b"1", b"2"], metadata=ann) == [f"{server}:1".encode(), f"{server}:2".encode()]


@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_a_call_is_sent_as_its_rule_has_it(call: Callable[..., Client], kind: str) -> None:
    """Which grpc-core does not carry out, so that it is decided on here."""
    filters = (
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: s}],"
        " remove: [x-gone]}},"
        " {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-back, value: b}]}}]"
    )
    client = call(kind, grpc_route(f"[{{{filters}, {TO_B}}}]"))
    metadata = (("x-gone", "1"), ("x-kept", "2"))
    seen = dict(client.call(metadata=metadata)["metadata"])
    assert (seen["x-set"], seen["x-kept"], "x-gone" in seen) == ("s", "2", False)
    initial, _ = client.metadata(metadata=metadata)
    assert dict(initial)["x-back"] == "b"


NOBODY = "backendRefs: [{name: nobody, port: 80}]"
CHANGED = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: y}]}}], "


@pytest.mark.parametrize(
    "rules",
    [f"[{{{NOBODY}}}]", f"[{{{CHANGED}{NOBODY}}}]", "[{matches: [{method: {service: test.Echo}}]}]"],
    ids=["nobody there", "changed for nobody", "nothing"],
)
@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_a_call_without_a_backend_ends_with_unknown(call: Callable[..., Client], kind: str, rules: str) -> None:
    client = call(kind, grpc_route(rules))
    with pytest.raises(Status) as caught:
        client.call(timeout=PATIENCE)
    # Envoy, Utility::httpToGrpcStatus: of 500.
    assert caught.value.code is grpc.StatusCode.UNKNOWN
