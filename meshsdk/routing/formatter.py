"""Values of added headers: text with command operators, compiled.

Source: Envoy docs, observability/access_log/usage (command operators) and http_conn_man/headers (custom headers). A
value that is not there is empty, so that a header made of it alone is not added at all. What only the receiver of a
request knows (the downstream connection, dynamic metadata) is never there in a client.
"""

from __future__ import annotations

import json
import os
import platform
import time
import urllib.parse
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import re2

from ..errors import ResourceError
from .request_head import RequestHead

__all__ = ["FormatContext", "Formatter", "compile_format"]

Metadata = Mapping[str, Mapping[str, Any]]


def _no_header(name: str) -> str | None:
    return None


class FormatContext:
    """What a command operator may ask for.

    Attributes:
        head: The request, with the header changes made so far.
        cluster, route: Their names.
        upstream_address, upstream_hostname: Of the endpoint; empty before one is picked.
        status, response_header: Of the response; 0 and nothing before there is one.
        attempts: How many were begun.
        started: When the request began, in seconds since the epoch; 0 is now.
        body: Of a local reply (%LOCAL_REPLY_BODY%).
        dynamic_metadata, route_metadata: What filters and the route said, in a server.
        downstream: The value of an operator with its arguments that is about a server's connection; None in a client.
    """

    __slots__ = (
        "attempts",
        "body",
        "cluster",
        "cluster_metadata",
        "details",
        "downstream",
        "dynamic_metadata",
        "flags",
        "head",
        "response_header",
        "route",
        "route_metadata",
        "started",
        "status",
        "upstream_address",
        "upstream_hostname",
        "upstream_metadata",
    )

    def __init__(
        self,
        head: RequestHead,
        cluster: str = "",
        *,
        route: str = "",
        upstream_address: str = "",
        upstream_hostname: str = "",
        cluster_metadata: Metadata | None = None,
        upstream_metadata: Metadata | None = None,
        status: int = 0,
        response_header: Callable[[str], str | None] = _no_header,
        attempts: int = 0,
        flags: str = "",
        details: str = "",
        started: float = 0.0,
        body: str = "",
        dynamic_metadata: Metadata | None = None,
        route_metadata: Metadata | None = None,
        downstream: Callable[[str, str], str] | None = None,
    ) -> None:
        self.head = head
        self.cluster = cluster
        self.route = route
        self.upstream_address = upstream_address
        self.upstream_hostname = upstream_hostname
        self.cluster_metadata = cluster_metadata
        self.upstream_metadata = upstream_metadata
        self.status = status
        self.response_header = response_header
        self.attempts = attempts
        self.flags = flags
        self.details = details
        self.started = started
        self.body = body
        self.dynamic_metadata = dynamic_metadata
        self.route_metadata = route_metadata
        self.downstream = downstream


Formatter = Callable[[FormatContext], str]

# Arguments may hold anything but a closing parenthesis.
_OPERATOR = re2.compile(r"%%|%([A-Z_0-9]+)(?:\(([^)]*)\))?(?::(\d{1,5}))?%|%")


def compile_format(text: str, where: str, missing: str = "") -> Formatter:
    """A function from a request to the header's value.

    Args:
        text: `%%` is a percent sign, `%OPERATOR(arguments):length%` is replaced at each request.
        where: Path for error messages.
        missing: What stands for a value that is not there.

    Raises:
        ResourceError: An operator is not known, or a percent sign stands alone.
    """
    parts: list[str | Formatter] = []
    position = 0
    for match in _OPERATOR.finditer(text):
        parts.append(text[position : match.start()])
        parts.append(_compile_operator(match, where, missing))
        position = match.end()
    parts.append(text[position:])
    if all(isinstance(part, str) for part in parts):
        literal = "".join(part for part in parts if isinstance(part, str))
        return lambda context: literal
    return lambda context: "".join(part if isinstance(part, str) else part(context) for part in parts)


def _compile_operator(match: Any, where: str, missing: str) -> str | Formatter:
    if match[0] == "%%":
        return "%"
    if match[0] == "%":
        raise ResourceError(where, f"a lone % in {match.string!r}; write %% for a percent sign")
    name, arguments, length = match[1], match[2] or "", match[3]
    operator = _operator(name, arguments, where, missing)
    if length is None:
        return operator
    limit = int(length)
    return lambda context: operator(context)[:limit]


def _operator(name: str, arguments: str, where: str, missing: str) -> Formatter:
    if name in _HEADERS:
        # A header that is there and empty is not missing.
        return _HEADERS[name](arguments, f"{where} %{name}%", missing)
    if name in ("PROTOCOL", "REQUESTED_SERVER_NAME") or name.startswith("DOWNSTREAM_"):
        operator = _downstream(name, arguments)
    elif name in _WITH_ARGUMENTS:
        operator = _WITH_ARGUMENTS[name](arguments, f"{where} %{name}%")
    elif arguments:
        raise ResourceError(where, f"%{name}% takes no arguments")
    elif name in _SIMPLE:
        operator = _SIMPLE[name]
    elif name in _NEVER_THERE:
        operator = _nothing
    else:
        raise ResourceError(where, f"%{name}% is an operator that meshsdk does not know")
    if not missing or name == "LOCAL_REPLY_BODY":
        return operator
    return lambda context: operator(context) or missing


def _nothing(context: FormatContext) -> str:
    return ""


def _downstream(name: str, arguments: str) -> Formatter:
    # Whoever sends a request knows nothing of these but the protocol.
    in_client = "HTTP/1.1" if name == "PROTOCOL" else ""

    def value(context: FormatContext) -> str:
        return context.downstream(name, arguments) if context.downstream is not None else in_client

    return value


def _header_names(arguments: str, where: str) -> tuple[str, str]:
    """`X?Y`: the header X, or Y where X is missing."""
    first, _, second = arguments.lower().partition("?")
    if not first:
        raise ResourceError(where, "needs the name of a header")
    return first, second


def _request_header(arguments: str, where: str, missing: str) -> Formatter:
    first, second = _header_names(arguments, where)

    def value(context: FormatContext) -> str:
        found = context.head.first_header(first)
        if found is None and second:
            found = context.head.first_header(second)
        return missing if found is None else found

    return value


def _response_header(arguments: str, where: str, missing: str) -> Formatter:
    first, second = _header_names(arguments, where)

    def value(context: FormatContext) -> str:
        found = context.response_header(first)
        if found is None and second:
            found = context.response_header(second)
        return missing if found is None else found

    return value


def _never_there(arguments: str, where: str) -> Formatter:
    return _nothing


def _environment(arguments: str, where: str) -> Formatter:
    value = os.environ.get(arguments, "")
    return lambda context: value


def _query_parameter(arguments: str, where: str) -> Formatter:
    return lambda context: urllib.parse.unquote(context.head.query_parameter(arguments) or "", "latin-1")


def _path(arguments: str, where: str) -> Formatter:
    """%PATH(WQ|NQ:ORIG|PATH|ORIG_OR_PATH)%: with or without query, before or after the route's rewrite."""
    query, _, which = arguments.partition(":")
    if query not in ("", "WQ", "NQ") or which not in ("", "ORIG", "PATH", "ORIG_OR_PATH"):
        raise ResourceError(where, f"{arguments!r} is not WQ or NQ with ORIG, PATH or ORIG_OR_PATH")

    def value(context: FormatContext) -> str:
        head = context.head
        original = head.header("x-envoy-original-path") if which != "PATH" else None
        target = (original or "") if which == "ORIG" else original or head.target
        return target.partition("?")[0] if query == "NQ" else target

    return value


def _metadata(
    of: Callable[[FormatContext], Metadata | None], *, takes_lists: bool = False
) -> Callable[[str, str], Formatter]:
    def compile_metadata(arguments: str, where: str) -> Formatter:
        """NAMESPACE:KEY:…: a value in metadata; what is no string is written as JSON."""
        path = _legacy_list(arguments) if takes_lists and arguments.startswith("[") else arguments.split(":")
        if not path or not path[0]:
            raise ResourceError(where, "needs a namespace")

        def value(context: FormatContext) -> str:
            found: Any = of(context)
            for key in path:
                if not isinstance(found, Mapping) or key not in found:
                    return ""
                found = found[key]
            if isinstance(found, str):
                return found
            return json.dumps(_with_whole_numbers(found), separators=(",", ":"))

        return value

    return compile_metadata


def _with_whole_numbers(value: Any) -> Any:
    """Numbers of a struct are all floats; those without a fraction are written without one."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _with_whole_numbers(inner) for key, inner in value.items()}
    return [_with_whole_numbers(inner) for inner in value] if isinstance(value, list) else value


def _legacy_list(arguments: str) -> list[str]:
    """`["namespace", "key"]`, the older spelling of metadata arguments."""
    try:
        parsed = json.loads(arguments)
    except ValueError:
        return []
    return [str(part) for part in parsed] if isinstance(parsed, list) else []


_ISO = "%Y-%m-%dT%H:%M:%E3SZ"
_TIME_FORMAT = re2.compile(r"%E?([1-9*])?([A-Za-z%])")


def _start_time(arguments: str, where: str) -> Formatter:
    """%START_TIME(strftime)%: also %s (seconds), %f and %1f to %9f (fractions) and %E3S (seconds with fraction)."""
    pattern = arguments or _ISO

    def value(context: FormatContext) -> str:
        now = context.started or time.time()
        return format_time(pattern, int(now * 1e9))

    return value


def format_time(pattern: str, nanoseconds: int) -> str:
    """A moment since the epoch, in UTC, by Envoy's strftime."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)

    def directive(match: Any) -> str:
        digits, letter = match[1], match[2]
        if letter == "f":
            width = int(digits) if digits and digits != "*" else 9
            return f"{fraction:09d}"[:width]
        if letter == "S" and digits:
            width = 9 if digits == "*" else int(digits)
            return f"{moment:%S}.{fraction:09d}"[: 3 + width]
        if letter == "s":
            return str(seconds)
        return moment.strftime(f"%{letter}")

    return str(_TIME_FORMAT.sub(directive, pattern))


def _emit_time(arguments: str, where: str) -> Formatter:
    pattern = arguments or _ISO
    return lambda context: format_time(pattern, time.time_ns())


def _typed_metadata(arguments: str, where: str) -> Formatter:
    """%METADATA(CLUSTER:namespace:key)% and the same for UPSTREAM_HOST."""
    kind, _, rest = arguments.partition(":")
    if kind == "CLUSTER":
        return _WITH_ARGUMENTS["CLUSTER_METADATA"](rest, where)
    if kind == "UPSTREAM_HOST":
        return _WITH_ARGUMENTS["UPSTREAM_METADATA"](rest, where)
    if kind == "DYNAMIC":
        return _WITH_ARGUMENTS["DYNAMIC_METADATA"](rest, where)
    if kind == "ROUTE":
        return _metadata(lambda context: context.route_metadata)(rest, where)
    raise ResourceError(where, f"metadata of type {kind!r} is not known to meshsdk")


def _query_parameters(arguments: str, where: str) -> Formatter:
    return lambda context: context.head.query


_HEADERS: dict[str, Callable[[str, str, str], Formatter]] = {
    "REQ": _request_header,
    "REQUEST_HEADER": _request_header,
    "RESP": _response_header,
}

_WITH_ARGUMENTS: dict[str, Callable[[str, str], Formatter]] = {
    "TRAILER": _never_there,
    "START_TIME": _start_time,
    "EMIT_TIME": _emit_time,
    "METADATA": _typed_metadata,
    "ENVIRONMENT": _environment,
    "QUERY_PARAM": _query_parameter,
    "QUERY_PARAMS": _query_parameters,
    "PATH": _path,
    "UPSTREAM_METADATA": _metadata(lambda context: context.upstream_metadata, takes_lists=True),
    "CLUSTER_METADATA": _metadata(lambda context: context.cluster_metadata),
    "DYNAMIC_METADATA": _metadata(lambda context: context.dynamic_metadata),
    "FILTER_STATE": _never_there,
    "PER_REQUEST_STATE": _never_there,
}

_HOSTNAME = platform.node()


def _without_port(address: str) -> str:
    host, colon, port = address.rpartition(":")
    return host.strip("[]") if colon and port.isdecimal() else address


def _port(address: str) -> str:
    _, colon, port = address.rpartition(":")
    return port if colon and port.isdecimal() else ""


_SIMPLE: dict[str, Formatter] = {
    "HOSTNAME": lambda context: _HOSTNAME,
    "UPSTREAM_CLUSTER": lambda context: context.cluster,
    "UPSTREAM_CLUSTER_RAW": lambda context: context.cluster,
    "UPSTREAM_HOST": lambda context: context.upstream_address,
    "UPSTREAM_HOST_NAME": lambda context: context.upstream_hostname or context.upstream_address,
    "UPSTREAM_HOST_NAME_WITHOUT_PORT": lambda context: _without_port(
        context.upstream_hostname or context.upstream_address
    ),
    "UPSTREAM_REMOTE_ADDRESS": lambda context: context.upstream_address,
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": lambda context: _without_port(context.upstream_address),
    "UPSTREAM_REMOTE_PORT": lambda context: _port(context.upstream_address),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": lambda context: str(context.attempts),
    "ROUTE_NAME": lambda context: context.route,
    "RESPONSE_CODE": lambda context: str(context.status) if context.status else "0",
    "RESPONSE_CODE_DETAILS": lambda context: context.details,
    "RESPONSE_FLAGS": lambda context: context.flags or "-",
    "LOCAL_REPLY_BODY": lambda context: context.body,
    "UNIQUE_ID": lambda context: str(uuid.uuid4()),
}

# Known to Envoy, and without a value here: sizes and durations of a request that is only beginning, and the
# upstream's connection, which is not open yet when headers are added.
_NEVER_THERE = frozenset(
    "STREAM_ID VIRTUAL_CLUSTER_NAME CONNECTION_TERMINATION_DETAILS ACCESS_LOG_TYPE"
    " RESPONSE_DURATION RESPONSE_TX_DURATION REQUEST_TX_DURATION UPSTREAM_PROTOCOL UPSTREAM_LOCAL_ADDRESS"
    " UPSTREAM_LOCAL_PORT UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT UPSTREAM_TRANSPORT_FAILURE_REASON"
    " UPSTREAM_TLS_CIPHER UPSTREAM_TLS_VERSION UPSTREAM_TLS_SESSION_ID UPSTREAM_PEER_SUBJECT UPSTREAM_PEER_ISSUER"
    " UPSTREAM_PEER_URI_SAN UPSTREAM_PEER_DNS_SAN UPSTREAM_PEER_IP_SAN UPSTREAM_LOCAL_SUBJECT"
    " UPSTREAM_LOCAL_URI_SAN UPSTREAM_LOCAL_DNS_SAN UPSTREAM_PEER_CERT UPSTREAM_CONNECTION_ID TRACE_ID GRPC_STATUS"
    " GRPC_STATUS_NUMBER CONNECTION_ID".split()
)
