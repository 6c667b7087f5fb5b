"""Envoy's command operators, compiled: from a finished request to a value.

Numbers stay numbers, which JSON formats tell apart. What is not there is `MISSING`: a dash in text, null in JSON.

Source: Envoy docs, advanced/substitution_formatter; source/common/formatter/stream_info_formatter.cc. What is about a
request alone has its operator in `routing.formatter`, which headers with values of the kind go by, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import re2

from ..errors import ResourceError
from ..routing.formatter import compile_format, format_time
from ..routing.timeouts import is_grpc
from .entry import Entry
from .shown import shown
from .tables import FLAG_NAMES, GRPC_CAMEL, GRPC_SNAKE, NOT_KNOWN_HERE

__all__ = ["MISSING", "Getter", "Missing", "compile_parts", "grpc_number"]

Getter = Callable[[Entry], Any]
Show = Callable[[bytes], str]


class Missing(str):
    """The dash that stands for a value that is not there; a header may have a dash for its value."""

    __slots__ = ()


MISSING = Missing("-")

# Arguments may hold anything but a closing parenthesis.
_OPERATOR = re2.compile(r"%%|%([A-Z_0-9]+)(?:\(([^)]*)\))?(?::(\d{1,5}))?%|%")


def compile_parts(text: str, where: str, show: Show) -> list[str | Getter]:
    """The pieces of a format: text, and what operators stand for.

    Args:
        text: `%%` is a percent sign, `%OPERATOR(arguments):length%` is replaced.
        where: Path for error messages.
        show: Makes text of a header's value.

    Raises:
        ResourceError: An operator is not known, or a percent sign stands alone.
    """
    parts: list[str | Getter] = []
    position = 0
    for match in _OPERATOR.finditer(text):
        _add(parts, text[position : match.start()])
        if match[0] == "%%":
            _add(parts, "%")
        elif match[0] == "%":
            raise ResourceError(where, f"a lone % in {text!r}; write %% for a percent sign")
        else:
            parts.append(_compile(match[1], match[2], match[3], where, show))
        position = match.end()
    _add(parts, text[position:])
    return parts


def _add(parts: list[str | Getter], text: str) -> None:
    if not text:
        return
    if parts and isinstance(parts[-1], str):
        parts[-1] += text
    else:
        parts.append(text)


def _compile(name: str, arguments: str | None, length: str | None, where: str, show: Show) -> Getter:
    getter = _getter(name, arguments or "", where, show)
    if length is not None and name in _SIMPLE:
        raise ResourceError(where, f"%{name}% takes no length")  # Neither in Envoy.
    if length is None:
        return getter
    limit = int(length)

    def cut(entry: Entry) -> Any:
        value = getter(entry)
        return value if value is MISSING else str(value)[:limit]

    return cut


def _getter(name: str, arguments: str, where: str, show: Show) -> Getter:
    if name in _HEADERS:
        return _HEADERS[name](arguments, f"{where} %{name}%", show)
    if name in _WITH_ARGUMENTS:
        return _WITH_ARGUMENTS[name](arguments, f"{where} %{name}%")
    if name in _SIMPLE:
        if arguments:
            raise ResourceError(where, f"%{name}% takes no arguments")
        return _SIMPLE[name]
    if name in NOT_KNOWN_HERE:
        return _missing
    return _of_request(name, arguments, where)


def _of_request(name: str, arguments: str, where: str) -> Getter:
    """An operator that values of headers have, too; it knows a missing value by its emptiness."""
    formatter = compile_format(f"%{name}({arguments})%" if arguments else f"%{name}%", where)

    def value(entry: Entry) -> Any:
        text = formatter(entry.context)
        return shown(text) if text else MISSING

    return value


def _missing(entry: Entry) -> Any:
    return MISSING


# Headers.


def _names(arguments: str, where: str) -> tuple[str, str]:
    """`X?Y`: the header X, or Y where X is missing."""
    first, _, second = arguments.lower().partition("?")
    if not first:
        raise ResourceError(where, "needs the name of a header")
    return first, second


def _request_header(arguments: str, where: str, show: Show) -> Getter:
    first, second = _names(arguments, where)
    get, otherwise = _one_request_header(first, show), _one_request_header(second, show) if second else None
    if otherwise is None:
        return get

    def either(entry: Entry) -> Any:
        value = get(entry)
        return otherwise(entry) if value is MISSING else value

    return either


def _one_request_header(name: str, show: Show) -> Getter:
    if name == ":method":
        return attrgetter("head.method")  # A token, or it would not have gone out or come in.
    if name in (":path", ":authority", "host", ":scheme"):
        of_head = attrgetter({":path": "target", "host": "authority"}.get(name, name.removeprefix(":")))
        return lambda entry: show(of_head(entry.head).encode("latin-1", "replace")) or MISSING
    raw = name.encode("latin-1", "replace")

    def value(entry: Entry) -> Any:
        head = entry.head
        found = head.by_name().get(raw)
        if found is None:
            return MISSING
        if head.has_duplicates:
            found = (head.first_header(name) or "").encode("latin-1")
        return show(found)

    return value


def _without_query(arguments: str, where: str, show: Show) -> Getter:
    """The extension that istiod adds to formats (envoy.formatter.req_without_query)."""
    get = _request_header(arguments, where, show)

    def value(entry: Entry) -> Any:
        found = get(entry)
        return found if found is MISSING else found.partition("?")[0]

    return value


# The name of what routers say of the time that an upstream took, which goes by no header between us and ourselves.
_UPSTREAM_TIME = "x-envoy-upstream-service-time"


def _response_header(arguments: str, where: str, show: Show) -> Getter:
    first, second = _names(arguments, where)
    get, otherwise = _one_response_header(first, show), _one_response_header(second, show) if second else None

    def either(entry: Entry) -> Any:
        value = get(entry)
        return otherwise(entry) if otherwise is not None and value is MISSING else value

    return get if otherwise is None else either


def _one_response_header(name: str, show: Show) -> Getter:
    if name == ":status":
        return lambda entry: str(entry.status) if entry.status else MISSING
    if name == _UPSTREAM_TIME:
        return _upstream_time
    raw = name.encode("latin-1", "replace")

    def value(entry: Entry) -> Any:
        found = entry.response_header(raw)
        return MISSING if found is None else show(found)

    return value


def _upstream_time(entry: Entry) -> Any:
    seconds = entry.seconds_to_head
    return MISSING if seconds is None else str(int(seconds * 1000))


def _trailer(arguments: str, where: str, show: Show) -> Getter:
    names = [name.encode("latin-1", "replace") for name in _names(arguments, where) if name]

    def value(entry: Entry) -> Any:
        for wanted in names:
            for name, found in entry.trailers:
                if name.lower() == wanted:
                    return show(found)
        return MISSING

    return value


# Times.

_second: tuple[int, str] = (0, "")


def _iso(moment: float) -> str:
    """As Envoy writes it unless told otherwise: UTC, with milliseconds."""
    global _second
    seconds = int(moment)
    known = _second
    if known[0] != seconds:
        # The date of a second is the same for all its requests; threads that both find it out agree.
        known = _second = seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return "%s.%03dZ" % (known[1], (moment - seconds) * 1000)  # noqa: UP031 - of each line, and the fastest.


def _start_time(arguments: str, where: str) -> Getter:
    if not arguments:
        return lambda entry: _iso(entry.ended - entry.seconds)
    return lambda entry: format_time(arguments, int(entry.started * 1e9))


def _emit_time(arguments: str, where: str) -> Getter:
    if not arguments:
        return lambda entry: _iso(entry.ended)
    return lambda entry: format_time(arguments, int(entry.ended * 1e9))


def _to_head(entry: Entry) -> Any:
    seconds = entry.seconds_to_head
    return MISSING if seconds is None else int(seconds * 1000)


def _from_head(entry: Entry) -> Any:
    seconds = entry.seconds_to_head
    return MISSING if seconds is None else max(0, int(entry.seconds * 1000) - int(seconds * 1000))


# What became of it.


def _text_of(name: str) -> Getter:
    get = attrgetter(name)
    return lambda entry: get(entry) or MISSING


def _details(entry: Entry) -> Any:
    details = entry.details
    return (details.replace(" ", "_") if " " in details else details) or MISSING


def _long_flags(entry: Entry) -> str:
    return ",".join(FLAG_NAMES.get(flag, flag) for flag in entry.flags.split(",")) or "-"


# gRPC, doc/http-grpc-status-mapping.md; what is not here is UNKNOWN, a 200 without a status of gRPC too.
_GRPC_OF_HTTP = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}


def grpc_number(entry: Entry) -> int:
    """The status of a gRPC call: as trailers say, or the headers of an answer without a body, or as HTTP's means."""
    said = next((value for name, value in entry.trailers if name.lower() == b"grpc-status"), None)
    said = entry.response_header(b"grpc-status") if said is None else said
    if said is not None and said.isdigit() and len(said) < 4:
        return int(said)
    return _GRPC_OF_HTTP.get(entry.status, 2)


def _grpc_status(arguments: str, where: str) -> Getter:
    names = {"": GRPC_CAMEL, "CAMEL_STRING": GRPC_CAMEL, "SNAKE_STRING": GRPC_SNAKE, "NUMBER": None}
    if arguments not in names:
        raise ResourceError(where, f"{arguments!r} is not CAMEL_STRING, SNAKE_STRING or NUMBER")
    table = names[arguments]

    def value(entry: Entry) -> Any:
        if not is_grpc(entry.head):
            return MISSING
        number = grpc_number(entry)
        if table is None:
            return number
        return table[number] if number < len(table) else str(number)

    return value


def _grpc_status_number(entry: Entry) -> Any:
    return grpc_number(entry) if is_grpc(entry.head) else MISSING


def _request_bytes(entry: Entry) -> int:
    return sum(len(name) + len(value) for name, value in entry.head.raw_headers)


def _response_bytes(entry: Entry) -> int:
    return sum(len(name) + len(value) for name, value in entry.headers or ())


_HEADERS: dict[str, Callable[[str, str, Show], Getter]] = {
    "REQ": _request_header,
    "REQUEST_HEADER": _request_header,
    "REQ_WITHOUT_QUERY": _without_query,
    "RESP": _response_header,
    "RESPONSE_HEADER": _response_header,
    "TRAILER": _trailer,
    "RESPONSE_TRAILER": _trailer,
}

_WITH_ARGUMENTS: dict[str, Callable[[str, str], Getter]] = {
    "START_TIME": _start_time,
    "EMIT_TIME": _emit_time,
    "GRPC_STATUS": _grpc_status,
}

_SIMPLE: dict[str, Getter] = {
    "PROTOCOL": attrgetter("protocol"),
    "RESPONSE_CODE": attrgetter("status"),
    "RESPONSE_CODE_DETAILS": _details,
    "RESPONSE_FLAGS": lambda entry: entry.flags or "-",
    "RESPONSE_FLAGS_LONG": _long_flags,
    "BYTES_RECEIVED": attrgetter("received"),
    "BYTES_SENT": attrgetter("sent"),
    "DURATION": attrgetter("milliseconds"),
    "RESPONSE_DURATION": _to_head,
    "RESPONSE_TX_DURATION": _from_head,
    "UPSTREAM_HOST": _text_of("host"),
    "UPSTREAM_LOCAL_ADDRESS": _text_of("own_address"),
    "UPSTREAM_CLUSTER": _text_of("cluster"),
    "UPSTREAM_CLUSTER_RAW": _text_of("cluster"),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": attrgetter("attempts"),
    "UPSTREAM_TRANSPORT_FAILURE_REASON": _text_of("failure"),
    "ROUTE_NAME": _text_of("route"),
    "GRPC_STATUS_NUMBER": _grpc_status_number,
    "REQUEST_HEADERS_BYTES": _request_bytes,
    "RESPONSE_HEADERS_BYTES": _response_bytes,
    "ACCESS_LOG_TYPE": lambda entry: "DownstreamEnd",
}
