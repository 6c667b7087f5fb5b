"""Hosts that are nearly ones of the mesh: whoever asks for them hears what the mesh has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

import meshsdk
from meshsdk.nearby import Nearby
from meshsdk.node import Node
from tests.patience import PATIENCE


def service(name: str, port: int, namespace: str) -> str:
    return (
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{ports: [{{port: {port}, name: http}}]}}\n"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = service("greeter", 9090, "default") + service("reviews", 8001, "shop")
    (tmp_path / "mesh.yaml").write_text(text + service("ratings", 8002, "shop") + service("ratings", 8002, "fair"))
    return tmp_path


@pytest.fixture
def mesh(folder: Path) -> Iterator[meshsdk.Mesh]:
    with meshsdk.Mesh(config=folder) as one:
        yield one


HINTS = {
    "another port": ("greeter:9091", "it has greeter on 9090"),
    "a letter too few": ("greter:9090", "it has greeter on 9090"),
    "another namespace": (
        "reviews:8001",
        "it has reviews in namespace shop, as reviews.shop on 8001; this process is of namespace default",
    ),
    "several namespaces": (
        "ratings:8002",
        "it has ratings in the namespaces fair, shop; this process is of namespace default",
    ),
}


@pytest.mark.parametrize(("target", "hint"), HINTS.values(), ids=HINTS)
def test_a_host_that_cannot_be_reached_is_compared_with_those_of_the_mesh(
    mesh: meshsdk.Mesh, target: str, hint: str
) -> None:
    with mesh.client() as client, pytest.raises(httpx.ConnectError) as caught:
        client.get(f"http://{target}/")
    assert str(caught.value).endswith(f"; the mesh does not know {target}, {hint}")


def test_async_clients_hear_the_same(mesh: meshsdk.Mesh) -> None:
    async def ask() -> None:
        async with mesh.async_client() as client:
            await client.get("http://greter:9090/")

    with pytest.raises(httpx.ConnectError, match="the mesh does not know greter:9090, it has greeter on 9090"):
        asyncio.run(ask())


def test_a_host_that_is_like_none_is_not_compared(mesh: meshsdk.Mesh) -> None:
    with mesh.client() as client, pytest.raises(httpx.ConnectError) as caught:
        client.get("http://something.else.invalid/")
    assert "the mesh does not know" not in str(caught.value)


def test_who_is_denied_hears_it_too(folder: Path) -> None:
    with meshsdk.Mesh(config=folder, unknown_hosts="deny") as mesh:
        with mesh.client() as client, pytest.raises(meshsdk.NoRouteError, match="are denied; it has greeter on 9090"):
            client.get("http://greter:9090/")
        with mesh.client() as client, pytest.raises(meshsdk.NoRouteError, match="are denied; add a Service"):
            client.get("http://nobody.invalid/")


def test_whoever_waits_or_asks_for_an_explanation_hears_it_too(mesh: meshsdk.Mesh) -> None:
    with pytest.raises(meshsdk.NoRouteError, match="it has greeter on 9090"):
        mesh.wait_ready("greter:9090")
    assert mesh.explain("GET", "http://greter:9090/").problem.endswith("; it has greeter on 9090")


def test_over_grpc_each_is_logged_once_and_told_to_who_is_denied(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def call(mesh: meshsdk.Mesh, target: str = "greter:9090") -> Any:
        with mesh.channel(target) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/a.B/C")(b"", timeout=PATIENCE)
        return caught.value

    with caplog.at_level(logging.WARNING, "meshsdk.grpc"), meshsdk.Mesh(config=folder) as mesh:
        [note] = call(mesh).__notes__
        assert note.startswith("the mesh has no such host, so DNS was asked")
        call(mesh)
        call(mesh, "greeter:9091")
    assert [one.getMessage() for one in caplog.records if "does not know" in one.getMessage()] == [
        "gRPC: the mesh does not know greter:9090; it has greeter on 9090",
        "gRPC: the mesh does not know greeter:9091; it has greeter on 9090",
    ]
    with meshsdk.Mesh(config=folder, unknown_hosts="deny") as mesh:
        assert call(mesh).details().endswith("unknown hosts are denied; it has greeter on 9090")


def test_a_hint_follows_edits(folder: Path) -> None:
    with meshsdk.Mesh(config=folder) as mesh:
        assert mesh.explain("GET", "http://orders/").problem.endswith("orders.default.svc.cluster.local:80)")
    hosts = [("orders.default.svc.cluster.local", 80)]
    known: list[list[tuple[str, int]]] = [hosts]
    nearby = Nearby(lambda: known[0], Node())
    assert nearby.hint("order", 80) == "it has orders on 80"
    known[0] = [("orders.default.svc.cluster.local", 81)]
    assert nearby.hint("order", 80) == "it has orders on 81"
    known[0] = []
    assert nearby.hint("order", 80) == ""


@pytest.mark.parametrize("host", ["10.0.0.1", "[::1]", "", ".", "a" * 300, "ünïcode"])
def test_whatever_is_asked_for_is_no_error(host: str) -> None:
    assert Nearby(lambda: [("greeter.default.svc.cluster.local", 80)], Node()).hint(host, 80) == ""
