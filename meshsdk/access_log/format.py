"""Lines of an access log: Envoy's text and JSON formats, compiled once when configuration comes.

Either becomes a template of Python's and one getter for each operator in it. What many requests have in common is
filled in once (`Steady.filled`), so a line takes what is the request's own.

Source: Envoy source/common/formatter/substitution_formatter.cc, json formatter; docs, access_log/usage (JSON keys are
sorted, numbers stay numbers, what is missing is null).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ResourceError
from .entry import Entry
from .middle import COMMON_MIDDLE, compile_middle
from .operators import Operator, compile_parts
from .shown import JSON, TEXT, TEXT_OR_NOTHING, Missing, Style, raw_style

__all__ = ["ENVOY_TEXT", "ISTIO_JSON", "ISTIO_TEXT", "Line", "compile_json", "compile_text"]

Line = Callable[[Entry], str]

# Envoy docs, access_log/usage (default format string).
ENVOY_TEXT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS%'
    ' %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%"'
    ' "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"\n'
)

# pilot/pkg/model/telemetry_logging.go: EnvoyTextLogFormat and EnvoyJSONLogFormatIstio.
ISTIO_TEXT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS%'
    ' %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED%'
    ' %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%"'
    ' "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS%'
    " %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
"""Istio's text format, which is the default."""
ISTIO_JSON: Mapping[str, Any] = {
    "start_time": "%START_TIME%",
    "route_name": "%ROUTE_NAME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}
"""Istio's JSON format."""

_MAX_DEPTH = 16


def compile_text(text: str, where: str, *, omits_empty: bool = False) -> Line:
    """A format of text. It ends its line by itself; one that does not runs into the next, as in Envoy.

    Args:
        text: With operators.
        where: Path for error messages.
        omits_empty: What is missing is nothing, not a dash.

    Raises:
        ResourceError: An operator is not known, or a percent sign stands alone.
    """
    style = TEXT_OR_NOTHING if omits_empty else TEXT
    before, common, after = text.partition(COMMON_MIDDLE)
    if not common:
        return _line(compile_parts(text, where, style))
    middle = Operator(compile_middle(style))
    return _line([*compile_parts(before, where, style), middle, *compile_parts(after, where, style)])


# What Istio's format asks of each request, its middle being one. Naming them costs less than a list of them.
_OF_DEFAULT_FORMATS = 4

# What is steady is filled in with a text of its own percent signs, which the next step must find doubled.
_LATER = "%%s"


def _line(parts: list[str | Operator]) -> Line:
    """A function that makes the line in two steps: what is steady once, and the request's own for each."""
    template, steady, own = "", [], []
    for part in parts:
        if isinstance(part, str):
            template += part.replace("%", "%%%%")
        elif part.is_steady:
            template += "%s"
            steady.append(part.get)
        else:
            template += _LATER
            own.append(part.get)
    gets = tuple(own)

    def fill(entry: Entry) -> str:
        rest = template % tuple([str(get(entry)).replace("%", "%%") for get in steady])
        entry.steady.filled[key] = rest
        return rest

    key = object()
    if len(gets) == _OF_DEFAULT_FORMATS:
        start, path, middle, last = gets

        def short(entry: Entry) -> str:
            rest = entry.steady.filled.get(key) or fill(entry)
            return rest % (start(entry), path(entry), middle(entry), last(entry))

        return short

    def line(entry: Entry) -> str:
        rest = entry.steady.filled.get(key) or fill(entry)
        return rest % tuple([get(entry) for get in gets])

    return line


def compile_json(tree: Mapping[str, Any], where: str, *, omits_empty: bool = False) -> Line:
    """A JSON format: objects, lists, and texts with operators in them.

    Args:
        tree: The format.
        where: Path for error messages.
        omits_empty: Keys whose value is missing are left out.

    Raises:
        ResourceError: See `compile_text`; or it is nested too deep.
    """
    if omits_empty:
        make = _compile_value(tree, where, 0, raw_style(""))
        return lambda entry: f"{_encode(make(entry))}\n"
    return _line([*_json_parts(tree, where, 0), "\n"])


def _json_parts(value: Any, where: str, depth: int) -> list[str | Operator]:
    """The text of a JSON value, but for what operators stand for."""
    _check_depth(depth, where)
    if isinstance(value, Mapping):
        parts: list[str | Operator] = ["{"]
        for index, key in enumerate(sorted(value)):
            parts.append(f"{',' if index else ''}{_encode(key)}:")
            parts.extend(_json_parts(value[key], f"{where}.{key}", depth + 1))
        return [*parts, "}"]
    if isinstance(value, list | tuple):
        parts = ["["]
        for index, one in enumerate(value):
            parts.extend([",", *_json_parts(one, where, depth + 1)] if index else _json_parts(one, where, depth + 1))
        return [*parts, "]"]
    if not isinstance(value, str):
        return [_encode(_plain_number(value))]
    single = compile_parts(value, where, JSON)
    if len(single) == 1 and not isinstance(single[0], str):
        return single
    make = _compile_value(value, where, depth, raw_style("-"))
    return [_encode(make)] if isinstance(make, str) else [Operator(lambda entry: _encode(make(entry)))]


def _compile_value(value: Any, where: str, depth: int, style: Style) -> Any:
    """A function from a request to a value, or the value where it is always the same.

    What is missing or null is left out where it has a name or a place of its own.
    """
    _check_depth(depth, where)
    if isinstance(value, Mapping):
        fields = {key: _compile_value(value[key], f"{where}.{key}", depth + 1, style) for key in sorted(value)}
        return lambda entry: {key: one for key, make in fields.items() if not _is_none(one := _made(make, entry))}
    if isinstance(value, list | tuple):
        items = [_compile_value(one, where, depth + 1, style) for one in value]
        return lambda entry: [one for make in items if not _is_none(one := _made(make, entry))]
    if not isinstance(value, str):
        return _plain_number(value)
    parts = compile_parts(value, where, style)
    if not parts:
        return ""
    first = parts[0]
    if len(parts) == 1:
        return first if isinstance(first, str) else first.get
    template = "".join(part.replace("%", "%%") if isinstance(part, str) else "%s" for part in parts)
    gets = [part.get for part in parts if not isinstance(part, str)]
    return lambda entry: template % tuple([get(entry) for get in gets])


def _made(make: Any, entry: Entry) -> Any:
    return make(entry) if callable(make) else make


def _is_none(value: Any) -> bool:
    return value is None or type(value) is Missing


def _check_depth(depth: int, where: str) -> None:
    if depth > _MAX_DEPTH:
        raise ResourceError(where, f"is nested deeper than {_MAX_DEPTH}")


def _plain_number(value: Any) -> Any:
    """Numbers of a google.protobuf.Struct are floats."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _encode(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if text.isprintable() else json.dumps(value, separators=(",", ":"))
