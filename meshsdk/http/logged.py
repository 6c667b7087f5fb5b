"""What an access log is told of a request that a transport has carried out.

A line says what a sidecar's would, also of requests whose caller got an exception: the answer that a sidecar would have
given in its place, with the length of its body.

Source: Envoy source/common/router/router.cc (onUpstreamReset), common/http/utility.cc (resetReasonToString); what the
real Envoy writes in each case.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ..access_log import Entry, Headers, RemembersSteady, Steady
from ..balancing import Endpoint
from ..errors import PeerIdentityError, RequestError
from ..exchange import Exchange, LocalReply
from ..routing import RequestHead
from ..routing.timeouts import is_grpc
from .dispatcher import head_of
from .endings import ending_of_error
from .errors import ConnectError, ConnectTimeout, FromReply, LocalProtocolError, RefusedStreamError
from .shapes import Request

__all__ = ["Ending", "InPlace", "Told", "answer_in_place", "answered_entry", "entry_of"]


class InPlace(NamedTuple):
    """What a sidecar would have answered in the place of an error that the caller gets.

    Attributes:
        reply: Its status is 0 where the caller has left.
        failure: Why there was no connection; empty where there was one.
    """

    reply: LocalReply
    failure: str


Ending = LocalReply | InPlace | None

_BEFORE, _AFTER = "upstream_reset_before_response_started", "upstream_reset_after_response_started"

# The beginning of what a sidecar answers where its upstream has not.
_RESET = "upstream connect error or disconnect/reset before headers. "
_REASON, _LATEST = "reset reason: ", "retried and the latest reset reason: "

# How flags of a response that breaks off are told in its details.
_BROKEN = {
    "UPE": f"{_AFTER}{{protocol_error}}",
    "UC": f"{_AFTER}{{connection_termination}}",
    "UR": f"{_AFTER}{{remote_reset}}",
    "UT": "response_timeout",
    "DC": "downstream_remote_disconnect",
}
_RESETS = {"UPE": "protocol error", "UC": "connection termination", "UR": "remote reset"}

# Answers that a sidecar makes before it picks an endpoint, having taken up the request.
_AT_THE_POOL = frozenset({"UH", "UO"})


# What of a response is looked at when its body has come: its headers, and its extensions.
Told = tuple[Headers, Mapping[str, Any]]

# When it ended, in seconds since the epoch; how long it took; and how long until the response's head.
Timing = tuple[float, float, float | None]

_NOTHING: Headers = ()
_NO_EXTENSIONS: Mapping[str, Any] = MappingProxyType({})


def answered_entry(
    logs: RemembersSteady,
    exchange: Exchange,
    endpoint: Endpoint | None,
    told: Told,
    status: int,
    received: int,
    sent: int,
    timing: Timing,
) -> Entry:
    """The entry of a request that a server has answered, with nothing to be said of it, as nearly all are.

    Args:
        logs: What they know of others.
        exchange: What it came to.
        endpoint: Whose response it is; None where somebody else's transport got it.
        told: The response.
        status: Its status.
        received, sent: Bytes of the bodies of request and response.
        timing: See above.
    """
    head = exchange.outgoing_head
    route = exchange.route
    key = (
        exchange.cluster,
        endpoint,
        exchange.own_address,
        status,
        route.route.name if route is not None else "",
        head.method,
        head.authority,
        exchange.attempts,
    )
    steady = logs.known.get(key)
    if steady is None:
        steady = Steady(head, status, "", "via_upstream")
        _tell_exchange(steady, exchange, endpoint)
        logs.remember(key, steady)
    ended, seconds, to_head = timing
    headers, extensions = told
    trailers = extensions.get("trailing_headers", _NOTHING)
    return Entry(steady, head, headers, trailers, received, sent, ended, seconds, to_head)


def entry_of(
    request: Request,
    begun: Exchange | LocalReply | None,
    endpoint: Endpoint | None,
    told: Told | None,
    ending: Ending,
    status: int,
    flags: str,
    sizes: tuple[int, int],
    timing: Timing,
) -> Entry:
    """The entry of any request that is over.

    Args:
        request: As the application has made it.
        begun: What it came to.
        endpoint: Whose response it is; None where no server answered.
        told: The response that the application gets, if any.
        ending: The answer in a server's place, or in that of what is raised.
        status, flags: How it ended.
        sizes: Bytes of the bodies of request and response.
        timing: See above.
    """
    head = _head_of(request, begun)
    headers, extensions = told if told is not None else (_NOTHING, _NO_EXTENSIONS)
    trailers = extensions.get("trailing_headers", _NOTHING)
    ended, seconds, to_head = timing
    received, sent = sizes
    failure = ""
    if ending is None:
        details = _BROKEN.get(flags.rpartition(",")[2], "via_upstream")
    else:
        to_head = None
        if isinstance(ending, InPlace):
            answer, failure = ending
            details = answer.details
            if status:
                headers = answer.headers
                sent = len(answer.body) if head.method != "HEAD" else 0
        else:
            details = ending.details
        if type(begun) is not Exchange or not (begun.attempts or begun.delay_seconds) or flags == "UO":
            # It is answered before its body is read.
            received = 0
    steady = Steady(head, status, flags, details)
    steady.failure = failure
    if type(begun) is Exchange:
        _tell_exchange(steady, begun, endpoint)
    elif type(begun) is LocalReply:
        # Whose cluster is not there has none, not even by name.
        steady.cluster = "" if begun.flag == "NC" else begun.cluster
        steady.route = begun.route
    return Entry(steady, head, headers, trailers, received, sent, ended, seconds, to_head)


def _head_of(request: Request, begun: Exchange | LocalReply | None) -> RequestHead:
    if type(begun) is Exchange:
        # A route's changes are made when somebody is there to get them.
        return begun.outgoing_head if begun.attempts else begun.head
    if type(begun) is LocalReply and begun.head is not None:
        return begun.head
    return head_of(request, request.url.scheme)


def _tell_exchange(steady: Steady, exchange: Exchange, endpoint: Endpoint | None) -> None:
    cluster = exchange.cluster
    steady.cluster = cluster.name
    steady.cluster_metadata = cluster.config.metadata
    route = exchange.route
    if route is not None:
        steady.route = route.route.name
    steady.attempts = exchange.attempts
    steady.own_address = exchange.own_address
    endpoint = endpoint or exchange.endpoint
    if endpoint is not None:
        steady.host = endpoint.name
        steady.hostname = endpoint.config.hostname
        steady.host_metadata = endpoint.config.metadata
    if not steady.attempts and steady.flags in _AT_THE_POOL:
        steady.attempts = 1


_TEXT = ((b"content-type", b"text/plain"),)


def answer_in_place(
    request: Request, error: BaseException, status: int, begun: Exchange | LocalReply | None
) -> InPlace:
    """What a sidecar would have answered: to a gRPC request, 200 and a status of gRPC's.

    Args:
        request: As the application has made it.
        error: What it gets.
        status: That it means; 0 where a sidecar's caller would have left.
        begun: What the request came to.
    """
    reply, failure = _in_place(error, status, begun)
    return InPlace(reply.as_grpc() if status and is_grpc(_head_of(request, begun)) else reply, failure)


def _in_place(error: BaseException, status: int, begun: Exchange | LocalReply | None) -> tuple[LocalReply, str]:
    if isinstance(error, FromReply) and error.reply is not None:
        return error.reply, ""
    details, body, failure = _of_error(error, begun.attempts if type(begun) is Exchange else 0)
    reply = LocalReply(status, body.encode(), _TEXT if body else (), details=details)
    if type(begun) is Exchange and body:
        reply = begun.changed_reply(reply)
    return reply, failure


def _of_error(error: BaseException, attempts: int) -> tuple[str, str, str]:
    """Details, body, and why there was no connection."""
    if isinstance(error, RequestError) and not isinstance(error, PeerIdentityError):
        # Without a route at all: REGISTRY_ONLY's, or one whose configuration is broken.
        return ("cluster_not_found" if error.flag == "NC" else "direct_response"), "", ""
    if isinstance(error, (ConnectTimeout, ConnectError, PeerIdentityError)):
        if isinstance(error, ConnectTimeout):
            return _reset("connection timeout", "", attempts)
        return _reset("remote connection failure", _failure(error), attempts)
    if isinstance(error, RefusedStreamError):
        return _reset("remote refused stream reset", "", attempts)
    if isinstance(error, LocalProtocolError):
        return "http1.codec_error", "", ""
    _, flag = ending_of_error(error)
    if flag in _RESETS:
        return _reset(_RESETS[flag], "", attempts)
    return "downstream_remote_disconnect", "", ""


def _reset(reason: str, failure: str, attempts: int) -> tuple[str, str, str]:
    told = f"{reason}|{failure}" if failure else reason
    body = f"{_RESET}{_LATEST if attempts > 1 else _REASON}{reason}"
    return f"{_BEFORE}{{{told}}}".replace(" ", "_"), body, failure


def _failure(error: BaseException) -> str:
    """Why a connection came to nothing, in Envoy's words as far as they are about the same."""
    cause = error.__cause__
    if isinstance(error, PeerIdentityError):
        return f"TLS_error: verify cert failed: {error}"
    if isinstance(cause, ssl.SSLError):
        why = getattr(cause, "verify_message", "") or cause.reason or str(cause)
        return f"TLS_error: {why}"
    if isinstance(cause, OSError) and cause.strerror:
        return f"delayed connect error: {cause.strerror}"
    return ""
