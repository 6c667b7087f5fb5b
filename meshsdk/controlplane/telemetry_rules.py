"""Istio's Telemetry objects, and what MeshConfig says of access logs and traces, read.

Sources: istio/api telemetry/v1alpha1/telemetry.proto, mesh/v1alpha1/config.proto and proxy.proto.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..access_log import ISTIO_JSON
from .access_logging import STDOUT, AccessLogging, LogDefaults, LogProvider, LogServer, Telemetry
from .checks import check_selector
from .fields import Fields
from .kubernetes import Meta
from .metric_rules import PROMETHEUS, parse_metrics
from .tracing import TagRule, TraceDefaults, TraceRule

__all__ = [
    "parse_default_providers",
    "parse_log_defaults",
    "parse_log_provider",
    "parse_tag_length",
    "parse_telemetry",
    "parse_trace_defaults",
]

_MODES = ("CLIENT_AND_SERVER", "CLIENT", "SERVER")


def parse_telemetry(spec: Fields, meta: Meta) -> Telemetry:
    """A Telemetry."""
    selector = spec.child("selector")
    labels = None
    if selector is not None:
        check_selector(selector, "matchLabels")
        labels = selector.labels("matchLabels") or None
        selector.finish_exactly()
    logging = tuple(map(_parse_logging, spec.children("accessLogging")))
    tracing = tuple(map(_parse_tracing, spec.children("tracing")))
    metrics = parse_metrics(spec)
    spec.finish(("selector", "accessLogging", "tracing", "metrics"))
    return Telemetry(meta.name, meta.namespace, labels, logging, tracing, meta.age, metrics)


def _parse_providers(entry: Fields) -> tuple[str, ...]:
    names = []
    for provider in entry.children("providers"):
        names.append(provider.required_text("name"))
        provider.finish_exactly()
    return tuple(names)


def _parse_tracing(entry: Fields) -> TraceRule:
    match = entry.child("match")
    sampling = entry.number("randomSamplingPercentage") if "randomSamplingPercentage" in entry else None
    if sampling is not None and not 0 <= sampling <= 100:
        raise entry.error("randomSamplingPercentage", f"must be from 0 to 100, is {sampling:g}")
    parsed = TraceRule(
        match.choice("mode", _MODES, _MODES[0]) if match is not None else _MODES[0],
        _parse_providers(entry),
        is_disabled=_said(entry, "disableSpanReporting"),
        sampling=sampling,
        tags=_parse_tags(entry) if "customTags" in entry else None,
        has_istio_tags=_said(entry, "enableIstioTags"),
        uses_request_id=_said(entry, "useRequestIdForTraceSampling"),
    )
    if match is not None:
        match.finish_exactly()
    if _said(entry, "disableContextPropagation"):
        entry.warn("disableContextPropagation", "has no effect: the application's propagators carry a trace on")
    entry.finish_exactly()
    return parsed


def _said(entry: Fields, name: str) -> bool | None:
    return entry.boolean(name) if name in entry else None


_TAG_KINDS = ("literal", "environment", "header", "formatter")


def _parse_tags(entry: Fields) -> tuple[TagRule, ...]:
    tags = []
    for name, fields in entry.child_map("customTags").items():
        kinds = {kind: child for kind in _TAG_KINDS if (child := fields.child(kind)) is not None}
        fields.finish_exactly()
        if len(kinds) != 1:
            raise entry.error(f"customTags[{name!r}]", f"must have one of {', '.join(_TAG_KINDS)}")
        [(kind, child)] = kinds.items()
        is_named = kind in ("environment", "header")
        value = child.required_text("name" if is_named else "value")
        tags.append(TagRule(name, kind, value, child.text("defaultValue") if is_named else ""))
        child.finish_exactly()
    return tuple(tags)


def parse_trace_defaults(mesh: Fields, names: tuple[str, ...], lengths: Mapping[str, int]) -> TraceDefaults:
    """What MeshConfig says of traces.

    Args:
        mesh: The MeshConfig.
        names: Of its default providers.
        lengths: Of tags, by provider.
    """
    proxy = mesh.child("defaultConfig")
    tracing = proxy.child("tracing") if proxy is not None else None
    defaults = TraceDefaults(mesh.boolean("enableTracing"), lengths=lengths, names=names)
    if tracing is None:
        return defaults
    sampling = tracing.number("sampling")
    return TraceDefaults(
        defaults.is_on,
        # tracing.go, proxyConfigSamplingValue: what is no percentage is one percent.
        sampling if 0 <= sampling <= 100 else 1.0,
        _parse_tags(tracing),
        tracing.boolean("enableIstioTags", True),
        tracing.integer("maxPathTagLength") or 0,
        lengths,
        names,
    )


_TRACERS = ("zipkin", "datadog", "opentelemetry", "skywalking", "lightstep")


def parse_tag_length(entry: Fields) -> int:
    """How long tags may be that are told to a provider of traces; 0 where it is none, or says nothing."""
    for kind in _TRACERS:
        fields = entry.child(kind)
        if fields is not None:
            return fields.integer("maxTagLength") or 0
    return 0


def _parse_logging(entry: Fields) -> AccessLogging:
    match, chosen = entry.child("match"), entry.child("filter")
    mode = match.choice("mode", _MODES, _MODES[0]) if match is not None else _MODES[0]
    parsed = AccessLogging(
        mode,
        _parse_providers(entry),
        is_disabled=entry.boolean("disabled"),
        expression=chosen.text("expression") if chosen is not None else "",
    )
    for one in (match, chosen):
        if one is not None:
            one.finish_exactly()
    entry.finish_exactly()
    return parsed


def parse_log_defaults(mesh: Fields, names: tuple[str, ...]) -> LogDefaults:
    """What MeshConfig says of access logs; `names` are those of its default providers."""
    path, text = mesh.text("accessLogFile"), mesh.text("accessLogFormat")
    is_json = mesh.choice("accessLogEncoding", ("TEXT", "JSON"), "TEXT") == "JSON"
    builtin = LogProvider(
        path or STDOUT, "" if is_json else text, (text or json.dumps(dict(ISTIO_JSON))) if is_json else ""
    )
    if is_json and not _is_object(builtin.labels):
        raise mesh.error("accessLogFormat", "must be a JSON object, since accessLogEncoding is JSON")
    return LogDefaults(path, builtin, {}, names)


def parse_default_providers(mesh: Fields) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names of those for access logs, for traces and for metrics."""
    defaults = mesh.child("defaultProviders")
    if defaults is None:
        return (), (), (PROMETHEUS,)
    metrics = defaults.texts("metrics") if "metrics" in defaults else (PROMETHEUS,)
    names = defaults.texts("accessLogging"), defaults.texts("tracing"), metrics
    defaults.finish()
    return names


def parse_log_provider(entry: Fields) -> LogProvider | None:
    """An extension provider; None where it is none of access logs' that is known here."""
    fields = entry.child("envoyFileAccessLog")
    if fields is None:
        return _parse_server(entry)
    log_format = fields.child("logFormat")
    labels = log_format.raw("labels") if log_format is not None else None
    if labels is not None and not isinstance(labels, dict):
        raise fields.error("logFormat.labels", "must be an object")
    provider = LogProvider(
        fields.text("path") or STDOUT,
        log_format.text("text") if log_format is not None else "",
        json.dumps(labels) if labels is not None else "",
    )
    if log_format is not None:
        log_format.finish()
    fields.ignore("omitEmptyValues")
    fields.finish()
    return provider


def _parse_server(entry: Fields) -> LogProvider | None:
    grpc, otel = entry.child("envoyHttpAls"), entry.child("envoyOtelAls")
    fields = grpc or otel
    if fields is None:
        return None
    port = fields.required_port("port")
    server = LogServer(
        otel is not None and grpc is None,
        fields.required_text("service").rpartition("/")[2],
        port,
        fields.text("logName"),
        fields.texts("additionalRequestHeadersToLog"),
        fields.texts("additionalResponseHeadersToLog"),
        fields.texts("additionalResponseTrailersToLog"),
    )
    log_format = fields.child("logFormat")
    text, labels = "", ""
    if log_format is not None:
        text, said = log_format.text("text"), log_format.raw("labels")
        if said is not None and not isinstance(said, dict):
            raise fields.error("logFormat.labels", "must be an object")
        labels = json.dumps(said) if said else ""
        log_format.finish()
    # The peers of filter state are what Istio's proxies exchange between them.
    fields.ignore("filterStateObjectsToLog")
    fields.finish()
    return LogProvider("", text, labels, server)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
