"""At DEBUG each decision is one line, of what is sent and of what comes in."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import httpx
import pytest

import meshsdk

from ..conftest import service, virtual_service
from .running import answers, mesh_of, one_port, policy, serving

PATHS = policy("{rules: [{to: [{operation: {paths: [/ok]}}]}]}")
URLS = ("http://web/ok?token=secret", "http://web/no", "http://web/gone", "http://nobody.invalid/x")


async def ask(mesh: meshsdk.Mesh, kind: str) -> None:
    for url in URLS:
        try:
            if kind == "async":
                async with mesh.async_client() as client:
                    await client.get(url)
            else:
                with mesh.client() as client:
                    await asyncio.to_thread(client.get, url)
        except httpx.TransportError:
            pass


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_each_decision_is_one_line(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = one_port()
    routes = "[{match: [{uri: {prefix: /gone}}], directResponse: {status: 410}}, {route: [{destination: {host: web}}]}]"
    mesh = mesh_of(tmp_path, service("web", port) + PATHS + virtual_service("web", routes))
    with mesh, serving(answers, mesh, port):
        asyncio.run(ask(mesh, kind))
        assert not [one for one in caplog.records if one.name == "meshsdk.decisions"]
        caplog.set_level(logging.DEBUG, "meshsdk.decisions")
        asyncio.run(ask(mesh, kind))
    told = [one.getMessage() for one in caplog.records if one.name == "meshsdk.decisions"]
    cluster = "cluster outbound|80||web.default.svc.cluster.local"
    who = f"from 127.0.0.1 at port {port}"
    assert [one for one in told if one.startswith("inbound")] == [
        f"inbound GET web/ok {who}: let in by route default",
        f"inbound GET web/no {who}: answered with 403 (rbac_access_denied_matched_policy[none])",
    ]
    ok, no, gone, nobody = (one for one in told if one.startswith("outbound"))
    assert ok.startswith("outbound GET http://web/ok: 200, ")
    assert ok.endswith(f"{cluster}, endpoint 127.0.0.1:{port}")
    assert no.startswith("outbound GET http://web/no: 403, ")
    assert gone.startswith("outbound GET http://web/gone: 410, ")
    assert "answered by the mesh (direct_response" in gone
    assert nobody.startswith("outbound GET http://nobody.invalid/x: ConnectError: ")
    assert "secret" not in "".join(told)
