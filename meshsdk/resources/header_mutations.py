"""Header changes as data, and how they are parsed (envoy.config.core.v3.HeaderValueOption)."""

from __future__ import annotations

from enum import Enum
from typing import Any

from msgspec import Struct

from ..errors import ResourceError

__all__ = [
    "NO_MUTATIONS",
    "AppendAction",
    "HeaderAddition",
    "HeaderMutations",
    "parse_addition",
    "parse_request_headers",
    "parse_response_headers",
]


class AppendAction(Enum):
    """What adding a header does with one that is there already (HeaderValueOption.HeaderAppendAction)."""

    APPEND_IF_EXISTS_OR_ADD = 0
    ADD_IF_ABSENT = 1
    OVERWRITE_IF_EXISTS_OR_ADD = 2
    OVERWRITE_IF_EXISTS = 3


class HeaderAddition(Struct, frozen=True, gc=False):
    """One header to add: its value is a format string (Envoy docs, http_conn_man/headers, custom headers)."""

    name: str
    value: str
    action: AppendAction = AppendAction.APPEND_IF_EXISTS_OR_ADD
    keep_empty_value: bool = False


class HeaderMutations(Struct, frozen=True, gc=False):
    """Headers that one level (route, virtual host, …) removes and adds; Envoy removes first, then adds."""

    add: tuple[HeaderAddition, ...] = ()
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)


NO_MUTATIONS = HeaderMutations()


def parse_request_headers(message: Any, where: str) -> HeaderMutations:
    """The request_headers_to_add and request_headers_to_remove of a message."""
    return _mutations(message.request_headers_to_add, message.request_headers_to_remove, f"{where}.request_headers")


def parse_response_headers(message: Any, where: str) -> HeaderMutations:
    """The response_headers_to_add and response_headers_to_remove of a message."""
    return _mutations(message.response_headers_to_add, message.response_headers_to_remove, f"{where}.response_headers")


def _mutations(to_add: Any, to_remove: Any, where: str) -> HeaderMutations:
    if not to_add and not to_remove:
        return NO_MUTATIONS
    for index, name in enumerate(to_remove):
        check_name(name, f"{where}_to_remove[{index}]", "removed")
    return HeaderMutations(
        add=tuple(parse_addition(option, f"{where}_to_add[{index}]") for index, option in enumerate(to_add)),
        remove=tuple(name.lower() for name in to_remove),
    )


def check_name(name: str, where: str, what: str) -> None:
    """Refuse to have the request line and Host changed in passing.

    Raises:
        ResourceError: It is a pseudo-header or Host.
    """
    if name.startswith(":") or name.lower() == "host":
        raise ResourceError(where, f"{name!r} may not be {what}; use a host or path rewrite")


def parse_addition(option: Any, where: str) -> HeaderAddition:
    """A HeaderValueOption."""
    check_name(option.header.key, f"{where}.header.key", "added")
    action = AppendAction(option.append_action)
    # HeaderValueOption.append is deprecated and still taken: false means overwrite.
    if option.HasField("append"):
        if option.append_action:
            raise ResourceError(where, "append and append_action must not both be set")
        action = (
            AppendAction.APPEND_IF_EXISTS_OR_ADD if option.append.value else AppendAction.OVERWRITE_IF_EXISTS_OR_ADD
        )
    value = option.header.value or option.header.raw_value.decode("latin-1")
    return HeaderAddition(option.header.key.lower(), value, action, option.keep_empty_value)
