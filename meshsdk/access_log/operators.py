"""Envoy's command operators, compiled: from a finished request to a value, in the style of the format.

An operator is *steady* where it depends on nothing but what many requests have in common (`entry.Steady`). Numbers
stay numbers.

Source: Envoy docs, advanced/substitution_formatter; source/common/formatter/stream_info_formatter.cc. What is about a
request alone has its operator in `routing.formatter`, which headers with values of the kind go by, too.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import re2
from msgspec import Struct

from ..errors import ResourceError
from ..routing.formatter import compile_format, format_time
from ..routing.timeouts import is_grpc
from .cel import compile_value
from .entry import Entry
from .grpc_status import grpc_number
from .header_operators import Getter, compile_header
from .iso_time import MILLISECONDS, Second, iso_time, second_of
from .shown import Style
from .tables import FLAG_NAMES, GRPC_CAMEL, GRPC_SNAKE, NOT_KNOWN_HERE

__all__ = ["Operator", "compile_parts"]


class Operator(Struct, frozen=True):
    """One operator of a format.

    Attributes:
        get: Gives its value.
        is_steady: See above.
    """

    get: Getter
    is_steady: bool = False


# Arguments may hold anything but a closing parenthesis.
_OPERATOR = re2.compile(r"%%|%([A-Z_0-9]+)(?:\(([^)]*)\))?(?::(\d{1,5}))?%|%")


def compile_parts(text: str, where: str, style: Style) -> list[str | Operator]:
    """The pieces of a format: text, and what operators stand for.

    Args:
        text: `%%` is a percent sign, `%OPERATOR(arguments):length%` is replaced.
        where: Path for error messages.
        style: How values are written.

    Raises:
        ResourceError: An operator is not known, or a percent sign stands alone.
    """
    parts: list[str | Operator] = []
    position = 0
    for match in _OPERATOR.finditer(text):
        _add(parts, text[position : match.start()])
        if match[0] == "%%":
            _add(parts, "%")
        elif match[0] == "%":
            raise ResourceError(where, f"a lone % in {text!r}; write %% for a percent sign")
        else:
            parts.append(_compile(match[1], match[2] or "", match[3], where, style))
        position = match.end()
    _add(parts, text[position:])
    return parts


def _add(parts: list[str | Operator], text: str) -> None:
    if not text:
        return
    if parts and isinstance(parts[-1], str):
        parts[-1] += text
    else:
        parts.append(text)


def _compile(name: str, arguments: str, length: str | None, where: str, style: Style) -> Operator:
    limit = int(length) if length is not None else None
    header = compile_header(name, arguments, limit, f"{where} %{name}%", style)
    if header is not None:
        get, is_steady = header
        return Operator(get, is_steady)
    if name in _NUMBERS or name in _TEXTS or name in NOT_KNOWN_HERE:
        if arguments and name not in NOT_KNOWN_HERE:
            raise ResourceError(where, f"%{name}% takes no arguments")
        if limit is not None:
            raise ResourceError(where, f"%{name}% takes no length")  # Neither in Envoy.
        if name in NOT_KNOWN_HERE:
            return Operator(lambda entry: style.missing, is_steady=True)
        if name in _NUMBERS:
            number = _NUMBERS[name]
            return Operator(_or_missing(number, style) if name in _MAY_BE_MISSING else number, name in _STEADY)
        return Operator(_shown(_TEXTS[name], None, style), name in _STEADY)
    if name in ("START_TIME", "EMIT_TIME"):
        return Operator(_time(name, arguments, limit, style))
    if name in ("CEL", "TYPED_CEL"):
        return Operator(_shown(compile_value(arguments, f"{where} %{name}%"), limit, style))
    if name == "METADATA" and arguments.partition(":")[0] in _METADATA_NOT_KNOWN:
        return Operator(lambda entry: style.missing, is_steady=True)
    if name == "GRPC_STATUS":
        return Operator(_grpc_status(arguments, f"{where} %{name}%", style))
    return _of_request(name, arguments, limit, where, style)


def _of_connection(name: str, arguments: str, limit: int | None, style: Style) -> Getter:
    missing, text = style.missing, style.text

    def value(entry: Entry) -> Any:
        of_server = entry.of_server
        if of_server is None:
            return missing
        found = of_server.ask(name, arguments)
        return text(found[:limit]) if found else missing

    return value


# Listeners and virtual hosts say nothing that is kept.
_METADATA_NOT_KNOWN = ("LISTENER", "VIRTUAL_HOST", "LISTENER_FILTER_CHAIN")


def _shown(read: Callable[[Entry], str], limit: int | None, style: Style) -> Getter:
    """A text in the style of the format; an empty one is missing."""
    missing, text = style.missing, style.text
    return lambda entry: text(found[:limit]) if (found := read(entry)) else missing


def _or_missing(read: Getter, style: Style) -> Getter:
    missing = style.missing
    return lambda entry: missing if (found := read(entry)) is None else found


def _of_request(name: str, arguments: str, limit: int | None, where: str, style: Style) -> Operator:
    """An operator that values of headers have, too; it knows a missing value by its emptiness."""
    if name.startswith("DOWNSTREAM_") or name == "REQUESTED_SERVER_NAME":
        # Whoever sends a request has no such connection; what is about the peer differs from one to the next.
        return Operator(_of_connection(name, arguments, limit, style), name in _STEADY)
    formatter = compile_format(f"%{name}({arguments})%" if arguments else f"%{name}%", where)
    return Operator(_shown(lambda entry: formatter(entry.context), limit, style), name in _STEADY)


def _time(name: str, arguments: str, limit: int | None, style: Style) -> Getter:
    if name == "START_TIME" and not arguments and limit is None:
        return _iso_start(style.text("")[:1])
    moment: Callable[[Entry], float] = (
        (lambda entry: entry.ended - entry.seconds) if name == "START_TIME" else attrgetter("ended")
    )
    if not arguments:
        return _shown(lambda entry: iso_time(moment(entry)), limit, style)
    return _shown(lambda entry: format_time(arguments, int(moment(entry) * 1e9)), limit, style)


def _iso_start(quote: str) -> Getter:
    """What nearly all formats begin with: nothing in it needs to be escaped."""
    last: Second = (0, "")

    def start(entry: Entry) -> str:
        nonlocal last
        moment = entry.ended - entry.seconds
        number = int(moment)
        known = last
        if known[0] != number:
            known = last = second_of(number)
        return known[1] + MILLISECONDS[int((moment - number) * 1000)]

    return start if not quote else lambda entry: f'"{start(entry)}"'


def _to_head(entry: Entry) -> int | None:
    seconds = entry.seconds_to_head
    return None if seconds is None else int(seconds * 1000)


def _from_head(entry: Entry) -> int | None:
    seconds = entry.seconds_to_head
    return None if seconds is None else max(0, int(entry.seconds * 1000) - int(seconds * 1000))


def _details(entry: Entry) -> str:
    return entry.steady.details.replace(" ", "_")


def _long_flags(entry: Entry) -> str:
    return ",".join(FLAG_NAMES.get(flag, flag) for flag in entry.steady.flags.split(",")) or "-"


def _grpc_status(arguments: str, where: str, style: Style) -> Getter:
    names = {"": GRPC_CAMEL, "CAMEL_STRING": GRPC_CAMEL, "SNAKE_STRING": GRPC_SNAKE, "NUMBER": None}
    if arguments not in names:
        raise ResourceError(where, f"{arguments!r} is not CAMEL_STRING, SNAKE_STRING or NUMBER")
    table = names[arguments]
    if table is None:
        return _or_missing(_grpc_status_number, style)

    def name(entry: Entry) -> str:
        if not is_grpc(entry.head):
            return ""
        number = grpc_number(entry)
        return table[number] if number < len(table) else str(number)

    return _shown(name, None, style)


def _grpc_status_number(entry: Entry) -> int | None:
    return grpc_number(entry) if is_grpc(entry.head) else None


def _size(headers: Callable[[Entry], Any]) -> Callable[[Entry], int]:
    return lambda entry: sum(len(name) + len(value) for name, value in headers(entry))


_NUMBERS: dict[str, Getter] = {
    "RESPONSE_CODE": attrgetter("steady.status"),
    "BYTES_RECEIVED": attrgetter("received"),
    "BYTES_SENT": attrgetter("sent"),
    "DURATION": lambda entry: int(entry.seconds * 1000),
    "RESPONSE_DURATION": _to_head,
    "RESPONSE_TX_DURATION": _from_head,
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": attrgetter("steady.attempts"),
    "GRPC_STATUS_NUMBER": _grpc_status_number,
    "REQUEST_HEADERS_BYTES": _size(lambda entry: entry.head.raw_headers),
    "RESPONSE_HEADERS_BYTES": _size(lambda entry: entry.headers),
}
_MAY_BE_MISSING = frozenset({"RESPONSE_DURATION", "RESPONSE_TX_DURATION", "GRPC_STATUS_NUMBER"})

_TEXTS: dict[str, Callable[[Entry], str]] = {
    "PROTOCOL": attrgetter("steady.protocol"),
    "RESPONSE_CODE_DETAILS": _details,
    "RESPONSE_FLAGS": lambda entry: entry.steady.flags or "-",
    "RESPONSE_FLAGS_LONG": _long_flags,
    "UPSTREAM_HOST": attrgetter("steady.host"),
    "UPSTREAM_LOCAL_ADDRESS": attrgetter("steady.own_address"),
    "UPSTREAM_CLUSTER": attrgetter("steady.cluster"),
    "UPSTREAM_CLUSTER_RAW": attrgetter("steady.cluster"),
    "UPSTREAM_TRANSPORT_FAILURE_REASON": lambda entry: entry.steady.failure.replace(" ", "_"),
    "ROUTE_NAME": attrgetter("steady.route"),
    "ACCESS_LOG_TYPE": lambda entry: "DownstreamEnd",
}

_STEADY = frozenset(
    "PROTOCOL RESPONSE_CODE RESPONSE_CODE_DETAILS RESPONSE_FLAGS RESPONSE_FLAGS_LONG UPSTREAM_HOST"
    " UPSTREAM_LOCAL_ADDRESS UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW UPSTREAM_TRANSPORT_FAILURE_REASON ROUTE_NAME"
    " ACCESS_LOG_TYPE UPSTREAM_REQUEST_ATTEMPT_COUNT HOSTNAME ENVIRONMENT DOWNSTREAM_LOCAL_ADDRESS"
    " DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_LOCAL_PORT REQUESTED_SERVER_NAME".split()
)
