"""What an access log is told of a request that a transport has carried out.

A line says what a sidecar's would, also of requests whose caller got an exception: the answer that a sidecar would have
given in its place, with the length of its body.

Source: Envoy source/common/router/router.cc (onUpstreamReset), common/http/utility.cc (resetReasonToString); what the
real Envoy writes in each case.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import httpx

from ..access_log import Entry
from ..balancing import Endpoint
from ..errors import PeerIdentityError, RequestError
from ..exchange import Exchange, LocalReply
from ..routing import RequestHead
from ..routing.timeouts import is_grpc
from .dispatcher import head_of
from .endings import ending_of_error
from .errors import FromReply, RefusedStreamError

__all__ = ["Ending", "Told", "entry_of"]

Headers = Sequence[tuple[bytes, bytes]]
Ending = LocalReply | BaseException | None

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


class Told(NamedTuple):
    """What of a response is looked at when its body has come."""

    headers: httpx.Headers
    extensions: Mapping[str, Any]


def entry_of(
    request: httpx.Request,
    begun: Exchange | LocalReply | None,
    endpoint: Endpoint | None,
    told: httpx.Response | Told | None,
    ending: Ending,
    status: int,
    flags: str,
    sizes: tuple[int, int],
    seconds: float,
    seconds_to_head: float | None,
) -> Entry:
    """The entry of a request that is over.

    Args:
        request: As the application has made it.
        begun: What it came to.
        endpoint: Whose response it is; None where no server answered.
        told: The response that the application gets, if any.
        ending: The answer in a server's place, or what is raised.
        status, flags: How it ended.
        sizes: Bytes of the bodies of request and response.
        seconds, seconds_to_head: How long it took, and how long until the response's head.
    """
    headers: Headers | None = told.headers.raw if told is not None else None
    head = _head_of(request, begun)
    if ending is None:
        details = "via_upstream"
        if flags:
            flags, details = _broken(flags, told)
        received, sent = sizes
        entry = Entry(head, headers, status, flags, details, received, sent, time.time(), seconds, seconds_to_head)
    else:
        entry = _of_ending(head, headers, status, flags, ending, begun, sizes, seconds)
    if type(begun) is Exchange:
        _tell_exchange(entry, begun, endpoint)
    elif type(begun) is LocalReply:
        # Whose cluster is not there has none, not even by name.
        entry.cluster = "" if begun.flag == "NC" else begun.cluster
        entry.route = begun.route
    if told is not None:
        entry.trailers = told.extensions.get("trailing_headers", ())
    return entry


def _broken(flags: str, told: httpx.Response | Told | None) -> tuple[str, str]:
    """Flags and details of a response that may have broken off.

    The end of an HTTP/1.1 connection within a body breaks the protocol, as Envoy's codec sees it.
    """
    before, comma, last = flags.rpartition(",")
    if last == "UC" and told is not None and told.extensions.get("http_version") != b"HTTP/2":
        last = "UPE"
    return f"{before}{comma}{last}", _BROKEN.get(last, "via_upstream")


def _head_of(request: httpx.Request, begun: Exchange | LocalReply | None) -> RequestHead:
    if type(begun) is Exchange:
        # A route's changes are made when somebody is there to get them.
        return begun.outgoing_head if begun.attempts else begun.head
    return head_of(request, request.url.scheme)


def _tell_exchange(entry: Entry, exchange: Exchange, endpoint: Endpoint | None) -> None:
    cluster = exchange.cluster
    entry.cluster = cluster.name
    entry.cluster_metadata = cluster.config.metadata
    route = exchange.route
    if route is not None:
        entry.route = route.name
    entry.attempts = exchange.attempts
    entry.own_address = exchange.own_address
    endpoint = endpoint or exchange.endpoint
    if endpoint is not None:
        entry.host = endpoint.name
        entry.hostname = endpoint.config.hostname
        entry.host_metadata = endpoint.config.metadata
    if not entry.attempts and entry.flags in _AT_THE_POOL:
        entry.attempts = 1


def _of_ending(
    head: RequestHead,
    headers: Headers | None,
    status: int,
    flags: str,
    ending: LocalReply | BaseException,
    begun: Exchange | LocalReply | None,
    sizes: tuple[int, int],
    seconds: float,
) -> Entry:
    """The entry of a request that no server has answered."""
    received, sent = sizes
    failure = ""
    if isinstance(ending, LocalReply):
        details = ending.details
    else:
        raised = ending.reply if isinstance(ending, FromReply) else None
        if raised is None:
            raised, failure = _answer_to(ending, status, begun.attempts if type(begun) is Exchange else 0)
            if type(begun) is Exchange and raised.body:
                raised = begun.changed_reply(raised)
        details = raised.details
        if status:
            answer = raised.as_grpc() if is_grpc(head) else raised
            status, headers = answer.status, answer.headers
            sent = len(answer.body) if head.method != "HEAD" else 0
    if type(begun) is not Exchange or not (begun.attempts or begun.delay_seconds) or flags == "UO":
        # It is answered before its body is read.
        received = 0
    entry = Entry(head, headers, status, flags, details, received, sent, time.time(), seconds, None)
    entry.failure = failure
    return entry


_TEXT = ((b"content-type", b"text/plain"),)


def _answer_to(error: BaseException, status: int, attempts: int) -> tuple[LocalReply, str]:
    """What a sidecar would have answered, and why there was no connection."""
    details, body, failure = _of_error(error, attempts)
    return LocalReply(status, body.encode(), _TEXT if body else (), details=details), failure


def _of_error(error: BaseException, attempts: int) -> tuple[str, str, str]:
    """Details, body, and why there was no connection."""
    if isinstance(error, RequestError) and not isinstance(error, PeerIdentityError):
        # Without a route at all: REGISTRY_ONLY's, or one whose configuration is broken.
        return ("cluster_not_found" if error.flag == "NC" else "direct_response"), "", ""
    if isinstance(error, (httpx.ConnectTimeout, httpx.ConnectError, PeerIdentityError)):
        if isinstance(error, httpx.ConnectTimeout):
            return _reset("connection timeout", "", attempts)
        return _reset("remote connection failure", _failure(error), attempts)
    if isinstance(error, RefusedStreamError):
        return _reset("remote refused stream reset", "", attempts)
    if isinstance(error, httpx.LocalProtocolError):
        return "http1.codec_error", "", ""
    _, flag = ending_of_error(error)
    if flag in _RESETS:
        return _reset(_RESETS[flag], "", attempts)
    return "downstream_remote_disconnect", "", ""


def _reset(reason: str, failure: str, attempts: int) -> tuple[str, str, str]:
    told = f"{reason}|{failure}" if failure else reason
    body = f"{_RESET}{_LATEST if attempts > 1 else _REASON}{reason}"
    return f"{_BEFORE}{{{told}}}".replace(" ", "_"), body, failure.replace(" ", "_")


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
