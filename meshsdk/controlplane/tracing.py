"""Istio's tracing: what Telemetry objects and MeshConfig say of it, as connection managers have it.

Whom spans are told to is the application's OpenTelemetry's affair, so providers have no say here but for the length of
tags; and tracing that is disabled becomes an overall share of nothing, since a connection manager without tracing
leaves all to the application.

Sources: istio/api telemetry/v1alpha1/telemetry.proto, mesh/v1alpha1/proxy.proto (Tracing); istio/istio
pilot/pkg/model/telemetry.go (Tracing), pilot/pkg/networking/core/tracing.go.
"""

from __future__ import annotations

from collections.abc import Mapping

from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2
from envoy.type.tracing.v3 import custom_tag_pb2
from msgspec import Struct

__all__ = ["NO_TRACING", "TagRule", "TraceDefaults", "TraceRule", "apply_tracing", "trace_settings"]

# PILOT_TRACE_SAMPLING: where nothing says a share.
_DEFAULT_SAMPLING = 1.0

NO_TRACING = b""


class TagRule(Struct, frozen=True):
    """A custom tag.

    Attributes:
        kind: `literal`, `environment`, `header` or `formatter`.
        value: Of a literal or a format; the name of a variable or a header.
    """

    name: str
    kind: str
    value: str
    default: str = ""


class TraceDefaults(Struct, frozen=True):
    """What MeshConfig says of tracing (enableTracing, defaultConfig.tracing, defaultProviders.tracing).

    Attributes:
        is_on: Requests are traced without a word of any Telemetry.
        sampling: In percent; 0 is Istio's own default.
        max_path_length: In characters; 0 is Envoy's default.
        lengths: Of the providers that say one, by their names.
        names: Of the providers that are meant where nobody names any.
    """

    is_on: bool = False
    sampling: float = 0.0
    tags: tuple[TagRule, ...] = ()
    has_istio_tags: bool = True
    max_path_length: int = 0
    lengths: Mapping[str, int] = {}
    names: tuple[str, ...] = ()


class TraceRule(Struct, frozen=True):
    """One entry of a Telemetry's tracing; None says nothing."""

    mode: str = "CLIENT_AND_SERVER"
    providers: tuple[str, ...] = ()
    is_disabled: bool | None = None
    sampling: float | None = None
    tags: tuple[TagRule, ...] | None = None
    has_istio_tags: bool | None = None
    uses_request_id: bool | None = None


def trace_settings(
    rules: list[TraceRule],
    defaults: TraceDefaults,
    namespace: str,
    labels: Mapping[str, str],
    *,
    is_server: bool,
) -> bytes:
    """The tracing of a workload's connection managers, as an HttpConnectionManager that has nothing else, serialized.

    Args:
        rules: Those that hold for it, the most general first.
        defaults: MeshConfig's.
        namespace, labels: Of the workload.
        is_server: Whether it is about requests that come to it.
    """
    if not rules and not defaults.names and not defaults.is_on:
        return NO_TRACING
    wrong_mode = "CLIENT" if is_server else "SERVER"
    rules = [rule for rule in rules if rule.mode != wrong_mode]
    provider = next(iter(defaults.names), "")
    is_disabled, sampling, tags = False, defaults.sampling or _DEFAULT_SAMPLING, defaults.tags
    has_istio_tags, uses_request_id = defaults.has_istio_tags, True
    for rule in rules:
        provider = rule.providers[0] if rule.providers else provider
        is_disabled = is_disabled if rule.is_disabled is None else rule.is_disabled
        sampling = sampling if rule.sampling is None else rule.sampling
        # A level's tags take the place of those of the levels above it.
        tags = tags if rule.tags is None else rule.tags or defaults.tags
        has_istio_tags = has_istio_tags if rule.has_istio_tags is None else rule.has_istio_tags
        uses_request_id = uses_request_id if rule.uses_request_id is None else rule.uses_request_id
    manager = http_connection_manager_pb2.HttpConnectionManager()
    tracing = manager.tracing
    tracing.client_sampling.value = 100.0
    tracing.random_sampling.value = sampling
    tracing.overall_sampling.value = 0.0 if is_disabled else 100.0
    every = {one.name: one for one in (*(_istio_tags(namespace, labels) if has_istio_tags else ()), *tags)}
    for name in sorted(every):
        tracing.custom_tags.append(_tag(every[name]))
    length = defaults.lengths.get(provider) or defaults.max_path_length
    if length:
        tracing.max_path_tag_length.value = length
    if not uses_request_id:
        manager.request_id_extension.typed_config.Pack(_NOT_BY_ID)
    serialized: bytes = manager.SerializeToString(deterministic=True)
    return serialized


_NOT_BY_ID = uuid_pb2.UuidRequestIdConfig()
_NOT_BY_ID.use_request_id_for_trace_sampling.value = False


def apply_tracing(manager: http_connection_manager_pb2.HttpConnectionManager, settings: bytes) -> None:
    """Have a connection manager trace as `trace_settings` says."""
    if settings:
        manager.MergeFromString(settings)


def _istio_tags(namespace: str, labels: Mapping[str, str]) -> tuple[TagRule, ...]:
    """tracing.go, buildServiceTags; what only the process knows of itself (its mesh and cluster), it adds by itself."""
    names = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
    revisions = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
    service = next((labels[name] for name in names if labels.get(name)), "unknown")
    revision = next((labels[name] for name in revisions if labels.get(name)), "latest")
    return (
        TagRule("istio.canonical_revision", "literal", revision),
        TagRule("istio.canonical_service", "literal", service),
        TagRule("istio.namespace", "literal", namespace),
    )


def _tag(rule: TagRule) -> custom_tag_pb2.CustomTag:
    tag = custom_tag_pb2.CustomTag(tag=rule.name)
    if rule.kind == "literal":
        tag.literal.value = rule.value
    elif rule.kind == "formatter":
        tag.value = rule.value
    else:
        named = tag.environment if rule.kind == "environment" else tag.request_header
        named.name, named.default_value = rule.value, rule.default
    return tag
