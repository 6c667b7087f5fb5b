"""TLS towards services: whom a client takes for their servers, and which endpoints speak mutual TLS unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from meshsdk.controlplane.client import Client
from meshsdk.controlplane.folder import load
from meshsdk.controlplane.view import View
from meshsdk.resources import ResourceType
from tests.conftest import destination_rule

HOST = "a.default.svc.cluster.local"
NAME = f"outbound|80||{HOST}"
ISTIO_MUTUAL = "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"
ALIASES = "trustDomainAliases: [old.example, older.example]"


def view_of(folder: Path, *documents: str) -> View:
    (folder / "m.yaml").write_text("".join(documents))
    state = load(folder)
    assert not state.errors
    return state.view(Client())


def entry(account: str = "", marked: str = "") -> str:
    """A service of one server, which listens on 8080."""
    labels = f"app: a{', security.istio.io/tlsMode: ' + marked if marked else ''}"
    of_account = f", serviceAccount: {account}" if account else ""
    return (
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\n"
        f"spec: {{hosts: [{HOST}], resolution: STATIC, location: MESH_INTERNAL,"
        " ports: [{name: http, number: 80, targetPort: 8080, protocol: HTTP}], workloadSelector: {labels: {app: a}}}\n"
        "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: a}\n"
        f"spec: {{address: 10.0.0.1, labels: {{{labels}}}{of_account}}}\n"
    )


def mesh_config(text: str) -> str:
    return (
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
        f"data: {{mesh: '{text}'}}\n"
    )


def peers(spec: str) -> str:
    return (
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\n"
        f"spec: {{selector: {{matchLabels: {{app: a}}}}, {spec}}}\n"
    )


def cluster_of(view: View, profile: str = "grpc") -> cluster_pb2.Cluster:
    packed = getattr(view, profile)[(ResourceType.CLUSTER, NAME)]
    return cluster_pb2.Cluster.FromString(packed)


def context_of(socket: Any) -> tls_pb2.UpstreamTlsContext:
    context = tls_pb2.UpstreamTlsContext()
    assert socket.typed_config.Unpack(context)
    return context


def names(context: tls_pb2.UpstreamTlsContext) -> list[tuple[str, str]]:
    """Conditions on the server's names: how each is compared, and with what."""
    validation = context.common_tls_context.combined_validation_context.default_validation_context
    return [
        (one.WhichOneof("match_pattern"), getattr(one, one.WhichOneof("match_pattern")))
        for one in validation.match_subject_alt_names
    ]


def is_marked(view: View) -> bool:
    """Whether mutual TLS is spoken with the one endpoint."""
    assignment = endpoint_pb2.ClusterLoadAssignment.FromString(view.grpc[(ResourceType.ENDPOINTS, NAME)])
    [endpoint] = [one for group in assignment.endpoints for one in group.lb_endpoints]
    assert endpoint.endpoint.address.socket_address.port_value == 8080
    return "envoy.transport_socket_match" in endpoint.metadata.filter_metadata


def test_servers_of_unknown_accounts_are_anybody_of_the_meshs_trust_domains(tmp_path: Path) -> None:
    """The slash ends the domain: cluster.local.evil is another one."""
    view = view_of(tmp_path, entry(), destination_rule("a", ISTIO_MUTUAL), mesh_config(ALIASES))
    assert names(context_of(cluster_of(view).transport_socket)) == [
        ("prefix", "spiffe://cluster.local/"),
        ("prefix", "spiffe://old.example/"),
        ("prefix", "spiffe://older.example/"),
    ]


def test_servers_prove_their_account_in_the_meshs_trust_domain_or_an_alias_of_it(tmp_path: Path) -> None:
    view = view_of(tmp_path, entry("web"), destination_rule("a", ISTIO_MUTUAL), mesh_config(ALIASES))
    assert names(context_of(cluster_of(view).transport_socket)) == [
        ("exact", "spiffe://cluster.local/ns/default/sa/web"),
        ("exact", "spiffe://old.example/ns/default/sa/web"),
        ("exact", "spiffe://older.example/ns/default/sa/web"),
    ]


def test_a_rule_names_servers_in_place_of_their_accounts(tmp_path: Path) -> None:
    rule = destination_rule("a", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: [spiffe://x/y]}}")
    view = view_of(tmp_path, entry("web"), rule)
    assert names(context_of(cluster_of(view).transport_socket)) == [("exact", "spiffe://x/y")]


@pytest.mark.parametrize(
    ("account", "wanted"),
    [
        ("web", ("exact", "spiffe://cluster.local/ns/default/sa/web")),
        ("", ("prefix", "spiffe://cluster.local/")),
    ],
)
def test_grpc_core_compares_the_same_names_beside_what_its_providers_have(
    tmp_path: Path, account: str, wanted: tuple[str, str]
) -> None:
    view = view_of(tmp_path, entry(account), destination_rule("a", ISTIO_MUTUAL))
    common = context_of(cluster_of(view, "grpc_core").transport_socket).common_tls_context
    assert common.tls_certificate_provider_instance.instance_name == "default"
    assert not common.tls_certificate_sds_secret_configs
    validation = common.validation_context
    assert validation.ca_certificate_provider_instance.instance_name == "default"
    [matcher] = validation.match_subject_alt_names
    assert (matcher.WhichOneof("match_pattern"), getattr(matcher, wanted[0])) == wanted
    assert not common.alpn_protocols
    assert not common.HasField("tls_params")


def test_grpc_core_keeps_the_roots_and_names_of_servers_outside_the_mesh(tmp_path: Path) -> None:
    rule = destination_rule("a", "trafficPolicy: {tls: {mode: SIMPLE, sni: x.example}}")
    context = context_of(cluster_of(view_of(tmp_path, entry(), rule), "grpc_core").transport_socket)
    common = context.common_tls_context
    assert context.sni == "x.example"
    assert not common.HasField("tls_certificate_provider_instance")
    assert common.validation_context.HasField("system_root_certs")
    assert [one.exact for one in common.validation_context.match_subject_alt_names] == ["x.example"]


def test_endpoints_that_say_so_speak_mutual_tls_and_prove_their_account(tmp_path: Path) -> None:
    view = view_of(tmp_path, entry("web", marked="istio"))
    assert is_marked(view)
    mutual, plain = cluster_of(view).transport_socket_matches
    assert mutual.match["tlsMode"] == "istio"
    assert names(context_of(mutual.transport_socket)) == [("exact", "spiffe://cluster.local/ns/default/sa/web")]
    assert plain.transport_socket.name.endswith("raw_buffer")


@pytest.mark.parametrize(("account", "marked"), [("", ""), ("web", "disabled")])
def test_endpoints_that_do_not_say_so_are_spoken_to_in_plaintext(tmp_path: Path, account: str, marked: str) -> None:
    view = view_of(tmp_path, entry(account, marked))
    assert not is_marked(view)
    assert not cluster_of(view).transport_socket_matches


def test_a_mesh_may_switch_off_mutual_tls_that_nobody_asked_for(tmp_path: Path) -> None:
    view = view_of(tmp_path, entry("web", marked="istio"), mesh_config("enableAutoMtls: false"))
    assert not is_marked(view)
    assert not cluster_of(view).transport_socket_matches


@pytest.mark.parametrize(
    ("spec", "marked"),
    [
        ("mtls: {mode: DISABLE}", False),
        ("mtls: {mode: DISABLE}, portLevelMtls: {8080: {mode: PERMISSIVE}}", True),
        ("portLevelMtls: {8080: {mode: DISABLE}}", False),
        ("portLevelMtls: {80: {mode: DISABLE}}", True),
    ],
)
def test_what_servers_say_of_the_port_that_they_listen_on_decides(tmp_path: Path, spec: str, marked: bool) -> None:
    """Not of the service's port, which is 80."""
    assert is_marked(view_of(tmp_path, entry("web", marked="istio"), peers(spec))) is marked


@pytest.mark.parametrize(("tls", "marked"), [("", False), ("tls: {mode: ISTIO_MUTUAL}, ", True)])
def test_a_rule_that_asks_for_mutual_tls_is_heeded_though_servers_switch_it_off(
    tmp_path: Path, tls: str, marked: bool
) -> None:
    """Settings of the port hide what the rule says from the cluster, but not from the marks (mtls_checker.go)."""
    ports = "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]"
    rule = destination_rule("a", f"trafficPolicy: {{{tls}{ports}}}")
    view = view_of(tmp_path, entry("web", marked="istio"), peers("mtls: {mode: DISABLE}"), rule)
    assert is_marked(view) is marked
