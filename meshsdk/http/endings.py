"""How requests end, as sidecars say it: a status and response flags.

Source: Envoy docs, access_log/usage (RESPONSE_FLAGS); what the real Envoy answers in each case.
"""

from __future__ import annotations

from ..errors import RequestError
from ..exchange import LocalReply
from .errors import (
    ConnectError,
    ConnectTimeout,
    LocalProtocolError,
    PoolTimeout,
    ReadTimeout,
    RefusedStreamError,
    RemoteProtocolError,
    TransportError,
    WriteTimeout,
    own_error,
)

__all__ = ["ending_of_error", "flag_of_broken_body", "flag_of_reply"]

# Envoy has no flag for a route's max_stream_duration.
_WITHOUT_FLAG = frozenset({"max_duration_timeout"})

# How the errors begin of peers that end a connection in the middle of something; other protocol errors are about what
# they said.
_ENDED = ("the peer closed", "the connection was lost")

# The caller's own limits: it goes away, and a sidecar learns no more.
_LEFT_BY_CALLER = (ReadTimeout, WriteTimeout, PoolTimeout)


def flag_of_reply(reply: LocalReply) -> str:
    """The flag of an answer in a server's place; empty where it has none."""
    return "" if reply.details in _WITHOUT_FLAG else reply.flag


def ending_of_error(error: BaseException) -> tuple[int, str]:
    """Status and flag of a request that brought its caller no response; 0 where a sidecar's would have left."""
    error = own_error(error)
    if isinstance(error, RequestError):
        return error.status, error.flag
    if isinstance(error, (ConnectError, ConnectTimeout)):
        return 503, "UF"
    if isinstance(error, LocalProtocolError):
        return 400, "DPE"
    if isinstance(error, TransportError) and not isinstance(error, _LEFT_BY_CALLER):
        flag = _flag_of_reset(error)
        return (502 if flag == "UPE" else 503), flag
    return 0, "DC"


def flag_of_broken_body(error: BaseException, *, is_http2: bool) -> str:
    """The flag of a response that breaks off after its head.

    The end of an HTTP/1.1 connection within a body breaks the protocol, as Envoy's codec sees it.
    """
    error = own_error(error)
    if isinstance(error, TransportError) and not isinstance(error, _LEFT_BY_CALLER):
        flag = _flag_of_reset(error)
        return "UPE" if flag == "UC" and not is_http2 else flag
    return "DC"


def _flag_of_reset(error: TransportError) -> str:
    if isinstance(error, RefusedStreamError) or str(error).startswith("the peer reset the stream"):
        return "UR"
    is_malformed = isinstance(error, RemoteProtocolError) and not str(error).startswith(_ENDED)
    return "UPE" if is_malformed else "UC"
