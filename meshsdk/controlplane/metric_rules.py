"""Istio's Telemetry for metrics: what its objects say, merged as istiod merges it, and the filter istio.stats of it.

Sources: istio/api telemetry/v1alpha1/telemetry.proto; istio/istio pilot/pkg/model/telemetry.go (mergeMetrics,
generateStatsConfig, metricToPrometheusMetric).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf import json_format
from msgspec import Struct
from xds.type.v3 import typed_struct_pb2

from .fields import Fields

__all__ = ["PROMETHEUS", "MetricOverride", "Metrics", "parse_metrics", "stats_filter"]

# The provider that is there without being defined, and that is meant where nobody names any.
PROMETHEUS = "prometheus"

_MODES = ("CLIENT_AND_SERVER", "CLIENT", "SERVER")
_ALL = "ALL_METRICS"
_NAMES = {
    "REQUEST_COUNT": "requests_total",
    "REQUEST_DURATION": "request_duration_milliseconds",
    "REQUEST_SIZE": "request_bytes",
    "RESPONSE_SIZE": "response_bytes",
    "TCP_OPENED_CONNECTIONS": "tcp_connections_opened_total",
    "TCP_CLOSED_CONNECTIONS": "tcp_connections_closed_total",
    "TCP_SENT_BYTES": "tcp_sent_bytes_total",
    "TCP_RECEIVED_BYTES": "tcp_received_bytes_total",
    "GRPC_REQUEST_MESSAGES": "request_messages_total",
    "GRPC_RESPONSE_MESSAGES": "response_messages_total",
}


class MetricOverride(Struct, frozen=True):
    """One override.

    Attributes:
        metric: As Istio calls it; `ALL_METRICS` and empty are all.
        is_disabled: None leaves that as others have it.
        tags: Names, and the expressions of their values; None removes one.
    """

    metric: str = ""
    mode: str = "CLIENT_AND_SERVER"
    is_disabled: bool | None = None
    tags: tuple[tuple[str, str | None], ...] = ()


class Metrics(Struct, frozen=True):
    """One entry of a Telemetry's metrics."""

    providers: tuple[str, ...] = ()
    overrides: tuple[MetricOverride, ...] = ()


def parse_metrics(spec: Fields) -> tuple[Metrics, ...]:
    """The metrics of a Telemetry."""
    return tuple(map(_parse_entry, spec.children("metrics")))


def _parse_entry(entry: Fields) -> Metrics:
    names = []
    for provider in entry.children("providers"):
        names.append(provider.required_text("name"))
        provider.finish_exactly()
    if entry.duration("reportingInterval") is not None:
        entry.warn("reportingInterval", "has no effect: messages of streams are counted every five seconds")
    overrides = [parsed for one in entry.children("overrides") if (parsed := _parse_override(one)) is not None]
    entry.finish_exactly()
    return Metrics(tuple(names), tuple(overrides))


def _parse_override(entry: Fields) -> MetricOverride | None:
    match = entry.child("match")
    metric, mode, custom = "", _MODES[0], ""
    if match is not None:
        metric = match.choice("metric", (_ALL, *_NAMES))
        mode = match.choice("mode", _MODES, _MODES[0])
        custom = match.required_text("customMetric") if "customMetric" in match else ""
        if custom:
            match.warn("customMetric", f"{custom!r} is not counted: there are only Istio's own metrics here")
        match.finish_exactly()
    tags = []
    for name, tag in entry.child_map("tagOverrides").items():
        operation = tag.choice("operation", ("UPSERT", "REMOVE"), "UPSERT")
        value = tag.text("value")
        if operation == "UPSERT" and not value:
            raise tag.error("value", "must be set: an UPSERT gives the tag its value")
        if operation == "REMOVE" and value:
            raise tag.error("value", "must not be set: the tag is removed")
        tags.append((name, value if operation == "UPSERT" else None))
        tag.finish_exactly()
    is_disabled = entry.boolean("disabled") if "disabled" in entry else None
    entry.finish_exactly()
    return None if custom else MetricOverride(metric, mode, is_disabled, tuple(tags))


class _Change:
    """What is changed of one metric."""

    def __init__(self) -> None:
        self.is_disabled = False
        self.tags: dict[str, str | None] = {}


def stats_filter(
    entries: Iterable[Metrics], defaults: tuple[str, ...], prometheus: frozenset[str], *, is_server: bool
) -> bytes:
    """The filter istio.stats of a workload's connection managers, serialized; empty where nothing is changed.

    Args:
        entries: Of the Telemetry objects that are for it, the widest first.
        defaults: The providers that are meant where nobody names any.
        prometheus: Those that are Prometheus.
        is_server: Whether it is about requests that come to it.
    """
    entries = list(entries)
    if not entries:
        return b""
    in_scope = defaults
    for entry in entries:
        in_scope = entry.providers or in_scope
    wrong_mode = "CLIENT" if is_server else "SERVER"
    is_off = not prometheus.intersection(in_scope)
    changes: dict[str, _Change] = {}
    names = defaults
    for entry in entries:
        names = entry.providers or names
        if not prometheus.intersection(names).intersection(in_scope):
            continue
        for override in entry.overrides:
            if override.mode == wrong_mode:
                continue
            if override.metric == _ALL and override.is_disabled:
                is_off = True
                continue
            # A narrower Telemetry may have them again.
            is_off = False
            _apply(override, changes)
    if is_off:
        return _filter([{"name": name, "drop": True} for name in _NAMES.values()])
    return _filter([made for metric, change in sorted(changes.items()) if (made := _metric(metric, change))])


def _apply(override: MetricOverride, changes: dict[str, _Change]) -> None:
    for metric in (override.metric,) if override.metric in _NAMES else _NAMES:
        change = changes.setdefault(metric, _Change())
        if override.is_disabled is not None:
            change.is_disabled = override.is_disabled
        change.tags.update(override.tags)


def _metric(metric: str, change: _Change) -> Mapping[str, Any]:
    """A MetricConfig; empty where it changes nothing."""
    if change.is_disabled:
        return {"name": _NAMES[metric], "drop": True}
    if not change.tags:
        return {}
    return {
        "name": _NAMES[metric],
        "dimensions": {name: value for name, value in change.tags.items() if value is not None},
        "tags_to_remove": sorted(name for name, value in change.tags.items() if value is None),
    }


def _filter(metrics: list[Mapping[str, Any]]) -> bytes:
    if not metrics:
        return b""
    typed = typed_struct_pb2.TypedStruct(type_url="type.googleapis.com/stats.PluginConfig")
    json_format.ParseDict({"metrics": metrics}, typed.value)
    # Others than Istio's proxies do not know it.
    made = http_connection_manager_pb2.HttpFilter(name="istio.stats", is_optional=True)
    made.typed_config.Pack(typed)
    packed: bytes = made.SerializeToString(deterministic=True)
    return packed
