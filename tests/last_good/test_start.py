"""A process starts and serves while its management server is away, by what the last one has kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk
from meshsdk.xds import Status

from ..certificates import SpiffeCa, spiffe
from ..conftest import destination_rule, service
from ..faults.test_faults import Traffic, start_control_plane
from ..interop.test_control_plane_clients import grpc_echo
from ..patience import PATIENCE, eventually
from ..processes import CLEAN_ENVIRONMENT, fork_in
from ..server.running import identity, mesh_of, one_port, serving
from ..server.test_serve import MUTUAL, reaches, who_asks
from ..server.test_virtual_inbound import virtual_inbound
from ..servers import EchoServer
from ..xds.test_ads_client import ScriptedAds
from .conftest import Plane

Echo = Callable[..., EchoServer]

CLIENT = Path(__file__).with_name("client.py")


def run_client(plane: Plane, *urls: str) -> dict[str, Any]:
    """A process of its own, from its start to its end."""
    told = json.dumps({"bootstrap": plane.bootstrap, "cache_dir": str(plane.cache), "urls": urls})
    done = subprocess.run(
        [sys.executable, str(CLIENT), told], env=CLEAN_ENVIRONMENT, capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_process_that_starts_after_the_server_was_killed_sends_as_the_one_before(plane: Plane, echo: Echo) -> None:
    a, outside = echo("a"), echo("outside")
    urls = ("http://a/", f"http://127.0.0.1:{outside.port}/")
    plane.write(service("a", a.port))
    process = start_control_plane(plane.folder, plane.port)
    try:
        before = run_client(plane, *urls)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    after = run_client(plane, *urls)
    assert before["answers"] == after["answers"] == ["a", "a", "outside", "outside"]
    assert before["status"]["last_good"]["in_use"] == 0
    told = after["status"]["last_good"]
    assert told["in_use"] > 4
    assert 0 <= told["age_seconds"] < PATIENCE
    assert "what was kept" in after["status"]["problem"]
    resources = after["status"]["resources"]
    assert resources
    assert all(one["kept_seconds"] is not None and one["status"] == "REQUESTED" for one in resources)
    assert {one["version"] for one in resources} == {one["version"] for one in before["status"]["resources"]}


def test_without_what_was_kept_such_a_process_waits_as_before(one_plane: Plane, echo: Echo) -> None:
    with one_plane.mesh() as mesh, mesh.client(timeout=0.3) as client, pytest.raises(httpx.TimeoutException):
        client.get("http://a/")


def test_the_server_that_comes_back_takes_over_and_no_request_fails(plane: Plane, echo: Echo, stack: ExitStack) -> None:
    one, two = echo("one"), echo("two")
    plane.write(service("a", one.port))
    plane.kept("http://a/")
    plane.write(service("a", two.port))
    mesh = stack.enter_context(plane.mesh())
    with Traffic(mesh, "http://a/", pause=0.005) as traffic:
        assert set(traffic.answers) == {"one"}
        stack.enter_context(plane.running())
        traffic.wait_until(lambda: "two" in traffic.answers)
        traffic.wait_until(lambda: mesh.status()["last_good"]["in_use"] == 0)
        traffic.wait_for(20)
    assert traffic.failures == []
    assert traffic.answers[-1] == "two"
    status = mesh.status()
    assert status["problem"] == ""
    assert {one["status"] for one in status["resources"]} == {Status.ACKED.value}


def test_resources_that_the_server_confirms_are_not_built_anew(plane: Plane, echo: Echo, stack: ExitStack) -> None:
    plane.write(service("a", echo("one").port))
    plane.kept("http://a/")
    mesh = stack.enter_context(plane.mesh())
    client = stack.enter_context(mesh.client())
    assert client.get("http://a/").status_code == 200
    clusters = dict(mesh._runtime.directory.clusters)
    stack.enter_context(plane.running())
    eventually(lambda: mesh.status()["last_good"]["in_use"] == 0)
    assert clusters
    assert all(mesh._runtime.directory.clusters[name] is cluster for name, cluster in clusters.items())


def test_what_the_server_says_not_to_exist_any_more_goes(plane: Plane, echo: Echo, stack: ExitStack) -> None:
    plane.write(service("a", echo("one").port))
    plane.kept("http://a/")
    plane.write(service("b", echo("two").port))
    mesh = stack.enter_context(plane.mesh())
    client = stack.enter_context(mesh.client())
    assert client.get("http://a/").status_code == 200
    stack.enter_context(plane.running())
    eventually(lambda: mesh.explain("GET", "http://a/").action == "passthrough")
    eventually(lambda: mesh.status()["last_good"]["in_use"] == 0)
    mesh.close()
    with plane.mesh() as again:
        again.wait_ready("b", PATIENCE)
        eventually(lambda: again.explain("GET", "http://a/").action == "passthrough")


def test_a_server_that_never_says_a_word_is_waited_for_two_seconds(
    one_plane: Plane, echo: Echo, stack: ExitStack
) -> None:
    one_plane.write(service("a", echo("one").port))
    one_plane.kept("http://a/")
    silent = ScriptedAds(one_plane.port)
    stack.callback(silent.stop)
    with one_plane.mesh() as mesh, mesh.client() as client:
        began = time.monotonic()
        assert client.get("http://a/").status_code == 200
        assert time.monotonic() - began > 1.5
    assert silent.streams == 1


def test_what_is_too_old_is_refused_and_that_is_said(
    one_plane: Plane, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    one_plane.write(service("a", echo("one").port))
    one_plane.kept("http://a/")
    time.sleep(0.05)
    with one_plane.mesh(cache_max_age=0.01) as mesh, mesh.client(timeout=0.5) as client:
        with pytest.raises(httpx.TimeoutException):
            client.get("http://a/")
        told = mesh.status()
    assert "cache_max_age is 0.01 s" in told["last_good"]["problem"]
    assert "cache_max_age is 0.01 s" in told["problem"]
    assert "cache_max_age is 0.01 s" in caplog.text


@pytest.mark.parametrize("age", [0.0, -1.0, float("inf"), float("nan")])
def test_an_age_that_bounds_nothing_is_refused(one_plane: Plane, age: float) -> None:
    with pytest.raises(ValueError, match="cache_max_age"):
        one_plane.mesh(cache_max_age=age)


def test_the_environment_names_the_folder_too(one_plane: Plane, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    one_plane.write(service("a", echo("one").port))
    monkeypatch.setenv("MESHSDK_CACHE_DIR", str(one_plane.cache))
    with one_plane.running(), meshsdk.Mesh(bootstrap=one_plane.bootstrap) as mesh, mesh.client() as client:
        assert client.get("http://a/").status_code == 200
    with meshsdk.Mesh(bootstrap=one_plane.bootstrap) as mesh, mesh.client() as client:
        assert client.get("http://a/").status_code == 200


def test_grpc_channels_go_by_what_was_kept_as_well(one_plane: Plane, stack: ExitStack) -> None:
    port = grpc_echo("one", stack)
    one_plane.write(service("a", port).replace("name: http", "name: grpc").replace("{http:", "{grpc:"))

    def call() -> bytes:
        with one_plane.mesh() as mesh, mesh.channel("a:80") as channel:
            answer: bytes = channel.unary_unary("/x/y")(b"", timeout=PATIENCE, wait_for_ready=True)
            return answer

    with one_plane.running():
        assert call() == b"one"
    assert call() == b"one"


# In a process of its own: one in which others have used gRPC, as that of tests, does not survive every fork.
FORKED = """
import json, os, sys, meshsdk
with meshsdk.Mesh(bootstrap=json.loads(sys.argv[1]), cache_dir=sys.argv[2]) as mesh:
    with mesh.client() as client:
        client.get("http://a/").raise_for_status()
    child = os.fork()
    if not child:
        code = 1
        try:
            with mesh.client() as client:
                code = int(client.get("http://b/").status_code != 200)
            mesh.close()
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
sys.exit(status and 1)
"""


def test_children_of_a_fork_keep_what_they_use(one_plane: Plane, echo: Echo) -> None:
    one_plane.write(service("a", echo("one").port) + "---\n" + service("b", echo("two").port))
    with one_plane.running():
        fork_in(FORKED, json.dumps(one_plane.bootstrap), str(one_plane.cache))
    with one_plane.mesh() as mesh, mesh.client() as client:
        assert client.get("http://a/").json()["name"] == "one"
        assert client.get("http://b/").json()["name"] == "two"


def server_bootstrap(plane: Plane) -> dict[str, Any]:
    return {
        **plane.bootstrap,
        "server_listener_resource_name_template": "virtualInbound",
        "node": {"id": "sidecar~10.0.0.1~web.default~default.svc.cluster.local", "metadata": {"GENERATOR": "grpc"}},
    }


def test_a_server_that_starts_meanwhile_enforces_the_policies_that_were_kept(plane: Plane, tmp_path: Path) -> None:
    ca, port, other = SpiffeCa(), one_port(), one_port()
    plane.bootstrap = server_bootstrap(plane)
    (plane.folder / "listener.json").write_text(json.dumps(virtual_inbound(port, other, caller=spiffe("friend"))))
    who = identity(tmp_path, ca, "web")
    with plane.running(), plane.mesh(identity=who) as mesh, serving(who_asks, mesh, port):
        pass
    yaml = service("web", port) + destination_rule("web", MUTUAL)
    with (
        plane.mesh(identity=who) as mesh,
        serving(who_asks, mesh, port),
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "friend"), "friend") as friend,
        mesh_of(tmp_path, yaml, identity(tmp_path, ca, "eve"), "eve") as eve,
        friend.client() as ours,
        eve.client() as theirs,
        httpx.Client() as bare,
    ):
        assert ours.get("http://web/").text == spiffe("friend")
        assert theirs.get("http://web/").status_code == 403
        assert not reaches(lambda: bare.get(f"http://127.0.0.1:{port}/"))
        assert mesh.status()["last_good"]["in_use"] == 1


@pytest.mark.parametrize("was_kept", [False, True], ids=["nothing was kept", "it is too old"])
def test_a_server_without_a_policy_that_may_be_used_has_none(one_plane: Plane, tmp_path: Path, was_kept: bool) -> None:
    ca, port, other = SpiffeCa(), one_port(), one_port()
    one_plane.bootstrap = server_bootstrap(one_plane)
    (one_plane.folder / "listener.json").write_text(json.dumps(virtual_inbound(port, other, caller=spiffe("friend"))))
    who = identity(tmp_path, ca, "web")
    if was_kept:
        with one_plane.running(), one_plane.mesh(identity=who) as mesh:
            mesh.inbound(port).wait_ready(PATIENCE)
        time.sleep(0.05)
    with one_plane.mesh(identity=who, cache_max_age=0.01) as mesh:
        with pytest.raises(TimeoutError, match="no inbound policy"):
            mesh.inbound(port).wait_ready(0.5)
        assert mesh.inbound(port).policy is None
