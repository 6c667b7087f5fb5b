"""What metrics and access logs say of a request that a transport has carried out: whom it went to, and how it ended.

A sidecar counts what its application sees, so the sizes are those of the request and the response as HTTP/1.1 would
write them between the two, however the request went on, and however often.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from ..access_log import AccessLogs, Headers, RemembersSteady
from ..access_log.metric_tags import Seen
from ..balancing import Cluster, Endpoint
from ..errors import RequestError
from ..exchange import Exchange, LocalReply
from ..resources import Listener
from ..routing.timeouts import is_grpc_content
from ..telemetry.cells import Rows
from ..telemetry.header_sizes import REQUEST_LINE, STATUS_LINE, size_and_value, size_of_headers
from ..telemetry.istio_metrics import IstioMetrics, Outcome
from ..telemetry.label_overrides import Chosen
from ..telemetry.peer_metadata import METADATA_HEADER, METADATA_ID_HEADER
from ..telemetry.service import BLACK_HOLE, PASSTHROUGH, Service, is_external, is_of_kubernetes, outside, service_of
from ..telemetry.workload import NOBODY, Workload, workload_of_endpoint
from .counted_bodies import counted_request, counted_response
from .dispatcher import PASSTHROUGH_CLUSTER, Dispatcher, MeshResponseInfo, head_of
from .endings import ending_of_error, flag_of_reply
from .library import Library
from .logged import Ending, InPlace, Told, answer_in_place, answered_entry, entry_of
from .request_body import content_of
from .shapes import Request

__all__ = ["Destination", "Record", "destination_of", "flags_before", "service_without_cluster"]

Begun = Exchange | LocalReply | None

# Of istiod's, and of a folder's: where hosts go that REGISTRY_ONLY does not let out.
_BLOCK_ALL = "block_all"


class Destination:
    """What is to be known of a cluster, once in a configuration.

    Attributes:
        service: That it is; None where that is up to each request's Host.
        gets_metadata: Its endpoints are peers of the mesh, which are told who calls.
    """

    __slots__ = ("gets_metadata", "service")

    def __init__(self, cluster: Cluster, domain: str) -> None:
        metadata = cluster.config.metadata
        self.service: Service | None = None
        self.gets_metadata = False
        if cluster.name == PASSTHROUGH_CLUSTER:
            return
        self.service = service = service_of(cluster.name, metadata)
        if not is_external(metadata):
            self.gets_metadata = (
                service is not None and is_of_kubernetes(service.host) and service.host.endswith(f".{domain}")
            ) or any(
                workload_of_endpoint(endpoint.metadata) is not NOBODY
                for locality in (cluster.endpoints_config.localities if cluster.endpoints_config is not None else ())
                for endpoint in locality.endpoints
            )

    def service_at(self, cluster: Cluster, authority: str) -> Service:
        """The service, for a request with this Host."""
        if self.service is not None:
            return self.service
        return outside(authority, PASSTHROUGH if cluster.name == PASSTHROUGH_CLUSTER else "")


def destination_of(metrics: IstioMetrics, cluster: Cluster) -> Destination:
    """What is known of a cluster."""
    found: Destination | None = metrics.known.get(cluster)
    return found if found is not None else metrics.remember(cluster, Destination(cluster, metrics.domain))


def service_without_cluster(reply: LocalReply | None, authority: str) -> Service:
    """What a request was for that was given to no cluster's endpoints."""
    if reply is None or reply.route == _BLOCK_ALL:
        return outside(authority, BLACK_HOLE)
    # Filters that answer know the cluster that the route has chosen; without a route there is none.
    return service_of(reply.cluster, {}) or outside(authority)


def flags_before(exchange: Exchange) -> str:
    """The flags that a request got on its way, before that of its end."""
    flags = (("DI",) if exchange.delay_seconds else ()) + ((exchange.limit_flag,) if exchange.limit_flag else ())
    return ",".join(flags)


class Record:
    """One request, from when it is given to a transport until its response is read.

    Args:
        metrics: Where it is counted; None where it is not.
        logs: Where it is told; None where it is not.
        request: As the application has made it.
        library: Whose request it is.
    """

    __slots__ = (
        "_begun",
        "_head_received",
        "_head_size",
        "_is_over",
        "_library",
        "_listener",
        "_logs",
        "_metrics",
        "_peer",
        "_received",
        "_request",
        "_sent",
        "_started",
    )

    def __init__(
        self, metrics: IstioMetrics | None, logs: AccessLogs | None, request: Request, library: Library
    ) -> None:
        self._started = time.monotonic()
        self._library = library
        self._metrics = metrics
        self._logs = logs
        self._request = request
        self._begun: Begun = None
        self._listener: Listener | None = None
        self._peer: Workload | None = None
        self._received = 0
        self._head_size = 0
        self._head_received: float | None = None
        self._is_over = False
        content = content_of(request)
        self._sent = len(content) if content is not None else 0
        if content is None:
            declared = request.headers.get("content-length", "")
            if declared.isdecimal() and len(declared) < 16:
                self._sent = int(declared)
            else:
                request.stream = counted_request(request.stream, self._add_sent, library)

    def _add_sent(self, count: int) -> None:
        self._sent += count

    def _add_received(self, count: int) -> None:
        self._received += count

    def begun(self, begun: Exchange | LocalReply, dispatcher: Dispatcher) -> None:
        """It is decided where the request goes."""
        self._begun = begun
        if self._logs is None:
            # The first request brings its listener, and that may bring logs.
            self._logs = dispatcher.access_logs
        logs, metrics = self._logs, self._metrics
        if (logs is not None and logs.follows) or (metrics is not None and metrics.overrides):
            self._listener = dispatcher.listener_of(self._request)
        if (
            metrics is not None
            and type(begun) is Exchange
            and begun.forward is not None
            and destination_of(metrics, begun.cluster).gets_metadata
        ):
            begun.added_headers = metrics.own_headers

    def failed(self, error: BaseException) -> None:
        """It brought no response."""
        status, flags = ending_of_error(error)
        if self._begun is None and isinstance(error, RequestError) and flags == "NR":
            # Unknown hosts are denied: a sidecar under REGISTRY_ONLY sends them where nobody is, and answers 502.
            status, flags = 502, ""
        answer = answer_in_place(self._request, error, status, self._begun)
        self._end(self._begun, None, None, answer, answer.reply.status if status else 0, flags)

    def answered(self, response: Any) -> Any:
        """Its response begins; a body that is still coming is counted as it is read."""
        info: MeshResponseInfo = response.extensions["mesh"]
        exchange, endpoint, reply, headers = info.parts
        if self._metrics is not None:
            headers = self._read_head(self._metrics, exchange, endpoint, headers, response)
        if self._logs is not None and reply is None:
            self._head_received = time.monotonic()
        flags = flag_of_reply(reply) if reply is not None else ""
        stream = response.stream
        told = response.headers.raw if headers is None else headers, response.extensions
        if type(stream) is self._library.ByteStream:
            self._received += sum(map(len, stream))
            self._end(exchange or reply, endpoint, told, reply, response.status_code, flags)
        else:
            # The response itself would be in a circle with its stream.
            end = partial(self._end, exchange or reply, endpoint, told, reply, response.status_code)
            is_http2 = response.extensions.get("http_version") == b"HTTP/2"
            response.stream = counted_response(stream, self._add_received, end, self._library, is_http2=is_http2)
        return response

    def _read_head(
        self,
        metrics: IstioMetrics,
        exchange: Exchange | None,
        endpoint: Endpoint | None,
        headers: Headers | None,
        response: Any,
    ) -> Headers:
        """Measure the response's head, and take out what the peer says of itself, which is not for the application."""
        raw = response.headers.raw if headers is None else headers
        size, metadata = size_and_value(raw, METADATA_HEADER)
        if metadata and exchange is not None and exchange.added_headers and endpoint is not None:
            found = {name.lower(): value for name, value in raw}
            peer_id = found.get(METADATA_ID_HEADER, b"")
            self._peer = metrics.servers.find(endpoint.principal, peer_id, found.get(METADATA_HEADER, b""))
            raw = [header for header in raw if header[0].lower() not in (METADATA_HEADER, METADATA_ID_HEADER)]
            size = size_of_headers(raw)
            response.headers = self._library.module.Headers(raw)
        self._head_size = size + STATUS_LINE
        return raw

    def _end(
        self,
        begun: Begun,
        endpoint: Endpoint | None,
        told: Told | None,
        ending: Ending,
        status: int,
        flags: str,
    ) -> None:
        """It is over; told once.

        Args:
            begun: What it came to.
            endpoint: Whose response it is; None where no server answered.
            told: The response that the application gets, if any.
            ending: The answer in a server's place, or in that of what is raised.
            status, flags: How it ended.
        """
        if self._is_over:
            return
        self._is_over = True
        if type(begun) is Exchange and (begun.delay_seconds or begun.limit_flag):
            flags = ",".join(filter(None, (flags_before(begun), flags)))
        seconds = time.monotonic() - self._started
        metrics, logs, listener = self._metrics, self._logs, self._listener
        overrides = metrics.overrides_of(listener.stats) if metrics is not None and listener is not None else None
        entry = None
        keeper: RemembersSteady | None = logs or (metrics if overrides is not None else None)
        if keeper is not None:
            to_head = self._head_received - self._started if self._head_received is not None else None
            timing = (time.time(), seconds, to_head)
            if ending is None and not flags and told is not None and type(begun) is Exchange:
                entry = answered_entry(keeper, begun, endpoint, told, status, self._sent, self._received, timing)
            else:
                sizes = (self._sent, self._received)
                entry = entry_of(self._request, begun, endpoint, told, ending, status, flags, sizes, timing)
        if metrics is not None:
            chosen = None
            if overrides is not None and entry is not None:
                tried = endpoint or (begun.endpoint if type(begun) is Exchange else None)
                chosen = overrides.chosen(Seen(entry, self._peer or _told_by_istiod(tried)))
            self._count(metrics, begun, endpoint, told, ending, (status, flags), int(seconds * 1000), chosen)
        if logs is not None and entry is not None:
            logs.write(entry, listener.access_logs if listener is not None else ())

    def _count(
        self,
        metrics: IstioMetrics,
        begun: Begun,
        endpoint: Endpoint | None,
        told: Told | None,
        ending: Ending,
        how: tuple[int, str],
        milliseconds: int,
        chosen: Chosen | None,
    ) -> None:
        request, (status, flags) = self._request, how
        target = len(begun.head.target) if type(begun) is Exchange else len(request.url.raw_path)
        # As the application has made it: a sidecar counts what it gets, before it adds anything.
        size, content_type = size_and_value(request.headers.raw, b"content-type")
        sent = self._sent + size + len(request.method) + target + REQUEST_LINE
        is_grpc = content_type != b"" and is_grpc_content(content_type.decode("latin-1"))
        in_place = ending.reply if ending is not None and isinstance(ending, InPlace) else None
        grpc_status = ""
        if is_grpc and status:
            grpc_status = _grpc_status(told or (in_place.headers if in_place is not None else (), {}))
        outcome = ("grpc" if is_grpc else "http", status, grpc_status, flags)
        if isinstance(begun, Exchange):
            row = self._row_of_exchange(metrics, begun, endpoint, outcome, chosen)
        else:
            row = self._row(metrics, begun, outcome, chosen)
        metrics.cells.count_request(row, milliseconds, sent, self._head_size + self._received)
        if metrics.recent is not None:
            head = begun.head if isinstance(begun, Exchange) else head_of(request, request.url.scheme)
            details = told[1]["mesh"].details if told is not None else in_place.details if in_place is not None else ""
            metrics.recent.sent(head, begun, endpoint, (status, grpc_status, flags), details, milliseconds)

    def _row_of_exchange(
        self,
        metrics: IstioMetrics,
        exchange: Exchange,
        endpoint: Endpoint | None,
        outcome: tuple[str, int, str, str],
        chosen: Chosen | None,
    ) -> Rows:
        cluster = exchange.cluster
        principal = endpoint.principal if endpoint is not None else ""
        destination = destination_of(metrics, cluster)
        authority = exchange.head.authority if destination.service is None else ""
        key: tuple[object, ...] = (cluster, endpoint or exchange.endpoint, principal, self._peer, authority, outcome)
        if chosen is not None:
            key = (*key, chosen)
        row: Rows | None = metrics.known.get(key)
        if row is None:
            peer = self._peer or _told_by_istiod(endpoint or exchange.endpoint)
            service = destination.service_at(cluster, authority)
            row = metrics.remember(key, metrics.sent(service, peer, principal, Outcome(*outcome), chosen=chosen))
        return row

    def _row(
        self,
        metrics: IstioMetrics,
        reply: LocalReply | None,
        outcome: tuple[str, int, str, str],
        chosen: Chosen | None,
    ) -> Rows:
        authority = self._request.headers.get("host", "")
        return metrics.sent(service_without_cluster(reply, authority), NOBODY, "", Outcome(*outcome), chosen=chosen)


def _told_by_istiod(endpoint: Endpoint | None) -> Workload:
    return workload_of_endpoint(endpoint.config.metadata) if endpoint is not None else NOBODY


def _grpc_status(told: Told) -> str:
    said = ""
    headers, extensions = told
    for name, value in headers:
        if name.lower() == b"grpc-status":
            said = value.decode("latin-1")
    for name, value in extensions.get("trailing_headers", ()):
        if name.lower() == b"grpc-status":
            said = value.decode("latin-1")
    return said if said.isdecimal() and said.isascii() and len(said) < 4 else ""
