"""Lines of an access log: Envoy's text and JSON formats, compiled once when configuration comes.

Either becomes a template of Python's and one getter for each operator in it, so a line is made in one step.

Source: Envoy source/common/formatter/substitution_formatter.cc, json formatter; docs, access_log/usage (JSON keys are
sorted, numbers stay numbers, what is missing is null).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ResourceError
from .entry import Entry
from .operators import MISSING, Getter, compile_parts
from .shown import bounded_bytes, shown_bytes

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
    template, getters = _template(compile_parts(text, where, shown_bytes))
    if omits_empty:
        return lambda entry: template % tuple(["" if (one := get(entry)) is MISSING else one for get in getters])
    return lambda entry: template % tuple([get(entry) for get in getters])


def _template(parts: list[str | Getter]) -> tuple[str, tuple[Getter, ...]]:
    template = "".join(part.replace("%", "%%") if isinstance(part, str) else "%s" for part in parts)
    return template, tuple(part for part in parts if not isinstance(part, str))


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
        make = _compile_value(tree, where, 0, missing="")
        return lambda entry: f"{_encode(_without_missing(make(entry)))}\n"
    parts = _json_parts(tree, where, 0)
    merged: list[str | Getter] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    template, getters = _template([*merged, "\n"])
    return lambda entry: template % tuple([get(entry) for get in getters])


def _json_parts(value: Any, where: str, depth: int) -> list[str | Getter]:
    """The text of a JSON value, but for what operators stand for."""
    if depth > _MAX_DEPTH:
        raise ResourceError(where, f"is nested deeper than {_MAX_DEPTH}")
    if isinstance(value, Mapping):
        parts: list[str | Getter] = ["{"]
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
    make = _compile_value(value, where, depth, missing=MISSING)
    if not callable(make):
        return [_encode(make)]
    return [lambda entry: _encode(make(entry))]


def _compile_value(value: Any, where: str, depth: int, missing: str) -> Any:
    """A function from a request to a value, or the value where it is always the same.

    Args:
        value: The format.
        where: Path for error messages.
        depth: Of the value in it.
        missing: What stands for a value that is not there, within a text.
    """
    if depth > _MAX_DEPTH:
        raise ResourceError(where, f"is nested deeper than {_MAX_DEPTH}")
    if isinstance(value, Mapping):
        fields = {key: _compile_value(value[key], f"{where}.{key}", depth + 1, missing) for key in sorted(value)}
        return lambda entry: {key: one(entry) if callable(one) else one for key, one in fields.items()}
    if isinstance(value, list | tuple):
        items = [_compile_value(one, where, depth + 1, missing) for one in value]
        return lambda entry: [one(entry) if callable(one) else one for one in items]
    if not isinstance(value, str):
        return _plain_number(value)
    parts = compile_parts(value, where, bounded_bytes)
    if not parts or (len(parts) == 1 and isinstance(parts[0], str)):
        return parts[0] if parts else ""
    if len(parts) == 1:
        return parts[0]
    template, getters = _template(parts)
    return lambda entry: template % tuple([missing if (one := get(entry)) is MISSING else one for get in getters])


def _plain_number(value: Any) -> Any:
    """Numbers of a google.protobuf.Struct are floats."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _without_missing(value: Any) -> Any:
    """Without what is null, which Envoy leaves out with what is missing."""
    if isinstance(value, dict):
        return {key: _without_missing(one) for key, one in value.items() if one is not MISSING and one is not None}
    if isinstance(value, list):
        return [_without_missing(one) for one in value if one is not MISSING and one is not None]
    return value


def _encode(value: Any) -> str:
    if value is MISSING:
        return "null"
    if type(value) is str:
        # What is plain is most of it.
        if value.isascii() and value.isprintable() and '"' not in value and "\\" not in value:
            return f'"{value}"'
        return json.dumps(value, ensure_ascii=not value.isprintable())
    if type(value) is int:
        return str(value)
    return json.dumps(value, ensure_ascii=not str(value).isprintable(), separators=(",", ":"))
