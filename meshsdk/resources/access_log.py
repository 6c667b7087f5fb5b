"""Access logs of connection managers (envoy.config.accesslog.v3.AccessLog), as data.

Those of other kinds (Fluentd, WebAssembly) are noted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from msgspec import Struct

from ..errors import ResourceError
from . import protos
from .log_service import LOG_SERVICE_TYPES, LogService, parse_log_service
from .matching import HeaderMatcher, parse_header_matcher
from .notes import Notes
from .values import struct_as_dict, unpack

__all__ = [
    "AccessLogConfig",
    "AccessLogFilter",
    "AllOf",
    "AnyOf",
    "Compared",
    "Comparison",
    "Expression",
    "HasFlags",
    "HasGrpcStatus",
    "HasHeader",
    "IsNoHealthCheck",
    "IsTraced",
    "LogTypes",
    "Sampled",
    "parse_access_logs",
    "parse_filter_document",
]


class Comparison(Enum):
    """ComparisonFilter.Op."""

    EQ = 0
    GE = 1
    LE = 2
    NE = 3


class Compared(Struct, frozen=True, gc=False):
    """Status or duration, compared with a number (status_code_filter, duration_filter).

    Attributes:
        of: `status` or `milliseconds`.
    """

    of: str
    comparison: Comparison
    value: int


class IsNoHealthCheck(Struct, frozen=True, gc=False):
    """not_health_check_filter."""


class IsTraced(Struct, frozen=True, gc=False):
    """traceable_filter."""


class Sampled(Struct, frozen=True, gc=False):
    """A share of the requests (runtime_filter); the request id says which, where it has one.

    Attributes:
        key: In the runtime, which is not there: the default holds.
        is_independent: Each time by chance.
    """

    key: str
    numerator: int
    denominator: int
    is_independent: bool


class HasHeader(Struct, frozen=True, gc=False):
    """header_filter."""

    header: HeaderMatcher


class HasFlags(Struct, frozen=True, gc=False):
    """One of some response flags; any, where there are none (response_flag_filter)."""

    flags: frozenset[str]


class HasGrpcStatus(Struct, frozen=True, gc=False):
    """grpc_status_filter."""

    statuses: frozenset[int]
    excludes: bool


class LogTypes(Struct, frozen=True, gc=False):
    """log_type_filter; lines here are all of the type DownstreamEnd."""

    matches: bool


class Expression(Struct, frozen=True, gc=False):
    """A CEL expression (envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter)."""

    text: str


class AllOf(Struct, frozen=True, gc=False):
    """and_filter."""

    filters: tuple[AccessLogFilter, ...]


class AnyOf(Struct, frozen=True, gc=False):
    """or_filter."""

    filters: tuple[AccessLogFilter, ...]


AccessLogFilter = (
    Compared
    | IsNoHealthCheck
    | IsTraced
    | Sampled
    | HasHeader
    | HasFlags
    | HasGrpcStatus
    | LogTypes
    | Expression
    | AllOf
    | AnyOf
)


class AccessLogConfig(Struct, frozen=True, gc=False):
    """Which requests are told, what of them, and where to.

    Attributes:
        path: A file, /dev/stdout or /dev/stderr; of a service, what people call it.
        text: The format; empty for Envoy's default one.
        json: A JSON format instead, as JSON; empty where there is none.
        omits_empty: What is missing is left out.
        filter: None takes all requests.
        service: That is told instead; None for files.
    """

    path: str
    text: str = ""
    json: str = ""
    omits_empty: bool = False
    filter: AccessLogFilter | None = None
    service: LogService | None = None


_EXTENSION = "envoy.extensions.access_loggers."
_FILE = f"{_EXTENSION}file.v3.FileAccessLog"
_STREAMS = {
    f"{_EXTENSION}stream.v3.StdoutAccessLog": "/dev/stdout",
    f"{_EXTENSION}stream.v3.StderrAccessLog": "/dev/stderr",
}
_CEL = f"{_EXTENSION}filters.cel.v3.ExpressionFilter"

# Their operators are known to formats anyway.
_KNOWN_FORMATTERS = ("envoy.extensions.formatter.req_without_query.", "envoy.extensions.formatter.metadata.")

_MAX_DEPTH = 16


def parse_access_logs(messages: Any, where: str, notes: Notes) -> tuple[AccessLogConfig, ...]:
    """HttpConnectionManager.access_log.

    Raises:
        ResourceError: A rule does not hold.
    """
    parsed = []
    for index, message in enumerate(messages):
        log = _parse(message, f"{where}[{index}]", notes)
        if log is not None:
            parsed.append(log)
    return tuple(parsed)


def _parse(message: Any, where: str, notes: Notes) -> AccessLogConfig | None:
    kind = message.typed_config.type_url.rpartition("/")[2]
    path = f"{where}.typed_config"
    service = None
    if kind in LOG_SERVICE_TYPES:
        service = parse_log_service(message.typed_config, path, notes)
        target = service.name
    elif kind == _FILE:
        config = unpack(message.typed_config, protos.file_pb2.FileAccessLog, path)
        target = config.path
    elif kind in _STREAMS:
        name = kind.rpartition(".")[2]
        config = unpack(message.typed_config, getattr(protos.stream_pb2, name), path)
        target = _STREAMS[kind]
    else:
        notes.add(
            where,
            f"the access log {message.name or kind!r} is not acted on: only files, streams, gRPC and OpenTelemetry are",
        )
        return None
    text, tree, omits_empty = _format(config, path, notes) if service is None else ("", "", False)
    try:
        chosen = parse_filter(message.filter, f"{where}.filter") if message.HasField("filter") else None
    except _UnknownFilterError as error:
        # What it keeps out must not be told, and requests must go on.
        notes.add(error.field, f"{error.problem}; nothing is written to {target}")
        return None
    return AccessLogConfig(target, text, tree, omits_empty, chosen, service)


def _format(config: Any, where: str, notes: Notes) -> tuple[str, str, bool]:
    """Text, JSON, and whether empty values are left out."""
    if config.HasField("log_format"):
        message, path = config.log_format, f"{where}.log_format"
        for formatter in message.formatters:
            kind = formatter.typed_config.type_url.rpartition("/")[2]
            if not kind.startswith(_KNOWN_FORMATTERS):
                notes.add(f"{path}.formatters", f"{kind} is not known")
        kind = message.WhichOneof("format")
        if kind == "json_format":
            return "", json.dumps(struct_as_dict(message.json_format)), message.omit_empty_values
        if kind == "text_format_source":
            source = message.text_format_source
            if source.WhichOneof("specifier") not in ("inline_string", "inline_bytes"):
                raise ResourceError(f"{path}.text_format_source", "must be inline")
            text = source.inline_string or source.inline_bytes.decode("utf-8", "replace")
            return text, "", message.omit_empty_values
        return message.text_format, "", message.omit_empty_values
    kind = config.WhichOneof("access_log_format")
    if kind in ("json_format", "typed_json_format"):
        return "", json.dumps(struct_as_dict(getattr(config, kind))), False
    return (config.format if kind == "format" else ""), "", False


class _UnknownFilterError(ResourceError):
    """A filter that Envoy has and meshsdk has not."""


def parse_filter(message: Any, where: str, depth: int = 0) -> AccessLogFilter:
    """An AccessLogFilter.

    Raises:
        ResourceError: A rule does not hold, or it is of a kind that is not known.
    """
    kind = message.WhichOneof("filter_specifier")
    if depth > _MAX_DEPTH:
        raise ResourceError(where, f"is nested deeper than {_MAX_DEPTH}")
    if kind is None:
        raise ResourceError(where, "must be of some kind")
    inner, path = getattr(message, kind), f"{where}.{kind}"
    if kind in ("and_filter", "or_filter"):
        filters = tuple(
            parse_filter(one, f"{path}.filters[{index}]", depth + 1) for index, one in enumerate(inner.filters)
        )
        return AllOf(filters) if kind == "and_filter" else AnyOf(filters)
    parse = _PARSERS.get(kind)
    if parse is None:
        raise _UnknownFilterError(path, "is not acted on")
    return parse(inner, path)


def _compared(of: str) -> Callable[[Any, str], AccessLogFilter]:
    def parse(message: Any, where: str) -> AccessLogFilter:
        comparison = message.comparison
        return Compared(of, Comparison(comparison.op), comparison.value.default_value)

    return parse


def _sampled(message: Any, where: str) -> AccessLogFilter:
    percent = message.percent_sampled
    denominator = {0: 100, 1: 10_000, 2: 1_000_000}[percent.denominator]
    return Sampled(message.runtime_key, percent.numerator, denominator, message.use_independent_randomness)


def _header(message: Any, where: str) -> AccessLogFilter:
    return HasHeader(parse_header_matcher(message.header, f"{where}.header"))


def _flags(message: Any, where: str) -> AccessLogFilter:
    return HasFlags(frozenset(message.flags))


def _grpc_status(message: Any, where: str) -> AccessLogFilter:
    return HasGrpcStatus(frozenset(message.statuses), message.exclude)


# envoy.data.accesslog.v3.AccessLogType.DownstreamEnd.
_DOWNSTREAM_END = 6


def _log_type(message: Any, where: str) -> AccessLogFilter:
    return LogTypes((_DOWNSTREAM_END in message.types) != message.exclude)


def _extension(message: Any, where: str) -> AccessLogFilter:
    kind = message.typed_config.type_url.rpartition("/")[2]
    if kind != _CEL:
        raise _UnknownFilterError(where, f"{message.name or kind!r} is not acted on")
    config = unpack(message.typed_config, protos.cel_filter_pb2.ExpressionFilter, f"{where}.typed_config")
    return Expression(config.expression)


_PARSERS: dict[str, Callable[[Any, str], AccessLogFilter]] = {
    "status_code_filter": _compared("status"),
    "duration_filter": _compared("milliseconds"),
    "not_health_check_filter": lambda message, where: IsNoHealthCheck(),
    "traceable_filter": lambda message, where: IsTraced(),
    "runtime_filter": _sampled,
    "header_filter": _header,
    "response_flag_filter": _flags,
    "grpc_status_filter": _grpc_status,
    "log_type_filter": _log_type,
    "extension_filter": _extension,
}


def parse_filter_document(document: Mapping[str, Any] | str, where: str) -> AccessLogFilter:
    """An AccessLogFilter as JSON has it, or the text of a CEL expression.

    Raises:
        ResourceError: It is none.
    """
    if isinstance(document, str):
        return Expression(document)
    message = protos.accesslog_pb2.AccessLogFilter()
    try:
        protos.json_format.ParseDict(document, message)
    except protos.json_format.ParseError as error:
        raise ResourceError(where, f"is no AccessLogFilter: {error}") from error
    return parse_filter(message, where)
