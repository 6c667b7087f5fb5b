"""The inbound listener of a port, made from the policies that select its workload.

The shape is istiod's (istio/istio pilot/pkg/networking/core/listener_inbound.go, pilot/pkg/security): a chain for
mutual TLS, a chain for plaintext, or both, each with the filters jwt_authn, then CUSTOM, DENY and ALLOW authorization.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as rbac_filter_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.message import Message

from ..errors import ConfigError
from .access_logging import ManagerTelemetry
from .authorization import make_filter, make_rbac
from .durations import set_seconds
from .istio import endpoint_of
from .labels import has_labels
from .names import cluster_name
from .native_servers import for_native_server
from .security_world import (
    AuthorizationPolicy,
    JwtRule,
    MeshConfig,
    PeerAuthentication,
    Provider,
    RequestAuthentication,
)
from .world import Workload, World

__all__ = ["inbound_problems", "make_inbound_listener", "make_keys_clusters", "peer_mode"]

_CUSTOM_PREFIX = "istio_ext_authz_"
_DRY_RUN_PREFIX = "istio_dry_run_allow_"


def make_inbound_listener(
    world: World, name: str, address: str, port: int, own_address: str = "", *, is_grpc_core: bool = False
) -> listener_pb2.Listener:
    """The listener of one port of one workload.

    Args:
        world: Everything that the documents say.
        name: Of the listener.
        address: That the server listens on; `0.0.0.0` or `::` for any.
        port: That it listens on.
        own_address: Of the workload; empty for one of this machine.
        is_grpc_core: For gRPC's own server (see `native_servers`).

    Raises:
        ConfigError: Some security policy is broken or cannot be carried out, or it is not clear which workload this is.
    """
    security = world.security
    if security.broken:
        raise ConfigError("security policies", f"one cannot be read, so nobody gets in: {security.broken[0]}")
    workload = _find_workload(world, address, port, own_address)
    mode = peer_mode(security.mesh, security.peers, workload, port)
    listener = listener_pb2.Listener(name=name)
    listener.address.socket_address.address = address
    listener.address.socket_address.port_value = port
    filters = list(_filters(world, workload))
    # grpc-core tells nobody of its requests, and takes no filter that would.
    telemetry = (
        ManagerTelemetry() if is_grpc_core else world.told_of(workload.namespace, workload.labels, is_server=True)
    )
    if mode in ("STRICT", "PERMISSIVE"):
        chain = listener.filter_chains.add(name=f"{port} mTLS")
        chain.filter_chain_match.transport_protocol = "tls"
        chain.transport_socket.name = "envoy.transport_sockets.tls"
        chain.transport_socket.typed_config.Pack(_tls(security.mesh))
        _add_manager(chain, security.mesh, filters, port, telemetry)
    if mode in ("DISABLE", "PERMISSIVE"):
        chain = listener.filter_chains.add(name=f"{port} plaintext")
        chain.filter_chain_match.transport_protocol = "raw_buffer"
        _add_manager(chain, security.mesh, filters, port, telemetry)
    if is_grpc_core:
        return for_native_server(listener, security.mesh, workload.labels)
    return listener


def inbound_problems(world: World) -> list[str]:
    """Why the servers of some workloads cannot have their policies; found before one of them asks."""
    security = world.security
    if not security.authorizations and not security.requests:
        return []
    found: dict[str, None] = {}
    seen: set[object] = set()
    for workload in world.workloads:
        key = (workload.namespace, tuple(sorted(workload.labels.items())))
        if key in seen:
            continue
        seen.add(key)
        try:
            list(_filters(world, workload))
        except ConfigError as error:
            found[
                f"{error}; servers of {workload.namespace}/{dict(workload.labels)} let nobody in, or keep what they"
                " have"
            ] = None
    return list(found)


def _find_workload(world: World, address: str, port: int, own_address: str) -> Workload:
    """The workload that serves this port, on this machine or at its own address."""
    is_any = ipaddress.ip_address(address).is_unspecified
    local = frozenset([own_address]) if own_address else _local_addresses() if is_any else frozenset([address])
    found = {
        (workload.namespace, tuple(sorted(workload.labels.items()))): workload
        for workload in world.workloads
        if (workload.address in local or (_is_loopback(workload.address) and "127.0.0.1" in local))
        and port in _ports_of(world, workload)
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        names = ", ".join(f"{namespace}/{dict(labels)}" for namespace, labels in found)
        raise ConfigError(f"port {port}", f"several workloads serve it on this machine: {names}")
    unknown = Workload(address, "default", {})
    security = world.security
    policies: tuple[PeerAuthentication | RequestAuthentication | AuthorizationPolicy, ...] = (
        *security.peers,
        *security.requests,
        *security.authorizations,
    )
    for policy in policies:
        # A policy that may be for this workload, and may not, must not be taken for one that is not.
        is_for_all = policy.selector is None and policy.namespace in (security.mesh.root_namespace, unknown.namespace)
        if not is_for_all:
            raise ConfigError(
                f"port {port}",
                "no workload of the folder serves it at an address of this machine, so it is not known whether"
                f" {type(policy).__name__} {policy.namespace}/{policy.name} is for it; add a WorkloadEntry with this"
                " address and port",
            )
    return unknown


def _ports_of(world: World, workload: Workload) -> set[int]:
    ports = set(workload.ports.values())
    for service in world.services.values():
        selects = service.selector and service.namespace == workload.namespace
        if selects and has_labels(workload.labels, service.selector):
            entries = [endpoint_of(workload, port) for port in service.ports]
            ports.update(entry.port for entry in entries if entry is not None)
    return ports


def _local_addresses() -> frozenset[str]:
    found = {"127.0.0.1", "::1"}
    # Istio and most manifests give a pod its address by one of these.
    found.update(os.environ[name] for name in ("INSTANCE_IP", "POD_IP") if os.environ.get(name))
    with contextlib.suppress(OSError):
        found.update(str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None))
    return frozenset(found)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _selects(selector: Mapping[str, str] | None, namespace: str, workload: Workload, mesh: MeshConfig) -> bool:
    """Policies of the root namespace are for all namespaces, those of others for their own."""
    if namespace not in (mesh.root_namespace, workload.namespace):
        return False
    return selector is None or has_labels(workload.labels, selector)


def peer_mode(mesh: MeshConfig, peers: Iterable[PeerAuthentication], workload: Workload, port: int) -> str:
    """The mutual TLS mode: of the port, the workload, the namespace, the mesh; PERMISSIVE where none is set.

    Args:
        mesh: Where the policies for all stand.
        peers: The oldest first, which of several of a level holds.
        workload: Whom it is asked of.
        port: Of the workload.
    """
    of_workload = of_namespace = of_mesh = None
    for policy in peers:
        if not _selects(policy.selector, policy.namespace, workload, mesh):
            continue
        if policy.selector is not None and policy.namespace != workload.namespace:
            continue  # Of the root namespace only what is for all is for others (pilot/pkg/model/authentication.go).
        if policy.selector is None and policy.namespace == mesh.root_namespace:
            of_mesh = of_mesh or policy
        elif policy.selector is None:
            of_namespace = of_namespace or policy
        else:
            of_workload = of_workload or policy
    modes = [of_workload.ports.get(port, "UNSET")] if of_workload is not None else []
    modes += [one.mode for one in (of_workload, of_namespace, of_mesh) if one is not None]
    return next((mode for mode in modes if mode != "UNSET"), "PERMISSIVE")


def _tls(mesh: MeshConfig) -> tls_pb2.DownstreamTlsContext:
    context = tls_pb2.DownstreamTlsContext()
    context.require_client_certificate.value = True
    common = context.common_tls_context
    combined = common.combined_validation_context
    combined.validation_context_sds_secret_config.name = "ROOTCA"
    own = common.tls_certificate_sds_secret_configs.add(name="default")
    for secret in (own, combined.validation_context_sds_secret_config):
        secret.sds_config.ads.SetInParent()
        secret.sds_config.resource_api_version = 2  # V3
    for domain in (mesh.trust_domain, *mesh.trust_domain_aliases):
        matcher = combined.default_validation_context.match_typed_subject_alt_names.add()
        matcher.san_type = 3  # URI
        matcher.matcher.prefix = f"spiffe://{domain}/"
    common.alpn_protocols.extend(["h2", "http/1.1"])
    return context


Named = tuple[str, Message]


def _add_manager(
    chain: listener_components_pb2.FilterChain,
    mesh: MeshConfig,
    filters: Iterable[Named],
    port: int,
    telemetry: ManagerTelemetry,
) -> None:
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix=f"inbound_{port}")
    telemetry.add_to(manager)
    routes = manager.route_config
    routes.name = f"inbound|{port}||"
    virtual_host = routes.virtual_hosts.add(name=routes.name, domains=["*"])
    route = virtual_host.routes.add(name="default")
    route.match.prefix = "/"
    route.non_forwarding_action.SetInParent()
    for name, message in filters:
        manager.http_filters.add(name=name).typed_config.Pack(message)
    telemetry.add_filter_to(manager)
    manager.http_filters.add(name="envoy.filters.http.router").typed_config.Pack(router_pb2.Router())
    _set_normalization(manager, mesh.path_normalization)
    manager.forward_client_cert_details = 2  # APPEND_FORWARD, as istiod has it.
    details = manager.set_current_client_cert_details
    details.subject.value, details.dns, details.uri = True, True, True
    chain.filters.add(name="envoy.filters.network.http_connection_manager").typed_config.Pack(manager)


def _set_normalization(manager: Any, kind: str) -> None:
    """MeshConfig.ProxyPathNormalization: DEFAULT is BASE."""
    if kind not in ("DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"):
        raise ConfigError("MeshConfig.pathNormalization.normalization", f"{kind!r} is not known")
    if kind != "NONE":
        manager.normalize_path.value = True
    if kind in ("MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"):
        manager.merge_slashes = True
    if kind == "DECODE_AND_MERGE_SLASHES":
        manager.path_with_escaped_slashes_action = 4  # UNESCAPE_AND_FORWARD


def _filters(world: World, workload: Workload) -> Iterable[Named]:
    security = world.security
    rules = [
        rule
        for policy in security.requests
        if _selects(policy.selector, policy.namespace, workload, security.mesh)
        for rule in policy.rules
    ]
    if rules:
        yield "envoy.filters.http.jwt_authn", _jwt(world, rules)
    policies = [
        policy
        for policy in security.authorizations
        if _selects(policy.selector, policy.namespace, workload, security.mesh)
    ]
    yield from _custom(world, [policy for policy in policies if policy.action == "CUSTOM"])
    for action, number in (("AUDIT", rbac_pb2.RBAC.LOG), ("DENY", rbac_pb2.RBAC.DENY), ("ALLOW", rbac_pb2.RBAC.ALLOW)):
        chosen = [policy for policy in policies if policy.action == action]
        enforced = [policy for policy in chosen if not policy.is_dry_run]
        tried = [policy for policy in chosen if policy.is_dry_run]
        if chosen:
            yield (
                f"envoy.filters.http.rbac.{action.lower()}",
                make_filter(
                    make_rbac(enforced, number, security.mesh) if enforced else None,
                    make_rbac(tried, number, security.mesh) if tried else None,
                    _DRY_RUN_PREFIX.replace("allow", action.lower()) if tried else "",
                ),
            )


def _custom(world: World, policies: Sequence[AuthorizationPolicy]) -> Iterable[Named]:
    """Action CUSTOM: RBAC says, as shadow rules, which requests the provider is asked about."""
    providers = {policy.provider for policy in policies}
    if len(providers) > 1:
        # Istio allows one for a workload.
        raise ConfigError(policies[0].where, f"a workload may have one provider of CUSTOM policies, has {providers}")
    for name in providers:
        provider = world.security.mesh.providers.get(name)
        if provider is None:
            raise ConfigError(policies[0].where, f"MeshConfig has no extension provider {name!r} for authorization")
        prefix = f"istio-ext-authz-{name}-"
        rules = make_rbac(policies, rbac_pb2.RBAC.DENY, world.security.mesh, prefix)
        shadow = rbac_filter_pb2.RBAC(shadow_rules_stat_prefix=_CUSTOM_PREFIX)
        shadow.shadow_rules.CopyFrom(rules)
        yield "envoy.filters.http.rbac.custom", shadow
        yield "envoy.filters.http.ext_authz", _ext_authz(world, provider, prefix)


def _ext_authz(world: World, provider: Provider, prefix: str) -> ext_authz_pb2.ExtAuthz:
    message = ext_authz_pb2.ExtAuthz(transport_api_version=2, failure_mode_allow=provider.fail_open)
    message.status_on_error.code = provider.status_on_error
    enabled = message.filter_enabled_metadata
    enabled.filter = "envoy.filters.http.rbac"
    enabled.path.add(key=f"{_CUSTOM_PREFIX}shadow_effective_policy_id")
    enabled.value.string_match.prefix = prefix
    if provider.max_body_bytes is not None:
        message.with_request_body.max_request_bytes = provider.max_body_bytes
        message.with_request_body.allow_partial_message = provider.allow_partial_body
    host = world.full_host(provider.service, "default")
    cluster = cluster_name(provider.port, "", host)
    if not provider.is_http:
        message.grpc_service.envoy_grpc.cluster_name = cluster
        set_seconds(message.grpc_service.timeout, provider.timeout_seconds)
        return message
    http = message.http_service
    http.server_uri.uri = f"http://{host}"
    http.server_uri.cluster = cluster
    set_seconds(http.server_uri.timeout, provider.timeout_seconds)
    http.path_prefix = provider.path_prefix
    for name in provider.request_headers:
        http.authorization_request.allowed_headers.patterns.add().CopyFrom(_name_matcher(name))
    for name, value in provider.headers_to_add.items():
        http.authorization_request.headers_to_add.add(key=name, value=value)
    answer = http.authorization_response
    for names, target in (
        (provider.upstream_headers, answer.allowed_upstream_headers),
        (provider.client_headers, answer.allowed_client_headers),
        (provider.client_headers_on_success, answer.allowed_client_headers_on_success),
    ):
        for name in names:
            target.patterns.add().CopyFrom(_name_matcher(name))
    return message


def _name_matcher(name: str) -> string_pb2.StringMatcher:
    lower = name.lower()
    if lower.endswith("*"):
        return string_pb2.StringMatcher(prefix=lower[:-1], ignore_case=True)
    if lower.startswith("*"):
        return string_pb2.StringMatcher(suffix=lower[1:], ignore_case=True)
    return string_pb2.StringMatcher(exact=lower, ignore_case=True)


def _jwt(world: World, rules: Sequence[JwtRule]) -> jwt_pb2.JwtAuthentication:
    """pilot/pkg/security/authn/policy_applier.go, convertToEnvoyJwtConfig."""
    message = jwt_pb2.JwtAuthentication(bypass_cors_preflight=True)
    either = message.rules.add()
    either.match.prefix = "/"
    requirement = either.requires
    names = []
    for index, rule in enumerate(rules):
        names.append(f"origins-{index}")
        _fill_provider(message.providers[names[-1]], rule, world)
    if len(names) == 1:
        requirement.requires_any.requirements.add(provider_name=names[0])
        requirement.requires_any.requirements.add().allow_missing.SetInParent()
        return message
    for name in names:
        requirement.requires_any.requirements.add(provider_name=name)
    every = requirement.requires_any.requirements.add().requires_all
    for name in names:
        one = every.requirements.add().requires_any
        one.requirements.add(provider_name=name)
        one.requirements.add().allow_missing.SetInParent()
    return message


def _fill_provider(provider: jwt_pb2.JwtProvider, rule: JwtRule, world: World) -> None:
    provider.issuer = rule.issuer
    provider.audiences.extend(rule.audiences)
    provider.forward = rule.forward_token
    provider.payload_in_metadata = "payload"
    provider.forward_payload_header = rule.output_payload_header
    provider.normalize_payload_in_metadata.space_delimited_claims.extend(
        ["scope", "permission", *rule.space_delimited_claims]
    )
    for header, prefix in rule.headers:
        provider.from_headers.add(name=header, value_prefix=prefix)
    provider.from_params.extend(rule.params)
    provider.from_cookies.extend(rule.cookies)
    for header, claim in rule.claim_headers:
        provider.claim_to_headers.add(header_name=header, claim_name=claim)
    if rule.jwks:
        provider.local_jwks.inline_string = rule.jwks
        return
    remote = provider.remote_jwks
    remote.http_uri.uri = rule.jwks_uri
    remote.http_uri.cluster = keys_cluster(world, rule.jwks_uri)[0]
    set_seconds(remote.http_uri.timeout, rule.timeout_seconds)
    remote.cache_duration.seconds = 1200  # PILOT_JWT_PUB_KEY_REFRESH_INTERVAL


def keys_cluster(world: World, uri: str) -> tuple[str, str, int]:
    """Where a key set is fetched from: cluster, host and port. The host is a known service, or a name for DNS."""
    parts = urllib.parse.urlsplit(uri)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    full = world.full_host(host, "default")
    if full in world.services:
        host = full
    return cluster_name(port, "", host), host, port


def make_keys_clusters(world: World) -> Iterable[Message]:
    """A cluster for each place of key sets that no service stands for; https is verified by the system's roots."""
    made: set[str] = set()
    for rule in (rule for policy in world.security.requests for rule in policy.rules if rule.jwks_uri):
        name, host, port = keys_cluster(world, rule.jwks_uri)
        if name in made or host in world.services:
            continue
        made.add(name)
        cluster = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.STRICT_DNS)
        cluster.connect_timeout.seconds = 10
        cluster.load_assignment.cluster_name = name
        address = cluster.load_assignment.endpoints.add().lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = host, port
        if rule.jwks_uri.startswith("https://"):
            context = tls_pb2.UpstreamTlsContext(sni=host)
            validation = context.common_tls_context.validation_context
            validation.system_root_certs.SetInParent()
            matcher = validation.match_typed_subject_alt_names.add()
            matcher.san_type = 2  # DNS
            matcher.matcher.exact = host
            cluster.transport_socket.name = "envoy.transport_sockets.tls"
            cluster.transport_socket.typed_config.Pack(context)
        yield cluster
