"""A request's head as Envoy's codec hands it on, whatever server it came by."""

from __future__ import annotations

from ..exchange.local_reply import LocalReply
from ..inbound import InboundPolicy, InboundRequest
from ..inbound.replies import not_configured
from ..resources.listener import NO_RULES
from .hop_by_hop import take_away_nominated
from .malformed import bad_request, malformed

__all__ = ["make_uniform"]


def make_uniform(request: InboundRequest, policy: InboundPolicy | None, port: int, protocol: str) -> LocalReply | None:
    """Take from a request what is for the next hop only; or say what is wrong with it.

    Args:
        request: As it came.
        policy: Of the port, if there is one.
        port: That it came to; 0 where the server does not tell.
        protocol: HTTP's version: 1.0, 1.1, 2.
    """
    reply = malformed(request.head, policy.rules if policy is not None else NO_RULES, protocol)
    if reply is not None:
        return reply
    if not port:
        return not_configured("the server tells no port: give port=…")
    head = take_away_nominated(request.head)
    if head is None:
        return bad_request("Connection names what must stay")
    request.head = request.arrived = head
    return None
