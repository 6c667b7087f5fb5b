"""The attempts of one request, sent one by one. Its async twin is `async_sender`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import httpx

from ..exchange import Attempt, Exchange, LocalReply, asked_back_off
from .dispatcher import IDEMPOTENT_METHODS, MAX_RESENDS, outcome_of
from .errors import DeadlineExceededError, IdleTimeoutError, PendingOverflowError, UnprocessedStreamError
from .outgoing import Outgoing
from .raw_response import RawResponse
from .request_body import RequestBody
from .sync_http1 import SyncHttp1Connection
from .sync_pool import SyncPool
from .timeouts import Timeouts, is_below

if TYPE_CHECKING:
    from ..telemetry.http_client import RequestObservation

__all__ = ["Result", "Sender", "let_go"]


def let_go(result: Result | LocalReply | None) -> None:
    """A response that is not used after all."""
    if isinstance(result, Result) and result.raw is not None:
        result.raw.let_go()


class Result:
    """How one attempt ended: with a response or an error."""

    __slots__ = ("attempt", "error", "raw")

    def __init__(self, attempt: Attempt, raw: RawResponse | None, error: Exception | None) -> None:
        self.attempt = attempt
        self.raw = raw
        self.error = error


class Sender:
    """Sends the attempts of one request."""

    __slots__ = ("_body", "_last", "_observation", "_pool", "_request", "_resends", "_timeouts", "exchange")

    def __init__(
        self,
        pool: SyncPool,
        request: httpx.Request,
        exchange: Exchange,
        body: bytes | RequestBody,
        timeouts: Timeouts,
        observation: RequestObservation | None,
    ) -> None:
        self._pool = pool
        self._request = request
        self.exchange = exchange
        self._body = body
        self._timeouts = timeouts
        self._observation = observation
        self._last: RawResponse | None = None
        self._resends = 0

    def send(self, attempt: Attempt, *, is_resend: bool = False) -> Result:
        """Carry out one attempt.

        Args:
            attempt: What to send, and where.
            is_resend: Over a fresh connection, since a kept one has failed.
        """
        headers: Sequence[tuple[bytes, bytes]] = attempt.headers
        observation = self._observation
        if observation is not None:
            address = attempt.endpoint.address
            headers = observation.begin_attempt(address.host, address.port, attempt.endpoint.cluster.name, headers)
        scheme = self.exchange.head.scheme
        timeouts = self._timeouts
        idle = self.exchange.timeouts.shortest_idle
        is_idle_limited = idle is not None and is_below(idle, timeouts.read)
        if is_idle_limited:
            timeouts = timeouts._replace(read=idle)
        connection: Any = None
        raw: RawResponse | None = None
        error: Exception | None = None
        was_used = False
        try:
            outgoing = Outgoing(self.exchange.head.method, scheme, attempt, headers, self._body, timeouts)
            connect = self._pool.open if is_resend else self._pool.acquire
            connection = connect(attempt.endpoint, scheme, self._request.url, self._timeouts, attempt.breaker)
            was_used = connection.requests > 0
            raw = connection.exchange(outgoing)
        except (httpx.TransportError, DeadlineExceededError, PendingOverflowError) as failure:
            if self._is_of_body(failure):
                raise
            error = failure
            if is_idle_limited and isinstance(failure, httpx.ReadTimeout):
                error = IdleTimeoutError(self.exchange.idle_failure)
        finally:
            if raw is None:
                attempt.finish()
        if observation is not None:
            observation.end_attempt(raw.status if raw is not None else None, error)
        if was_used and error is not None and self._is_stale(connection, error):
            again = self.exchange.resend(attempt, time.monotonic())
            if again is not None:
                return self._resend(again)
        if type(error) is UnprocessedStreamError and self._resends < MAX_RESENDS and self._can_replay:
            self._resends += 1
            elsewhere = self.exchange.send_elsewhere(time.monotonic())
            if isinstance(elsewhere, Attempt):
                return self.send(elsewhere)
        if self.exchange.cluster.wants_reports:
            outcome = outcome_of(attempt, raw, error)
            if outcome is not None:
                self.exchange.report(attempt, outcome, time.monotonic())
            if raw is not None and self.exchange.cluster.load_reports is not None:
                self._expect_trailers(attempt, raw)
        self._last = raw
        return Result(attempt, raw, error)

    def _resend(self, attempt: Attempt) -> Result:
        try:
            return self.send(attempt, is_resend=True)
        finally:
            self.exchange.resend_over()

    def _is_of_body(self, error: Exception) -> bool:
        """Whether the caller's own stream failed, with whatever error: a relayed response that died, perhaps. It is
        the caller's to hear, and no peer's fault."""
        return not isinstance(self._body, bytes) and error is self._body.error

    def _is_stale(self, connection: Any, error: Exception) -> bool:
        """Whether a peer may have closed a kept connection just as it was used again (RFC 9112 section 9.3.1)."""
        return (
            isinstance(error, (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError))
            and isinstance(connection, SyncHttp1Connection)
            and connection.reader.is_silent
            and self.exchange.head.method in IDEMPOTENT_METHODS
            and self._can_replay
        )

    @property
    def _can_replay(self) -> bool:
        return isinstance(self._body, bytes) or self._body.can_replay

    def _expect_trailers(self, attempt: Attempt, raw: RawResponse) -> None:
        """Take a load report that comes after the body."""

        def take() -> None:
            text = next((value for name, value in raw.trailers if name.lower() == b"endpoint-load-metrics"), None)
            if text is not None:
                self.exchange.take_load_report(attempt, text.decode("latin-1"), time.monotonic())

        if attempt.is_finished:
            take()
        else:
            attempt.on_finish = take

    def asked_back_off(self) -> float | None:
        """How long the last response asks to wait before a retry."""
        policy, last = self.exchange.retry_policy, self._last
        if policy is None or last is None:
            return None
        return asked_back_off(policy, last.header, time.time())

    def wants_retry(self, result: Result | LocalReply) -> bool:
        """Whether to try again after `result`."""
        if isinstance(result, LocalReply) or not self._can_replay:
            return False
        outcome = outcome_of(result.attempt, result.raw, result.error)
        wants = outcome is not None and self.exchange.attempt_done(outcome, time.monotonic())
        if wants and result.raw is not None:
            # Before the back-off: whoever gives up in it leaves nothing behind, and others need the connection.
            result.raw.let_go()
        return wants

    def is_good(self, result: Result) -> bool:
        """Whether a hedged request may end with `result`."""
        outcome = outcome_of(result.attempt, result.raw, result.error)
        return outcome is None or self.exchange.is_good(outcome)

    def again(self) -> Result | LocalReply:
        """One more attempt."""
        attempt = self.exchange.next_attempt(time.monotonic())
        return attempt if isinstance(attempt, LocalReply) else self.send(attempt)
