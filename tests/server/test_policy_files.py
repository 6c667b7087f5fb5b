"""A server whose policy file cannot be read any more, or not at its start: the real server, the real folder."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.controlplane.server import ControlPlaneServer
from meshsdk.errors import NoRouteError
from meshsdk.server.serve import make_server

from ..conftest import service
from ..controlplane.swaps import SWAPS, remove
from ..patience import PATIENCE
from .running import mesh_of, one_port, policy, serving
from .test_attacks import echo
from .test_virtual_inbound import virtual_inbound

DENY = policy("{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}").removeprefix("---\n")


def until_problem(mesh: meshsdk.Mesh, words: str) -> str:
    deadline = time.monotonic() + PATIENCE
    while words not in mesh.status()["problem"]:
        assert time.monotonic() < deadline, mesh.status()["problem"]
        time.sleep(0.02)
    return str(mesh.status()["problem"])


def test_a_running_server_serves_its_last_good_policy_on_and_does_not_start_again(tmp_path: Path) -> None:
    port = one_port()
    url = f"http://127.0.0.1:{port}"
    path = tmp_path / "mesh" / "policy.yaml"
    with mesh_of(tmp_path, service("web", port)) as mesh:
        path.write_text(DENY)
        with serving(echo, mesh, port), httpx.Client() as client:
            for name in ("a link that leads nowhere", "a FIFO", "a folder", "a device", "a missing comma"):
                assert client.get(f"{url}/admin").status_code == 403
                SWAPS[name](path)
                until_problem(mesh, "policy.yaml")
                assert client.get(f"{url}/admin").status_code == 403, name
                assert client.get(f"{url}/").status_code == 200, name
                # Another port of this process, and another process that starts now.
                assert mesh.inbound(port, address="127.0.0.1").wait_ready().listener is not None
                with meshsdk.Mesh(config=path.parent) as again, pytest.raises(NoRouteError, match="policy.yaml"):
                    again.inbound(port, address="127.0.0.1").wait_ready()
                remove(path)
                path.write_text(DENY)
                deadline = time.monotonic() + PATIENCE
                while mesh.status()["problem"]:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)


def test_an_edit_of_a_good_file_reaches_a_running_server_beside_a_broken_one(tmp_path: Path) -> None:
    port = one_port()
    with mesh_of(tmp_path, service("web", port)) as mesh, serving(echo, mesh, port), httpx.Client() as client:
        (tmp_path / "mesh" / "broken.yaml").write_text("kind: [")
        assert "left out" in until_problem(mesh, "broken.yaml")
        assert client.get(f"http://127.0.0.1:{port}/admin").status_code == 200
        (tmp_path / "mesh" / "policy.yaml").write_text(DENY)
        deadline = time.monotonic() + PATIENCE
        while client.get(f"http://127.0.0.1:{port}/admin").status_code != 403:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_server_does_not_start_over_a_policy_that_cannot_be_read(tmp_path: Path) -> None:
    port = one_port()
    with mesh_of(tmp_path, service("web", port) + "---\n" + DENY.replace("DENY,", "DENY")) as mesh:
        server = make_server(echo, mesh, port, host="127.0.0.1")
        with pytest.raises(NoRouteError, match=r"mesh\.yaml document 3"):
            server.run()
        assert not server.started


def test_a_control_plane_serves_no_listener_of_servers_over_what_it_cannot_read(tmp_path: Path) -> None:
    port = one_port()
    folder = tmp_path / "istiod"
    folder.mkdir()
    (folder / "listener.json").write_text(json.dumps(virtual_inbound(port, port, caller="spiffe://x")))
    (folder / "broken.yaml").write_text("kind: [")
    control_plane = ControlPlaneServer(Folder(folder), "127.0.0.1:0")
    control_plane.start()
    try:
        assert not any("virtualInbound" in name for _, name in control_plane.state.grpc)
        assert not any("virtualInbound" in name for _, name in control_plane.state.sidecar)
        (folder / "broken.yaml").unlink()
        deadline = time.monotonic() + PATIENCE
        while not any("virtualInbound" in name for _, name in control_plane.state.grpc):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # Once it could be read, it stays.
        (folder / "broken.yaml").write_text("kind: [")
        while not control_plane.state.errors:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert any("virtualInbound" in name for _, name in control_plane.state.grpc)
    finally:
        control_plane.stop()
