"""At DEBUG each decision about a request that comes in is one line of the logger `meshsdk.decisions`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..exchange.local_reply import LocalReply
from ..log_lines import logger_of

if TYPE_CHECKING:
    from ..inbound import InboundRequest

__all__ = ["told"]

logger = logger_of("meshsdk.decisions")

_MAX_PATH = 256


def told(request: InboundRequest, port: int, reply: LocalReply | None) -> LocalReply | None:
    """The reply, given back; the line is written where somebody wants it.

    Args:
        port: That the request came to.
        reply: None lets the request in.
    """
    if logger.isEnabledFor(logging.DEBUG):
        head, connection = request.head, request.connection
        path = head.path.partition("?")[0][:_MAX_PATH]  # Queries hold tokens.
        who = connection.principal or connection.source_ip or "somebody"
        if reply is None:
            what = f"let in by route {request.route_name}" if request.route_name else "let in"
        else:
            what = f"answered with {reply.http_status or reply.status} ({reply.details or 'by a filter'})"
        logger.debug("inbound %s %s%s from %s at port %d: %s", head.method, head.authority, path, who, port, what)
    return reply
