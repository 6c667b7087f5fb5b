"""x-request-id of requests that come in: made where there is none, and where a stranger's is not to be believed.

Source: Envoy source/common/http/conn_manager_utility.cc (mutateRequestHeaders, mutateResponseHeaders),
source/extensions/request_id/uuid/config.cc (set).
"""

from __future__ import annotations

from collections.abc import Callable

from ...request_id import NAME, make_request_id
from ...resources.listener import ServerManager
from ...routing.request_ids import NOT_TRACED, with_reason
from ..request import InboundRequest

__all__ = ["compile_identification"]

# The connection manager sees an answer after every filter.
_MANAGER = -1

Headers = list[tuple[bytes, bytes]]


def compile_identification(manager: ServerManager) -> Callable[[InboundRequest], None]:
    """A function that gives a request its id; its headers were cleaned."""
    ids = manager.listener.request_ids

    def identify(request: InboundRequest) -> None:
        given = request.head.by_name().get(NAME)
        if given == b"":
            # It may stand twice.
            given = (request.head.header("x-request-id") or "").encode("latin-1") or None
        kept = given
        if ids.generates:
            if given is None:
                kept = make_request_id()
            elif manager.use_remote_address and request.head.header("x-envoy-internal") != "true":
                kept = of_stranger(given)
        if kept is not None and kept != given:
            request.head = request.head.replacing(NAME, kept)
        if ids.in_response:
            request.response_changes.append((_MANAGER, lambda headers, status: _told(headers, request)))

    def of_stranger(given: bytes) -> bytes:
        if not ids.keeps_external:
            return make_request_id()
        # Whether it is traced is not a stranger's to say.
        return with_reason(given.decode("latin-1"), NOT_TRACED).encode("latin-1") if ids.packs_reason else given

    return identify


def _told(headers: Headers, request: InboundRequest) -> Headers:
    known = request.head.by_name().get(NAME)
    kept = [header for header in headers if header[0].lower() != NAME]
    return [*kept, (NAME, known)] if known else headers
