"""Whom both sides trust while it changes: federated trust domains, roots that go, certificates that are revoked."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from websockets.sync.client import connect

import meshsdk
from meshsdk.http.tls import verify_peer
from meshsdk.identities import FileIdentity, IstioCaIdentity
from meshsdk.identities.certificate_authority import CertificateAuthority
from meshsdk.identities.istio_ca_messages import Request, Response
from meshsdk.security import TlsClientContext

from ..certificates import SpiffeCa, spiffe, write_identity
from ..conftest import destination_rule, service
from ..patience import PATIENCE
from .running import identity, mesh_of, one_port, peer_authentication, serving
from .test_serve import MUTUAL, who_asks

pytestmark = pytest.mark.usefixtures("each_loop", "looks_often")

OTHER = "other.domain"
MESH_CONFIG = (
    "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
    f"data: {{mesh: 'trustDomainAliases: [{OTHER}, third.domain]'}}\n"
)


def bundle_map(**domains: list[bytes]) -> str:
    """A SPIFFE bundle map (gRFC A87)."""

    def key(pem: bytes) -> dict[str, Any]:
        der = x509.load_pem_x509_certificates(pem)[0].public_bytes(Encoding.DER)
        return {"kty": "EC", "use": "x509-svid", "x5c": [base64.b64encode(der).decode()], "crv": "P-256"}

    jwt_key = {"kty": "EC", "use": "jwt-svid", "kid": "1"}
    bundles = {
        name.replace("_", "."): {"spiffe_sequence": 1, "keys": [jwt_key, *map(key, roots)]}
        for name, roots in domains.items()
    }
    return json.dumps({"trust_domains": bundles})


def federated(folder: Path, name: str, issuer: SpiffeCa, uri: str, **domains: list[bytes]) -> FileIdentity:
    """An identity whose peers are trusted by their domains."""
    place = folder / f"{name}-identity"
    write_identity(place, issuer.issue(uri), issuer.pem)
    (place / "bundles.json").write_text(bundle_map(**domains))
    return FileIdentity(place / "cert.pem", place / "key.pem", spiffe_trust_bundle_map_file=place / "bundles.json")


OURS, THEIRS = SpiffeCa("ours"), SpiffeCa("theirs")


@pytest.mark.parametrize(
    ("who", "issuer", "trusts", "gets_in"),
    [
        (spiffe("client", OTHER), THEIRS, {"cluster_local": [OURS.pem], "other_domain": [THEIRS.pem]}, True),
        (spiffe("client"), OURS, {"cluster_local": [OURS.pem]}, True),
        # The CA of one domain may not make itself somebody of another.
        (spiffe("client"), THEIRS, {"cluster_local": [OURS.pem, THEIRS.pem]}, False),
        (spiffe("client", OTHER), OURS, {"cluster_local": [OURS.pem], "other_domain": [THEIRS.pem, OURS.pem]}, False),
        (spiffe("client", "third.domain"), THEIRS, {"cluster_local": [OURS.pem], "third_domain": [THEIRS.pem]}, False),
        ("https://no.spiffe/id", THEIRS, {"cluster_local": [OURS.pem]}, False),
    ],
    ids=["federated", "own", "foreign CA", "own CA for others", "unknown domain", "no SPIFFE ID"],
)
def test_a_trust_domains_roots_vouch_for_its_own_names_only(
    tmp_path: Path, who: str, issuer: SpiffeCa, trusts: dict[str, list[bytes]], gets_in: bool
) -> None:
    port = one_port()
    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication("STRICT") + MESH_CONFIG
    server = federated(tmp_path, "web", OURS, spiffe("web"), cluster_local=[OURS.pem], other_domain=[THEIRS.pem])
    place = tmp_path / "client-identity"
    write_identity(place, issuer.issue(who), OURS.pem)
    (place / "bundles.json").write_text(bundle_map(**trusts))
    client_id = FileIdentity(place / "cert.pem", place / "key.pem", place / "roots.pem")
    with (
        mesh_of(tmp_path, yaml, server) as mesh,
        mesh_of(tmp_path, yaml, client_id, "client") as caller,
        serving(who_asks, mesh, port),
        caller.client() as client,
    ):
        if gets_in:
            assert client.get("http://web/").text == who
        else:
            with pytest.raises(httpx.TransportError):
                client.get("http://web/")


@pytest.mark.parametrize("asynchronous", [False, True], ids=["httpx", "httpx async"])
@pytest.mark.parametrize(
    ("server", "issuer", "error"),
    [
        (spiffe("web", OTHER), THEIRS, ""),
        (spiffe("web"), THEIRS, "no root of its trust domain"),
        (spiffe("web", "third.domain"), THEIRS, "there is no bundle of its trust domain"),
    ],
    ids=["federated", "foreign CA", "unknown domain"],
)
def test_clients_hold_servers_to_the_roots_of_their_domain(
    tmp_path: Path, server: str, issuer: SpiffeCa, error: str, asynchronous: bool
) -> None:
    port = one_port()
    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication("STRICT") + MESH_CONFIG
    place = tmp_path / "server-identity"
    write_identity(place, issuer.issue(server), OURS.pem + THEIRS.pem)
    server_id = FileIdentity(place / "cert.pem", place / "key.pem", place / "roots.pem")
    both = {"cluster_local": [OURS.pem], "other_domain": [THEIRS.pem]}
    client_id = federated(tmp_path, "client", OURS, spiffe("client"), **both)
    with (
        mesh_of(tmp_path, yaml, server_id) as mesh,
        mesh_of(tmp_path, yaml, client_id, "client") as caller,
        serving(who_asks, mesh, port),
    ):
        get = by_asyncio if asynchronous else in_this_thread
        if not error:
            assert get(caller) == spiffe("client")
        else:
            with pytest.raises(httpx.ConnectError, match=error):
                get(caller)


def in_this_thread(mesh: meshsdk.Mesh) -> str:
    with mesh.client() as client:
        return client.get("http://web/").text


def by_asyncio(mesh: meshsdk.Mesh) -> str:
    async def get() -> str:
        async with mesh.async_client() as client:
            return (await client.get("http://web/")).text

    return asyncio.run(get())


def test_the_bootstraps_provider_may_trust_by_domains(tmp_path: Path) -> None:
    place = tmp_path / "identity"
    write_identity(place, OURS.issue(spiffe("web")), OURS.pem)
    (place / "bundles.json").write_text(bundle_map(cluster_local=[OURS.pem], other_domain=[THEIRS.pem]))
    files = {"certificate_file": str(place / "cert.pem"), "private_key_file": str(place / "key.pem")}
    config = {**files, "spiffe_trust_bundle_map_file": str(place / "bundles.json")}
    bootstrap = {
        "xds_servers": [{"server_uri": "unix:/nowhere", "channel_creds": [{"type": "insecure"}]}],
        "node": {"id": "me"},
        "certificate_providers": {"default": {"plugin_name": "file_watcher", "config": config}},
    }
    with meshsdk.Mesh(bootstrap=bootstrap) as mesh:
        identity = mesh._runtime.secrets.identity
        assert identity is not None
        assert sorted(identity.credentials().bundles) == ["cluster.local", "other.domain"]


class Held:
    """An application that answers /held when it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cut_off = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/held":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            self.begun.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            self.cut_off.set()
            return
        await who_asks(scope, receive, send)


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[tuple[Held, meshsdk.Mesh, Callable[..., None]]]:
    """A server, a client's mesh, and how to give either side other certificates and roots."""
    port, app = one_port(), Held()
    places = {"web": tmp_path / "web", "client": tmp_path / "client-id"}

    def give(who: str, issuer: SpiffeCa, roots: bytes, uri: str = "") -> None:
        write_identity(places[who], issuer.issue(uri or spiffe(who)), roots)

    for who in places:
        give(who, OURS, OURS.pem)
    server, client = (FileIdentity(one / "cert.pem", one / "key.pem", one / "roots.pem") for one in places.values())
    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication("STRICT")
    with (
        mesh_of(tmp_path, yaml, server) as mesh,
        mesh_of(tmp_path, yaml, client, "client") as caller,
        serving(app, mesh, port),
    ):
        yield app, caller, give


@pytest.fixture(params=["files", "Istio's CA and a file of roots"])
def changing_roots(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Held, meshsdk.Mesh, Callable[..., None]]]:
    """As `changing`; the certificates may also be a CA's, and the roots alone in a file."""
    if request.param == "files":
        yield request.getfixturevalue("changing")
        return
    port, app = one_port(), Held()
    authority = CertificateAuthority(OURS._key, x509.load_pem_x509_certificates(OURS.pem)[0])
    (tmp_path / "token").write_text("token")

    def give(who: str, issuer: SpiffeCa, roots: bytes) -> None:
        (tmp_path / f"{who}.new").write_bytes(roots)
        (tmp_path / f"{who}.new").replace(tmp_path / f"{who}.pem")

    def certified(who: str) -> IstioCaIdentity:
        give(who, OURS, OURS.pem)
        files = {"token_file": tmp_path / "token", "ca_certificate_file": tmp_path / f"{who}.pem"}
        return IstioCaIdentity(spiffe(who), address=f"127.0.0.1:{signing}", plaintext=True, **files)

    yaml = service("web", port) + destination_rule("web", MUTUAL) + peer_authentication("STRICT")
    with signing_server(authority) as signing, contextlib.ExitStack() as stack:
        server, client = (stack.enter_context(contextlib.closing(certified(who))) for who in ("web", "client"))
        mesh = stack.enter_context(mesh_of(tmp_path, yaml, server))
        caller = stack.enter_context(mesh_of(tmp_path, yaml, client, "client-mesh"))
        stack.enter_context(serving(app, mesh, port))
        yield app, caller, give


@contextlib.contextmanager
def signing_server(authority: CertificateAuthority) -> Iterator[int]:
    """Istio's CA over gRPC, which signs for everybody."""

    class Ca(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                self.create, request_deserializer=Request.FromString, response_serializer=Response.SerializeToString
            )

        def create(self, request: Any, context: Any) -> Any:
            asked = x509.load_pem_x509_csr(request.csr.encode())
            names = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            [uri] = names.get_values_for_type(x509.UniformResourceIdentifier)
            return Response(cert_chain=[authority.sign(request.csr.encode(), uri).decode(), authority.pem.decode()])

    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Ca(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["httpx", "httpx async"])
def test_an_answer_under_way_is_cut_off_when_its_server_is_trusted_no_more(
    changing_roots: tuple[Held, meshsdk.Mesh, Callable[..., None]], asynchronous: bool
) -> None:
    app, caller, give = changing_roots

    def change() -> None:
        assert app.begun.wait(PATIENCE)
        give("client", OURS, THEIRS.pem)

    changer = threading.Thread(target=change)
    changer.start()
    with pytest.raises(httpx.TransportError):
        (held_by_asyncio if asynchronous else held_in_this_thread)(caller)
    changer.join()


def held_in_this_thread(mesh: meshsdk.Mesh) -> None:
    with mesh.client(timeout=20) as client:
        client.get("http://web/held")


def held_by_asyncio(mesh: meshsdk.Mesh) -> None:
    async def get() -> None:
        async with mesh.async_client(timeout=20) as client:
            await client.get("http://web/held")

    asyncio.run(get())


def test_a_server_cuts_off_clients_that_it_trusts_no_more(
    changing_roots: tuple[Held, meshsdk.Mesh, Callable[..., None]],
) -> None:
    app, caller, give = changing_roots

    def change() -> None:
        assert app.begun.wait(PATIENCE)
        give("web", OURS, THEIRS.pem)

    changer = threading.Thread(target=change)
    changer.start()
    with pytest.raises(httpx.TransportError):
        held_in_this_thread(caller)
    assert app.cut_off.wait(PATIENCE)
    changer.join()


def test_a_root_more_disturbs_nobody_and_a_new_identity_is_shown_at_the_next_request(
    changing: tuple[Held, meshsdk.Mesh, Callable[..., None]],
) -> None:
    app, caller, give = changing
    with caller.client() as client:
        assert client.get("http://web/").text == spiffe("client")
        with client.stream("GET", "http://web/held") as held:
            give("client", OURS, OURS.pem + THEIRS.pem, spiffe("renamed"))
            until = time.monotonic() + PATIENCE
            while client.get("http://web/").text != spiffe("renamed"):
                assert time.monotonic() < until, "the connections of the old identity are still used"
                time.sleep(0.1)
            assert not app.cut_off.is_set()
            assert next(held.iter_raw()) == b"begun"


@pytest.mark.parametrize("asynchronous", [False, True], ids=["httpx", "httpx async"])
def test_the_next_connection_to_a_server_resumes_its_session(
    changing: tuple[Held, meshsdk.Mesh, Callable[..., None]], monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    _, caller, _ = changing
    resumed: list[bool | None] = []

    def seen(chosen: TlsClientContext, secured: Any, slot: Any) -> None:
        resumed.append(secured.session_reused)
        verify_peer(chosen, secured, slot)

    monkeypatch.setattr(f"meshsdk.http.{'async_dial' if asynchronous else 'sync_pool'}.verify_peer", seen)
    (beside_by_asyncio if asynchronous else beside_in_this_thread)(caller)
    assert resumed == [False, True], "no handshake was spared"


def beside_in_this_thread(mesh: meshsdk.Mesh) -> None:
    """A request, and then one beside another, which needs a connection of its own."""
    with mesh.client() as client:
        assert client.get("http://web/").text == spiffe("client")
        with client.stream("GET", "http://web/held"):
            assert client.get("http://web/").text == spiffe("client"), "a resumed session proves who it is of"


def beside_by_asyncio(mesh: meshsdk.Mesh) -> None:
    async def get() -> None:
        async with mesh.async_client() as client:
            assert (await client.get("http://web/")).text == spiffe("client")
            async with client.stream("GET", "http://web/held"):
                assert (await client.get("http://web/")).text == spiffe("client")

    asyncio.run(get())


class Secured:
    """A transport, as far as certificates go."""

    def __init__(self, looks: list[float]) -> None:
        self._looks = looks

    def _look_at_certificates(self) -> None:
        self._looks.append(time.monotonic())


def test_clients_that_come_and_go_are_looked_after_by_one_timer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshsdk.rotation._SECONDS", 0.05)
    looks: list[float] = []
    with mesh_of(tmp_path, "") as mesh:
        mesh.status()
        for _ in range(20):
            mesh._runtime.watch_certificates(Secured(looks))
        stays, began = Secured(looks), time.monotonic()
        mesh._runtime.watch_certificates(stays)
        time.sleep(0.5)
        passed = time.monotonic() - began
        seen = len(looks)
    assert 0 < seen <= passed / 0.05 + 2, "timers have piled up"


def test_a_server_forgets_websockets_that_are_gone(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            return await who_asks(scope, receive, send)
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    port, place = one_port(), tmp_path / "client-files"
    write_identity(place, OURS.issue(spiffe("client")), OURS.pem)
    context = ssl.create_default_context(cafile=str(place / "roots.pem"))
    context.check_hostname = False
    context.load_cert_chain(place / "cert.pem", place / "key.pem")
    yaml = service("web", port) + peer_authentication("STRICT")
    with mesh_of(tmp_path, yaml, identity(tmp_path, OURS, "web")) as mesh, serving(app, mesh, port) as server:
        with connect(f"wss://127.0.0.1:{port}/", ssl=context):
            assert len(server._door._peers) == 1
        until = time.monotonic() + PATIENCE
        while server._door._peers:
            assert time.monotonic() < until
            time.sleep(0.05)
