"""Peers of servers that are not ours, whose connections nobody looks after: gunicorn, grpc and grpc.aio."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from meshsdk.errors import PeerIdentityError, ResourceError
from meshsdk.grpc.servers.hang_up import hang_up
from meshsdk.identities import FileIdentity
from meshsdk.inbound import Connection
from meshsdk.resources import TlsFile, TlsTrust
from meshsdk.security import check_sent, read_trust
from meshsdk.security.peer_identity import read_peer
from meshsdk.server.peer_trust import PeerTrust

from ..certificates import SpiffeCa, spiffe, write_identity
from ..patience import PATIENCE, eventually
from .grpc_servers import aio_grpc_server, sync_grpc_server
from .running import mesh_of, one_port
from .test_mutual_tls_matrix import World, by_gunicorn, server_listener, upstream

pytestmark = pytest.mark.usefixtures("looks_often")

ROOT = SpiffeCa("root")
BETWEEN = SpiffeCa("between", ROOT)
STRANGER = SpiffeCa("stranger")

GRPC = {"grpc": sync_grpc_server, "grpc.aio": aio_grpc_server}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A CA of its own: its roots and lists are changed."""
    (tmp_path / "world").mkdir()
    return World(tmp_path / "world", SpiffeCa())


def trust_only(world: World, roots: bytes) -> None:
    """Have the server trust other roots."""
    path = world.path("own") / "roots.pem"
    path.with_suffix(".new").write_bytes(roots)
    path.with_suffix(".new").rename(path)


def revoke(world: World, kind: str) -> None:
    certificate = (world.path(kind) / "cert.pem").read_bytes()
    (world.folder / "crl.pem").write_bytes(world.ca.revocation_list(certificate))


def channel_of(world: World, port: int) -> grpc.Channel:
    place = world.path("right")
    pair = (place / "key.pem").read_bytes(), (place / "cert.pem").read_bytes()
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(world.ca.pem, *pair), options)


BROKEN_OFF = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE)


class Stream:
    """A call that stays open."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._sent: queue.Queue[bytes | None] = queue.Queue()
        self._call = channel.stream_stream("/test.Echo/Both")(iter(self._sent.get, None), timeout=PATIENCE)

    def echo(self) -> bytes:
        self._sent.put(b"ping")
        return bytes(next(self._call))

    def end(self) -> grpc.StatusCode:
        """The status that somebody else ends it with."""
        try:
            next(self._call)
        except grpc.RpcError as error:
            self._sent.put(None)
            return error.code()
        raise AssertionError("something came")


@pytest.mark.parametrize("server", GRPC)
@pytest.mark.parametrize("change", ["root gone", "revoked"])
def test_grpc_calls_of_peers_that_are_trusted_no_more_are_broken_off(
    world: World, tmp_path: Path, server: str, change: str
) -> None:
    port = one_port()

    def say() -> grpc.StatusCode:
        try:
            channel.unary_unary("/test.Echo/Say")(b"", timeout=PATIENCE)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    listener = server_listener(world, port)
    with (
        mesh_of(tmp_path, listener, world.identity("own")) as mesh,
        GRPC[server](mesh, port),
        channel_of(world, port) as channel,
    ):
        stream = Stream(channel)
        assert stream.echo() == b"one:ping"
        if change == "root gone":
            trust_only(world, STRANGER.pem)
        else:
            revoke(world, "right")
        assert stream.end() in BROKEN_OFF
        assert say() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE)
        if change == "root gone":
            trust_only(world, world.ca.pem + STRANGER.pem)
            eventually(lambda: say() is grpc.StatusCode.OK, "it is trusted again")


@pytest.mark.parametrize("server", GRPC)
def test_a_grpc_client_whose_root_has_gone_comes_again_with_its_new_certificate(
    world: World, tmp_path: Path, server: str
) -> None:
    port, place, new = one_port(), world.path("right"), SpiffeCa("new")

    client = FileIdentity(place / "cert.pem", place / "key.pem", place / "roots.pem")
    yaml = upstream(world, port, "no certificate", "own", revocations=False)
    cluster, _, rest = yaml.partition("\n---\n")
    document = json.loads(cluster)
    common = document["transport_socket"]["typed_config"]["common_tls_context"]
    common["validation_context"]["trusted_ca"] = {"filename": str(place / "roots.pem")}
    common["tls_certificate_sds_secret_configs"] = [{"name": "default", "sds_config": {"ads": {}}}]
    both = world.ca.pem + new.pem
    listener = json.loads(server_listener(world, port))
    [chain] = listener["filter_chains"]
    del chain["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]["crl"]
    with (
        mesh_of(tmp_path, json.dumps(listener), world.identity("own")) as mesh,
        GRPC[server](mesh, port),
        mesh_of(tmp_path, f"{json.dumps(document)}\n---\n{rest}", client, "client") as caller,
        caller.channel("peer.test") as channel,
    ):
        call = channel.unary_unary("/test.Echo/Say")
        assert isinstance(answer(call), bytes)
        trust_only(world, both)
        write_identity(place, new.issue(spiffe("peer")), both)
        assert isinstance(answer(call), bytes), "two roots disturb nobody"
        trust_only(world, new.pem + STRANGER.pem)
        eventually(lambda: not isinstance(answer(call), bytes), "the old root is still trusted")
        eventually(lambda: isinstance(answer(call), bytes), "the client does not come again")


class Threaded(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A function that is no coroutine, which grpc.aio runs in a thread."""

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"threaded")


def test_functions_that_grpc_aio_runs_in_threads_are_behind_the_same_trust(world: World, tmp_path: Path) -> None:
    port = one_port()
    with mesh_of(tmp_path, server_listener(world, port), world.identity("own")) as mesh:

        async def calls() -> None:
            server = grpc.aio.server(interceptors=[mesh.aio_server_interceptor(port=port)])
            server.add_generic_rpc_handlers((Threaded(),))
            server.add_secure_port(f"127.0.0.1:{port}", mesh.server_credentials())
            await server.start()
            await asyncio.to_thread(call_both)
            await server.stop(0)

        def call_both() -> None:
            with channel_of(world, port) as channel:
                call = channel.unary_unary("/test.Echo/Say")
                assert call(b"", timeout=PATIENCE) == b"threaded"
                revoke(world, "right")
                eventually(lambda: isinstance(answer(call), grpc.RpcError), "a revoked peer is still let in")
                # Its connection has ended, or is about to; whoever comes again is told why.
                eventually(
                    lambda: answer(call).code() is grpc.StatusCode.PERMISSION_DENIED, "a revoked peer is not told"
                )

        asyncio.run(calls())


def answer(call: Any) -> Any:
    """What came of a call."""
    try:
        return call(b"", timeout=PATIENCE)
    except grpc.RpcError as error:
        return error


def test_gunicorns_answers_to_peers_that_are_trusted_no_more_are_broken_off(world: World, tmp_path: Path) -> None:
    place = world.path("right")
    verify = ssl.create_default_context(cadata=world.ca.pem.decode())
    verify.check_hostname = False
    verify.load_cert_chain(place / "cert.pem", place / "key.pem")
    with by_gunicorn(world, tmp_path) as port, httpx.Client(verify=verify, base_url=f"https://127.0.0.1:{port}") as web:
        assert web.get("/who").text == spiffe("peer")
        with pytest.raises(httpx.TransportError), web.stream("GET", "/held", timeout=PATIENCE) as held:
            for number, _ in enumerate(held.iter_lines()):
                if not number:
                    revoke(world, "right")


LISTS = {
    "none revoked": BETWEEN.revocation_list() + ROOT.revocation_list(),
    "intermediate revoked": BETWEEN.revocation_list() + ROOT.revocation_list(BETWEEN.pem),
    "no list of the root": BETWEEN.revocation_list(),
}


@pytest.fixture
def world_between(tmp_path: Path) -> World:
    """One whose right peer has an intermediate authority above it."""
    (tmp_path / "world").mkdir()
    world = World(tmp_path / "world", ROOT)
    write_identity(world.path("right"), BETWEEN.issue(spiffe("peer")), ROOT.pem)
    (world.folder / "crl.pem").write_bytes(LISTS["none revoked"])
    return world


@pytest.mark.parametrize("server", GRPC)
@pytest.mark.parametrize("lists", LISTS)
def test_grpc_peers_need_every_authority_above_them_to_be_good(
    world_between: World, tmp_path: Path, server: str, lists: str
) -> None:
    port, world = one_port(), world_between
    (world.folder / "crl.pem").write_bytes(LISTS[lists])
    with (
        mesh_of(tmp_path, server_listener(world, port), world.identity("own")) as mesh,
        GRPC[server](mesh, port),
        channel_of(world, port) as channel,
    ):
        got = answer(channel.unary_unary("/test.Echo/Say"))
    if lists == "none revoked":
        assert isinstance(got, bytes)
    else:
        assert got.code() is grpc.StatusCode.PERMISSION_DENIED


def test_gunicorns_peers_need_every_authority_above_them_to_be_good(world_between: World, tmp_path: Path) -> None:
    world, statuses = world_between, {}
    place = world.path("right")
    verify = ssl.create_default_context(cadata=ROOT.pem.decode())
    verify.check_hostname = False
    verify.load_cert_chain(place / "cert.pem", place / "key.pem")
    with by_gunicorn(world, tmp_path) as port:
        for name, lists in LISTS.items():
            (world.folder / "crl.pem").write_bytes(lists)
            try:
                statuses[name] = httpx.get(f"https://127.0.0.1:{port}/who", verify=verify).status_code
            except httpx.TransportError:
                statuses[name] = 0
    assert statuses == {"none revoked": 200, "intermediate revoked": 0, "no list of the root": 0}


def der(*texts: bytes) -> list[bytes]:
    certificates = [one for text in texts for one in x509.load_pem_x509_certificates(text)]
    return [one.public_bytes(Encoding.DER) for one in certificates]


LEAF = BETWEEN.issue(spiffe("peer"))[1]


def forged() -> list[bytes]:
    """A certificate that was signed by a good one that may sign none."""
    key, certificate = ROOT.issue(spiffe("somebody"))
    forger = SpiffeCa()
    forger._key = load_pem_private_key(key, None)  # type: ignore[assignment]
    forger._name = x509.Name([])
    return der(forger.issue(spiffe("admin"))[1], certificate)


@pytest.mark.parametrize(
    ("sent", "roots", "lists", "error"),
    [
        (der(LEAF)[:1], ROOT.pem, b"", "not vouched for by any root"),
        (der(LEAF), STRANGER.pem, b"", "not vouched for by any root"),
        (forged(), ROOT.pem, b"", "not vouched for by any root"),
        (der(LEAF), ROOT.pem, ROOT.revocation_list(ends=-1) + BETWEEN.revocation_list(), "of 'CN=root' has run out"),
        (der(LEAF), ROOT.pem, BETWEEN.revocation_list(), "no revocation list of 'CN=root'"),
        (der(LEAF), ROOT.pem, SpiffeCa("between").revocation_list(), "no revocation list of 'CN=between'"),
        ([], ROOT.pem, b"", "shows no certificate"),
        ([b"junk"], ROOT.pem, b"", "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_peer_is_said(sent: list[bytes], roots: bytes, lists: bytes, error: str) -> None:
    trust = TlsTrust(TlsFile(inline=roots), crl=TlsFile(inline=lists) if lists else None)
    with pytest.raises(PeerIdentityError, match=error):
        check_sent(sent, read_trust(trust))


def test_a_list_of_the_peers_own_issuer_is_enough_where_only_that_is_asked_for() -> None:
    trust = TlsTrust(TlsFile(inline=ROOT.pem), crl=TlsFile(inline=BETWEEN.revocation_list()), crl_of_leaf_only=True)
    check_sent(der(LEAF), read_trust(trust))


@pytest.mark.parametrize(
    ("trust", "field"),
    [
        (TlsTrust(TlsFile(inline=b"junk")), "validation_context.trusted_ca"),
        (TlsTrust(TlsFile(path="/nowhere/roots.pem")), "validation_context.trusted_ca"),
        (TlsTrust(TlsFile(inline=ROOT.pem), crl=TlsFile(inline=b"junk")), "validation_context.crl"),
    ],
)
def test_trust_that_cannot_be_read_names_the_field(trust: TlsTrust, field: str) -> None:
    with pytest.raises(ResourceError, match=field):
        read_trust(trust)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="connections are found on Linux only")
@pytest.mark.parametrize(("address", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_the_connection_of_a_peer_is_ended_and_no_other(address: str, family: socket.AddressFamily) -> None:
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        with socket.create_connection((address, port)) as one, socket.create_connection((address, port)) as other:
            accepted = [server.accept()[0] for _ in range(2)]
            assert not hang_up(address, one.getsockname()[1], port + 1)
            assert not hang_up("junk", one.getsockname()[1], port)
            assert hang_up(address, one.getsockname()[1], port)
            one.settimeout(PATIENCE)
            assert one.recv(1) == b""
            other.sendall(b"x")
            assert {connection.recv(1) for connection in accepted} == {b"", b"x"}
            for connection in accepted:
                connection.close()


@pytest.mark.parametrize("ends", [("", 0), ("127.0.0.1", 4000)], ids=["a unix socket", "TCP"])
def test_each_connection_of_a_refused_peer_is_ended_once(ends: tuple[str, int]) -> None:
    """On a unix socket all peers have the same address, which is none."""
    later: list[Callable[[], object]] = []
    control = SimpleNamespace(call_later=lambda _, what: later.append(what))
    chain = SimpleNamespace(trust=TlsTrust())
    peers = PeerTrust(SimpleNamespace(control=control, policy=SimpleNamespace(chain_of=lambda _: chain)))  # type: ignore[arg-type]

    def refuse(*_: object) -> None:
        raise PeerIdentityError("is nobody")

    peers._judge = refuse  # type: ignore[method-assign]
    certificate = read_peer(x509.load_pem_x509_certificate(ROOT.pem).public_bytes(Encoding.DER))
    ended: list[str] = []
    for number, name in enumerate(("one", "two")):
        # What ends a connection is the connection's own.
        connection = Connection(
            is_tls=True,
            peer=certificate,
            source_ip=ends[0],
            source_port=ends[1] and ends[1] + number,
            hang_up=partial(ended.append, name),
        )
        for _ in range(3):
            assert peers.refusal(connection) is not None
    for end in later:
        end()
    assert ended == ["one", "two"]
    assert not peers._ending
