"""The ways to a management server: a unix socket, TLS, and the second server of the list."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.controlplane.server import ControlPlaneServer
from meshsdk.xds.ads_server import AdsService
from tests.conftest import service

INSECURE = [{"type": "insecure"}]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "m.yaml").write_text(service("a", 1))
    return Folder(tmp_path / "mesh")


def serve(folder: Folder, address: str, stack: ExitStack) -> ControlPlaneServer:
    server = ControlPlaneServer(folder, address)
    server.start()
    stack.callback(server.stop)
    return server


def ready(servers: list[dict[str, Any]], timeout: float = 10.0) -> None:
    with meshsdk.Mesh(bootstrap={"xds_servers": servers, "node": {"id": "x"}}) as mesh:
        mesh.wait_ready("a", timeout)


def test_a_unix_socket(folder: Folder, tmp_path: Path, stack: ExitStack) -> None:
    serve(folder, f"unix:{tmp_path}/ads.sock", stack)
    ready([{"server_uri": f"unix:{tmp_path}/ads.sock", "channel_creds": INSECURE}])


def test_the_second_server_is_used_when_the_first_never_answers(folder: Folder, stack: ExitStack) -> None:
    server = serve(folder, "127.0.0.1:0", stack)
    uris = ["127.0.0.1:1", f"127.0.0.1:{server.port}"]
    ready([{"server_uri": uri, "channel_creds": INSECURE} for uri in uris])


def test_mutual_tls_with_files_and_a_refusal_that_is_told(folder: Folder, tmp_path: Path, stack: ExitStack) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine, theirs = ca.issue_cert("client.example"), ca.issue_cert("localhost")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    folder.refresh()
    server = grpc.server(ThreadPoolExecutor(4))
    AdsService(folder.state).add_to(server)
    chain = b"".join(pem.bytes() for pem in theirs.cert_chain_pems)
    credentials = grpc.ssl_server_credentials(
        [(theirs.private_key_pem.bytes(), chain)], ca.cert_pem.bytes(), require_client_auth=True
    )
    port = server.add_secure_port("localhost:0", credentials)
    server.start()
    stack.callback(lambda: server.stop(0))
    files = {
        "ca_certificate_file": f"{tmp_path}/ca.pem",
        "certificate_file": f"{tmp_path}/cert.pem",
        "private_key_file": f"{tmp_path}/key.pem",
    }
    ready([{"server_uri": f"localhost:{port}", "channel_creds": [{"type": "tls", "config": files}]}])
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    wrong = {**files, "ca_certificate_file": f"{tmp_path}/other.pem"}
    with pytest.raises(TimeoutError, match="management server localhost"):
        ready([{"server_uri": f"localhost:{port}", "channel_creds": [{"type": "tls", "config": wrong}]}], 2.0)
    missing = {**files, "ca_certificate_file": f"{tmp_path}/nowhere.pem"}
    with pytest.raises(TimeoutError, match=r"nowhere\.pem"):
        ready([{"server_uri": f"localhost:{port}", "channel_creds": [{"type": "tls", "config": missing}]}], 1.0)
