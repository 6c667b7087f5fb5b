"""Who gets in, and whom we talk to: every server and client with every kind of peer, over real sockets.

pytest -s tests/server/test_mutual_tls_matrix.py     # prints the tables
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
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
from ..grpc_server import GrpcServer
from ..patience import PATIENCE
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
        (self.folder / "crl.pem").write_bytes(self.ca.revocation_list(revoked[1]))

    def path(self, kind: str) -> Path:
        return self.folder / kind.replace(" ", "-")

    def _write(self, kind: str, pair: tuple[bytes, bytes]) -> None:
        write_identity(self.path(kind), pair, self.ca.pem)

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
    width = max(map(len, TABLE), default=0)
    print(f"\n{'':{width}} | " + " | ".join(PEERS))
    for row, cells in TABLE.items():
        print(f"{row:{width}} | " + " | ".join(f"{cells.get(kind, '-'):{len(kind)}}" for kind in PEERS))


def server_listener(world: World, port: int, shows: str = "own", takes: str = "peer") -> str:
    """The inbound listener of a port, as a document of a folder.

    Args:
        shows: The kind of its certificate; `plaintext` is none.
        takes: Whose certificate it asks for.
    """
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
            "tls_certificates": [world.certificate(shows)],
            "validation_context": world.trust(takes),
        },
    }
    secured = {} if shows == "plaintext" else {"transport_socket": {"name": "tls", "typed_config": context}}
    document = {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": f"xds.istio.io/grpc/lds/inbound/0.0.0.0:{port}",
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}], **secured}],
    }
    return json.dumps(document)


@contextlib.contextmanager
def by_serve(world: World, folder: Path, shows: str = "own", takes: str = "peer") -> Iterator[int]:
    port = one_port()
    yaml = server_listener(world, port, shows, takes).replace("0.0.0.0", "127.0.0.1")
    with mesh_of(folder, yaml, world.identity("own")) as mesh, serving(who_asks, mesh, port):
        yield port


@contextlib.contextmanager
def by_gunicorn(world: World, folder: Path, shows: str = "own", takes: str = "peer") -> Iterator[int]:
    port = one_port()
    (folder / "mesh").mkdir()
    (folder / "mesh" / "mesh.yaml").write_text(server_listener(world, port, shows, takes))
    command = [
        *(sys.executable, "-m", "gunicorn"),
        *(() if shows == "plaintext" else ("-c", "python:tests.server.gunicorn_recipe")),
        *("-b", f"127.0.0.1:{port}", "-k", "gthread", "--threads", "4", "--log-level", "critical"),
        "tests.server.recipe_wsgi:app",
    ]
    with process(command, folder, world, port):
        yield port


PROTOCOL = "meshsdk.server.uvicorn_protocol:MeshProtocol"


@contextlib.contextmanager
def by_uvicorn(world: World, folder: Path, shows: str = "own", takes: str = "peer") -> Iterator[int]:
    port = one_port()
    (folder / "mesh").mkdir()
    (folder / "mesh" / "mesh.yaml").write_text(server_listener(world, port, shows, takes))
    options = ["--port", str(port), "--http", PROTOCOL, "--log-level", "critical"]
    with process([sys.executable, "-m", "uvicorn", *options, "tests.server.recipe_asgi:app"], folder, world, port):
        yield port


@contextlib.contextmanager
def process(
    command: list[str], folder: Path, world: World, port: int, *, listens: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "MESHSDK_CONFIG": str(folder / "mesh"),
        "RECIPE_PORT": str(port),
        "RECIPE_IDENTITY": str(world.path("own")),
    }
    running = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    try:
        if listens:
            wait_for_port(port, running)
        yield running
    finally:
        running.terminate()
        running.wait(PATIENCE)
        assert running.stderr is not None
        running.stderr.close()


SERVERS: dict[str, Callable[[World, Path], Any]] = {
    "mesh.serve": by_serve,
    "uvicorn": by_uvicorn,
    "gunicorn": by_gunicorn,
}


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
    running = aio_grpc_server if aio else sync_grpc_server
    with mesh_of(tmp_path, server_listener(world, port), world.identity("own")) as mesh, running(mesh, port):
        cells = TABLE.setdefault(f"grpc{'.aio' if aio else ''} as server", {})
        for kind in PEERS:
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
            channel.unary_unary("/test.Echo/Say")(b"", timeout=PATIENCE)
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED)
            return False
    return True


def assignment(cluster: str, port: int) -> dict[str, Any]:
    """One endpoint on loopback."""
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    return {"cluster_name": cluster, "endpoints": [{"lb_endpoints": [endpoint]}]}


def upstream(world: World, port: int, shows: str = "own", takes: str = "peer", *, revocations: bool = True) -> str:
    """A cluster and a listener of a client, as documents of a folder.

    Args:
        shows: The kind of its certificate.
        takes: Whom it wants to talk to.
        revocations: With a revocation list, which grpc-core does not take.
    """
    common: dict[str, Any] = {"validation_context": world.trust(takes)}
    if not revocations:
        del common["validation_context"]["crl"]
    if shows != "no certificate":
        common["tls_certificates"] = [world.certificate(shows)]
    context = {"@type": f"{TLS}.UpstreamTlsContext", "common_tls_context": common}
    secured = {} if shows == "plaintext" else {"transport_socket": {"name": "tls", "typed_config": context}}
    cluster = {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": "peer",
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": assignment("peer", port),
        **secured,
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


def by_httpx(mesh: meshsdk.Mesh) -> str:
    try:
        response = fetch(mesh)
    except httpx.TransportError as error:
        return f"refused: {error}"
    return "talks" if response.status_code == 200 else f"refused: {response.status_code} {response.text}"


def by_httpx_async(mesh: meshsdk.Mesh) -> str:
    try:
        response = asyncio.run(fetch_async(mesh))
    except httpx.TransportError as error:
        return f"refused: {error}"
    return "talks" if response.status_code == 200 else f"refused: {response.status_code} {response.text}"


def by_grpc(mesh: meshsdk.Mesh) -> str:
    with mesh.channel("peer.test") as channel:
        try:
            channel.unary_unary("/test.Echo/Say")(b"", timeout=PATIENCE)
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED)
            return f"refused: {error.details()}"
    return "talks:"


def by_grpc_aio(mesh: meshsdk.Mesh) -> str:
    async def call() -> str:
        async with mesh.aio_channel("peer.test") as channel:
            try:
                await channel.unary_unary("/test.Echo/Say")(b"", timeout=PATIENCE)
            except grpc.RpcError as error:
                assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED)
                return f"refused: {error.details()}"
        return "talks:"

    return asyncio.run(call())


OUR_CLIENTS: dict[str, Callable[[meshsdk.Mesh], str]] = {
    "httpx": by_httpx,
    "httpx async": by_httpx_async,
    "grpc": by_grpc,
    "grpc.aio": by_grpc_aio,
}


def _by_grpc(aio: bool) -> Callable[..., Any]:
    @contextlib.contextmanager
    def serve(world: World, folder: Path, shows: str = "own", takes: str = "peer") -> Iterator[int]:
        port = one_port()
        running = aio_grpc_server if aio else sync_grpc_server
        is_plain = shows == "plaintext"
        own = world.identity("own" if is_plain else shows)
        yaml = server_listener(world, port, shows, takes)
        with mesh_of(folder, yaml, own) as mesh, running(mesh, port, secure=not is_plain):
            yield port

    return serve


@contextlib.contextmanager
def by_envoy(world: World, folder: Path, shows: str = "own", takes: str = "peer") -> Iterator[int]:
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    with running_envoy(route, [], envoy_trust(world, shows, takes), folder / "envoy") as port:
        yield port


@contextlib.contextmanager
def by_envoy_for_grpc(world: World, folder: Path, shows: str = "own", takes: str = "peer") -> Iterator[int]:
    options = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    with GrpcServer("behind Envoy") as behind:
        cluster = {
            "name": "behind",
            "type": "STATIC",
            "load_assignment": assignment("behind", behind.port),
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        }
        route = {"match": {"prefix": "/"}, "route": {"cluster": "behind"}}
        trust = envoy_trust(world, shows, takes)
        with running_envoy(route, [cluster], trust, folder / "envoy") as port:
            yield port


def envoy_trust(world: World, shows: str, takes: str) -> dict[str, Any] | None:
    if shows == "plaintext":
        return None
    common = {"tls_certificates": [world.certificate(shows)], "validation_context": world.trust(takes)}
    common["alpn_protocols"] = ["h2", "http/1.1"]  # type: ignore[assignment]
    return {
        "@type": f"{TLS}.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": common,
    }


ALL_SERVERS: dict[str, Callable[..., Any]] = {
    "mesh.serve": by_serve,
    "uvicorn": by_uvicorn,
    "gunicorn": by_gunicorn,
    "Envoy": by_envoy,
    "grpc": _by_grpc(False),
    "grpc.aio": _by_grpc(True),
    "Envoy for gRPC": by_envoy_for_grpc,
}
HTTP_SERVERS = ("mesh.serve", "uvicorn", "gunicorn", "Envoy")


def clients_of(server: str) -> list[str]:
    return ["httpx", "httpx async"] if server in HTTP_SERVERS else ["grpc", "grpc.aio"]


@pytest.mark.parametrize("server", ALL_SERVERS)
def test_every_server_lets_in_the_right_one_of_our_clients_only(world: World, server: str, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with ALL_SERVERS[server](world, tmp_path / "server") as port:
        for client in clients_of(server):
            cells = TABLE.setdefault(f"{client} to {server}", {})
            for kind in PEERS:
                yaml = upstream(world, port, kind, "own", revocations="httpx" in client)
                with mesh_of(tmp_path, yaml, name=f"{client} {kind}") as mesh:
                    cells[kind] = OUR_CLIENTS[client](mesh).partition(":")[0]
            assert {kind for kind, cell in cells.items() if cell == "talks"} == {"right"}, cells


# What the error of a refused server must say, over httpx and over gRPC.
REASONS = {
    "wrong SPIFFE id": ("sa/somebody", "SANs from certificate did not match"),
    "other trust domain": ("other.domain", "SANs from certificate did not match"),
    "expired": ("expired", "certificate has expired"),
    "not yet valid": ("not yet valid", "not yet valid"),
    "self-signed": ("unable to get local issuer", "unable to get local issuer"),
    "revoked": ("revoked", "crl"),
    "plaintext": ("wrong version number|record layer|WRONG_VERSION|reset by peer", "WRONG_VERSION_NUMBER"),
}


@pytest.mark.parametrize("server", ALL_SERVERS)
def test_our_clients_talk_to_the_right_server_only_and_say_why(world: World, server: str, tmp_path: Path) -> None:
    for kind in ("right", *REASONS):
        place = tmp_path / f"server {kind}"
        place.mkdir()
        with ALL_SERVERS[server](world, place, kind, "own") as port:
            for client in clients_of(server):
                is_http = "httpx" in client
                cells = TABLE.setdefault(f"{client} from {server}", {})
                yaml = upstream(world, port, revocations=is_http or kind == "revoked")
                with mesh_of(tmp_path, yaml, name=f"{client} {kind}") as mesh:
                    said = OUR_CLIENTS[client](mesh)
                    if not is_http:
                        said += str(mesh.status()["grpc"]["problems"])
                cells[kind] = said.partition(":")[0]
                if kind == "right":
                    assert cells[kind].startswith("talks"), said
                else:
                    reasons = REASONS[kind][0 if is_http else 1].split("|")
                    assert cells[kind] == "refused"
                    assert any(one in said for one in reasons), f"{kind}: {said}"


def fetch(mesh: meshsdk.Mesh) -> httpx.Response:
    with mesh.client() as client:
        return client.get("http://peer.test/who")


async def fetch_async(mesh: meshsdk.Mesh) -> httpx.Response:
    async with mesh.async_client() as client:
        return await client.get("http://peer.test/who")


def test_envoy_as_our_servers_client_is_told_apart_too(world: World, tmp_path: Path) -> None:
    with by_serve(world, tmp_path) as port:
        cells = TABLE.setdefault("Envoy to mesh.serve", {})
        for kind in PEERS:
            if kind in ("no certificate", "plaintext"):
                continue
            with envoy_client(world, kind, port, tmp_path) as front:
                cells[kind] = "talks" if httpx.get(f"http://127.0.0.1:{front}/").status_code == 200 else "refused"
    assert {kind for kind, cell in cells.items() if cell == "talks"} == {"right"}


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
    return running_envoy(route, [cluster], None, folder / f"client-{kind}".replace(" ", "-"))


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
    command = [sys.executable, "-m", server, *bind, "tests.server.recipe_asgi:app"]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    # hypercorn ends, and calls it a success.
    assert ended.returncode != 0 or server == "hypercorn"
    assert "mesh.serve(app" in ended.stderr + ended.stdout


@pytest.mark.parametrize("server", ["uvicorn", "uvicorn by the door", "hypercorn"])
def test_the_same_servers_run_where_plaintext_is_allowed(world: World, server: str, tmp_path: Path) -> None:
    port = one_port()
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "mesh.yaml").write_text(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n"
        "spec: {action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}\n"
    )
    command = {
        "uvicorn": ["uvicorn", "--port", str(port)],
        "uvicorn by the door": ["uvicorn", "--port", str(port), "--http", PROTOCOL],
        "hypercorn": ["hypercorn", "--bind", f"127.0.0.1:{port}"],
    }[server]
    with process([sys.executable, "-m", *command, "tests.server.recipe_asgi:app"], tmp_path, world, port):
        assert httpx.get(f"http://127.0.0.1:{port}/who").status_code == 200
        assert httpx.post(f"http://127.0.0.1:{port}/who").status_code == 403


def test_uvicorn_does_not_speak_tls_in_the_mesh_s_place(world: World, tmp_path: Path) -> None:
    port = one_port()
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "mesh.yaml").write_text(server_listener(world, port))
    own = world.path("own")
    tls = ["--ssl-certfile", str(own / "cert.pem"), "--ssl-keyfile", str(own / "key.pem")]
    command = [sys.executable, "-m", "uvicorn", "--port", str(port), "--http", PROTOCOL, *tls]
    with process([*command, "tests.server.recipe_asgi:app"], tmp_path, world, port) as running:
        assert not gets_in(world, port, "right")
        running.terminate()
        assert running.stderr is not None
        assert b"start uvicorn without its --ssl options" in running.stderr.read()


@pytest.mark.parametrize(("asks_for", "status"), [("methods: [POST]", 200), ("ports: ['1']", 200), ("", 503)])
def test_uvicorn_on_a_unix_socket_is_behind_policy_too(
    world: World, tmp_path: Path, asks_for: str, status: int
) -> None:
    """A rule about the address that a connection came to lets nobody in: there is none."""
    port, path = one_port(), tmp_path / "uvicorn.sock"
    (tmp_path / "mesh").mkdir()
    to = f"to: [{{operation: {{{asks_for}}}}}]" if asks_for else "when: [{key: destination.ip, values: [10.0.0.1]}]"
    (tmp_path / "mesh" / "mesh.yaml").write_text(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\n"
        f"spec: {{action: DENY, rules: [{{{to}}}]}}\n"
    )
    command = [sys.executable, "-m", "uvicorn", "--uds", str(path), "--http", PROTOCOL, "tests.server.recipe_asgi:app"]
    transport = httpx.HTTPTransport(uds=str(path), retries=6)
    with process(command, tmp_path, world, port, listens=False), httpx.Client(transport=transport) as client:
        assert client.get("http://web/who").status_code == status


def digest(world: World, kind: str, *, of_key: bool) -> str:
    """A pin, as Envoy writes it: base64 of a key's SHA-256, or a certificate's in hexadecimal."""
    certificate = x509.load_pem_x509_certificates((world.path(kind) / "cert.pem").read_bytes())[0]
    if not of_key:
        return certificate.fingerprint(hashes.SHA256()).hex()
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(certificate.public_key().public_bytes(*form)).digest()).decode()


@pytest.mark.parametrize("client", ["httpx", "httpx async"])
@pytest.mark.parametrize(
    ("field", "of_key", "pinned", "talks"),
    [
        ("verify_certificate_spki", True, "right", True),
        ("verify_certificate_spki", True, "own", False),
        ("verify_certificate_hash", False, "right", True),
        ("verify_certificate_hash", False, "own", False),
    ],
)
def test_a_server_must_be_the_one_that_is_pinned(
    world: World, tmp_path: Path, client: str, field: str, of_key: bool, pinned: str, talks: bool
) -> None:
    with by_serve(world, tmp_path, "right", "own") as port:
        cluster, _, listener = upstream(world, port).partition("\n---\n")
        document = json.loads(cluster)
        common = document["transport_socket"]["typed_config"]["common_tls_context"]
        common["validation_context"][field] = [digest(world, pinned, of_key=of_key)]
        with mesh_of(tmp_path, f"{json.dumps(document)}\n---\n{listener}", name="client") as mesh:
            said = OUR_CLIENTS[client](mesh)
    assert said == "talks" if talks else "none of those that are pinned" in said


@pytest.mark.parametrize(
    ("params", "version", "cipher"),
    [
        ({}, "TLSv1.3", ""),
        ({"tls_maximum_protocol_version": "TLSv1_2"}, "TLSv1.2", ""),
        (
            {"tls_maximum_protocol_version": "TLSv1_2", "cipher_suites": ["ECDHE-ECDSA-AES256-GCM-SHA384"]},
            "TLSv1.2",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
        ),
    ],
)
def test_versions_and_ciphers_are_those_that_the_cluster_names(
    world: World, tmp_path: Path, params: dict[str, Any], version: str, cipher: str
) -> None:
    seen: list[tuple[str | None, str]] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(world.path("right") / "cert.pem", world.path("right") / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            connection, _ = listening.accept()
            with context.wrap_socket(connection, server_side=True) as secured:
                chosen = secured.cipher()
                seen.append((secured.version(), chosen[0] if chosen else ""))
                secured.recv(65536)
                secured.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=accept)
        thread.start()
        cluster, _, listener = upstream(world, listening.getsockname()[1]).partition("\n---\n")
        document = json.loads(cluster)
        document["transport_socket"]["typed_config"]["common_tls_context"]["tls_params"] = params
        with mesh_of(tmp_path, f"{json.dumps(document)}\n---\n{listener}", name="client") as mesh:
            assert fetch(mesh).status_code == 200
        thread.join(PATIENCE)
    assert seen[0][0] == version
    assert not cipher or seen[0][1] == cipher
