"""SDS as a client: certificates and trust that management servers and files deliver, and that nobody gets to see."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2
from google.protobuf import json_format

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.controlplane.server import ControlPlaneServer
from meshsdk.errors import ResourceError
from meshsdk.identities import DevelopmentIdentity
from meshsdk.resources import ResourceType, Secret, decode, kept_bytes
from meshsdk.security import Secrets
from tests.loops import LOOPS, make_loop

from ..ads import AdsServer
from ..certificates import SpiffeCa, spiffe
from ..grpc.xds import cluster, endpoints, listener
from ..grpc_client import SyncClient
from ..grpc_server import GrpcServer
from ..patience import PATIENCE, eventually
from ..processes import free_ports
from ..server.running import serving
from .test_grfc_fallback import requests_without_end
from .test_grfc_rules import OPEN, PREFIX, hello, server_listener
from .test_other_sources import from_file, google, replace, response

TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
ADS = {"ads": {}, "resource_api_version": "V3"}
ROUTE = {"match": {"prefix": "/"}, "route": {"cluster": "c"}}


class TlsServer:
    """Asks for certificates, and answers with the name in the one that it is shown.

    Attributes:
        trusts: Roots of its clients, as PEM.
        identity: Key and chain that it shows.
    """

    def __init__(self, trusts: bytes, identity: tuple[bytes, bytes], folder: Path) -> None:
        self.trusts = trusts
        self.identity = identity
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                self.request = outer._secured(self.request, folder)
                super().setup()

            def do_GET(self) -> None:
                names = self.connection.getpeercert()["subjectAltName"]  # type: ignore[attr-defined]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.send_header("x-served-by", names[0][1])
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _secured(self, request: Any, folder: Path) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.trusts.decode())
        path = folder / f"server-{threading.get_ident()}.pem"
        path.write_bytes(b"".join(self.identity))
        context.load_cert_chain(path)
        return context.wrap_socket(request, server_side=True)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def certificate(name: str, pair: tuple[bytes, bytes]) -> dict[str, Any]:
    key, chain = (text.decode() for text in pair)
    pem = {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}
    return {"@type": f"{TLS}.Secret", "name": name, "tls_certificate": pem}


def trust(name: str, *authorities: SpiffeCa, **more: Any) -> dict[str, Any]:
    roots = {"inline_string": "".join(one.pem.decode() for one in authorities)}
    return {"@type": f"{TLS}.Secret", "name": name, "validation_context": {"trusted_ca": roots, **more}}


def must_be(uri: str) -> list[dict[str, Any]]:
    return [{"san_type": "URI", "matcher": {"exact": uri}}]


def secured(mine: dict[str, Any] | None, theirs: dict[str, Any] | None, peer: str = spiffe("shop")) -> dict[str, Any]:
    """A cluster whose TLS settings name secrets of some source."""
    common: dict[str, Any] = {"tls_certificate_sds_secret_configs": [{"name": "mine", "sds_config": mine or ADS}]}
    common["combined_validation_context"] = {
        "default_validation_context": {"match_typed_subject_alt_names": must_be(peer)},
        "validation_context_sds_secret_config": {"name": "theirs", "sds_config": theirs or ADS},
    }
    context = {"@type": f"{TLS}.UpstreamTlsContext", "common_tls_context": common}
    return cluster("c", transport_socket={"name": "envoy.transport_sockets.tls", "typed_config": context})


class World:
    """A management server, a server with TLS, and the secrets that one needs of the other."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.ca, self.next_ca = SpiffeCa("first"), SpiffeCa("second")
        self.pair = self.ca.issue(spiffe("a"))
        self.server = TlsServer(self.ca.pem + self.next_ca.pem, self.ca.issue(spiffe("shop")), folder)
        stack.callback(self.server.close)
        self.ads = stack.enter_context(AdsServer())
        self.cluster = secured(None, None)
        self.mesh = stack.enter_context(meshsdk.Mesh(bootstrap=self.ads.bootstrap))
        self.client = stack.enter_context(self.mesh.client(timeout=PATIENCE))

    def publish(self, *secrets: dict[str, Any]) -> None:
        self.ads.publish(listener("shop", [ROUTE]), self.cluster, endpoints("c", [[self.server.port]]), *secrets)

    def publish_secrets(self, *authorities: SpiffeCa) -> None:
        self.publish(certificate("mine", self.pair), trust("theirs", *(authorities or [self.ca])))


@pytest.fixture
def world(stack: ExitStack, tmp_path: Path) -> World:
    return World(stack, tmp_path)


def test_certificate_and_trust_come_over_ads(world: World) -> None:
    world.publish_secrets()
    assert world.client.get("http://shop").headers["x-served-by"] == spiffe("a")
    assert world.ads.names(ResourceType.SECRET) == {"mine", "theirs"}


@pytest.mark.parametrize("loop", LOOPS)
def test_they_do_for_async_clients(loop: str, world: World) -> None:
    world.publish_secrets()

    async def ask() -> str:
        async with world.mesh.async_client(timeout=PATIENCE) as client:
            return str((await client.get("http://shop")).headers["x-served-by"])

    with asyncio.Runner(loop_factory=make_loop(loop)) as runner:
        assert runner.run(ask()) == spiffe("a")


def test_a_cluster_waits_for_its_secrets(world: World) -> None:
    world.publish()
    told: list[Any] = []
    thread = threading.Thread(target=lambda: told.append(world.client.get("http://shop").headers["x-served-by"]))
    thread.start()
    eventually(lambda: world.ads.names(ResourceType.SECRET) == {"mine", "theirs"})
    assert not told
    world.publish_secrets()
    thread.join(PATIENCE)
    assert told == [spiffe("a")]


def test_both_are_rotated_and_no_request_fails(world: World) -> None:
    world.publish_secrets()
    with requests_without_end(world.client, "http://shop") as told:
        eventually(lambda: told)
        world.publish_secrets(world.ca, world.next_ca)
        world.pair = world.next_ca.issue(spiffe("b"))
        world.publish_secrets(world.ca, world.next_ca)
        eventually(lambda: told[-1] == spiffe("b"))
        world.server.identity = world.next_ca.issue(spiffe("shop"))
        world.server.trusts = world.next_ca.pem
        world.publish_secrets(world.next_ca)
        seen = len(told)
        eventually(lambda: len(told) > seen + 20)
    assert set(told) == {spiffe("a"), spiffe("b")}


def test_trust_that_changes_counts_for_new_connections(world: World) -> None:
    world.publish_secrets()
    assert world.client.get("http://shop").is_success
    world.publish_secrets(SpiffeCa("another"))

    def is_refused() -> bool:
        try:
            return not world.client.get("http://shop", headers={"connection": "close"}).is_success
        except httpx.ConnectError:
            return True

    eventually(is_refused)


def test_a_secret_adds_to_the_names_that_its_settings_ask_for(world: World) -> None:
    # Envoy merges the two, and one of all the matchers must match.
    world.cluster = secured(None, None, spiffe("somebody else"))
    names = must_be(spiffe("shop"))
    world.publish(certificate("mine", world.pair), trust("theirs", world.ca, match_typed_subject_alt_names=names))
    assert world.client.get("http://shop").headers["x-served-by"] == spiffe("a")


def test_the_peer_is_held_to_the_names_of_the_settings(world: World) -> None:
    world.cluster = secured(None, None, spiffe("somebody else"))
    world.publish_secrets()
    with pytest.raises(meshsdk.PeerIdentityError, match="somebody else"):
        world.client.get("http://shop")


@pytest.mark.parametrize("lacks", ["mine", "theirs"])
def test_without_a_secret_nothing_is_sent_and_it_is_told_which(
    lacks: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshsdk.xds.connection.DOES_NOT_EXIST_SECONDS", 0.3)
    world.mesh.close()
    secrets = [certificate("mine", world.pair), trust("theirs", world.ca)]
    world.publish(*(one for one in secrets if one["name"] != lacks))
    with (
        meshsdk.Mesh(bootstrap=world.ads.bootstrap, local_replies="raise") as mesh,
        mesh.client(timeout=PATIENCE) as client,
        pytest.raises(httpx.HTTPError) as raised,
    ):
        client.get("http://shop")
    assert f"secret '{lacks}'" in str(raised.value)


def files_of(world: World, folder: Path) -> tuple[Path, Path]:
    mine, theirs = folder / "mine.yaml", folder / "theirs.json"
    replace(mine, json.dumps(response(certificate("mine", world.pair))))
    replace(theirs, json.dumps(response(trust("theirs", world.ca))))
    return mine, theirs


def test_they_come_from_files_and_are_rotated_there(world: World, tmp_path: Path) -> None:
    mine, theirs = files_of(world, tmp_path)
    world.cluster = secured(from_file(mine), from_file(theirs))
    world.publish()
    with requests_without_end(world.client, "http://shop") as told:
        eventually(lambda: told)
        replace(mine, json.dumps(response(certificate("mine", world.ca.issue(spiffe("b"))))))
        eventually(lambda: told[-1] == spiffe("b"))
    assert set(told) == {spiffe("a"), spiffe("b")}
    assert not world.ads.names(ResourceType.SECRET)


def test_a_secret_may_name_files_of_its_own(world: World, tmp_path: Path) -> None:
    def write(pair: tuple[bytes, bytes]) -> None:
        for name, text in zip(("key.pem", "cert.pem"), pair, strict=True):
            replace(tmp_path / name, text)

    write(world.pair)
    named = certificate("mine", world.pair)
    named["tls_certificate"] = {
        "certificate_chain": {"filename": str(tmp_path / "cert.pem")},
        "private_key": {"filename": str(tmp_path / "key.pem")},
    }
    world.publish(named, trust("theirs", world.ca))
    assert world.client.get("http://shop").headers["x-served-by"] == spiffe("a")
    write(world.ca.issue(spiffe("b")))
    eventually(lambda: world.client.get("http://shop").headers["x-served-by"] == spiffe("b"))


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
def test_they_come_from_a_server_of_their_own(api_type: str, world: World, stack: ExitStack) -> None:
    own = stack.enter_context(AdsServer(certificate("mine", world.pair), trust("theirs", world.ca)))
    world.cluster = secured(google(own, api_type), google(own, api_type))
    world.publish()
    assert world.client.get("http://shop").headers["x-served-by"] == spiffe("a")
    own.publish(certificate("mine", world.ca.issue(spiffe("b"))), trust("theirs", world.ca))
    eventually(lambda: world.client.get("http://shop").headers["x-served-by"] == spiffe("b"))
    assert not world.ads.names(ResourceType.SECRET)


def test_a_secret_that_is_bad_is_refused_and_the_last_good_one_stays(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.publish_secrets()
    assert world.client.get("http://shop").is_success
    bad = {"@type": f"{TLS}.Secret", "name": "mine", "generic_secret": {"secret": {"inline_string": "hunter2"}}}
    world.publish(bad, trust("theirs", world.ca))
    eventually(lambda: any(one.HasField("error_detail") for one in world.ads.requests))
    [refusal] = {one.error_detail.message for one in world.ads.requests if one.HasField("error_detail")}
    assert refusal == "mine: Secret.generic_secret: must be a tls_certificate or a validation_context"
    assert world.client.get("http://shop", headers={"connection": "close"}).headers["x-served-by"] == spiffe("a")
    assert "hunter2" not in caplog.text


def test_nothing_secret_is_shown_anywhere(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    world.publish_secrets()
    assert world.client.get("http://shop").is_success
    world.pair = world.ca.issue(spiffe("b"))
    world.publish_secrets()
    eventually(lambda: world.client.get("http://shop").headers["x-served-by"] == spiffe("b"))
    cache = world.mesh._runtime.cache
    kept = [entry.packed for kind, _, entry in cache if kind is ResourceType.SECRET]
    shown = f"{world.mesh.status()} {list(cache)} {caplog.text} {kept}"
    assert len(kept) == 2
    assert b"[redacted]" in b"".join(kept)
    # What nobody need hide is there.
    assert b"BEGIN CERTIFICATE" in b"".join(kept)
    key = world.pair[0].decode().splitlines()[1]
    assert key not in shown
    assert "PRIVATE KEY" not in shown


def test_what_is_kept_of_secrets_holds_none() -> None:
    for fields in (
        {"tls_certificate": {"private_key": {"inline_string": "hunter2"}, "certificate_chain": {"filename": "x"}}},
        {"tls_certificate": {"password": {"inline_bytes": "aHVudGVyMg=="}}},
        {"tls_certificate": {"pkcs12": {"inline_string": "hunter2"}}},
        {"session_ticket_keys": {"keys": [{"inline_string": "hunter2"}]}},
        {"generic_secret": {"secret": {"inline_string": "hunter2"}}},
    ):
        message = json_format.ParseDict({"name": "x", **fields}, secret_pb2.Secret())
        kept = kept_bytes(ResourceType.SECRET, message.SerializeToString())
        assert b"hunter2" not in kept
        assert secret_pb2.Secret.FromString(kept).name == "x"
    secret = decode(ResourceType.SECRET, secret_pb2.Secret(name="x", validation_context=_roots()).SerializeToString())
    assert repr(secret) == "Secret('x')"


def _roots() -> Any:
    return common_pb2.CertificateValidationContext(trusted_ca=base_pb2.DataSource(inline_string="PEM"))


def test_a_secret_of_the_wrong_kind_is_told_by_its_name() -> None:
    secrets = Secrets(find_delivered=lambda name: (Secret(name), ""))
    data = {key: value for key, value in secured(None, None).items() if key != "@type"}
    made = decode(ResourceType.CLUSTER, json_format.ParseDict(data, cluster_pb2.Cluster()).SerializeToString())
    assert made.secret_names == {"mine", "theirs"}
    with pytest.raises(ResourceError, match="secret 'mine': is no certificate"):
        secrets.of_client(made.tls)


def test_a_server_shows_and_asks_for_what_is_delivered_and_rotates_it(stack: ExitStack, tmp_path: Path) -> None:
    ca, next_ca = SpiffeCa("first"), SpiffeCa("second")
    [port] = free_ports(1)
    common = {
        "tls_certificate_sds_secret_configs": [{"name": "mine", "sds_config": ADS}],
        "validation_context_sds_secret_config": {"name": "theirs", "sds_config": ADS},
    }
    context = {
        "@type": f"{TLS}.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": common,
    }
    whole = server_listener(f"{PREFIX}127.0.0.1:{port}", port, [OPEN])
    whole["filter_chains"][0]["transport_socket"] = {"name": "tls", "typed_config": context}
    ads = stack.enter_context(AdsServer(whole))
    document = {**ads.bootstrap, "server_listener_resource_name_template": f"{PREFIX}%s"}
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=document))

    def publish(pair: tuple[bytes, bytes], trusted: SpiffeCa) -> None:
        ads.publish(whole, certificate("mine", pair), trust("theirs", trusted))

    def ask(caller: tuple[bytes, bytes], roots: SpiffeCa) -> bool:
        context = ssl.create_default_context(cadata=roots.pem.decode())
        context.check_hostname = False
        (tmp_path / "caller.pem").write_bytes(b"".join(caller))
        context.load_cert_chain(tmp_path / "caller.pem")
        try:
            return httpx.get(f"https://127.0.0.1:{port}/", verify=context).is_success
        except httpx.HTTPError:
            return False

    publish(ca.issue(spiffe("web")), ca)
    stack.enter_context(serving(hello, mesh, port))
    friend, stranger = ca.issue(spiffe("friend")), next_ca.issue(spiffe("stranger"))
    assert ask(friend, ca)
    assert not ask(stranger, ca)
    publish(next_ca.issue(spiffe("web")), next_ca)
    eventually(lambda: ask(stranger, next_ca))
    assert not ask(friend, next_ca)


def test_channels_use_what_is_delivered(stack: ExitStack) -> None:
    ca = SpiffeCa()
    key, chain = ca.issue(spiffe("shop"))
    secured_server = grpc.ssl_server_credentials([(key, chain)], ca.pem, require_client_auth=True)
    server = stack.enter_context(GrpcServer("mine", secured_server))
    options = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    made = {**secured(None, None), "typed_extension_protocol_options": options}
    resources = [listener("shop", [ROUTE]), made, endpoints("c", [[server.port]])]
    ads = stack.enter_context(AdsServer(*resources, certificate("mine", ca.issue(spiffe("a"))), trust("theirs", ca)))
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap=ads.bootstrap))
    client = SyncClient(mesh, "shop")
    stack.callback(client.channel.close)
    assert client.call()["name"] == "mine"


def test_our_own_control_plane_delivers_over_a_unix_socket(stack: ExitStack, tmp_path: Path) -> None:
    """By the names that SPIRE has: a SPIFFE ID, and its trust domain."""
    (tmp_path / "mesh").mkdir()
    control_plane = ControlPlaneServer(Folder(tmp_path / "mesh"), f"unix:{tmp_path / 'socket'}")
    control_plane.start()
    stack.callback(control_plane.stop)
    target = {"google_grpc": {"target_uri": f"unix:{tmp_path / 'socket'}", "stat_prefix": "x"}}
    source = {"api_config_source": {"api_type": "DELTA_GRPC", "grpc_services": [target]}}
    shop = DevelopmentIdentity(tmp_path / "mesh", spiffe("shop"))
    stack.callback(shop.close)
    pair = shop.credentials()
    server = TlsServer(pair.roots, (pair.private_key, pair.certificate), tmp_path)
    stack.callback(server.close)
    made = secured(source, source)
    common = made["transport_socket"]["typed_config"]["common_tls_context"]
    common["tls_certificate_sds_secret_configs"][0]["name"] = spiffe("a")
    common["combined_validation_context"]["validation_context_sds_secret_config"]["name"] = "spiffe://cluster.local"
    ads = stack.enter_context(AdsServer(listener("shop", [ROUTE]), made, endpoints("c", [[server.port]])))
    node = {"id": "x", "metadata": {"NAMESPACE": "default", "SERVICE_ACCOUNT": "a"}}
    mesh = stack.enter_context(meshsdk.Mesh(bootstrap={**ads.bootstrap, "node": node}))
    client = stack.enter_context(mesh.client(timeout=PATIENCE))
    assert client.get("http://shop").headers["x-served-by"] == spiffe("a")
