"""The attempts of one request, sent one by one. Its sync twin is `sync_sender`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..exchange import Attempt, Exchange, LocalReply
from .async_http1 import AsyncHttp1Connection
from .async_pool import AsyncPool
from .dispatcher import MAX_RESENDS
from .errors import (
    DeadlineExceededError,
    IdleTimeoutError,
    PendingOverflowError,
    ReadTimeout,
    TransportError,
    UnprocessedStreamError,
)
from .outgoing import Outgoing
from .raw_response import RawResponse
from .request_body import AsyncRequestBody
from .sender import AttemptSender, Result, end_observation, let_go
from .shapes import Request
from .timeouts import Timeouts, is_below

if TYPE_CHECKING:
    from ..telemetry.http_client import AttemptObservation, RequestObservation

__all__ = ["Sender", "discard"]


def discard(task: asyncio.Task[Result]) -> None:
    """A hedged attempt that is over and not used: it came too late, failed, or was not good enough."""
    if not task.cancelled() and task.exception() is None:
        let_go(task.result())


class Sender(AttemptSender[AsyncRequestBody]):
    """Sends the attempts of one request."""

    __slots__ = ("_pool",)

    def __init__(
        self,
        pool: AsyncPool,
        request: Request,
        exchange: Exchange,
        body: bytes | AsyncRequestBody,
        timeouts: Timeouts,
        observation: RequestObservation | None,
        told: Callable[[BaseException], BaseException],
    ) -> None:
        super().__init__(request, exchange, body, timeouts, observation, pool.loop.time, told)
        self._pool = pool

    async def send(self, attempt: Attempt, *, is_resend: bool = False) -> Result:
        """Carry out one attempt.

        Args:
            attempt: What to send, and where.
            is_resend: Over a fresh connection, since a kept one has failed.
        """
        headers: Sequence[tuple[bytes, bytes]] = attempt.headers
        observation = self._observation
        seen: AttemptObservation | None = None
        if observation is not None:
            address = attempt.endpoint.address
            seen = observation.begin_attempt(address.host, address.port, attempt.endpoint.cluster.name, headers)
            headers = seen.headers
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
            outgoing.trace = self._trace
            connect = self._pool.open if is_resend else self._pool.acquire
            url, asked = self._request.url, self._asked
            connection = await connect(attempt.endpoint, scheme, url, self._timeouts, attempt.breaker, asked)
            was_used = connection.requests > 0
            self.exchange.own_address = connection.own_address
            raw = await connection.exchange(outgoing)
        except (TransportError, DeadlineExceededError, PendingOverflowError) as failure:
            if self._is_of_body(failure):
                raise
            error = failure
            if is_idle_limited and isinstance(failure, ReadTimeout):
                error = IdleTimeoutError(self.exchange.idle_failure)
        finally:
            if raw is None:
                attempt.finish()
            if seen is not None:
                end_observation(seen, raw, error)
        if (
            error is not None
            and was_used
            and isinstance(connection, AsyncHttp1Connection)
            and self._is_stale(connection.reader, error)
        ):
            again = self.exchange.resend(attempt, self._now())
            if again is not None:
                return await self._resend(again)
        if type(error) is UnprocessedStreamError and self._resends < MAX_RESENDS and self._can_replay:
            self._resends += 1
            elsewhere = self.exchange.send_elsewhere(self._now())
            if isinstance(elsewhere, Attempt):
                return await self.send(elsewhere)
        return self._ended(attempt, raw, error)

    async def _resend(self, attempt: Attempt) -> Result:
        try:
            return await self.send(attempt, is_resend=True)
        finally:
            self.exchange.resend_over()

    async def again(self) -> Result | LocalReply:
        """One more attempt."""
        attempt = self.exchange.next_attempt(self._now())
        return attempt if isinstance(attempt, LocalReply) else await self.send(attempt)
