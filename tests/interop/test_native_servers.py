"""gRPC's own xDS servers under the policies of a folder, which the embedded control plane gives them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.controlplane.folder import load
from meshsdk.controlplane.server import ControlPlaneServer
from meshsdk.errors import ConfigError
from meshsdk.identities import FileIdentity
from tests.certificates import SpiffeCa, provider, spiffe, write_identity
from tests.conftest import destination_rule, service
from tests.patience import PATIENCE, eventually
from tests.processes import CLEAN_ENVIRONMENT, free_ports
from tests.server.running import peer_authentication, policy

INBOUND = "xds.istio.io/grpc/lds/inbound/"
MUTUAL = destination_rule("a", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}")
ONLY_FRIENDS = "{action: ALLOW, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/friend]}}]}]}"


@contextlib.contextmanager
def native_server(control_plane: int, port: int, identity: Path) -> Iterator[None]:
    bootstrap = {
        "xds_servers": [
            {
                "server_uri": f"127.0.0.1:{control_plane}",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": "sidecar~127.0.0.1~a.default~default.svc.cluster.local"},
        "certificate_providers": provider(identity),
        "server_listener_resource_name_template": f"{INBOUND}%s",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tests.interop.native_server", str(port)],
        env={**CLEAN_ENVIRONMENT, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)},
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        try:
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(PATIENCE)


def identity_of(folder: Path, ca: SpiffeCa, spiffe_id: str) -> Path:
    place = folder / spiffe_id.rpartition("/")[2]
    write_identity(place, ca.issue(spiffe_id), ca.pem)
    return place


def files(place: Path) -> FileIdentity:
    return FileIdentity(place / "cert.pem", place / "key.pem", place / "roots.pem")


def code_of(say: Any) -> str:
    try:
        return str(say(b"x", timeout=PATIENCE, wait_for_ready=True).decode())
    except grpc.RpcError as error:
        return str(error.code().name)


def test_a_native_server_is_behind_strict_mutual_tls_and_policy(tmp_path: Path, stack: ExitStack) -> None:
    ca, [port] = SpiffeCa(), free_ports(1)
    folder = tmp_path / "mesh"
    folder.mkdir()
    strict = service("a", port) + MUTUAL + peer_authentication("STRICT")
    (folder / "mesh.yaml").write_text(strict + policy(ONLY_FRIENDS))
    control_plane = ControlPlaneServer(Folder(folder), "127.0.0.1:0")
    control_plane.start()
    stack.callback(control_plane.stop)
    stack.enter_context(native_server(control_plane.port, port, identity_of(tmp_path, ca, spiffe("a"))))
    told = {
        "xds_servers": [{"server_uri": f"127.0.0.1:{control_plane.port}", "channel_creds": [{"type": "insecure"}]}],
        "node": {"id": "client"},
    }
    says = {}
    for spiffe_id in (spiffe("friend"), spiffe("stranger"), "spiffe://other.domain/ns/default/sa/foreigner"):
        who = files(identity_of(tmp_path, ca, spiffe_id))
        mesh = stack.enter_context(meshsdk.Mesh(bootstrap=told, identity=who))
        channel = stack.enter_context(mesh.channel("a.default.svc.cluster.local:80"))
        says[spiffe_id.rpartition("/")[2]] = channel.unary_unary("/test.Echo/Say")
    assert code_of(says["friend"]) == spiffe("friend")
    assert code_of(says["stranger"]) == "PERMISSION_DENIED"
    assert code_of(says["foreigner"]) == "PERMISSION_DENIED"
    with grpc.insecure_channel(f"127.0.0.1:{port}") as plain:
        with pytest.raises(grpc.RpcError) as refused:
            plain.unary_unary("/test.Echo/Say")(b"x", timeout=PATIENCE)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    # An edit: everybody of the mesh may, and nobody else.
    (folder / "mesh.yaml").write_text(strict)
    eventually(lambda: code_of(says["stranger"]) == spiffe("stranger"))
    assert code_of(says["foreigner"]) == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("mode", "label", "takes_tls"),
    [("STRICT", "", True), ("PERMISSIVE", "istio", True), ("PERMISSIVE", "", False), ("DISABLE", "istio", False)],
)
def test_of_two_ways_to_connect_a_native_server_has_one(tmp_path: Path, mode: str, label: str, takes_tls: bool) -> None:
    yaml = service("a", 8080) + peer_authentication(mode)
    yaml = yaml.replace("labels: {app: a", f"labels: {{security.istio.io/tlsMode: '{label}', app: a")
    (tmp_path / "m.yaml").write_text(yaml)
    packed = load(tmp_path).inbound(f"{INBOUND}127.0.0.1:8080", is_grpc_core=True)
    assert packed is not None
    assert (b"transport_sockets.tls" in packed) == takes_tls
    assert packed.count(b"http_connection_manager.v3") == 1


def test_what_telemetry_says_of_a_port_keeps_no_native_server_from_it(tmp_path: Path) -> None:
    said = (
        "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: t}\n"
        "spec: {metrics: [{overrides: [{disabled: true}]}], tracing: [{randomSamplingPercentage: 10}]}\n"
    )
    (tmp_path / "m.yaml").write_text(service("a", 8080) + said)
    state = load(tmp_path)
    ours = state.inbound(f"{INBOUND}127.0.0.1:8080")
    assert ours is not None
    assert b"istio.stats" in ours
    packed = state.inbound(f"{INBOUND}127.0.0.1:8080", is_grpc_core=True)
    assert packed is not None
    assert b"istio.stats" not in packed


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (
            policy("{jwtRules: [{issuer: me, jwks: '{\"keys\": []}'}]}", kind="RequestAuthentication"),
            "RequestAuthentication",
        ),
        (policy("{action: CUSTOM, provider: {name: ask}, rules: [{}]}"), "CUSTOM"),
    ],
)
def test_where_a_policy_cannot_be_carried_out_nobody_is_served(tmp_path: Path, more: str, what: str) -> None:
    providers = (
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
        "data: {mesh: 'extensionProviders: [{name: ask,"
        " envoyExtAuthzGrpc: {service: ask.default.svc.cluster.local, port: 9000}}]'}\n"
    )
    (tmp_path / "m.yaml").write_text(service("a", 8080) + more + providers)
    state = load(tmp_path)
    assert state.inbound(f"{INBOUND}127.0.0.1:8080") is not None
    with pytest.raises(ConfigError, match=f"{what}.* serve nobody"):
        state.inbound(f"{INBOUND}127.0.0.1:8080", is_grpc_core=True)
