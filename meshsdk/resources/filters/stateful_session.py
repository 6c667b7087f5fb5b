"""Sessions that stay with an endpoint (envoy.extensions.filters.http.stateful_session.v3.StatefulSession; gRFC A55)."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from .. import protos
from ..notes import Notes
from ..values import unpack
from .settings import FilterSetting

__all__ = [
    "NO_SESSION",
    "StatefulSession",
    "parse_stateful_session",
    "parse_stateful_session_per_route",
]


_COOKIE = "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState"
_HEADER = "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState"


class StatefulSession(FilterSetting, Struct, frozen=True, gc=False):
    """Where the endpoint of a session is written down.

    Attributes:
        cookie: Name of the cookie; empty where a header is used, or sessions are switched off.
        path: Of the cookie; requests outside it have no session.
        ttl_seconds: Of the cookie; 0 is a session cookie.
        attributes: Further ones of the cookie.
        header: Name of the header that carries the endpoint, in requests and in responses.
        strict: An endpoint that cannot be used fails the request instead of being replaced.
    """

    cookie: str = ""
    path: str = ""
    ttl_seconds: int = 0
    attributes: tuple[tuple[str, str], ...] = ()
    header: str = ""
    strict: bool = False


NO_SESSION = StatefulSession()


def parse_stateful_session(container: Any, where: str, notes: Notes) -> StatefulSession:
    """The StatefulSession inside a google.protobuf.Any."""
    return _parse(unpack(container, protos.stateful_session_pb2.StatefulSession, where), where, notes)


def parse_stateful_session_per_route(container: Any, where: str, notes: Notes) -> StatefulSession:
    """The StatefulSessionPerRoute inside a google.protobuf.Any."""
    message = unpack(container, protos.stateful_session_pb2.StatefulSessionPerRoute, where)
    if message.WhichOneof("override") == "stateful_session":
        return _parse(message.stateful_session, f"{where}.stateful_session", notes)
    return NO_SESSION


def _parse(message: Any, where: str, notes: Notes) -> StatefulSession:
    notes.unless_acted_on(message, where, frozenset({"session_state", "strict", "stat_prefix"}))
    if not message.HasField("session_state"):
        return NO_SESSION
    container = message.session_state.typed_config
    path = f"{where}.session_state.typed_config"
    kind = container.type_url.rpartition("/")[2]
    if kind == _COOKIE:
        cookie = unpack(container, protos.cookie_pb2.CookieBasedSessionState, path).cookie
        return StatefulSession(
            cookie=cookie.name,
            path=cookie.path,
            ttl_seconds=int(cookie.ttl.seconds),
            attributes=tuple((one.name, one.value) for one in cookie.attributes),
            strict=message.strict,
        )
    if kind == _HEADER:
        header = unpack(container, protos.header_pb2.HeaderBasedSessionState, path)
        return StatefulSession(header=header.name.lower(), strict=message.strict)
    raise ResourceError(path, f"{message.session_state.name!r} ({kind}) is a session state that meshsdk does not know")
