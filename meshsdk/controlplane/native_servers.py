"""Inbound listeners as gRPC's own xDS servers take them (`grpc.xds_server_credentials`).

grpc-core knows one kind of connection for a port, takes its certificate from its bootstrap's provider, and does not ask
for names in the certificates of peers (gRFCs A29, A36, A41). So PERMISSIVE is one of the two, as istiod has it; peers
of other trust domains are refused by RBAC; and where a policy needs a filter that grpc-core does not have, there is no
listener: its server serves nobody, where istiod would leave the policy out.

Source: istio/istio pilot/pkg/networking/grpcgen/lds.go (buildInboundFilterChains).
"""

from __future__ import annotations

from collections.abc import Mapping

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as rbac_filter_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2

from ..errors import ConfigError
from .security_world import MeshConfig
from .world import TLS_LABEL

__all__ = ["for_native_server"]

_PROVIDER = "default"
_MANAGER = "envoy.filters.network.http_connection_manager"
_KNOWN = ("envoy.filters.http.rbac.deny", "envoy.filters.http.rbac.allow", "envoy.filters.http.router")
# What grpc-core would carry out as nothing at all: it only tells, or asks nobody.
_TELLING = "envoy.filters.http.rbac.audit"
_WHAT = {
    "envoy.filters.http.jwt_authn": "RequestAuthentication",
    "envoy.filters.http.rbac.custom": "AuthorizationPolicy with action CUSTOM",
    "envoy.filters.http.ext_authz": "AuthorizationPolicy with action CUSTOM",
}


def for_native_server(
    listener: listener_pb2.Listener, mesh: MeshConfig, labels: Mapping[str, str]
) -> listener_pb2.Listener:
    """A listener with what grpc-core takes.

    Args:
        listener: As proxies and meshsdk's servers have it.
        mesh: Whose trust domains peers must be of.
        labels: Of the workload.

    Raises:
        ConfigError: Some policy cannot be carried out there.
    """
    chains = {chain.filter_chain_match.transport_protocol: chain for chain in listener.filter_chains}
    # istiod: whoever says by this label that it takes mutual TLS is called so, and cannot take plaintext beside it.
    takes_tls = "tls" in chains and ("raw_buffer" not in chains or labels.get(TLS_LABEL) == "istio")
    chain = chains["tls" if takes_tls else "raw_buffer"]
    adapted = listener_pb2.Listener(name=listener.name, address=listener.address)
    own = adapted.filter_chains.add(name=chain.name)
    if takes_tls:
        own.transport_socket.name = "envoy.transport_sockets.tls"
        own.transport_socket.typed_config.Pack(_tls())
    own.filters.add(name=_MANAGER).typed_config.Pack(_manager(listener.name, chain, mesh, asks_for_domain=takes_tls))
    return adapted


def _tls() -> tls_pb2.DownstreamTlsContext:
    context = tls_pb2.DownstreamTlsContext()
    context.require_client_certificate.value = True
    common = context.common_tls_context
    common.tls_certificate_provider_instance.instance_name = _PROVIDER
    common.validation_context.ca_certificate_provider_instance.instance_name = _PROVIDER
    return context


def _manager(
    name: str, chain: listener_components_pb2.FilterChain, mesh: MeshConfig, *, asks_for_domain: bool
) -> http_connection_manager_pb2.HttpConnectionManager:
    manager = http_connection_manager_pb2.HttpConnectionManager()
    chain.filters[0].typed_config.Unpack(manager)
    adapted = http_connection_manager_pb2.HttpConnectionManager(
        stat_prefix=manager.stat_prefix, route_config=manager.route_config
    )
    if asks_for_domain:
        adapted.http_filters.add(name="meshsdk.trust_domains").typed_config.Pack(_of_domains(mesh))
    for one in manager.http_filters:
        if one.name in _WHAT:
            raise ConfigError(
                name, f"gRPC's own servers do not carry out {_WHAT[one.name]}: they get no listener, and serve nobody"
            )
        if one.name in _KNOWN:
            adapted.http_filters.append(one)
        elif one.name != _TELLING:
            raise ConfigError(name, f"gRPC's own servers do not know {one.name}")
    return adapted


def _of_domains(mesh: MeshConfig) -> rbac_filter_pb2.RBAC:
    """Refuses peers without a SPIFFE ID of the mesh."""
    message = rbac_filter_pb2.RBAC()
    message.rules.action = rbac_pb2.RBAC.DENY
    policy = message.rules.policies["other-trust-domains"]
    policy.permissions.add().any = True
    own = policy.principals.add().not_id.or_ids
    for domain in (mesh.trust_domain, *mesh.trust_domain_aliases):
        own.ids.add().authenticated.principal_name.prefix = f"spiffe://{domain}/"
    return message
