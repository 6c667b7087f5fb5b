"""What `mesh.serve` says when it begins, and when it cannot."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from meshsdk.errors import UnsupportedFeatureError
from meshsdk.server.serve import make_server
from tests.processes import CLEAN_ENVIRONMENT

from ..conftest import service
from ..patience import PATIENCE
from .running import mesh_of, one_port, peer_authentication, policy, serving

SERVE = """
import sys, meshsdk
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
meshsdk.Mesh(config=sys.argv[1]).serve(app, port=int(sys.argv[2]), host="127.0.0.1")
"""


async def app(scope: object, receive: object, send: object) -> None:
    raise AssertionError


def served(folder: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SERVE, str(folder), str(port)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=CLEAN_ENVIRONMENT)


def test_it_says_that_it_runs_where_and_with_what(tmp_path: Path) -> None:
    port = one_port()
    rules = policy(
        "{action: ALLOW, rules: [{from: [{source: {namespaces: [default]}}]}, {to: [{operation: {paths: [/open]}}]}]}"
    )
    (tmp_path / "mesh.yaml").write_text(service("web", port) + peer_authentication("STRICT") + rules)
    with served(tmp_path, port) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
    assert said == f"meshsdk serves on 127.0.0.1:{port} (mutual TLS STRICT, 1 policy)\n"


@pytest.mark.parametrize(
    ("mode", "shown"),
    [("PERMISSIVE", "mutual TLS PERMISSIVE"), ("DISABLE", "plaintext"), ("STRICT", "mutual TLS STRICT")],
)
def test_the_modes_are_those_of_peer_authentication(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str, shown: str
) -> None:
    port = one_port()
    caplog.set_level(logging.INFO, "meshsdk.server")
    with (
        mesh_of(tmp_path, service("web", port) + peer_authentication(mode)) as mesh,
        serving(app, mesh, port, lifespan="off"),
    ):
        pass
    assert f"meshsdk serves on 127.0.0.1:{port} ({shown}, no policy)" in caplog.messages


AUDIT = policy("{action: AUDIT, rules: [{}]}")
CUSTOM = policy("{action: CUSTOM, provider: {name: asker}, rules: [{}]}") + (
    "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
    "data: {mesh: 'extensionProviders: [{name: asker,"
    " envoyExtAuthzHttp: {service: asker.default.svc.cluster.local, port: 80}}]'}\n"
)


@pytest.mark.parametrize(("rules", "shown", "is_open"), [(AUDIT, "no policy", True), (CUSTOM, "1 policy", False)])
def test_what_only_writes_down_decides_nothing_and_who_asks_another_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rules: str, shown: str, is_open: bool
) -> None:
    port = one_port()
    caplog.set_level(logging.INFO, "meshsdk.server")
    yaml = service("web", port) + "---\n" + service("asker", 1) + peer_authentication("STRICT") + rules
    with mesh_of(tmp_path, yaml) as mesh, serving(app, mesh, port, lifespan="off"):
        pass
    assert f"meshsdk serves on 127.0.0.1:{port} (mutual TLS STRICT, {shown})" in caplog.messages
    assert any("everybody is let in" in line for line in caplog.messages) is is_open


def test_a_port_in_use_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "mesh.yaml").write_text(service("web", port))
        with served(tmp_path, port) as process:
            _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert said == f"127.0.0.1:{port} cannot be listened on: Address already in use\n"


@pytest.mark.parametrize("options", [{"workers": 4}, {"reload": True}], ids=str)
def test_options_for_several_processes_are_refused_by_name(tmp_path: Path, options: dict[str, object]) -> None:
    with (
        mesh_of(tmp_path, service("web", 8080)) as mesh,
        pytest.raises(UnsupportedFeatureError, match=f"{next(iter(options))}=.*in this process alone"),
    ):
        make_server(app, mesh, 8080, **options)


def test_a_port_that_no_policy_is_for_is_warned_of_where_the_folder_has_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = one_port()
    for_others = policy("{selector: {matchLabels: {app: other}}, action: DENY, rules: [{}]}")
    with mesh_of(tmp_path, service("web", port) + for_others) as mesh, serving(app, mesh, port, lifespan="off"):
        pass
    [told] = [one for one in caplog.messages if "AuthorizationPolicy" in one]
    assert told.startswith(f"no AuthorizationPolicy is for port {port}, so everybody is let in")
