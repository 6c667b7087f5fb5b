"""Values of added headers: text with command operators, compiled (Envoy docs, http_conn_man/headers)."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import re2

from ..errors import ResourceError
from .request_head import RequestHead

__all__ = ["FormatContext", "Formatter", "compile_format"]


@dataclass(frozen=True, slots=True)
class FormatContext:
    """What a command operator may ask for."""

    head: RequestHead
    cluster: str
    upstream_address: str = ""


Formatter = Callable[[FormatContext], str]

_OPERATOR = re2.compile(r"%%|%([A-Z_]+)(?:\(([^()%]*)\))?(?::(\d{1,5}))?%|%")


def compile_format(text: str, where: str) -> Formatter:
    """A function from a request to the header's value.

    Args:
        text: `%%` is a percent sign, `%OPERATOR(arguments):length%` is replaced at each request.
        where: Path for error messages.

    Raises:
        ResourceError: An operator is not known, or a percent sign stands alone.
    """
    parts: list[str | Formatter] = []
    position = 0
    for match in _OPERATOR.finditer(text):
        parts.append(text[position : match.start()])
        parts.append(_compile_operator(match, where))
        position = match.end()
    parts.append(text[position:])
    if all(isinstance(part, str) for part in parts):
        literal = "".join(part for part in parts if isinstance(part, str))
        return lambda context: literal
    return lambda context: "".join(part if isinstance(part, str) else part(context) for part in parts)


def _compile_operator(match: Any, where: str) -> str | Formatter:
    if match[0] == "%%":
        return "%"
    if match[0] == "%":
        raise ResourceError(where, f"a lone % in {match.string!r}; write %% for a percent sign")
    name, arguments, length = match[1], match[2] or "", match[3]
    operator = _operator(name, arguments, where)
    if length is None:
        return operator
    limit = int(length)
    return lambda context: operator(context)[:limit]


def _operator(name: str, arguments: str, where: str) -> Formatter:
    if name == "REQ":
        return _request_header(arguments)
    if name in _SIMPLE:
        return _SIMPLE[name]
    raise ResourceError(where, f"%{name}% is an operator that meshsdk does not know")


def _request_header(arguments: str) -> Formatter:
    """%REQ(X?Y)%: the header X, or Y where X is missing, or a dash."""
    first, _, second = arguments.lower().partition("?")

    def value(context: FormatContext) -> str:
        found = context.head.header(first)
        if found is None and second:
            found = context.head.header(second)
        return "-" if found is None else found

    return value


_HOSTNAME = platform.node()

_SIMPLE: dict[str, Formatter] = {
    "PROTOCOL": lambda context: "HTTP/1.1",
    "HOSTNAME": lambda context: _HOSTNAME,
    "UPSTREAM_CLUSTER": lambda context: context.cluster,
    "UPSTREAM_HOST": lambda context: context.upstream_address or "-",
    "REQUESTED_SERVER_NAME": lambda context: context.head.authority.partition(":")[0],
}
