"""Carrying out one active health check: over HTTP, TCP or gRPC, through the cluster's TLS. Blocking.

Sources: envoy.config.core.v3.HealthCheck; grpc.health.v1 (gRPC health checking protocol).
"""

from __future__ import annotations

import contextlib
import time

import httpx
from msgspec import structs

from ..balancing import Cluster, Endpoint
from ..balancing.circuit_breaker import CircuitBreaker
from ..exchange import Attempt
from ..exchange.outcome import Failure
from ..http.errors import DeadlineExceededError, TransportError
from ..http.outgoing import Outgoing
from ..http.pool_rules import DEFAULT_LIMITS
from ..http.raw_response import RawResponse
from ..http.request_body import RequestBody
from ..http.sync_pool import SyncPool
from ..http.timeouts import Timeouts
from ..http.tls import TlsChooser
from ..resources import Address, HeaderMutations, HealthCheck, HealthCheckKind, HttpProtocol, Thresholds
from ..routing import RequestHead, apply_mutations
from ..routing.formatter import FormatContext
from ..routing.header_mutation import compile_mutations
from .check_state import CheckResult

__all__ = ["Prober"]

_NO_LIMITS = Thresholds(None, None, None, None)
_URL = httpx.URL("http://health-check/")

# grpc.health.v1.HealthCheckResponse: field 1 is the status, 1 is SERVING.
_SERVING = b"\x08\x01"


class Prober:
    """Checks the endpoints of one cluster.

    Args:
        cluster: Whose endpoints; its TLS and protocol are used.
        check: How.
        tls: Which TLS connections use.
    """

    def __init__(self, cluster: Cluster, check: HealthCheck, tls: TlsChooser) -> None:
        self._check = check
        self._breaker = CircuitBreaker(_NO_LIMITS)
        self._pool = SyncPool(tls, DEFAULT_LIMITS)
        # A cluster of its own, so that checks show neither in the statistics nor in the circuit breakers.
        protocol = HttpProtocol.HTTP2 if check.http2 else HttpProtocol.HTTP1
        self._cluster = Cluster(
            structs.replace(cluster.config, protocol=protocol, outlier_detection=None, health_checks=())
        )
        where = f"{cluster.name}: health check"
        self._levels = compile_mutations([HeaderMutations(check.headers, check.removed_headers)], where)
        self._targets: dict[Endpoint, Endpoint] = {}

    def probe(self, endpoint: Endpoint) -> CheckResult:
        """Check one endpoint."""
        target = self._target(endpoint)
        deadline = time.monotonic() + self._check.timeout
        try:
            if self._check.kind is HealthCheckKind.TCP:
                return self._probe_tcp(target)
            return self._probe_http(endpoint, target, deadline)
        except (OSError, TransportError, DeadlineExceededError):
            return CheckResult.NETWORK_FAILURE

    def forget(self, endpoint: Endpoint) -> None:
        """An endpoint is not checked any more; an idle connection to it is closed. From any thread."""
        target = self._targets.pop(endpoint, None)
        if target is not None:
            target.is_removed = True
            self._pool.drop_removed()

    def drop_distrusted(self) -> None:
        """Close connections whose peers are trusted no more. From any thread."""
        self._pool.drop_distrusted()

    def close(self) -> None:
        """Close all connections."""
        self._cluster.retire()
        self._pool.close()

    def _target(self, endpoint: Endpoint) -> Endpoint:
        """Where an endpoint is checked: at its own port, the check's, or that of its health_check_config."""
        target = self._targets.get(endpoint)
        if target is None or target.config is not endpoint.config:
            address = endpoint.address
            port = endpoint.config.health_check.port or self._check.alt_port or address.port
            if not address.is_unix and port != address.port:
                address = Address(address.host, port)
            self.forget(endpoint)
            target = Endpoint(self._cluster, structs.replace(endpoint.config, address=address), endpoint.locality)
            # An endpoint that has gone meanwhile is not asked again, and so is never forgotten.
            target.is_removed = endpoint.is_removed
            self._targets[endpoint] = target
        return target

    def _probe_http(self, endpoint: Endpoint, target: Endpoint, deadline: float) -> CheckResult:
        check = self._check
        host = check.authority or check.host or endpoint.config.health_check.hostname or endpoint.cluster.name
        is_grpc = check.kind is HealthCheckKind.GRPC
        headers = [(b"host", host.encode("latin-1")), (b"user-agent", b"Envoy/HC")]
        body = b""
        if is_grpc:
            body = _grpc_request(check.service_name)
            headers += [
                (b"content-type", b"application/grpc"),
                (b"te", b"trailers"),
                (b"content-length", b"%d" % len(body)),
            ]
        head = RequestHead("POST" if is_grpc else check.method, "http", host, check.path, headers)
        headers = list(apply_mutations(self._levels, headers, FormatContext(head), of_request=True))
        path = "/grpc.health.v1.Health/Check" if is_grpc else check.path
        attempt = Attempt(target, path, headers, deadline, Failure.ROUTE_TIMEOUT, 1, self._breaker)
        timeouts = Timeouts(connect=check.timeout, read=check.timeout, write=check.timeout)
        outgoing: Outgoing[RequestBody] = Outgoing(head.method, "http", attempt, headers, body, timeouts)
        try:
            connection = self._pool.acquire(target, "http", _URL, timeouts, self._breaker)
            raw = connection.exchange(outgoing)
            received = b"".join(raw.body)
            raw.let_go()
            if not check.reuse_connection:
                connection.close()
        finally:
            attempt.finish()
        return _grpc_result(raw, received) if is_grpc else self._http_result(raw)

    def _http_result(self, raw: RawResponse) -> CheckResult:
        check = self._check
        if any(start <= raw.status < end for start, end in check.expected_statuses):
            # Envoy docs, upstream/load_balancing/degraded.
            is_degraded = raw.header("x-envoy-degraded") is not None
            return CheckResult.DEGRADED if is_degraded else CheckResult.HEALTHY
        if any(start <= raw.status < end for start, end in check.retriable_statuses):
            return CheckResult.NETWORK_FAILURE
        return CheckResult.UNHEALTHY

    def _probe_tcp(self, target: Endpoint) -> CheckResult:
        """Connect, send, and look for the expected parts in order; without any to send, connecting is enough."""
        check = self._check
        with contextlib.closing(self._pool.connect_socket(target, check.timeout)) as sock:
            if not check.send and not check.receive:
                return CheckResult.HEALTHY
            sock.settimeout(check.timeout)
            sock.sendall(check.send)
            received, found = b"", 0
            for part in check.receive:
                while (position := received.find(part, found)) < 0:
                    chunk = sock.recv(4096)
                    if not chunk or len(received) > 1 << 16:
                        return CheckResult.NETWORK_FAILURE
                    received += chunk
                found = position + len(part)
        return CheckResult.HEALTHY


def _grpc_request(service: str) -> bytes:
    """A framed grpc.health.v1.HealthCheckRequest; its field 1 is the service."""
    name = service.encode()
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _varint(number: int) -> bytes:
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


def _grpc_result(raw: RawResponse, received: bytes) -> CheckResult:
    trailers = dict(raw.trailers)
    status = trailers.get(b"grpc-status") or (raw.header("grpc-status") or "").encode()
    if raw.status == 200 and status == b"0" and received[5:].startswith(_SERVING):
        return CheckResult.HEALTHY
    return CheckResult.UNHEALTHY
