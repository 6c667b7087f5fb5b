"""What the attempts of one request have in common, whoever sends them: `sync_sender` and `async_sender`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from ..balancing.client_weights import take_load_report
from ..exchange import Attempt, Exchange, LocalReply, Outcome, asked_back_off, count_end, report
from ..routing.timeouts import is_grpc
from .asked import asked_of
from .dispatcher import IDEMPOTENT_METHODS, outcome_of
from .errors import ReadError, RemoteProtocolError, WriteError
from .http1 import Http1Reader
from .plaintext import with_plaintext_advice
from .raw_response import RawResponse
from .request_body import AsyncRequestBody, RequestBody
from .shapes import Request
from .timeouts import Timeouts

if TYPE_CHECKING:
    from ..telemetry.http_client import AttemptObservation, RequestObservation

__all__ = ["AttemptSender", "Result", "end_observation", "let_go"]

B = TypeVar("B", RequestBody, AsyncRequestBody)


def let_go(result: Result | LocalReply | None) -> None:
    """A response that is not used after all."""
    if isinstance(result, Result) and result.raw is not None:
        result.raw.let_go()


def end_observation(seen: AttemptObservation, raw: RawResponse | None, error: BaseException | None) -> None:
    """An attempt is over; without a response and an error, by what is being raised: a cancellation, perhaps."""
    if raw is not None:
        seen.end(raw.status, None)
    else:
        seen.end(None, error if error is not None else sys.exception())


class Result:
    """How one attempt ended: with a response or an error."""

    __slots__ = ("attempt", "error", "raw")

    def __init__(self, attempt: Attempt, raw: RawResponse | None, error: Exception | None) -> None:
        self.attempt = attempt
        self.raw = raw
        self.error = error


class AttemptSender(Generic[B]):
    """What is to be known of one request's attempts, before and after they are sent.

    Args:
        request: The caller's.
        exchange: What the mesh makes of it.
        body: In memory, or a stream.
        timeouts: The caller's.
        observation: Who watches, if anybody.
        now: The clock of whoever sends, in seconds.
        told: What the caller hears in the place of an error of the engine's.
    """

    __slots__ = (
        "_asked",
        "_body",
        "_last",
        "_now",
        "_observation",
        "_request",
        "_resends",
        "_timeouts",
        "_trace",
        "exchange",
    )

    def __init__(
        self,
        request: Request,
        exchange: Exchange,
        body: bytes | B,
        timeouts: Timeouts,
        observation: RequestObservation | None,
        now: Callable[[], float],
        told: Callable[[BaseException], BaseException],
    ) -> None:
        self._request = request
        self._asked = asked = asked_of(request, told)
        self._trace = asked.trace if asked is not None else None
        self.exchange = exchange
        self._body: bytes | B = body
        self._timeouts = timeouts
        self._observation = observation
        self._now = now
        self._last: RawResponse | None = None
        self._resends = 0

    def _ended(self, attempt: Attempt, raw: RawResponse | None, error: Exception | None) -> Result:
        """An attempt is over: health, circuit breaking and load reports hear of it."""
        cluster = self.exchange.cluster
        if cluster.wants_reports:
            is_counted = attempt.endpoint.cluster.load is not None
            ends_later = is_counted and raw is not None and self._ends_later(raw)
            outcome = outcome_of(attempt, raw, error)
            if outcome is not None:
                report(attempt, outcome, self._now(), ends_later=ends_later)
            if raw is not None and (is_counted or cluster.load_reports is not None):
                self._expect_trailers(attempt, raw, ends_later=ends_later)
        if error is not None:
            with_plaintext_advice(error, attempt.endpoint)
        self._last = raw
        return Result(attempt, raw, error)

    def _is_of_body(self, error: Exception) -> bool:
        """Whether the caller's own stream failed, with whatever error: a relayed response that died, perhaps. It is
        the caller's to hear, and no peer's fault."""
        return not isinstance(self._body, bytes) and error is self._body.error

    def _is_stale(self, reader: Http1Reader, error: Exception) -> bool:
        """Whether a peer may have closed a kept connection just as it was used again (RFC 9112 section 9.3.1)."""
        return (
            isinstance(error, (ReadError, WriteError, RemoteProtocolError))
            and reader.is_silent
            and self.exchange.head.method in IDEMPOTENT_METHODS
            and self._can_replay
        )

    @property
    def _can_replay(self) -> bool:
        return isinstance(self._body, bytes) or self._body.can_replay

    def _ends_later(self, raw: RawResponse) -> bool:
        """Whether trailers say how a call of gRPC's ended."""
        return raw.status == 200 and is_grpc(self.exchange.head) and raw.header("grpc-status") is None

    def _expect_trailers(self, attempt: Attempt, raw: RawResponse, *, ends_later: bool) -> None:
        """Take a load report that comes after the body, and gRPC's status."""

        def take() -> None:
            trailers = {name.lower(): value.decode("latin-1") for name, value in raw.trailers}
            text = trailers.get(b"endpoint-load-metrics")
            if text is not None:
                take_load_report(attempt.endpoint, text, self._now())
            if ends_later:
                # A response that broke off has none.
                status = trailers.get(b"grpc-status", "2")
                count_end(attempt, Outcome(200, header=lambda name: status if name == "grpc-status" else None))

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
        wants = outcome is not None and self.exchange.attempt_done(outcome, self._now())
        if wants and result.raw is not None:
            # Before the back-off: whoever gives up in it leaves nothing behind, and others need the connection.
            result.raw.let_go()
        return wants

    def is_good(self, result: Result) -> bool:
        """Whether a hedged request may end with `result`."""
        outcome = outcome_of(result.attempt, result.raw, result.error)
        return outcome is None or self.exchange.is_good(outcome)
