"""The filter ext_authz: somebody else's server decides.

Sources: Envoy docs, http_filters/ext_authz_filter; source/extensions/filters/http/ext_authz/ext_authz.cc.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import Any

from ...exchange.local_reply import LocalReply, payload_too_large
from ...resources.filters.ext_authz import ExtAuthz, ExtAuthzPerRoute
from ...resources.filters.settings import FilterSetting
from ..replies import authorization_denied, authorization_failed
from ..request import Headers, InboundRequest
from ..waits import AskAuthorization, AuthorizationAnswer, ReadBody, Wait
from .compiling import Place, Said, Step, of_route
from .metadata import compile_metadata

__all__ = ["ExtAuthzStep", "compile_filter"]

_NOTHING_ADDED = ExtAuthzPerRoute()


class ExtAuthzStep:
    """The filter for one route."""

    __slots__ = ("_is_asked", "_max_body", "_per_route", "_place", "_random", "_settings")

    def __init__(
        self, settings: ExtAuthz, per_route: ExtAuthzPerRoute | None, place: int, random_fraction: Callable[[], float]
    ) -> None:
        self._place = place
        self._settings = settings
        self._per_route = per_route or _NOTHING_ADDED
        self._random = random_fraction
        self._max_body = None if self._per_route.leave_out_body else settings.max_body_bytes
        self._is_asked = compile_metadata(settings.enabled_metadata) if settings.enabled_metadata is not None else None

    def __call__(self, request: InboundRequest) -> Generator[Wait, Any, LocalReply | None] | None:
        """Ask, where the request is one of those that are asked about."""
        settings = self._settings
        if settings.enabled is not None and self._random() >= settings.enabled.share:
            return None
        if self._is_asked is not None and not self._is_asked(request):
            return None
        return self._ask(request)

    def _ask(self, request: InboundRequest) -> Generator[Wait, Any, LocalReply | None]:
        settings, body = self._settings, b""
        if self._max_body is not None:
            body = yield ReadBody(self._max_body)
            if len(body) > self._max_body:
                if not settings.allow_partial_body:
                    return payload_too_large(self._max_body)
                body = body[: self._max_body]
        told = {name: request.metadata[name] for name in settings.metadata_namespaces if name in request.metadata}
        answer: AuthorizationAnswer | None = yield AskAuthorization(
            settings, request.head, request.connection, body, self._per_route.context_extensions, told
        )
        if answer is None:
            if not settings.failure_mode_allow:
                return authorization_failed(settings.status_on_error)
            if settings.failure_mode_allow_header_add:
                request.set_header(b"x-envoy-auth-failure-mode-allowed", b"true")
            return None
        if not answer.allowed:
            return authorization_denied(answer.status, answer.body, _encoded(answer.response_headers))
        self._accept(request, answer)
        return None

    def _accept(self, request: InboundRequest, answer: AuthorizationAnswer) -> None:
        for name in answer.remove_headers:
            # Pseudo-headers and Host stay, whatever the server says.
            if not name.startswith(":") and name.lower() != "host":
                request.remove_header(name.lower().encode("latin-1", "replace"))
        for header in _encoded(answer.set_headers):
            request.set_header(*header)
        added = _encoded(answer.append_headers)
        if added:
            request.head = request.head.with_headers([*request.head.raw_headers, *added])
        if answer.metadata:
            request.metadata.setdefault("envoy.filters.http.ext_authz", {}).update(answer.metadata)
        if answer.response_headers:
            own = _encoded(answer.response_headers)

            def add(headers: Headers, status: int) -> Headers:
                return [*headers, *own]

            request.response_changes.append((self._place, add))


def _encoded(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[bytes, bytes], ...]:
    """As bytes; what could begin a new line is taken out, since it comes from another server."""
    return tuple(
        (name.lower().encode("latin-1", "replace"), _one_line(value))
        for name, value in headers
        if name and not name.startswith(":")
    )


def _one_line(value: str) -> bytes:
    return value.encode("latin-1", "replace").replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")


def compile_filter(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """The filter for one route."""
    if not isinstance(own, ExtAuthz):
        return None
    return ExtAuthzStep(own, of_route(said, ExtAuthzPerRoute), place.number, random.random)
