"""Answers that come from the mesh's policy, not from a server.

Statuses, bodies and flags are those of Envoy's local replies (source/common/router/router.cc; docs,
http_conn_man/response_code_details).
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from ..errors import CircuitOpenError, NoHealthyEndpointError, NoRouteError, RequestError, RequestTimeoutError
from ..routing import CompiledRoute, RequestHead, apply_mutations
from ..routing.compiled_filters import FaultTally
from ..routing.formatter import FormatContext
from ..routing.header_mutation import HeaderList, MutationLevel
from ..routing.timeouts import RouteTimeouts, is_grpc
from ..routing.tracing import Traced
from .outcome import Failure

__all__ = ["LocalReply"]

_CONTENT_TYPE = b"content-type"


class LocalReply(Struct, frozen=True):
    """A response made here.

    Attributes:
        flag: Envoy's response flag; empty where the answer is what was configured (redirect, direct response).
        details: Envoy's response code details.
        error: What `local_replies="raise"` raises; None for answers that are no failure.
        delay_seconds: How long to hold it back (fault injection).
        tally: Told when the delay is over.
        grpc_code: What a gRPC caller is told, where that is not what the status makes of it.
        http_status: Of an answer to a gRPC request, which is a 200: what others would have got; 0 in answers to others.
        cluster, route: That the request would have had, by name; empty where there is none.
        matched: The route that was found, and its listener's name; None where there was none.
        missing_cluster: The cluster that is not there, where the request itself named it; it may be asked for.
        head: The request as it was decided on; None where that was before it could be.
        traced: What was decided of its trace; None leaves it to the application's OpenTelemetry.
        operation: What its span is called; empty where the route says nothing.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    flag: str = ""
    details: str = ""
    error: RequestError | None = None
    delay_seconds: float = 0.0
    missing_cluster: str = ""
    grpc_code: int | None = None
    http_status: int = 0
    tally: FaultTally | None = None
    cluster: str = ""
    route: str = ""
    matched: tuple[str, CompiledRoute] | None = None
    head: RequestHead | None = None
    traced: Traced | None = None
    operation: str = ""

    def mutated(
        self, levels: Sequence[MutationLevel], context: FormatContext, *, is_the_routes: bool = False
    ) -> LocalReply:
        """The same with the route's changes of response headers, and then the filters'.

        Envoy has the route change a response that is empty, then lets whoever answers add its headers, and gives it a
        content type last (source/common/http/utility.cc, prepareLocalReply): the route cannot take that away.

        Args:
            levels: The changes.
            context: Gives the values.
            is_the_routes: The route itself answers, and so its headers are there before it changes them.
        """
        if not levels:
            return self
        # Envoy has no response code yet when it makes up a local reply's headers; the context's is 0.
        context.flags, context.details = self.flag, self.details
        own = [header for header in self.headers if header[0] != _CONTENT_TYPE]
        of_route = [level for level in levels if not level.of_filter]
        if is_the_routes:
            headers = apply_mutations(of_route, own, context)
        else:
            headers = [*apply_mutations(of_route, (), context), *own]
        if is_grpc(context.head):
            reply = replace(self, headers=tuple(headers)).as_grpc()
        else:
            reply = replace(self, headers=tuple(self._with_type(headers)))
        of_filters = [level for level in levels if level.of_filter]
        return replace(reply, headers=tuple(apply_mutations(of_filters, reply.headers, context)))

    def _with_type(self, headers: HeaderList) -> HeaderList:
        """The headers with the type of the body, where they do not say it themselves; without a body there is none."""
        kept = [header for header in headers if header[0].lower() != b"content-length"]
        if not self.body:
            return [header for header in kept if header[0].lower() != _CONTENT_TYPE]
        if any(name.lower() == _CONTENT_TYPE for name, _ in kept):
            return kept
        return [*(header for header in self.headers if header[0] == _CONTENT_TYPE), *kept]

    def as_grpc(self) -> LocalReply:
        """The same as an answer to a gRPC request: 200 and the status as gRPC's (Envoy: Utility::sendLocalReply)."""
        if self.http_status:
            return self
        said = next((value for name, value in self.headers if name.lower() == b"grpc-status"), b"")
        if not said:
            code = self.grpc_code if self.grpc_code is not None else _GRPC_STATUSES.get(self.status, 2)
            said = b"%d" % code
        made_here = {_CONTENT_TYPE, b"content-length", b"grpc-status"} | ({b"grpc-message"} if self.body else set())
        kept = tuple(header for header in self.headers if header[0].lower() not in made_here)
        headers: tuple[tuple[bytes, bytes], ...] = (
            (_CONTENT_TYPE, b"application/grpc"),
            (b"grpc-status", said),
            *kept,
        )
        if self.body:
            message = urllib.parse.quote(self.body.strip(), safe=_GRPC_MESSAGE_SAFE).encode()
            headers += ((b"grpc-message", message),)
        return replace(self, status=200, body=b"", headers=headers, http_status=self.status)

    @property
    def grpc_status(self) -> int | None:
        """That a gRPC caller is told; None in answers to others."""
        said = next((value for name, value in self.headers if name == b"grpc-status"), b"")
        return int(said) if said.isdigit() and self.status == 200 else None


# gRPC, doc/http-grpc-status-mapping.md; what is not here is UNKNOWN.
_GRPC_STATUSES = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}

# gRPC PROTOCOL-HTTP2, Percent-Encoded: space to tilde, but for the percent sign.
_GRPC_MESSAGE_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def no_route(method: str, authority: str, path: str) -> LocalReply:
    """No virtual host or route matches."""
    error = NoRouteError(f"no route for {method} {path} at {authority}; `meshsdk route` shows why")
    return LocalReply(404, flag="NR", details="route_not_found", error=error)


def cluster_not_found(cluster: str, status: int) -> LocalReply:
    """The route's cluster is not there."""
    error = NoRouteError(f"cluster {cluster!r} of the route does not exist", status=status, flag="NC")
    return LocalReply(status, flag="NC", details="cluster_not_found", error=error)


def no_healthy_endpoint(cluster: str, problem: str) -> LocalReply:
    """The cluster has nobody to send to."""
    why = f": {problem}" if problem else ": all are unhealthy, or there are none"
    error = NoHealthyEndpointError(f"cluster {cluster} has no endpoint to pick{why}")
    return LocalReply(
        503,
        b"no healthy upstream",
        _TEXT,
        flag="UH",
        details="no_healthy_upstream",
        error=error,
    )


def overflow(cluster: str, limit: str) -> LocalReply:
    """A circuit breaker is open (Envoy docs, upstream/circuit_breaking)."""
    error = CircuitOpenError(f"cluster {cluster} carries as much as {limit} of its circuit breaker allows")
    body = b"upstream connect error or disconnect/reset before headers. reset reason: overflow"
    headers = ((b"x-envoy-overloaded", b"true"), *_TEXT)
    return LocalReply(503, body, headers, "UO", "upstream_reset_before_response_started{overflow}", error)


def dropped(cluster: str, share: float) -> LocalReply:
    """The management server asks for a share of the requests to be dropped (drop_overloads)."""
    error = RequestError(
        f"cluster {cluster} is overloaded, and its endpoints' policy drops requests", status=503, flag="DO"
    )
    if share >= 1:
        headers = ((b"x-envoy-unconditional-drop-overload", b"true"), *_TEXT)
        return LocalReply(503, b"unconditional drop overload", headers, "UDO", "unconditional_drop_overload", error)
    headers = ((b"x-envoy-drop-overload", b"true"), *_TEXT)
    return LocalReply(503, b"drop overload", headers, "DO", "drop_overload", error)


def timeout_reply(failure: Failure, timeouts: RouteTimeouts) -> LocalReply:
    """A timeout ran out before a response began; the last attempt's, or the whole request's."""
    seconds = {
        Failure.ROUTE_TIMEOUT: timeouts.route,
        Failure.PER_TRY_TIMEOUT: timeouts.per_try,
        Failure.PER_TRY_IDLE_TIMEOUT: timeouts.per_try_idle,
        Failure.IDLE_TIMEOUT: timeouts.idle,
        Failure.STREAM_DURATION: timeouts.stream,
    }[failure]
    status, body, flag, details = _TIMEOUTS[failure]
    error = RequestTimeoutError(f"no response in {seconds or 0.0:g} s ({details})", status=status, flag=flag)
    # Envoy tells a gRPC caller of this one alone that its deadline has passed.
    grpc_code = 4 if failure is Failure.STREAM_DURATION else None
    return LocalReply(status, body, _TEXT, flag=flag, details=details, error=error, grpc_code=grpc_code)


_TIMEOUTS: dict[Failure, tuple[int, bytes, str, str]] = {
    Failure.ROUTE_TIMEOUT: (504, b"upstream request timeout", "UT", "response_timeout"),
    Failure.PER_TRY_TIMEOUT: (504, b"upstream request timeout", "UT", "upstream_per_try_timeout"),
    Failure.PER_TRY_IDLE_TIMEOUT: (504, b"upstream request timeout", "UT", "upstream_per_try_idle_timeout"),
    Failure.IDLE_TIMEOUT: (504, b"stream timeout", "SI", "stream_idle_timeout"),
    Failure.STREAM_DURATION: (504, b"downstream duration timeout", "DT", "max_duration_timeout"),
}


def fault_abort(status: int, grpc_status: int | None, delay_seconds: float) -> LocalReply:
    """The fault filter aborts the request (source/extensions/filters/http/fault/fault_filter.cc)."""
    if grpc_status is not None:
        error = RequestError(f"aborted with gRPC status {grpc_status} by fault injection", status=200, flag="FI")
        reply = LocalReply(200, b"fault filter abort", _TEXT, "FI", "fault_filter_abort", error, delay_seconds)
        return replace(reply, grpc_code=grpc_status)
    error = RequestError(f"aborted with {status} by fault injection", status=status, flag="FI")
    return LocalReply(status, b"fault filter abort", _TEXT, "FI", "fault_filter_abort", error, delay_seconds)


def rate_limited(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> LocalReply:
    """The filter local_ratelimit refuses the request."""
    error = RequestError("the local rate limit is reached", status=status, flag="RL")
    return LocalReply(status, b"local_rate_limited", of_text(headers), "RL", "local_rate_limited", error)


def payload_too_large(limit: int) -> LocalReply:
    """The filter buffer takes no body as long as this one."""
    error = RequestError(f"the request's body is longer than the {limit} bytes that are taken", status=413, flag="")
    return LocalReply(413, b"Payload Too Large", _TEXT, details="request_payload_too_large", error=error)


def path_refused() -> LocalReply:
    """The path cannot be made uniform, or holds escaped slashes where they are refused."""
    error = RequestError("the path is refused by path normalization", status=400, flag="")
    return LocalReply(400, details="path_normalization_failed", error=error)


def redirect_to(status: int, location: str, details: str) -> LocalReply:
    """A redirect that no route asked for."""
    return LocalReply(status, headers=((b"location", location.encode("latin-1")),), details=details)


def of_text(headers: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of an answer in plain text, unless they say another type."""
    return headers if any(name.lower() == _CONTENT_TYPE for name, _ in headers) else (*_TEXT, *headers)


_TEXT = ((_CONTENT_TYPE, b"text/plain"),)
