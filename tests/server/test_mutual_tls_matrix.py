"""Who gets in, and whom we talk to: every server and client with every kind of peer, over real sockets.

pytest -s tests/server/test_mutual_tls_matrix.py     # prints the tables
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

import meshsdk
from meshsdk.identities import FileIdentity

from ..certificates import SpiffeCa, spiffe, write_identity
from ..processes import envoy, wait_for_port
from .grpc_servers import aio_grpc_server, sync_grpc_server
from .running import mesh_of, one_port, serving
from .test_serve import who_asks

ROOT = Path(__file__).parent.parent.parent
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
HTTP = "type.googleapis.com/envoy.extensions.filters"

PEERS = (
    "right",
    "wrong SPIFFE id",
    "other trust domain",
    "expired",
    "not yet valid",
    "self-signed",
    "revoked",
    "no certificate",
    "plaintext",
)


@dataclass
class World:
    """A CA, its revocation list, and an identity of each kind."""

    folder: Path
    ca: SpiffeCa

    def __post_init__(self) -> None:
        name = spiffe("peer")
        revoked = self.ca.issue(name)
        self._write("right", self.ca.issue(name))
        self._write("wrong SPIFFE id", self.ca.issue(spiffe("somebody")))
        self._write("other trust domain", self.ca.issue(spiffe("peer", "other.domain")))
        self._write("expired", self.ca.issue(name, starts=-600, ends=-60))
        self._write("not yet valid", self.ca.issue(name, starts=600))
        self._write("self-signed", SpiffeCa("stranger").issue(name))
        self._write("revoked", revoked)
        self._write("own", self.ca.issue(spiffe("own"), dns=("localhost",)))
        (self.folder / "crl.pem").write_bytes(self._revocation_list(revoked[1]))

    def path(self, kind: str) -> Path:
        return self.folder / kind.replace(" ", "-")

    def _write(self, kind: str, pair: tuple[bytes, bytes]) -> None:
        write_identity(self.path(kind), pair, self.ca.pem)

    def _revocation_list(self, certificate: bytes) -> bytes:
        serial = x509.load_pem_x509_certificate(certificate).serial_number
        now = datetime.datetime.now(datetime.UTC)
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        return (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.ca._name)
            .last_update(now - datetime.timedelta(minutes=1))
            .next_update(now + datetime.timedelta(days=1))
            .add_revoked_certificate(entry)
            .sign(self.ca._key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    def identity(self, kind: str) -> FileIdentity:
        place = self.path(kind)
        return FileIdentity(place / "cert.pem", place / "key.pem", place / "roots.pem")

    def trust(self, account: str) -> dict[str, Any]:
        """What a peer is held to, as xDS."""
        return {
            "trusted_ca": {"filename": str(self.path("own") / "roots.pem")},
            "crl": {"filename": str(self.folder / "crl.pem")},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": spiffe(account)}}],
        }

    def certificate(self, kind: str) -> dict[str, Any]:
        place = self.path(kind)
        return {
            "certificate_chain": {"filename": str(place / "cert.pem")},
            "private_key": {"filename": str(place / "key.pem")},
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), SpiffeCa())


TABLE: dict[str, dict[str, str]] = {}


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    yield
    width = max((len(row) for row in TABLE), default=0)
    print(f"\n{'':{width}} | " + " | ".join(PEERS))
    for row, cells in TABLE.items():
        print(f"{row:{width}} | " + " | ".join(f"{cells.get(kind, '-'):{len(kind)}}" for kind in PEERS))


def server_listener(world: World, port: int) -> str:
    """The inbound listener of a port, as a document of a folder."""
    manager = {
        "@type": f"{HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "name": "in",
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "non_forwarding_action": {}}],
                }
            ],
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{HTTP}.http.router.v3.Router"}}],
    }
    context = {
        "@type": f"{TLS}.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [world.certificate("own")],
            "validation_context": world.trust("peer"),
        },
    }
    document = {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": f"xds.istio.io/grpc/lds/inbound/0.0.0.0:{port}",
        "filter_chains": [
            {
                "filters": [{"name": "http", "typed_config": manager}],
                "transport_socket": {"name": "tls", "typed_config": context},
            }
        ],
    }
    return json.dumps(document)


@contextlib.contextmanager
def by_serve(world: World, folder: Path) -> Iterator[int]:
    port = one_port()
    yaml = server_listener(world, port).replace("0.0.0.0", "127.0.0.1")
    with mesh_of(folder, yaml, world.identity("own")) as mesh, serving(who_asks, mesh, port):
        yield port


@contextlib.contextmanager
def by_gunicorn(world: World, folder: Path) -> Iterator[int]:
    port = one_port()
    (folder / "mesh").mkdir()
    (folder / "mesh" / "mesh.yaml").write_text(server_listener(world, port))
    command = [
        *(sys.executable, "-m", "gunicorn", "-c", "python:tests.server.gunicorn_recipe"),
        *("-b", f"127.0.0.1:{port}", "-k", "gthread", "--threads", "4", "--log-level", "critical"),
        "tests.server.recipe_app:wsgi",
    ]
    with process(command, folder, world, port):
        yield port


@contextlib.contextmanager
def process(command: list[str], folder: Path, world: World, port: int) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "MESHSDK_CONFIG": str(folder / "mesh"),
        "RECIPE_PORT": str(port),
        "RECIPE_IDENTITY": str(world.path("own")),
    }
    running = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    try:
        wait_for_port(port, running)
        yield running
    finally:
        running.terminate()
        running.wait(10)
        assert running.stderr is not None
        running.stderr.close()


SERVERS: dict[str, Callable[[World, Path], Any]] = {"mesh.serve (uvicorn)": by_serve, "gunicorn": by_gunicorn}


@pytest.mark.parametrize("server", SERVERS)
def test_http_servers_let_in_the_right_client_only(world: World, server: str, tmp_path: Path) -> None:
    with SERVERS[server](world, tmp_path) as port:
        cells = TABLE.setdefault(f"{server} as server", {})
        for kind in PEERS:
            cells[kind] = "in" if gets_in(world, port, kind) else "refused"
    assert {kind for kind, cell in cells.items() if cell == "in"} == {"right"}


def gets_in(world: World, port: int, kind: str) -> bool:
    """Whether a client that is none of ours, with a certificate of this kind, gets an answer."""
    if kind == "plaintext":
        verify: Any = False
        url = f"http://127.0.0.1:{port}/who"
    else:
        verify = ssl.create_default_context(cafile=str(world.path("own") / "roots.pem"))
        verify.check_hostname = False
        if kind != "no certificate":
            verify.load_cert_chain(world.path(kind) / "cert.pem", world.path(kind) / "key.pem")
        url = f"https://127.0.0.1:{port}/who"
    with httpx.Client(verify=verify) as client:
        try:
            response = client.get(url)
        except httpx.TransportError:
            return False
    assert response.status_code in (200, 400, 403)
    return response.status_code == 200


@pytest.mark.parametrize("aio", [False, True], ids=["grpc", "grpc.aio"])
def test_grpc_servers_let_in_the_right_client_only(world: World, aio: bool, tmp_path: Path) -> None:
    port = one_port()
    rule = (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n"
        "spec: {rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/peer]}}]}]}\n"
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\n"
        "spec: {mtls: {mode: STRICT}}\n"
    )
    running = aio_grpc_server if aio else sync_grpc_server
    with mesh_of(tmp_path, rule, world.identity("own")) as mesh, running(mesh, port):
        cells = TABLE.setdefault(f"grpc{'.aio' if aio else ''} as server", {})
        for kind in PEERS:
            if kind != "revoked":  # grpc's server credentials take no revocation list.
                cells[kind] = "in" if calls(world, port, kind) else "refused"
    assert {kind for kind, cell in cells.items() if cell == "in"} == {"right"}


def calls(world: World, port: int, kind: str) -> bool:
    """Whether a gRPC client that is none of ours gets an answer."""
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    if kind == "plaintext":
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    else:
        place = world.path("right" if kind == "no certificate" else kind)
        pair = (None, None)
        if kind != "no certificate":
            pair = ((place / "key.pem").read_bytes(), (place / "cert.pem").read_bytes())
        credentials = grpc.ssl_channel_credentials(world.ca.pem, *pair)
        channel = grpc.secure_channel(f"127.0.0.1:{port}", credentials, options)
    with channel:
        try:
            channel.unary_unary("/test.Echo/Say")(b"", timeout=3)
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED)
            return False
    return True


def assignment(cluster: str, port: int) -> dict[str, Any]:
    """One endpoint on loopback."""
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [endpoint]}]}


def upstream(world: World, port: int) -> str:
    """A cluster and a listener of a client, as documents of a folder."""
    context = {
        "@type": f"{TLS}.UpstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": [world.certificate("own")],
            "validation_context": world.trust("peer"),
        },
    }
    cluster = {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": "peer",
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": assignment("peer", port),
        "transport_socket": {"name": "tls", "typed_config": context},
    }
    manager = {
        "@type": f"{HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "out",
        "route_config": {
            "virtual_hosts": [
                {"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "peer"}}]}
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{HTTP}.http.router.v3.Router"}}],
    }
    listener = {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "peer.test",
        "api_listener": {"api_listener": manager},
    }
    return f"{json.dumps(cluster)}\n---\n{json.dumps(listener)}\n"


# What the error of a refused server must say.
REASONS = {
    "wrong SPIFFE id": "sa/somebody",
    "other trust domain": "other.domain",
    "expired": "expired",
    "not yet valid": "not yet valid",
    "self-signed": "unable to get local issuer",
    "revoked": "revoked",
    "plaintext": "wrong version number|record layer|WRONG_VERSION",
}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["httpx", "httpx async"])
def test_http_clients_talk_to_the_right_server_only_and_say_why(
    world: World, asynchronous: bool, tmp_path: Path
) -> None:
    cells = TABLE.setdefault(f"httpx{' async' if asynchronous else ''} as client", {})
    for kind in ("right", *REASONS):
        with answering(world, kind) as port, mesh_of(tmp_path, upstream(world, port), name=kind) as mesh:
            try:
                response = asyncio.run(fetch_async(mesh)) if asynchronous else fetch(mesh)
                cells[kind] = "talks" if response.status_code == 200 else f"{response.status_code}: {response.text}"
            except httpx.TransportError as error:
                cells[kind] = str(error)
    assert cells["right"] == "talks"
    for kind, reason in REASONS.items():
        assert any(one in cells[kind] for one in reason.split("|")), f"{kind}: {cells[kind]}"
        cells[kind] = "refused"


def fetch(mesh: meshsdk.Mesh) -> httpx.Response:
    with mesh.client() as client:
        return client.get("http://peer.test/")


async def fetch_async(mesh: meshsdk.Mesh) -> httpx.Response:
    async with mesh.async_client() as client:
        return await client.get("http://peer.test/")


@contextlib.contextmanager
def answering(world: World, kind: str) -> Iterator[int]:
    """A server that is none of ours, with a certificate of this kind."""
    context = None
    if kind != "plaintext":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(world.path(kind) / "cert.pem", world.path(kind) / "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                secured = context.wrap_socket(connection, server_side=True) if context else connection
                secured.recv(65536)
                secured.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                secured.close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def test_envoy_and_we_understand_each_other(world: World, tmp_path: Path) -> None:
    """The real Envoy as our client's server, and as the client of our server; with right and wrong identities."""
    with by_serve(world, tmp_path) as port:
        outcomes = {}
        for kind in ("right", "wrong SPIFFE id", "revoked"):
            with envoy_client(world, kind, port, tmp_path) as front:
                outcomes[kind] = httpx.get(f"http://127.0.0.1:{front}/").status_code
        TABLE["Envoy as client of mesh.serve"] = {k: "in" if v == 200 else "refused" for k, v in outcomes.items()}
        assert outcomes == {"right": 200, "wrong SPIFFE id": 503, "revoked": 503}
    talks = {}
    for kind in ("right", "wrong SPIFFE id", "self-signed"):
        with (
            envoy_server(world, kind, tmp_path) as front,
            mesh_of(tmp_path, upstream(world, front), name=f"envoy {kind}") as mesh,
        ):
            try:
                talks[kind] = "talks" if fetch(mesh).status_code == 200 else "refused"
            except httpx.TransportError:
                talks[kind] = "refused"
    TABLE["httpx as client of Envoy"] = talks
    assert talks == {"right": "talks", "wrong SPIFFE id": "refused", "self-signed": "refused"}


def envoy_client(world: World, kind: str, port: int, folder: Path) -> Any:
    """An Envoy on a plaintext port that goes to our server with a certificate of this kind."""
    context = {
        "@type": f"{TLS}.UpstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": [world.certificate(kind)],
            "validation_context": world.trust("own"),
        },
    }
    cluster = {
        "name": "ours",
        "type": "STATIC",
        "load_assignment": assignment("ours", port),
        "transport_socket": {"name": "tls", "typed_config": context},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "ours"}}
    return running_envoy(route, [cluster], None, folder / f"client-{kind}")


def envoy_server(world: World, kind: str, folder: Path) -> Any:
    """An Envoy that answers over TLS with a certificate of this kind, and asks for ours."""
    context = {
        "@type": f"{TLS}.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [world.certificate(kind)],
            "validation_context": world.trust("own"),
        },
    }
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    return running_envoy(route, [], context, folder / f"server-{kind}")


@contextlib.contextmanager
def running_envoy(
    route: dict[str, Any], clusters: list[dict[str, Any]], tls: dict[str, Any] | None, folder: Path
) -> Iterator[int]:
    port = one_port()
    folder.mkdir()
    manager = {
        "@type": f"{HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{HTTP}.http.router.v3.Router"}}],
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if tls is not None:
        chain["transport_socket"] = {"name": "tls", "typed_config": tls}
    listener = {
        "name": "front",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [chain],
    }
    config = {
        "node": {"id": "front", "cluster": "front"},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }
    with envoy(config, [port], folder):
        yield port


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn"])
def test_a_server_that_does_not_tell_its_peers_does_not_start_where_they_are_needed(
    world: World, server: str, tmp_path: Path
) -> None:
    port = one_port()
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "mesh.yaml").write_text(server_listener(world, port))
    bind = ["--port", str(port)] if server == "uvicorn" else ["--bind", f"127.0.0.1:{port}"]
    environment = {
        **os.environ,
        "MESHSDK_CONFIG": str(tmp_path / "mesh"),
        "RECIPE_PORT": str(port),
        "RECIPE_IDENTITY": str(world.path("own")),
    }
    command = [sys.executable, "-m", server, *bind, "tests.server.recipe_app:asgi"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False)
    # hypercorn ends, and calls it a success.
    assert ended.returncode != 0 or server == "hypercorn"
    assert "mesh.serve(app" in ended.stderr + ended.stdout


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn"])
def test_the_same_servers_run_where_plaintext_is_allowed(world: World, server: str, tmp_path: Path) -> None:
    port = one_port()
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "mesh.yaml").write_text(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n"
        "spec: {action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}\n"
    )
    bind = ["--port", str(port)] if server == "uvicorn" else ["--bind", f"127.0.0.1:{port}"]
    with process([sys.executable, "-m", server, *bind, "tests.server.recipe_app:asgi"], tmp_path, world, port):
        assert httpx.get(f"http://127.0.0.1:{port}/who").status_code == 200
        assert httpx.post(f"http://127.0.0.1:{port}/who").status_code == 403
