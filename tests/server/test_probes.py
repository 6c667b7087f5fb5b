"""Probes of a workload under STRICT: kubelets and load balancers have no certificate."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import flask
import grpc
import httpx
import pytest
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ..conftest import service
from ..grpc_server import GrpcServer
from ..patience import PATIENCE, eventually
from ..processes import free_ports
from .running import answers, mesh_of, peer_authentication, policy, serving

STRICT = peer_authentication("STRICT")
NOBODY = policy("{}")


def flask_app() -> flask.Flask:
    app = flask.Flask("shop")

    @app.get("/")
    def root() -> str:
        return "shop"

    return app


def probe(port: int, path: str = "/readyz") -> int:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE).status_code


def refuses_plaintext(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/")
    except (httpx.ReadError, httpx.RemoteProtocolError):
        return True
    return False


@pytest.mark.parametrize("app", [answers, flask_app()], ids=["ASGI", "WSGI"])
def test_a_port_of_its_own_answers_probes_where_the_application_takes_mutual_tls_only(tmp_path: Path, app: Any) -> None:
    port, probes = free_ports(2)
    with mesh_of(tmp_path, service("web", port) + STRICT + NOBODY) as mesh:
        with serving(app, mesh, port, health=probes):
            eventually(lambda: probe(probes) == 200)
            assert [probe(probes, path) for path in ("/", "/livez", "/healthz", "/else")] == [200, 200, 200, 404]
            assert refuses_plaintext(port)
        with pytest.raises(httpx.ConnectError):
            probe(probes)


def test_it_is_ready_from_the_start_to_the_shutdown_and_lives_longer(tmp_path: Path) -> None:
    port, probes = free_ports(2)
    may_start, may_end = threading.Event(), threading.Event()
    found: dict[str, list[int]] = {}

    def look(when: str) -> None:
        found[when] = [probe(probes, path) for path in ("/livez", "/readyz")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await asyncio.to_thread(may_start.wait, PATIENCE)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(look, "ending")
        await send({"type": "lifespan.shutdown.complete"})
        may_end.set()

    def start() -> None:
        eventually(lambda: _is_open(probes))
        look("starting")
        may_start.set()

    starter = threading.Thread(target=start)
    starter.start()
    with mesh_of(tmp_path, service("web", port) + STRICT) as mesh, serving(app, mesh, port, health=probes):
        starter.join(PATIENCE)
        eventually(lambda: probe(probes) == 200)
    assert may_end.is_set()
    assert found == {"starting": [200, 503], "ending": [200, 503]}


def _is_open(port: int) -> bool:
    try:
        probe(port)
    except httpx.ConnectError:
        return False
    return True


def test_a_process_whose_event_loop_hangs_does_not_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshsdk.server.health_port._LOOP_SECONDS", 0.3)
    port, probes = free_ports(2)
    may_go_on = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await answers(scope, receive, send)
        may_go_on.wait(PATIENCE)  # As no application should.
        await answers(scope, receive, send)

    with mesh_of(tmp_path, service("web", port)) as mesh, serving(app, mesh, port, health=probes):
        eventually(lambda: probe(probes) == 200)
        caller = threading.Thread(target=lambda: httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE))
        caller.start()
        eventually(lambda: probe(probes, "/livez") == 503)
        may_go_on.set()
        caller.join(PATIENCE)
        eventually(lambda: probe(probes, "/livez") == 200)


def test_a_probe_may_be_a_command_as_the_docs_have_it(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "fastapi.md").read_text()
    pods = [one for text in re.findall(r"```yaml\n(.*?)```", page, re.S) for one in yaml.safe_load_all(text)]
    [command] = [
        probe["exec"]["command"]
        for pod in pods
        for container in pod["spec"].get("containers", ())
        if "exec" in (probe := container.get("readinessProbe", {}))
    ]
    port, probes = free_ports(2)
    own = [sys.executable, *(word.replace(":8086/", f":{probes}/") for word in command[1:])]

    def succeeds() -> bool:
        return subprocess.run(own, capture_output=True, timeout=PATIENCE).returncode == 0

    with mesh_of(tmp_path, service("web", port) + STRICT) as mesh:
        assert not succeeds()
        with serving(answers, mesh, port, health=probes):
            eventually(succeeds)


def test_a_port_may_be_left_out_of_strict_for_probes(tmp_path: Path) -> None:
    """portLevelMtls: what comes to that port in plaintext has no identity, and policies say what it may see."""
    port = free_ports(1)[0]
    healthz = policy("{rules: [{to: [{operation: {paths: [/healthz]}}]}]}")
    peers = (
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: mtls}\n"
        f"spec: {{selector: {{matchLabels: {{app: web}}}}, mtls: {{mode: STRICT}},"
        f" portLevelMtls: {{{port}: {{mode: PERMISSIVE}}}}}}\n"
    )
    with mesh_of(tmp_path, service("web", port) + peers + healthz) as mesh, serving(answers, mesh, port):
        assert [probe(port, path) for path in ("/healthz", "/else")] == [200, 403]


def test_a_grpc_server_under_strict_has_its_health_at_a_port_of_its_own(tmp_path: Path) -> None:
    port, probes = free_ports(2)
    mesh = mesh_of(tmp_path, service("web", port) + STRICT)
    with mesh, GrpcServer("web", port=port, credentials=mesh.server_credentials()):
        servicer = health.HealthServicer()
        beside = grpc.server(futures.ThreadPoolExecutor(1))
        health_pb2_grpc.add_HealthServicer_to_server(servicer, beside)
        beside.add_insecure_port(f"127.0.0.1:{probes}")
        beside.start()
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        with grpc.insecure_channel(f"127.0.0.1:{probes}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            found = stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE, wait_for_ready=True)
            assert found.status == health_pb2.HealthCheckResponse.SERVING
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/demo.Echo/say")(b"x", timeout=5)
        beside.stop(None).wait()
