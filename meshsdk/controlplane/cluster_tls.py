"""TLS towards a service, as istiod has it (istio/istio pilot/pkg/networking/core/cluster_tls.go)."""

from __future__ import annotations

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import any_pb2

from .security_world import MeshConfig
from .traffic_policy import ClientTls, TlsMode
from .world import Service

__all__ = ["HTTP_OPTIONS", "apply_tls", "match_tls", "mutual_tls", "with_providers"]

# Of certificates, in the bootstraps of gRPC's xDS clients in Istio.
_PROVIDER = "default"

HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def match_tls(cluster: cluster_pb2.Cluster, context: tls_pb2.UpstreamTlsContext) -> None:
    """TLS for the endpoints that are marked, plaintext for the others (pilot/pkg/networking/core/cluster_tls.go)."""
    mutual = cluster.transport_socket_matches.add(name="tlsMode-istio")
    mutual.match["tlsMode"] = "istio"
    mutual.transport_socket.name = "envoy.transport_sockets.tls"
    mutual.transport_socket.typed_config.Pack(context)
    plain = cluster.transport_socket_matches.add(name="tlsMode-disabled")
    plain.match.SetInParent()
    plain.transport_socket.name = "envoy.transport_sockets.raw_buffer"
    plain.transport_socket.typed_config.Pack(raw_buffer_pb2.RawBuffer())


def apply_tls(cluster: cluster_pb2.Cluster, tls: ClientTls, service: Service, mesh: MeshConfig) -> None:
    if tls.mode is TlsMode.DISABLE:
        return
    if tls.mode is TlsMode.ISTIO_MUTUAL:
        _set_tls(cluster, mutual_tls(cluster, tls, service, mesh))
        return
    # istiod has Envoy ask for the host of each request (auto_sni), which is the service's; or for nothing.
    context = _tls_context(tls.sni or service.host)
    common = context.common_tls_context
    if _speaks_http2(cluster):
        common.alpn_protocols.append("h2")
    validation = common.validation_context
    if tls.ca_certificates and tls.ca_certificates != "system":
        validation.trusted_ca.filename = tls.ca_certificates
    else:
        # ClientTLSSettings.caCertificates: the system's roots where none are named.
        validation.system_root_certs.SetInParent()
    names = tls.subject_alt_names or (_server_names(service, mesh) if service.is_entry else ())
    # istiod wants no name where only sni is set, and any certificate of such an authority would do.
    for name in names or (context.sni,):
        validation.match_subject_alt_names.add(exact=name)
    if tls.mode is TlsMode.MUTUAL:
        certificate = common.tls_certificates.add()
        certificate.certificate_chain.filename = tls.client_certificate
        certificate.private_key.filename = tls.private_key
    _set_tls(cluster, context)


def _tls_context(sni: str) -> tls_pb2.UpstreamTlsContext:
    context = tls_pb2.UpstreamTlsContext(sni=sni)
    # cluster_tls.go, defaultUpstreamCommonTLSContext
    params = context.common_tls_context.tls_params
    params.tls_minimum_protocol_version = common_pb2.TlsParameters.TLSv1_2
    params.tls_maximum_protocol_version = common_pb2.TlsParameters.TLSv1_3
    return context


def _server_names(service: Service, mesh: MeshConfig) -> tuple[str, ...]:
    """Names of a service's servers (pilot/pkg/model/push_context.go, ServiceAccounts)."""
    accounts = {entry.service_account for entries in service.endpoints.values() for entry in entries}
    domains = (mesh.trust_domain, *mesh.trust_domain_aliases)
    of_endpoints = {
        f"spiffe://{domain}/ns/{service.namespace}/sa/{account}"
        for account in accounts
        if account
        for domain in domains
    }
    return tuple(sorted({*service.subject_alt_names, *of_endpoints}))


def mutual_tls(
    cluster: cluster_pb2.Cluster, tls: ClientTls, service: Service, mesh: MeshConfig
) -> tls_pb2.UpstreamTlsContext:
    """Mutual TLS by mesh identities, as istiod has it (pilot/pkg/networking/core/cluster_tls.go)."""
    # Istio's SNI: outbound_.9080_._.reviews.default.svc.cluster.local
    context = _tls_context(tls.sni or "_.".join(cluster.name.split("|")))
    common = context.common_tls_context
    # By these names a sidecar in PERMISSIVE knows mutual TLS of the mesh.
    common.alpn_protocols.extend(["istio-peer-exchange", "istio", *(["h2"] if _speaks_http2(cluster) else [])])
    combined = common.combined_validation_context
    combined.validation_context_sds_secret_config.name = "ROOTCA"
    own = common.tls_certificate_sds_secret_configs.add(name="default")
    for secret in (own, combined.validation_context_sds_secret_config):
        secret.sds_config.ads.SetInParent()
        secret.sds_config.resource_api_version = 2  # V3
    matchers = combined.default_validation_context.match_subject_alt_names
    for name in tls.subject_alt_names or _server_names(service, mesh):
        matchers.add(exact=name)
    if not matchers:
        # It is not known who serves: anybody of the mesh's trust domains may.
        for domain in (mesh.trust_domain, *mesh.trust_domain_aliases):
            matchers.add(prefix=f"spiffe://{domain}/")
    return context


def with_providers(cluster: cluster_pb2.Cluster) -> None:
    """TLS as grpc-core takes it: identity and roots from the provider `default` of its bootstrap, as istiod names it.

    It knows no secrets by name and no versions, and speaks those that are asked for here in any case (gRFC A29;
    istio/istio pilot/pkg/networking/grpcgen/cds.go).
    """
    context = tls_pb2.UpstreamTlsContext()
    if not cluster.transport_socket.typed_config.Unpack(context):
        return
    common = context.common_tls_context
    common.ClearField("tls_params")
    common.ClearField("alpn_protocols")
    if common.tls_certificate_sds_secret_configs:
        common.ClearField("tls_certificate_sds_secret_configs")
        common.tls_certificate_provider_instance.instance_name = _PROVIDER
        names = common.combined_validation_context.default_validation_context
        names.ca_certificate_provider_instance.instance_name = _PROVIDER
        common.validation_context.CopyFrom(names)
    _set_tls(cluster, context)


def _set_tls(cluster: cluster_pb2.Cluster, context: tls_pb2.UpstreamTlsContext) -> None:
    packed = any_pb2.Any()
    packed.Pack(context)
    cluster.transport_socket.name = "envoy.transport_sockets.tls"
    cluster.transport_socket.typed_config.CopyFrom(packed)


def _speaks_http2(cluster: cluster_pb2.Cluster) -> bool:
    packed = cluster.typed_extension_protocol_options.get(HTTP_OPTIONS)
    options = http_protocol_options_pb2.HttpProtocolOptions()
    return (
        packed is not None
        and bool(packed.Unpack(options))
        and options.explicit_http_config.HasField("http2_protocol_options")
    )
