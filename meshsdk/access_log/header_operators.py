"""Operators about headers: %REQ(X?Y):Z% and its kin."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from ..errors import ResourceError
from ..request_id import NAME
from .entry import Entry
from .shown import LONGEST_VALUE, Style

__all__ = ["Getter", "compile_header"]

Getter = Callable[[Entry], Any]

# Finds the value of a header, and says whether it is steady.
Find = Callable[[Entry], bytes | None]


def compile_header(
    name: str, arguments: str, limit: int | None, where: str, style: Style
) -> tuple[Getter, bool] | None:
    """The getter of an operator about a header, and whether it is steady; None for other operators.

    Args:
        name: Of the operator.
        arguments: The header's name, or `X?Y`: the header X, or Y where X is missing.
        limit: Characters of the value.
        where: Path for error messages.
        style: How values are written.

    Raises:
        ResourceError: It names no header.
    """
    find = _KINDS.get(name)
    if find is None:
        return None
    first, _, second = arguments.lower().partition("?")
    if not first:
        raise ResourceError(where, "needs the name of a header")
    names = (first, second) if second else (first,)
    is_steady = names in ((":method",), (":authority",), ("host",)) and find is _in_request
    if limit is None and name != "REQ_WITHOUT_QUERY":
        fast = _fast(find, names, style)
        if fast is not None:
            return fast, is_steady
    finders = [find(one) for one in names]
    missing, text = style.missing, style.text
    ends_at_query = name == "REQ_WITHOUT_QUERY"

    def value(entry: Entry) -> Any:
        for look in finders:
            found = look(entry)
            if found is not None:
                if ends_at_query:
                    found = found.partition(b"?")[0]
                return text(found[:limit].decode("latin-1"))
        return missing

    return value, is_steady


def _fast(find: Callable[[str], Find], names: tuple[str, ...], style: Style) -> Getter | None:
    """What most formats have, with nothing in the way."""
    if names == ("x-envoy-upstream-service-time",) and find is _in_response:
        return _upstream_time(style)
    if find is not _in_request:
        return None
    if names == ("x-envoy-original-path", ":path"):
        return _fast_path(style)
    if len(names) == 1 and names[0] not in _OF_HEAD:
        return _fast_header(names[0], style)
    return None


def _upstream_time(style: Style) -> Getter:
    missing, is_text = style.missing, not style.text("")

    def upstream_time(entry: Entry) -> Any:
        seconds = entry.seconds_to_head
        if seconds is None:
            return missing
        return int(seconds * 1000) if is_text else f'"{int(seconds * 1000)}"'

    return upstream_time


def _fast_path(style: Style) -> Getter:
    text, show, known = style.text, style.show, style.known
    is_text = not style.text("")

    def path(entry: Entry) -> Any:
        original = entry.names.get(b"x-envoy-original-path")
        if original is not None:
            return known.get(original) or show(original)
        target = entry.head.target
        if is_text and target.isascii() and target.isprintable() and len(target) <= LONGEST_VALUE:
            return target
        return text(target)

    return path


def _fast_header(name: str, style: Style) -> Getter:
    raw = name.encode("latin-1", "replace")
    if raw == NAME:
        return _request_id(style)
    missing, show, known = style.missing, style.show, style.known

    def header(entry: Entry) -> Any:
        found = entry.names.get(raw)
        if found is None:
            return missing
        if len(entry.names) != len(entry.head.raw_headers):
            found = (entry.head.first_header(name) or "").encode("latin-1")
        return known.get(found) or show(found)

    return header


def _request_id(style: Style) -> Getter:
    """Of each request another one, so that none is worth remembering."""
    missing, text = style.missing, style.text

    def request_id(entry: Entry) -> Any:
        found = entry.names.get(NAME)
        if found is None:
            return missing
        if len(entry.names) != len(entry.head.raw_headers):
            return text(entry.head.first_header("x-request-id") or "")
        return text(found.decode("latin-1"))

    return request_id


_OF_HEAD = {
    ":method": attrgetter("method"),
    ":scheme": attrgetter("scheme"),
    ":path": attrgetter("target"),
    ":authority": attrgetter("authority"),
    "host": attrgetter("authority"),
}


def _in_request(name: str) -> Find:
    of_head = _OF_HEAD.get(name)
    if of_head is not None:
        return lambda entry: of_head(entry.head).encode("latin-1", "replace") or None

    def find(entry: Entry) -> bytes | None:
        found = entry.head.first_header(name)
        return None if found is None else found.encode("latin-1")

    return find


def _in_response(name: str) -> Find:
    if name == ":status":
        return lambda entry: b"%d" % entry.steady.status if entry.steady.status else None
    if name == "x-envoy-upstream-service-time":
        # Routers tell it each other; between us and ourselves it goes by no header.
        return lambda entry: None if entry.seconds_to_head is None else b"%d" % int(entry.seconds_to_head * 1000)
    raw = name.encode("latin-1", "replace")
    return lambda entry: entry.response_header(raw)


def _in_trailers(name: str) -> Find:
    raw = name.encode("latin-1", "replace")
    return lambda entry: next((value for key, value in entry.trailers if key.lower() == raw), None)


_KINDS: dict[str, Callable[[str], Find]] = {
    "REQ": _in_request,
    "REQUEST_HEADER": _in_request,
    # The extension that istiod adds to formats (envoy.formatter.req_without_query).
    "REQ_WITHOUT_QUERY": _in_request,
    "RESP": _in_response,
    "RESPONSE_HEADER": _in_response,
    "TRAILER": _in_trailers,
    "RESPONSE_TRAILER": _in_trailers,
}
