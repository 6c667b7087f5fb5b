"""The mesh's inbound policy in front of gRPC servers: the same engine as for HTTP.

A call is a POST of its method's path, its metadata are the headers, and its peer is what grpc's handshake has verified.
A refusal becomes a gRPC status, as Envoy's local replies do for gRPC requests.
"""

from __future__ import annotations

import ssl
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import grpc

from ...errors import PeerIdentityError
from ...exchange.local_reply import LocalReply
from ...inbound import Connection, Fact, InboundRequest
from ...resources.listener import NO_RULES
from ...routing import RequestHead
from ...security import PeerCertificate, read_peer
from .hang_up import hang_up

if TYPE_CHECKING:
    from ...control import Control
    from ...server import Inbound
    from ...server.drive import Deciding
    from ...server.peer_trust import CutOff
    from .measured_server import InboundCallRecord

__all__ = ["ServerPolicy", "server_policy"]

# grpc tells servers nothing of their own end of a connection, nor the headers that it takes for itself.
_UNTOLD = frozenset({Fact.DESTINATION_IP, Fact.SERVER_NAME, Fact.GRPC_HEADERS})
_UNTOLD_OF_TLS = frozenset({Fact.OWN_CERTIFICATE, Fact.TLS_PARAMETERS})

# Where the host is not told, nothing is wrong with it; policy that asks for it refuses the call.
_ANY_HOST = "host"

_CERTIFICATE_END = "-----END CERTIFICATE-----"

_STATUSES = {code.value[0]: code for code in grpc.StatusCode}


def server_policy(control: Control, port: int | None, address: str) -> ServerPolicy | None:
    """The policy of a port, which an interceptor enforces; None where no port is named."""
    if port is None:
        return None
    from ...server import Inbound

    return ServerPolicy(Inbound(control, port, address))


class ServerPolicy:
    """Decides on calls.

    Args:
        inbound: The port's policy.
    """

    def __init__(self, inbound: Inbound) -> None:
        from ...server.drive import AsyncDriver, Driver
        from ...server.malformed import malformed

        self._inbound = inbound
        self._malformed = malformed
        self._driver = Driver(inbound)
        self._async_driver = AsyncDriver(inbound)

    def trace(self, method: str, context: Any) -> InboundRequest | None:
        """The call as policy sees it, with what configuration says of its trace; None before the policy has come."""
        policy = self._inbound.policy
        if policy is None:
            return None
        request = self._request(method, context)
        policy.trace(request)
        return request

    def check(
        self,
        method: str,
        context: Any,
        record: InboundCallRecord | None = None,
        early: InboundRequest | None = None,
    ) -> InboundRequest:
        """Let the call pass, or abort it. Who calls says when the request is done.

        Args:
            method: Of the call.
            context: grpc's.
            record: Told of a refusal.
            early: The request, where `trace` has made it.
        """
        request = early or self._request(method, context)
        if record is not None:
            record.request, record.policy = request, self._inbound.policy
        try:
            reply = self._refusal(request) or self._driver.decide(request, _no_body)
            if reply is not None:
                if record is not None:
                    record.reply = reply
                context.abort(*_status(reply))
        except BaseException:
            request.done(None, _aborted_with(context))
            raise
        # Functions that grpc.aio runs in threads have a context that cannot.
        self._driver.peers.hold(request, getattr(context, "cancel", None))
        return request

    async def check_async(
        self,
        method: str,
        context: Any,
        breaker: Callable[[], CutOff],
        record: InboundCallRecord | None = None,
        early: InboundRequest | None = None,
    ) -> InboundRequest:
        """See `check`.

        Args:
            method: Of the call.
            context: grpc's.
            breaker: Gives what breaks the call off from another thread.
            record: Told of a refusal.
            early: The request, where `trace` has made it.
        """
        request = early or self._request(method, context)
        if record is not None:
            record.request, record.policy = request, self._inbound.policy
        try:
            reply: LocalReply | Deciding | None = self._refusal(request)
            if reply is None:
                reply = self._async_driver.decide(request, _no_body_async)
            if reply is not None and not isinstance(reply, LocalReply):
                reply = await reply
            if reply is not None:
                if record is not None:
                    record.reply = reply
                await context.abort(*_status(reply))
        except BaseException:
            request.done(None, _aborted_with(context))
            raise
        if request.connection.peer is not None:
            self._async_driver.peers.hold(request, breaker())
        return request

    def _request(self, method: str, context: Any) -> InboundRequest:
        authority = _authority(context)
        connection = _connection(context, self._inbound.port, is_authority_told=authority is not None)
        headers = [
            (name.encode("latin-1"), value if isinstance(value, bytes) else value.encode("latin-1", "replace"))
            for name, value in context.invocation_metadata() or ()
        ]
        headers.append((b"content-type", b"application/grpc"))
        scheme = "https" if connection.is_tls else "http"
        return InboundRequest(RequestHead("POST", scheme, authority or "", method, headers), connection)

    def _refusal(self, request: InboundRequest) -> LocalReply | None:
        """Of what policy and handlers might understand differently; grpc itself takes any host, and none."""
        head = request.head
        authority = _ANY_HOST if Fact.AUTHORITY in request.connection.untold else head.authority
        # What is binary may hold anything.
        headers = [header for header in head.raw_headers if not header[0].endswith(b"-bin")]
        policy = self._inbound.policy
        rules = policy.rules if policy is not None else NO_RULES
        return self._malformed(RequestHead(head.method, head.scheme, authority, head.target, headers), rules, "2")


def _aborted_with(context: Any) -> int | None:
    """The status that a call was refused with; None where it was broken off."""
    code = context.code() if hasattr(context, "code") else None
    return code.value[0] if isinstance(code, grpc.StatusCode) else code or None


def _no_body(max_bytes: int) -> bytes:
    """Messages are read by grpc, after the call was let in."""
    return b""


async def _no_body_async(max_bytes: int) -> bytes:
    return b""


def _authority(context: Any) -> str | None:
    """grpc tells it in no public way: the context of grpc.server has it, those of grpc.aio do not.

    Nor need one that another interceptor has put around it; and of methods that generated code has registered
    (`add_registered_method_handlers`) grpc.server leaves it empty.
    """
    event = getattr(context, "_rpc_event", None)
    host = getattr(getattr(event, "call_details", None), "host", None)
    return host.decode("latin-1") if isinstance(host, bytes) and host else None


def _connection(context: Any, port: int, *, is_authority_told: bool) -> Connection:
    family, _, rest = context.peer().partition(":")
    host, _, number = urllib.parse.unquote(rest).rpartition(":")
    source_ip = host.strip("[]") if family in ("ipv4", "ipv6") else ""
    source_port = int(number) if number.isdecimal() else 0
    known = context.auth_context()
    sent = _sent(known)
    is_tls = known.get("transport_security_type", [b""])[0] in (b"ssl", "ssl")
    untold = _UNTOLD | _UNTOLD_OF_TLS if is_tls else _UNTOLD
    if not is_authority_told:
        untold |= {Fact.AUTHORITY}
    if not source_ip and family not in ("unix", "unix-abstract"):
        untold |= {Fact.SOURCE}
    return Connection(
        is_tls=is_tls,
        peer=_peer(sent),
        peer_certificates=sent,
        source_ip=source_ip,
        source_port=source_port,
        destination_port=port,
        protocol="HTTP/2",
        hang_up=partial(hang_up, source_ip, source_port, port) if sent else None,
        untold=untold,
    )


def _peer(sent: Sequence[bytes]) -> PeerCertificate | None:
    """A certificate that cannot be read proves nothing."""
    try:
        return read_peer(sent[0]) if sent else None
    except PeerIdentityError:
        return None


def _sent(known: Mapping[str, Sequence[bytes | str]]) -> tuple[bytes, ...]:
    """What the peer has sent, its own certificate first: grpc tells the others as one text, with it or without.

    Only its own was verified to be its own: where that cannot be read, nothing is known.
    """
    own = _first(known.get("x509_pem_cert", ()))
    others = _first(known.get("x509_pem_cert_chain", ()))
    return own + tuple(one for one in others if one not in own) if own else ()


def _first(texts: Sequence[bytes | str]) -> tuple[bytes, ...]:
    for text in texts:
        return _der_chain(text if isinstance(text, bytes) else text.encode())
    return ()


@lru_cache(maxsize=1024)
def _der_chain(pem: bytes) -> tuple[bytes, ...]:
    pieces = pem.decode("ascii", "replace").split(_CERTIFICATE_END)[:-1]
    try:
        return tuple(ssl.PEM_cert_to_DER_cert(piece.strip() + _CERTIFICATE_END) for piece in pieces)
    except ValueError:
        return ()


def _status(reply: LocalReply) -> tuple[grpc.StatusCode, str]:
    fields = dict(reply.as_grpc().headers)
    code = int(fields.get(b"grpc-status", b"2"))
    message = urllib.parse.unquote(fields.get(b"grpc-message", b"").decode("latin-1"))
    # grpc refuses to abort with OK; an answer that is none is an error of the policy's.
    return _STATUSES.get(code, grpc.StatusCode.UNKNOWN) if code else grpc.StatusCode.UNKNOWN, message
