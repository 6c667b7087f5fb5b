"""Servers that tell nothing of their peers, under STRICT: they do not start, or say so as loudly as they can."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastapi
import flask
import grpc
import httpx
import pytest
from meshsdk_fastapi import MeshMiddleware
from meshsdk_flask import MeshFlask
from starlette.testclient import TestClient

import meshsdk
from meshsdk.errors import UnsupportedFeatureError
from meshsdk.server.connections import Teller

from ..certificates import SpiffeCa
from ..conftest import service
from ..patience import PATIENCE
from ..processes import CLEAN_ENVIRONMENT, wait_for_port
from .grpc_servers import sync_grpc_server
from .running import identity, mesh_of, one_port, peer_authentication

ROOT = Path(__file__).parents[2]


@pytest.fixture
def port() -> int:
    return one_port()


def strict(folder: Path, port: int, mode: str = "STRICT") -> meshsdk.Mesh:
    yaml = service("web", port) + peer_authentication(mode)
    return mesh_of(folder, yaml, identity(folder, SpiffeCa(), "web"))


def fast(mesh: meshsdk.Mesh, port: int) -> fastapi.FastAPI:
    app = fastapi.FastAPI()
    app.add_middleware(MeshMiddleware, mesh=mesh, port=port)
    return app


def test_starlettes_test_client_is_told_why_an_application_does_not_start(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another test of this process may have loaded the protocol of uvicorn's own command line.
    monkeypatch.setattr(Teller, "is_here", False)
    with (
        strict(tmp_path, port) as mesh,
        pytest.raises(UnsupportedFeatureError, match=r"mesh\.serve"),
        TestClient(fast(mesh, port)),
    ):
        pass


def test_starlettes_test_client_runs_an_application_that_takes_plaintext(tmp_path: Path, port: int) -> None:
    with strict(tmp_path, port, "PERMISSIVE") as mesh, TestClient(fast(mesh, port)) as client:
        assert client.get("/nowhere").status_code == 404


def command(server: str, port: int) -> list[str]:
    bind = f"127.0.0.1:{port}"
    if server == "gunicorn":
        return ["gunicorn", "-b", bind, "--threads", "2", "tests.server.recipe_wsgi:app"]
    return ["flask", "--app", "tests.server.recipe_wsgi:app", "run", "--port", str(port)]


def environment(folder: Path, port: int, mode: str) -> dict[str, str]:
    mesh = strict(folder, port, mode)
    mesh.close()
    [place] = [path for path in folder.iterdir() if path.name.startswith("web-")]
    own = {"MESHSDK_CONFIG": str(folder / "mesh"), "RECIPE_PORT": str(port), "RECIPE_IDENTITY": str(place)}
    path = f"{ROOT}{os.pathsep}{ROOT / 'integrations'}"
    return {**CLEAN_ENVIRONMENT, **own, "PYTHONPATH": path}


@pytest.mark.parametrize("server", ["gunicorn", "flask"])
def test_a_wsgi_server_without_peers_does_not_start_where_they_are_needed(
    tmp_path: Path, port: int, server: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", *command(server, port)],
        cwd=ROOT,
        env=environment(tmp_path, port, "STRICT"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode != 0
    assert f"mesh.serve(app, port={port})" in ended.stderr + ended.stdout


@contextlib.contextmanager
def running(server: str, port: int, variables: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", *command(server, port)], cwd=ROOT, env=variables)
    try:
        wait_for_port(port)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.mark.parametrize("server", ["gunicorn", "flask"])
def test_the_same_wsgi_servers_start_where_plaintext_is_taken(tmp_path: Path, port: int, server: str) -> None:
    with running(server, port, environment(tmp_path, port, "PERMISSIVE")):
        assert httpx.get(f"http://127.0.0.1:{port}/who").text == ""


def events(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.levelno == logging.CRITICAL]


def test_any_other_wsgi_server_says_with_the_first_request_that_all_are_refused(
    tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = flask.Flask("tried")
    with strict(tmp_path, port) as mesh:
        MeshFlask(app, mesh=mesh, port=port)
        answers = {app.test_client().get("/").status_code for _ in range(3)}
    assert answers <= {403, 503}
    [event] = events(caplog)
    assert f"mesh.ssl_context(port={port})" in event.getMessage()


def test_a_grpc_server_without_credentials_says_so_too(
    tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        strict(tmp_path, port) as mesh,
        sync_grpc_server(mesh, port, secure=False),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        for _ in range(2):
            with pytest.raises(grpc.RpcError):
                channel.unary_unary("/test.Echo/Say")(b"", timeout=PATIENCE)
    [event] = events(caplog)
    assert "mesh.server_credentials()" in event.getMessage()
