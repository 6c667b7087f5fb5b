"""Our client and a management server of go-control-plane's, the library that most people's servers are made of."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshsdk

from ..certificates import SpiffeCa, spiffe
from ..grpc.xds import cluster, endpoints, listener
from ..patience import PATIENCE, eventually
from ..processes import free_ports
from ..servers import EchoServer
from ..xds.test_grfc_fallback import requests_without_end
from ..xds.test_secrets import TlsServer, certificate, secured, trust

pytestmark = pytest.mark.interop

SOURCE = Path(__file__).parent / "gocontrolplane"
_versions = itertools.count(1)


@pytest.fixture(scope="module")
def program() -> str:
    """Built where Go is; a minute at the first time, then seconds."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not on this machine")
    # Each checkout has its own.
    place = hashlib.sha256(str(SOURCE).encode()).hexdigest()[:8]
    path = Path(tempfile.gettempdir()) / f"meshsdk-go-control-plane-{os.getuid()}-{place}"
    subprocess.run([go, "build", "-o", path, "."], cwd=SOURCE, check=True)
    return str(path)


class GoControlPlane:
    """One that runs.

    Attributes:
        refused: What its clients have refused.
    """

    def __init__(self, program: str, port: int, *, whole: bool = False) -> None:
        command = [program, "-listen", f"127.0.0.1:{port}", *(["-whole"] if whole else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._said: queue.Queue[str] = queue.Queue()
        self.refused: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        assert self._said.get(timeout=PATIENCE) == f"listening {port}"

    def serve(self, *resources: dict[str, Any]) -> None:
        """These from now on, and no others."""
        by_type: dict[str, list[dict[str, Any]]] = {}
        for one in resources:
            kind = one["@type"].rpartition(".")[2]
            by_type.setdefault(kind, []).append({key: value for key, value in one.items() if key != "@type"})
        assert self._process.stdin is not None
        print(json.dumps({"version": str(next(_versions)), "resources": by_type}), file=self._process.stdin, flush=True)
        assert self._said.get(timeout=PATIENCE) == "serving"

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("refused "):
                self.refused.append(line.strip())
            else:
                self._said.put(line.strip())


MakePlane = Callable[..., GoControlPlane]


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def plane(program: str, port: int, stack: ExitStack) -> MakePlane:
    def make(**options: Any) -> GoControlPlane:
        one = GoControlPlane(program, port, **options)
        stack.callback(one.stop)
        return one

    return make


@pytest.fixture(params=[[], ["meshsdk.incremental"]], ids=["state of the world", "incremental"])
def mesh(request: pytest.FixtureRequest, port: int) -> Iterator[meshsdk.Mesh]:
    server = {
        "server_uri": f"127.0.0.1:{port}",
        "channel_creds": [{"type": "insecure"}],
        "server_features": request.param,
    }
    with meshsdk.Mesh(bootstrap={"xds_servers": [server], "node": {"id": "x"}}, unknown_hosts="deny") as one:
        yield one


@pytest.fixture
def client(mesh: meshsdk.Mesh) -> Iterator[httpx.Client]:
    with mesh.client(timeout=PATIENCE) as one:
        yield one


def by_rds(host: str, name: str, *ports: int) -> list[dict[str, Any]]:
    """A host with each kind of resource."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": name}}
    whole = listener(host, [route])
    manager = whole["api_listener"]["api_listener"]
    routes = {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        **manager.pop("route_config"),
    }
    manager["rds"] = {"config_source": {"ads": {}}, "route_config_name": routes["name"]}
    return [whole, routes, cluster(name), endpoints(name, [list(ports)])]


Echo = Callable[[str], EchoServer]


def test_hosts_are_found_and_followed(plane: MakePlane, client: httpx.Client, echo: Echo) -> None:
    one, two, other = echo("one"), echo("two"), echo("other")
    running = plane()
    running.serve(*by_rds("shop", "c", one.port), *by_rds("other", "d", other.port))
    assert client.get("http://shop").headers["x-served-by"] == "one"
    assert client.get("http://other").headers["x-served-by"] == "other"
    with requests_without_end(client, "http://shop") as told:
        running.serve(*by_rds("shop", "c", two.port), *by_rds("other", "d", other.port))
        eventually(lambda: told and told[-1] == "two")
        # A cluster of another name: the old one is withdrawn before its routes are.
        running.serve(*by_rds("shop", "renamed", one.port), *by_rds("other", "d", other.port))
        eventually(lambda: told[-1] == "one")
    assert set(told) == {"one", "two"}
    assert not running.refused


def test_hosts_come_and_go(plane: MakePlane, client: httpx.Client, mesh: meshsdk.Mesh, echo: Echo) -> None:
    running = plane()
    running.serve(*by_rds("shop", "c", echo("one").port))
    assert client.get("http://shop").headers["x-served-by"] == "one"
    with pytest.raises(httpx.ConnectError, match="does not know 'late'"):
        client.get("http://late")
    running.serve(*by_rds("late", "d", echo("late").port))

    def is_known(host: str) -> bool:
        try:
            return client.get(f"http://{host}").is_success
        except httpx.ConnectError:
            return False

    eventually(lambda: is_known("late") and not is_known("shop"))


def test_what_is_refused_is_told_and_what_was_good_serves_on(
    plane: MakePlane, client: httpx.Client, echo: Echo
) -> None:
    server = echo("one")
    running = plane()
    running.serve(*by_rds("shop", "c", server.port))
    assert client.get("http://shop").is_success
    whole, routes, _, users = by_rds("shop", "c", server.port)
    running.serve(whole, routes, cluster("c", type="ORIGINAL_DST", lb_policy="CLUSTER_PROVIDED"), users)
    eventually(lambda: running.refused)
    assert "ORIGINAL_DST" in running.refused[0]
    assert client.get("http://shop").headers["x-served-by"] == "one"


@pytest.mark.parametrize("changes", [False, True], ids=["as it was", "with news"])
def test_no_request_fails_for_a_restart(
    changes: bool, plane: MakePlane, client: httpx.Client, mesh: meshsdk.Mesh, echo: Echo
) -> None:
    one, two, late = echo("one"), echo("two"), echo("late")
    running = plane()
    running.serve(*by_rds("shop", "c", one.port))
    with requests_without_end(client, "http://shop") as told:
        eventually(lambda: told)
        running.stop()
        eventually(lambda: mesh.status()["problem"])
        again = plane()
        again.serve(*by_rds("shop", "c", two.port if changes else one.port), *by_rds("late", "d", late.port))
        assert client.get("http://late").headers["x-served-by"] == "late"
        eventually(lambda: told[-1] == ("two" if changes else "one"))
    assert set(told) <= {"one", "two"}
    assert not again.refused


def test_a_snapshot_that_is_only_sent_whole(plane: MakePlane, client: httpx.Client, echo: Echo) -> None:
    running = plane(whole=True)
    running.serve(*by_rds("shop", "c", echo("one").port))
    assert client.get("http://shop").headers["x-served-by"] == "one"
    running.serve(*by_rds("shop", "c", echo("two").port))
    eventually(lambda: client.get("http://shop").headers["x-served-by"] == "two")


def test_secrets_are_delivered_and_rotated(
    plane: MakePlane, client: httpx.Client, tmp_path: Path, stack: ExitStack
) -> None:
    ca = SpiffeCa()
    server = TlsServer(ca.pem, ca.issue(spiffe("shop")), tmp_path)
    stack.callback(server.close)
    whole, routes, _, users = by_rds("shop", "c", server.port)
    running = plane()

    def serve(caller: str) -> None:
        mine, theirs = certificate("mine", ca.issue(spiffe(caller))), trust("theirs", ca)
        running.serve(whole, routes, secured(None, None), users, mine, theirs)

    serve("a")
    assert client.get("http://shop").headers["x-served-by"] == spiffe("a")
    with requests_without_end(client, "http://shop") as told:
        serve("b")
        eventually(lambda: told and told[-1] == spiffe("b"))
    assert set(told) <= {spiffe("a"), spiffe("b")}
    assert not running.refused
