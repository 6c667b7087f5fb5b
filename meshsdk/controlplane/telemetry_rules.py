"""Istio's Telemetry objects, and what MeshConfig says of access logs, read.

Sources: istio/api telemetry/v1alpha1/telemetry.proto, mesh/v1alpha1/config.proto.
"""

from __future__ import annotations

import json

from ..access_log import ISTIO_JSON
from .access_logging import STDOUT, AccessLogging, LogDefaults, LogProvider, LogServer, Telemetry
from .checks import check_selector
from .fields import Fields
from .kubernetes import Meta
from .metric_rules import PROMETHEUS, parse_metrics

__all__ = ["parse_log_defaults", "parse_log_provider", "parse_telemetry"]

_MODES = ("CLIENT_AND_SERVER", "CLIENT", "SERVER")


def parse_telemetry(spec: Fields, meta: Meta) -> Telemetry:
    """A Telemetry."""
    selector = spec.child("selector")
    labels = None
    if selector is not None:
        check_selector(selector, "matchLabels")
        labels = selector.labels("matchLabels") or None
        selector.finish_exactly()
    if "tracing" in spec:
        spec.ignore("tracing")
        spec.warn("tracing", "has no effect: spans are set up by the application's OpenTelemetry")
    logging = tuple(map(_parse_logging, spec.children("accessLogging")))
    metrics = parse_metrics(spec)
    spec.finish(("selector", "accessLogging", "metrics"))
    return Telemetry(meta.name, meta.namespace, labels, logging, meta.age, metrics)


def _parse_logging(entry: Fields) -> AccessLogging:
    match, chosen = entry.child("match"), entry.child("filter")
    mode = match.choice("mode", _MODES, _MODES[0]) if match is not None else _MODES[0]
    names = []
    for provider in entry.children("providers"):
        names.append(provider.required_text("name"))
        provider.finish_exactly()
    parsed = AccessLogging(
        mode,
        tuple(names),
        is_disabled=entry.boolean("disabled"),
        expression=chosen.text("expression") if chosen is not None else "",
    )
    for one in (match, chosen):
        if one is not None:
            one.finish_exactly()
    entry.finish_exactly()
    return parsed


def parse_log_defaults(mesh: Fields) -> LogDefaults:
    """What MeshConfig says of access logs."""
    path, text = mesh.text("accessLogFile"), mesh.text("accessLogFormat")
    is_json = mesh.choice("accessLogEncoding", ("TEXT", "JSON"), "TEXT") == "JSON"
    builtin = LogProvider(
        path or STDOUT, "" if is_json else text, (text or json.dumps(dict(ISTIO_JSON))) if is_json else ""
    )
    if is_json and not _is_object(builtin.labels):
        raise mesh.error("accessLogFormat", "must be a JSON object, since accessLogEncoding is JSON")
    defaults = mesh.child("defaultProviders")
    names = defaults.texts("accessLogging") if defaults is not None else ()
    if defaults is not None:
        defaults.ignore("tracing")
        metrics = defaults.texts("metrics") if "metrics" in defaults else (PROMETHEUS,)
        defaults.finish()
        return LogDefaults(path, builtin, {}, names, metrics)
    return LogDefaults(path, builtin, {}, names)


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
    port = fields.integer("port", low=1, high=65535)
    if port is None:
        raise fields.error("port", "must be set")
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
