"""Plaintext at a port that takes mutual TLS only: both sides say what it is, and what to do."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import httpx
import pytest

import meshsdk

from ..conftest import MakeMesh, service
from ..grpc.xds import cluster, documents, endpoints, listener
from ..servers import ScriptedServer, read_head
from .running import answers, mesh_of, one_port, peer_authentication, serving

LABEL = "security.istio.io/tlsMode: istio"
UNLABELLED = "has not the label security.istio.io/tlsMode: istio"


def ask(mesh: meshsdk.Mesh, kind: str) -> str:
    async def asynchronously() -> None:
        async with mesh.async_client() as client:
            await client.get("http://web/")

    with pytest.raises(httpx.TransportError) as raised:
        if kind == "async":
            asyncio.run(asynchronously())
        else:
            with mesh.client() as client:
                client.get("http://web/")
    return str(raised.value)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_reset_says_that_plaintext_was_spoken_and_why_and_the_server_warns_once(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    port = one_port()
    yaml = service("web", port) + peer_authentication("STRICT")
    server, client = mesh_of(tmp_path, yaml), mesh_of(tmp_path, yaml, name="client")
    with server, client, serving(answers, server, port):
        told = [ask(client, kind) for _ in range(3)]
    assert all(f"speaks plaintext to 127.0.0.1:{port}" in one for one in told), told
    assert all(UNLABELLED in one and "ISTIO_MUTUAL" in one for one in told), told
    of_server = [one for one in caplog.records if f"port {port} takes mutual TLS only" in one.getMessage()]
    assert [one.levelname for one in of_server] == ["WARNING", "INFO", "INFO"]
    assert LABEL in of_server[0].getMessage()
    assert "mesh.serve(health=…)" in of_server[0].getMessage()


def test_where_some_endpoints_are_labelled_the_one_that_is_not_is_named(tmp_path: Path) -> None:
    port, other = one_port(), one_port()
    labelled = service("web", other).replace("labels: {app: web}", f"labels: {{app: web, {LABEL}}}")
    assert LABEL in labelled
    yaml = service("web", port) + "---" + labelled.partition("---")[2].replace("name: web-", "name: labelled-")
    server, client = mesh_of(tmp_path, yaml + peer_authentication("STRICT")), mesh_of(tmp_path, yaml, name="client")
    with server, client, serving(answers, server, port), serving(answers, server, other):
        for _ in range(4):
            try:
                with client.client() as one:
                    assert one.get("http://web/").status_code == 200
            except httpx.TransportError as error:
                assert f"speaks plaintext to 127.0.0.1:{port}" in str(error)
                assert UNLABELLED in str(error)
                assert "ISTIO_MUTUAL" not in str(error)
                return
    pytest.fail("both endpoints answered")


def test_where_istio_has_no_say_the_clusters_own_configuration_is_named(make_mesh: MakeMesh) -> None:
    to_c = [{"match": {"prefix": "/"}, "route": {"cluster": "c"}}]
    with ScriptedServer(break_off) as server:
        mesh = make_mesh(documents(listener("web", to_c), cluster("c"), endpoints("c", [[server.port]])))
        told = ask(mesh, "sync")
    assert f"cluster c speaks plaintext to 127.0.0.1:{server.port} (no transport_socket is configured)" in told
    assert "istio" not in told


def break_off(connection: socket.socket, number: int) -> None:
    read_head(connection)


def test_of_hosts_outside_the_mesh_nothing_is_said_of_plaintext(tmp_path: Path) -> None:
    mesh = mesh_of(tmp_path, service("web", one_port()))
    with (
        ScriptedServer(break_off) as server,
        mesh,
        mesh.client() as client,
        pytest.raises(httpx.TransportError) as raised,
    ):
        client.get(f"http://127.0.0.1:{server.port}/")
    assert "plaintext" not in str(raised.value)
