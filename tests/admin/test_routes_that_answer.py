"""Hits of routes that answer by themselves, and why gRPC calls went where they did."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from tests.patience import eventually

from ..conftest import service, virtual_service
from ..grpc.conftest import MakeClient, clients, connect, kind, serve  # noqa: F401 - fixtures.
from ..grpc_client import Status
from ..grpc_server import GrpcServer
from .conftest import Page

ROUTES = (
    "[{name: tea, match: [{uri: {exact: /tea}}], directResponse: {status: 418}},"
    " {name: moved, match: [{uri: {exact: /old}}], redirect: {uri: /new}},"
    " {name: aborted, match: [{uri: {exact: /abort}}], fault: {abort: {httpStatus: 555, percentage: {value: 100}}},"
    " route: [{destination: {host: a}}]},"
    " {name: rest, route: [{destination: {host: a}}]}]"
)


def hits(page: Page) -> dict[str, tuple[int, int]]:
    """Requests and errors of the routes that have some."""
    routes = page.json("/api/routes")["routes"]
    return {one["name"]: (one["requests"], one["errors"]) for one in routes if one["requests"]}


def test_direct_responses_redirects_and_faults_are_hits_of_their_routes(page: Page) -> None:
    page.configure(service("a", 1) + virtual_service("a", ROUTES))
    with page.open().client() as client:
        assert client.get("http://a/tea").status_code == 418
        assert client.get("http://a/tea").status_code == 418
        assert client.get("http://a/old").status_code == 301
        assert client.get("http://a/abort").status_code == 555
    assert hits(page) == {"tea": (2, 0), "moved": (1, 0), "aborted": (1, 1)}


@pytest.mark.parametrize("is_native", [True, False], ids=["by grpc-core", "by meshsdk"])
def test_grpc_calls_are_explained_and_hits_of_their_routes(
    page: Page,
    connect: MakeClient,  # noqa: F811
    serve: Callable[..., GrpcServer],  # noqa: F811
    clients: ExitStack,  # noqa: F811
    is_native: bool,
) -> None:
    server = serve("ratings")
    changes = "" if is_native else ", headers: {request: {set: {x-changed: 'yes'}}}"
    routes = (
        "[{name: gone, match: [{headers: {x-tenant: {exact: gone}}}], directResponse: {status: 403}},"
        if not is_native
        else "["
    )
    routes += (
        " {name: blue, match: [{headers: {x-tenant: {exact: blue}}}], route: [{destination: {host: ratings}}]"
        f"{changes}}}, {{name: rest, route: [{{destination: {{host: ratings}}}}]}}]"
    )
    yaml = service("ratings", server.port, port=9080).replace("name: http", "name: grpc").replace("{http:", "{grpc:")
    page.configure(yaml + virtual_service("ratings", routes))
    with clients:
        client = connect(page.open())
        client.call(metadata=(("x-tenant", "blue"),))
        client.call()
        expected = {"blue": (1, 0), "rest": (1, 0)}
        if not is_native:
            with pytest.raises(Status):
                client.call(metadata=(("x-tenant", "gone"),))
            expected["gone"] = (1, 1)
        assert eventually(lambda: hits(page) == expected)
    explained: dict[str, Any] = {}
    for one in page.json("/api/requests"):
        shown = page.json("/api/request", number=str(one["number"]))
        explained[one["route"]] = shown["explanation"] and shown["explanation"]["route"]
    assert (explained["blue"], explained["rest"]) == ("blue", "rest")
