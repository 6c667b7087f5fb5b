"""From an httpx request to an exchange, and from what came of it to an httpx response.

What sync and async transports share: everything but waiting. The hot path is one dictionary look-up for the target,
then `exchange.begin`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .. import resources
from ..balancing import Cluster, Endpoint
from ..discovery import CLUSTER_ROOT
from ..errors import NoRouteError, RequestError
from ..exchange import Attempt, Directory, Exchange, Failure, LocalReply, Outcome
from ..exchange.directory import begin
from ..exchange.internal_redirect import follow
from ..exchange.mirror import mirrored
from ..exchange.request_changes import with_request_id
from ..resources import Address, DnsDiscovery, EndpointConfig, Endpoints, LocalityEndpoints, RoundRobin
from ..routing import RequestHead, RouteTable
from ..routing.timeouts import is_grpc_content
from .errors import (
    ConnectError,
    ConnectTimeout,
    DeadlineExceededError,
    IdleTimeoutError,
    LocalProtocolError,
    PendingOverflowError,
    PoolTimeout,
    RefusedStreamError,
    TransportError,
    UnsupportedProtocol,
    as_transport_error,
    own_error,
)
from .known_urls import KnownUrl, KnownUrls
from .library import Library
from .raw_response import RawResponse
from .runtime import Runtime
from .shapes import Request, Url

if TYPE_CHECKING:
    from ..access_log import AccessLogs

__all__ = ["Dispatcher", "MeshResponseInfo", "Unsettled"]

PASSTHROUGH_CLUSTER = "PassthroughCluster"

# istiod sets no limits for what is outside the mesh.
_NO_LIMITS = resources.Thresholds(None, None, None, None)
_NO_BREAKERS = resources.CircuitBreakers(_NO_LIMITS, _NO_LIMITS)

# Hosts outside the mesh whose endpoints are remembered; a crawler must not grow memory without bound.
_MAX_PASSTHROUGH_HOSTS = 1024
HOW_TO_KNOW = "add a Service or ServiceEntry, or use Mesh(unknown_hosts='allow')"


class Unsettled(Struct, frozen=True):
    """Listeners that must be waited for before a request to their target can be decided."""

    names: tuple[str, ...]


class MeshResponseInfo:
    """`response.extensions["mesh"]`: how the response came to be.

    Args:
        exchange: The request's; None for an answer that needed none.
        attempt: Whose response it is; None for a local reply.
        reply: The local reply; None for a server's response.
        headers: A server's response's, as the application gets them.
    """

    __slots__ = ("_attempt", "_exchange", "_headers", "_reply", "attempts")

    def __init__(
        self,
        exchange: Exchange | None = None,
        attempt: Attempt | None = None,
        reply: LocalReply | None = None,
        headers: Sequence[tuple[bytes, bytes]] | None = None,
    ) -> None:
        self._headers = headers
        self._exchange = exchange
        self._attempt = attempt
        self._reply = reply
        self.attempts = exchange.attempts if exchange is not None else 0
        """How many attempts were made."""

    @property
    def parts(
        self,
    ) -> tuple[Exchange | None, Endpoint | None, LocalReply | None, Sequence[tuple[bytes, bytes]] | None]:
        """The decision, who answered, the answer in a server's place, and a server's headers; for what watches."""
        return self._exchange, self._attempt.endpoint if self._attempt is not None else None, self._reply, self._headers

    @property
    def cluster(self) -> str:
        """That the request was sent to; empty for an answer without one."""
        if self._attempt is not None:
            return self._attempt.endpoint.cluster.name
        return self._exchange.cluster.name if self._exchange is not None else ""

    @property
    def endpoint(self) -> str:
        """Address that answered; empty for a local reply."""
        return self._attempt.endpoint.name if self._attempt is not None else ""

    @property
    def route(self) -> str:
        """The route's name; empty where there is none."""
        route = self._exchange.route if self._exchange is not None else None
        return route.name if route is not None else ""

    @property
    def flag(self) -> str:
        """Envoy's response flag; empty where nothing went wrong."""
        return self._reply.flag if self._reply is not None else ""

    @property
    def details(self) -> str:
        """Envoy's response code details."""
        return self._reply.details if self._reply is not None else "via_upstream"

    def __repr__(self) -> str:
        names = ("cluster", "endpoint", "route", "attempts", "flag", "details")
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names if getattr(self, name))
        return f"MeshResponseInfo({shown})"


class Dispatcher:
    """Decides for one transport.

    Args:
        runtime: The mesh.
        authority: Whose listeners are asked for (gRFC A47); None takes the default ones.
        library: Whose requests they are.

    Attributes:
        remember: Called with a URL that will come again, as the same object.

    Raises:
        BootstrapError: There is no such authority.
    """

    def __init__(self, runtime: Runtime, authority: str | None, library: Library) -> None:
        self._runtime = runtime
        self._library, self._respond = library, library.response
        self._known_urls = KnownUrls()
        self.remember = self._known_urls.remember
        self._names_of = partial(runtime.listener_names, authority=authority)
        self._names_of("any", 80, port_is_explicit=False)
        self._directory: Directory | None = None
        self._tables: dict[tuple[str, bytes], RouteTable | None] = {}
        self._passthrough: dict[tuple[str, str, int], Cluster] = {}

    def begin(self, request: Request) -> Exchange | LocalReply | Unsettled:
        """Decide where a request goes.

        Raises:
            NoRouteError: As an ConnectError: the host is unknown and unknown hosts are denied, or its
                configuration is broken.
        """
        directory = self._runtime.directory
        if directory is not self._directory:
            # A new dict rather than clear(): another thread may be reading the old one.
            self._tables = {}
            self._directory = directory
        known = self._known_urls.find(request.url)
        key, tables = known.key, self._tables
        table = tables.get(key)
        if table is None and key not in tables:
            found = self._find_table(known.url, directory)
            if isinstance(found, Unsettled):
                return found
            table = found
            if len(tables) < 4 * _MAX_PASSTHROUGH_HOSTS:
                tables[key] = table
        head = _head(request, known)
        if table is None:
            return Exchange(head, None, None, None, self._passthrough_cluster(known.url), random.random)
        begun = begin(table, directory.clusters, head)
        if type(begun) is LocalReply and begun.missing_cluster:
            # The request named its cluster itself, so nobody has asked for it yet.
            root = f"{CLUSTER_ROOT}{begun.missing_cluster}"
            if root not in directory.targets:
                return Unsettled((root,))
        return begun

    def leaves_out(self, request: Request) -> bool:
        """Whether a request is of no protocol of the mesh's, and may go elsewhere."""
        return request.url.scheme not in _SCHEMES and self._runtime.unknown_hosts == "allow"

    @property
    def access_logs(self) -> AccessLogs | None:
        """Where requests are told of, as far as that is known now."""
        return self._runtime.access_logs

    def listener_of(self, request: Request) -> resources.Listener | None:
        """The listener that a request was decided by; None for a host outside the mesh."""
        table = self._table_of(request)
        return table.listener if table is not None else None

    def _table_of(self, request: Request) -> RouteTable | None:
        url = request.url
        return self._tables.get((url.scheme, url.netloc))

    def mirrored(self, exchange: Exchange) -> list[Exchange]:
        """The copies of a request to send elsewhere."""
        return mirrored(exchange, exchange.clusters)

    def follow(self, exchange: Exchange, raw: RawResponse) -> Exchange | LocalReply | None:
        """What takes the place of an exchange whose upstream redirects; None where the response stands."""
        return follow(exchange, raw.status, raw.headers, exchange.clusters)

    def _find_table(self, url: Url, directory: Directory) -> RouteTable | Unsettled | None:
        """The routes of a URL's host; None for a host that is passed through."""
        if url.scheme not in _SCHEMES or not url.host:
            raise unsupported(url)
        names = self._names_of(url.raw_host.decode("ascii"), _port_of(url), port_is_explicit=url.port is not None)
        targets = directory.find(names)
        if targets is None:
            return Unsettled(names)
        if targets[-1].table is not None:
            return targets[-1].table
        if targets[-1].view.passes_through:
            return None
        broken = [target.problem for target in targets if not target.view.does_not_exist]
        if broken:
            raise as_transport_error(NoRouteError(f"{url.netloc.decode()}: {'; '.join(broken)}", status=503, flag="NC"))
        if self._runtime.unknown_hosts == "deny":
            raise as_transport_error(
                NoRouteError(
                    f"the mesh does not know {url.netloc.decode()!r} (asked for {', '.join(names)}), and unknown hosts"
                    f" are denied; {self._runtime.hint(url.host, _port_of(url)) or HOW_TO_KNOW}"
                )
            )
        return None

    def _passthrough_cluster(self, url: Url) -> Cluster:
        """A cluster of the real host alone, as a sidecar's PassthroughCluster under ALLOW_ANY."""
        key = (url.scheme, url.raw_host.decode("ascii"), _port_of(url))
        cluster = self._passthrough.get(key)
        if cluster is None:
            if len(self._passthrough) >= _MAX_PASSTHROUGH_HOSTS:
                known, self._passthrough = self._passthrough, {}
                for one in list(known.values()):
                    one.retire()  # The pools forget its endpoint when its last connection ends.
            host = key[1].strip("[]")
            endpoints = Endpoints(host, (LocalityEndpoints((EndpointConfig(Address(host, key[2]), hostname=host),)),))
            config = resources.Cluster(
                name=PASSTHROUGH_CLUSTER,
                discovery=DnsDiscovery(endpoints, logical=True),
                lb_policy=RoundRobin(),
                # The caller's own connect timeout governs, as it does without a mesh.
                connect_timeout_seconds=float("inf"),
                idle_timeout_seconds=5.0,
                circuit_breakers=_NO_BREAKERS,
            )
            cluster = Cluster(config)
            cluster.update(config, endpoints)
            cluster.advice = partial(self._runtime.hint, host, key[2])
            self._passthrough[key] = cluster
        return cluster

    def when_settled(self, unsettled: Unsettled, callback: Callable[[], None]) -> Callable[[], None]:
        """See `Runtime.when_settled`.

        Raises:
            RequestError: As an httpx exception: the mesh is closed.
        """
        try:
            return self._runtime.when_settled(unsettled.names, callback)
        except RequestError as error:
            raise as_transport_error(error) from None

    def unsettled_error(self, unsettled: Unsettled, seconds: float | None) -> ConnectTimeout:
        """Configuration did not come in time."""
        problem = self._runtime.problem or "it was asked for and has not come"
        return ConnectTimeout(
            f"no configuration for {', '.join(unsettled.names)} after {seconds:g} s: {problem}"
            if seconds is not None
            else f"no configuration for {', '.join(unsettled.names)}: {problem}"
        )

    def response(self, exchange: Exchange, attempt: Attempt, raw: RawResponse) -> Any:
        """The response of an attempt."""
        headers = exchange.response_headers(attempt, raw.status, raw.headers)
        if exchange.table is not None and exchange.table.tells_ids:
            headers = with_request_id(headers, exchange.head)
        extensions = raw.extensions
        extensions["mesh"] = MeshResponseInfo(exchange, attempt, None, headers)
        return self._respond(raw.status, headers, self._library.stream_of(raw.stream), extensions)

    def local_response(self, request: Request, reply: LocalReply, exchange: Exchange | None = None) -> Any:
        """A local reply as a response.

        Raises:
            RequestError: As an httpx exception: it is a failure, and `local_replies` is "raise".
        """
        if reply.error is not None and self._runtime.local_replies == "raise":
            raise as_transport_error(reply.error, reply)
        info = MeshResponseInfo(exchange, None, reply)
        if is_grpc_content(request.headers.get("content-type", "")):
            reply = reply.as_grpc()
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
        table, head = (exchange.table, exchange.head) if exchange is not None else (self._table_of(request), reply.head)
        if table is not None and table.tells_ids and head is not None:
            headers = with_request_id(headers, head)
        body = b"" if request.method == "HEAD" else reply.body
        response = self._respond(reply.status, headers, self._library.ByteStream(body), {"mesh": info})
        response.request = request
        return response


def head_of(request: Request, scheme: str) -> RequestHead:
    """What decisions depend on."""
    known = KnownUrl(request.url)
    known.scheme = scheme
    return _head(request, known)


def _head(request: Request, known: KnownUrl) -> RequestHead:
    raw = request.headers.raw
    authority = b""
    for name, value in raw:
        if name == b"Host" or name.lower() == b"host":
            authority = value
            break
    asked = request.extensions.get("target")
    # What is none is refused before it is sent, whoever asked for it.
    target = known.target if asked is None else asked.decode("latin-1")
    return RequestHead(
        request.method, known.scheme, authority.decode("latin-1") if authority else known.authority, target, raw
    )


def passed_on(exchange: Exchange, response: Any) -> Any:
    """What another transport answered to a request that was none of the mesh's."""
    response.extensions = {**response.extensions, "mesh": MeshResponseInfo(exchange)}
    return response


_SCHEMES = frozenset({"http", "https"})


def unsupported(url: Url) -> UnsupportedProtocol:
    """A URL that says of no server of HTTP where it is; in httpcore's words."""
    if url.scheme in ("ws", "wss"):
        return UnsupportedProtocol("WebSockets do not go over the mesh; leave them to a client of their own.")
    if url.scheme and url.scheme not in _SCHEMES:
        return UnsupportedProtocol(f"Request URL has an unsupported protocol '{url.scheme}://'.")
    return UnsupportedProtocol("Request URL is missing an 'http://' or 'https://' protocol.")


def _port_of(url: Url) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def outcome_of(attempt: Attempt, raw: RawResponse | None, error: Exception | None) -> Outcome | None:
    """How an attempt ended, in the words of retry policies; None for an error that is never retried."""
    if raw is not None:
        return Outcome(status=raw.status, header=raw.header)
    failure = _failure_of(attempt, error)
    if failure is None:
        return None
    return Outcome(failure=failure, request_began=failure is not Failure.CONNECT)


def timeout_failure(attempt: Attempt, error: Exception) -> Failure | None:
    """Which of the mesh's timeouts an error is; None where it is none of them."""
    return _failure_of(attempt, error) if isinstance(error, (DeadlineExceededError, IdleTimeoutError)) else None


def _failure_of(attempt: Attempt, error: Exception | None) -> Failure | None:
    if isinstance(error, DeadlineExceededError):
        return attempt.deadline_failure
    if isinstance(error, IdleTimeoutError):
        return error.failure
    if isinstance(error, PendingOverflowError):
        return Failure.OVERFLOW
    for kind, failure in _FAILURES:
        if isinstance(error, kind):
            return failure
    return None


# The first that fits. A wrong request (LocalProtocolError) and a full pool are the caller's own, and are not retried.
_FAILURES: tuple[tuple[type[Exception], Failure | None], ...] = (
    (RefusedStreamError, Failure.REFUSED_STREAM),
    (LocalProtocolError, None),
    (PoolTimeout, None),
    (ConnectError, Failure.CONNECT),
    (ConnectTimeout, Failure.CONNECT),
    (TransportError, Failure.RESET),
)


def error_flag(error: BaseException) -> str:
    """Envoy's response flag of a failure, for telemetry."""
    error = own_error(error)
    if isinstance(error, RequestError):
        return error.flag
    if isinstance(error, (ConnectError, ConnectTimeout)):
        return "UF"
    return "UC" if isinstance(error, TransportError) else "DC"


# How often a request is sent again that its peers did not take up at all (`UnprocessedStreamError`).
MAX_RESENDS = 3

# RFC 9110 section 9.2.2.
IDEMPOTENT_METHODS = frozenset(["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
