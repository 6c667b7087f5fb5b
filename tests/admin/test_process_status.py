"""A process that runs is asked what it knows, by its number or by its page's address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import meshsdk
from meshsdk.cli.tables import tell_status
from meshsdk.mesh_status import ResourceStatus

from ..conftest import service
from ..patience import PATIENCE, eventually
from ..processes import free_ports
from ..servers import EchoServer


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meshsdk", "status", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


PROCESS = """
import sys, meshsdk
mesh = meshsdk.Mesh(config=sys.argv[1], **({"admin_port": int(sys.argv[2])} if len(sys.argv) > 2 else {}))
mesh.wait_ready("web.default")
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def process(folder: Path, *port: str) -> Iterator[int]:
    (folder / "mesh.yaml").write_text(service("web", 9999))
    command = [sys.executable, "-c", PROCESS, str(folder), *port]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
        yield one.pid
        one.kill()


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="found by /proc")
def test_a_process_is_asked_by_its_number(tmp_path: Path) -> None:
    [port] = free_ports(1)
    with process(tmp_path, str(port)) as pid:
        told = run("--pid", str(pid), "--json")
        assert told.returncode == 0, told.stderr
        status: meshsdk.MeshStatus = json.loads(told.stdout)
        assert [one["address"] for one in status["clusters"]["outbound|80||web.default.svc.cluster.local"]] == [
            "127.0.0.1:9999"
        ]
        assert "127.0.0.1:9999" in run("--pid", str(pid)).stdout
        assert json.loads(run(f"http://127.0.0.1:{port}/", "--json").stdout)["clusters"] == status["clusters"]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="found by /proc")
def test_a_process_that_cannot_be_asked_is_said_why(tmp_path: Path) -> None:
    with process(tmp_path) as pid:
        told = run("--pid", str(pid))
    assert told.returncode == 2
    assert f"process {pid} has no admin page: start it with MESHSDK_ADMIN_PORT=15000" in told.stderr
    told = run("--pid", str(2**22 + 1))
    assert (told.returncode, "there is no process" in told.stderr) == (2, True)
    [port] = free_ports(1)
    told = run(f"http://127.0.0.1:{port}")
    assert (told.returncode, "does not answer as an admin page of meshsdk's" in told.stderr) == (2, True)


def test_a_page_that_is_none_of_ours_is_said_so() -> None:
    with EchoServer("other") as other:
        told = run(f"http://127.0.0.1:{other.port}")
    assert (told.returncode, "does not answer as an admin page of meshsdk's" in told.stderr) == (2, True)


def test_what_a_process_says_is_text_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    resource: ResourceStatus = {
        "type": "x.Cluster",
        "name": "\x1b]0;owned\x07[red]a[/red]",
        "status": "ACKED",
        "version": "1",
        "error": "",
        "notes": [],
        "kept_seconds": None,
    }
    status: meshsdk.MeshStatus = {
        "version": 1,
        "problem": "\x1b[2Jgone",
        "notes": [],
        "failures": 0,
        "resources": [resource],
        "clusters": {},
    }
    tell_status(status, as_json=False)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "[red]a[/red]" in printed


def test_what_status_returns_has_the_shape_that_is_documented(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(service("web", 9999))
    with meshsdk.Mesh(config=tmp_path) as mesh:
        mesh.wait_ready("web")
        eventually(lambda: mesh.status()["clusters"])
        status = mesh.status()
    from meshsdk import mesh_status as shapes

    whole = shapes.MeshStatus
    assert whole.__required_keys__ <= status.keys() <= whole.__required_keys__ | whole.__optional_keys__
    assert all(one.keys() == shapes.ResourceStatus.__annotations__.keys() for one in status["resources"])
    [[endpoint]] = status["clusters"].values()
    assert endpoint.keys() == shapes.EndpointStatus.__annotations__.keys()
    assert status["identity"].keys() == shapes.IdentityStatus.__annotations__.keys()
    assert dir(meshsdk) == sorted(meshsdk.__all__)
