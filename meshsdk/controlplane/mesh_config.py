"""Istio's MeshConfig, as far as it matters to servers and their clients (istio/api mesh/v1alpha1/config.proto)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.type.v3.http_status_pb2 import StatusCode
from msgspec.structs import replace

from .access_logging import LogProvider
from .destination_rule import parse_locality_setting
from .fields import Fields
from .kinds import did_you_mean
from .metric_rules import PROMETHEUS
from .security_world import MeshConfig, Provider
from .strict_yaml import YamlError, parse_yaml
from .telemetry_rules import (
    parse_default_providers,
    parse_log_defaults,
    parse_log_provider,
    parse_tag_length,
    parse_trace_defaults,
)
from .virtual_service import parse_retry
from .world import MeshDefaults

__all__ = ["MESH_CONFIG", "is_registry_only", "may_be_mesh_config", "parse_mesh_config"]

# The name of Istio's ConfigMap.
MESH_CONFIG = "istio"

# envoy.type.v3.StatusCode; istiod takes no others.
_STATUSES = frozenset(map(str, StatusCode.values()))

NORMALIZATIONS = ("DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES")

# Fields that are for those who run proxies. One that is not known may be one that says which policies hold.
_OTHERS = (
    *("ca", "caCertificates", "certificates", "configSources", "defaultConfig"),
    *("defaultTrafficPolicy", "disableEnvoyListenerLog", "discoverySelectors", "dnsRefreshRate"),
    *("enableEnvoyAccessLogService", "enablePrometheusMerge", "enableSdsTokenMount", "enableTracing"),
    *("h2UpgradePolicy", "hboneIdleTimeout", "inboundClusterStatName", "inboundTrafficPolicy", "ingressClass"),
    *("ingressControllerMode", "ingressSelector", "ingressService", "meshMTLS"),
    *("outboundClusterStatName", "protocolDetectionTimeout", "proxyHttpPort"),
    *("proxyInboundListenPort", "proxyListenPort", "sdsUdsPath", "sdsUseK8sSaJwt", "serviceEntryVisibility"),
    *("serviceScopeConfigs", "serviceSettings", "tcpKeepalive", "terminationDrainDuration", "thriftConfig"),
    *("tlsDefaults", "verifyCertificateAtClient"),
)


def may_be_mesh_config(config_map: Mapping[Any, Any]) -> bool:
    """Whether a ConfigMap is meant to be Istio's, or ends before that can be seen."""
    metadata, data = config_map.get("metadata"), config_map.get("data")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or name == MESH_CONFIG:
        return True
    if isinstance(data, dict) and "mesh" not in data:
        return False
    return bool(did_you_mean(name, [MESH_CONFIG], 0.8)) or (data is None and MESH_CONFIG.startswith(name))


def parse_mesh_config(config_map: Fields) -> tuple[MeshConfig, MeshDefaults]:
    """The MeshConfig in Istio's ConfigMap `istio` (its key `mesh` holds YAML), for servers and for clients."""
    data = config_map.child("data")
    if data is None:
        raise config_map.error("data", "must be set: this is Istio's MeshConfig")
    try:
        documents = parse_yaml(data.text("mesh"))
    except YamlError as error:
        raise data.error("mesh", f"is not YAML: {error.problem}") from error
    if len(documents) != 1:
        raise data.error("mesh", f"must be one document, Istio's MeshConfig, has {len(documents)}")
    mesh = data.nested("mesh", documents[0])
    providers, files, lengths, prometheus = {}, {}, {}, {PROMETHEUS}
    for entry in mesh.children("extensionProviders"):
        if "prometheus" in entry:
            prometheus.add(entry.required_text("name"))
            entry.ignore("prometheus")
            continue
        provider = _parse_provider(entry)
        if provider is not None:
            providers[provider.name] = provider
        elif (file := parse_log_provider(entry)) is not None:
            files[entry.required_text("name")] = file
        elif length := parse_tag_length(entry):
            lengths[entry.required_text("name")] = length
    parsed = MeshConfig(
        trust_domain=mesh.text("trustDomain") or "cluster.local",
        trust_domain_aliases=mesh.texts("trustDomainAliases"),
        path_normalization=_parse_normalization(mesh.child("pathNormalization")),
        root_namespace=mesh.namespace("rootNamespace", "istio-system"),
        providers=providers,
        enable_auto_mtls=mesh.boolean("enableAutoMtls", True),
    )
    defaults = _parse_defaults(mesh, files, lengths, frozenset(prometheus))
    mesh.ignore(*_OTHERS)
    mesh.finish_exactly()
    return parsed, defaults


def _parse_defaults(
    mesh: Fields, files: Mapping[str, LogProvider], lengths: Mapping[str, int], prometheus: frozenset[str]
) -> MeshDefaults:
    for_logs, for_traces, for_metrics = parse_default_providers(mesh)
    outbound, retries = mesh.child("outboundTrafficPolicy"), mesh.child("defaultHttpRetryPolicy")
    locality = mesh.child("localityLbSetting")
    return MeshDefaults(
        registry_only=outbound is not None and is_registry_only(outbound) is True,
        retry=parse_retry(retries) if retries is not None else None,
        locality=parse_locality_setting(locality) if locality is not None else None,
        connect_timeout_seconds=mesh.duration("connectTimeout"),
        service_export_to=mesh.texts("defaultServiceExportTo"),
        virtual_service_export_to=mesh.texts("defaultVirtualServiceExportTo"),
        destination_rule_export_to=mesh.texts("defaultDestinationRuleExportTo"),
        logs=replace(parse_log_defaults(mesh, for_logs), providers=files, metrics=for_metrics, prometheus=prometheus),
        traces=parse_trace_defaults(mesh, for_traces, lengths),
    )


def is_registry_only(policy: Fields) -> bool | None:
    """An OutboundTrafficPolicy; None where it says nothing."""
    mode = policy.choice("mode", _OUTBOUND_MODES)
    policy.finish()
    return mode == "REGISTRY_ONLY" if mode else None


_OUTBOUND_MODES = ("REGISTRY_ONLY", "ALLOW_ANY", "ALLOW_ANY_DYNAMIC_DNS")


def _parse_normalization(fields: Fields | None) -> str:
    if fields is None:
        return "DEFAULT"
    kind = fields.choice("normalization", NORMALIZATIONS, "DEFAULT")
    fields.finish_exactly()
    return kind


def _parse_provider(entry: Fields) -> Provider | None:
    name = entry.required_text("name")
    grpc, http = entry.child("envoyExtAuthzGrpc"), entry.child("envoyExtAuthzHttp")
    fields = grpc or http
    if fields is None:
        return None
    port = fields.required_port("port")
    body = fields.child("includeRequestBodyInCheck")
    status = fields.text("statusOnError")
    if status and status not in _STATUSES:
        raise fields.error("statusOnError", f"must be a status that Envoy knows, is {status!r}")
    provider = Provider(
        name=name,
        service=fields.required_text("service").rpartition("/")[2],
        port=port,
        is_http=grpc is None,
        timeout_seconds=fields.duration("timeout") or 600.0,
        fail_open=fields.boolean("failOpen"),
        status_on_error=int(status) if status else 403,
        path_prefix=fields.text("pathPrefix"),
        request_headers=fields.texts("includeRequestHeadersInCheck") + fields.texts("includeHeadersInCheck"),
        headers_to_add=fields.labels("includeAdditionalHeadersInCheck"),
        upstream_headers=fields.texts("headersToUpstreamOnAllow"),
        client_headers=fields.texts("headersToDownstreamOnDeny"),
        client_headers_on_success=fields.texts("headersToDownstreamOnAllow"),
        max_body_bytes=body.integer("maxRequestBytes") if body is not None else None,
        allow_partial_body=body.boolean("allowPartialMessage") if body is not None else False,
    )
    if body is not None:
        body.ignore("packAsBytes")
        body.finish_exactly()
    fields.ignore("clearRouteCache")
    fields.finish_exactly()
    return provider
