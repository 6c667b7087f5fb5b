"""The embedded control plane gives secrets: to the real Envoy, over ADS, and to meshsdk's own processes."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.secret.v3 import sds_pb2_grpc

import meshsdk
from meshsdk.controlplane import Folder
from meshsdk.controlplane.server import ControlPlaneServer
from meshsdk.identities import SdsIdentity
from meshsdk.identities import secrets as secrets_module
from meshsdk.identities.secrets import DevelopmentSecrets
from meshsdk.xds.server_session import SECRET
from tests.certificates import spiffe
from tests.conftest import destination_rule, service
from tests.patience import PATIENCE
from tests.processes import envoy, free_ports
from tests.server.running import answers, peer_authentication, policy, serving
from tests.servers import EchoServer

MakeServer = Callable[[str, str], ControlPlaneServer]


@pytest.fixture
def make_server(tmp_path: Path, stack: ExitStack) -> MakeServer:
    def make(yaml: str, address: str = "") -> ControlPlaneServer:
        folder = tmp_path / "mesh"
        folder.mkdir(exist_ok=True)
        (folder / "mesh.yaml").write_text(yaml)
        server = ControlPlaneServer(Folder(folder), address or f"unix:{tmp_path / 'socket'}")
        server.start()
        stack.callback(server.stop)
        return server

    return make


def of_ads(socket: Path, api_type: str, account: str, **static: Any) -> dict[str, Any]:
    """An Envoy of a workload of ours, which asks for all that it has over a unix socket."""
    source = {"ads": {}, "resource_api_version": "V3"}
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {
        options: {
            "@type": f"type.googleapis.com/{options}",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}
    xds = {
        "name": "xds",
        "type": "STATIC",
        "typed_extension_protocol_options": http2,
        "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    ads = {
        "api_type": api_type,
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
    }
    dynamic = {"ads_config": ads} | ({} if static else {"lds_config": source, "cds_config": source})
    clusters = [xds, *static.pop("clusters", ())]
    metadata = {"NAMESPACE": "default", "SERVICE_ACCOUNT": account}
    return {
        "node": {"id": f"envoy-{account}", "cluster": "test", "metadata": metadata},
        "dynamic_resources": dynamic,
        "static_resources": {"clusters": clusters, **static},
    }


ONLY_FRIENDS = "{action: ALLOW, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/friend]}}]}]}"


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
def test_an_envoy_speaks_mutual_tls_with_what_it_is_given(
    make_server: MakeServer, tmp_path: Path, stack: ExitStack, api_type: str
) -> None:
    port, door = free_ports(2)
    yaml = service("a", port, port=door) + destination_rule("a", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}")
    make_server(yaml + peer_authentication("STRICT") + policy(ONLY_FRIENDS), "")
    mesh = stack.enter_context(meshsdk.Mesh(config=tmp_path / "mesh", identity=spiffe("a")))
    stack.enter_context(serving(answers, mesh, port))
    for account, status in (("friend", 200), ("stranger", 403)):
        with envoy(of_ads(tmp_path / "socket", api_type, account), [door], tmp_path):
            answer = httpx.get(f"http://127.0.0.1:{door}/", headers={"host": "a"}, timeout=PATIENCE)
            assert answer.status_code == status, answer.text


def behind_mutual_tls(port: int, application: int) -> dict[str, Any]:
    """A listener that asks for its certificate and roots by name, and what it leads to."""
    source = {"ads": {}, "resource_api_version": "V3"}
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": source}],
            "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": source},
        },
    }
    extensions = "type.googleapis.com/envoy.extensions.filters"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "application"}}
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "forward_client_cert_details": "APPEND_FORWARD",
        "set_current_client_cert_details": {"uri": True},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{extensions}.http.router.v3.Router"}}],
    }
    chain = {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "filters": [{"name": "manager", "typed_config": manager}],
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    to = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": application}}}}
    endpoints = [{"lb_endpoints": [to]}]
    cluster = {"name": "application", "load_assignment": {"cluster_name": "application", "endpoints": endpoints}}
    return {"listeners": [{"name": "in", "address": address, "filter_chains": [chain]}], "clusters": [cluster]}


def test_meshsdk_and_an_envoy_trust_each_other_by_it(make_server: MakeServer, tmp_path: Path, stack: ExitStack) -> None:
    application, [port] = stack.enter_context(EchoServer("a")), free_ports(1)
    yaml = service("a", port) + destination_rule("a", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}")
    make_server(yaml, "")
    socket = tmp_path / "socket"
    stack.enter_context(envoy(of_ads(socket, "GRPC", "a", **behind_mutual_tls(port, application.port)), [], tmp_path))
    bootstrap = {
        "xds_servers": [{"server_uri": f"unix:{socket}", "channel_creds": [{"type": "insecure"}]}],
        "node": {"id": "client"},
        "certificate_providers": {
            "default": {
                "plugin_name": "meshsdk.sds",
                "config": {"socket": str(socket), "certificate_name": spiffe("web")},
            }
        },
    }
    with meshsdk.Mesh(bootstrap=bootstrap) as mesh, mesh.client(timeout=PATIENCE) as client:
        # The listener is there when its secrets are.
        transport = httpx.HTTPTransport(retries=20)
        with httpx.Client(transport=transport) as plain, pytest.raises(httpx.TransportError):
            plain.get(f"http://127.0.0.1:{port}/")
        answer = client.get("http://a/")
    assert spiffe("web") in answer.json()["headers"]["x-forwarded-client-cert"]


def ask(target: str, *names: str) -> Iterator[secret_pb2.Secret]:
    with grpc.insecure_channel(target) as channel:
        request = discovery_pb2.DiscoveryRequest(type_url=SECRET.type_url, resource_names=names)
        for response in sds_pb2_grpc.SecretDiscoveryServiceStub(channel).StreamSecrets(iter([request])):
            yield from (secret_pb2.Secret.FromString(one.value) for one in response.resources)


def ask_incrementally(target: str, *names: str) -> Iterator[secret_pb2.Secret]:
    with grpc.insecure_channel(target) as channel:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=SECRET.type_url, resource_names_subscribe=names)
        for response in sds_pb2_grpc.SecretDiscoveryServiceStub(channel).DeltaSecrets(iter([request])):
            yield from (secret_pb2.Secret.FromString(one.resource.value) for one in response.resources)


def test_both_variants_of_the_service_give_the_same_certificate(make_server: MakeServer, tmp_path: Path) -> None:
    make_server("", "")
    target = f"unix:{tmp_path / 'socket'}"
    found = next(ask_incrementally(target, spiffe("web")))
    assert found.name == spiffe("web")
    assert found == next(ask(target, spiffe("web")))


@pytest.mark.parametrize("variant", [ask, ask_incrementally])
def test_over_tcp_secrets_are_refused_with_what_to_do(
    make_server: MakeServer, stack: ExitStack, caplog: pytest.LogCaptureFixture, variant: Any
) -> None:
    server = make_server("", "127.0.0.1:0")
    with pytest.raises(grpc.RpcError) as refused:
        next(variant(f"127.0.0.1:{server.port}", "default"))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "--socket PATH" in refused.value.details()
    # Among other resources they are not given either, and the server says it of each client once.
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.port}"))
    stream = channel.stream_stream(
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
        response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
    )
    of_secrets = discovery_pb2.DiscoveryRequest(type_url=SECRET.type_url, resource_names=["default"])
    of_secrets.node.id = "an-envoy"
    of_clusters = discovery_pb2.DiscoveryRequest(
        type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster", resource_names=[]
    )
    with caplog.at_level(logging.ERROR):
        answers = stream(iter([of_secrets, of_secrets, of_clusters]))
        assert next(answers).type_url == of_clusters.type_url
        answers.cancel()
    assert len([one for one in caplog.messages if "an-envoy asks for secrets" in one]) == 1


def test_the_socket_is_this_users_alone(make_server: MakeServer, tmp_path: Path) -> None:
    make_server("", "")
    assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o600


def test_it_is_from_the_moment_it_is_bound(
    make_server: MakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        "meshsdk.controlplane.server.make_private",
        lambda address: seen.append(stat.S_IMODE((tmp_path / "socket").stat().st_mode)),
    )
    before = os.umask(0)
    try:
        make_server("", "")
        assert os.umask(0) == 0, "the mask is put back"
    finally:
        os.umask(before)
    assert seen[0] & 0o077 == 0


def test_names_are_the_agents_and_those_of_spiffe(make_server: MakeServer, tmp_path: Path) -> None:
    make_server("", "")
    target = f"unix:{tmp_path / 'socket'}"
    names = ("default", "ROOTCA", spiffe("web"), "spiffe://cluster.local")
    odd = (
        "kubernetes://key",
        "file-cert:/etc/passwd~/etc/passwd",
        "",
        "spiffe://a/../b",
        "spiffe://a/b?",
        "spiffe://x",
    )
    found = {
        one.name: one for one, _ in zip(ask(target, *names, *odd, f"spiffe://a/{'a' * 5000}"), names, strict=False)
    }
    assert found.keys() == set(names)
    assert found["ROOTCA"].validation_context == found["spiffe://cluster.local"].validation_context
    for name, spiffe_id in (("default", spiffe("default")), (spiffe("web"), spiffe("web"))):
        certificate = x509.load_pem_x509_certificate(found[name].tls_certificate.certificate_chain.inline_bytes)
        names_of = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names_of.get_values_for_type(x509.UniformResourceIdentifier) == [spiffe_id]


def test_certificates_are_made_anew_in_the_middle_of_their_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    source = DevelopmentSecrets(tmp_path)
    stack.callback(source.close)
    before = source.find("default", spiffe("web"))
    assert not source.renew()
    assert source.find("default", spiffe("web")) == before
    issued = next(iter(source._issued.values()))
    middle = issued.issued_at + (issued.expires_at - issued.issued_at) * 0.5
    monkeypatch.setattr(secrets_module.time, "time", lambda: middle)
    assert source.renew()
    assert source.find("default", spiffe("web")) != before


def test_what_is_renewed_is_pushed(
    make_server: MakeServer, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_server("", "")
    who = SdsIdentity(tmp_path / "socket", certificate_name=spiffe("web"))
    stack.callback(who.close)
    first = who.credentials()
    assert first.spiffe_id == spiffe("web")
    middle = first.issued_at + (first.expires_at - first.issued_at) * 0.5
    monkeypatch.setattr(secrets_module.time, "time", lambda: middle)
    deadline = time.monotonic() + PATIENCE
    while who.credentials() == first:
        assert time.monotonic() < deadline
        time.sleep(0.02)
