"""The sync transport. Its async twin is `async_transport`; the two read line for line alike."""

from __future__ import annotations

import contextlib
import queue
import ssl
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ..exchange import Attempt, Exchange, LocalReply, retrying
from ..resources import RetryPolicy
from ..routing.compiled_filters import FaultTally
from ..telemetry.lookup import http_client_observer
from .dispatcher import Dispatcher, Unsettled, passed_on, timeout_failure
from .errors import PendingOverflowError, TransportError
from .library import Library
from .mirror import MIRROR_TIMEOUTS, MirrorThreads
from .raw_response import RawResponse
from .request_body import RequestBody, content_of
from .runtime import HasRuntime
from .sender import Result, let_go
from .shapes import Limits, Request
from .sync_pool import SyncPool
from .sync_sender import Sender
from .timeouts import timeouts_of
from .tls import TlsChooser
from .told_decision import tell_answer, tell_failure, wants_decisions
from .traced import observe

if TYPE_CHECKING:
    from ..telemetry.http_client import RequestObservation
    from .measured import Record  # Nobody pays for metrics and logs who wants none.

__all__ = ["SyncTransport"]


class SyncTransport:
    """Sends a library's requests where the mesh's configuration says.

    Args:
        mesh: The mesh; it must outlive the transport.
        library: Whose requests they are.
        verify: As the library's client has it, for https URLs to clusters that have no TLS settings of their own.
        http2: Offer HTTP/2 to those.
        limits: Of connections.
        allow_missing_close_notify: Take a body that ends with its TLS connection for whole, though the peer did not
            say so (RFC 9112 section 9.8).
        authority: Whose hosts requests go to, of the bootstrap's `authorities` (gRFC A47); None is the default one's.

    Raises:
        BootstrapError: There is no such authority.
    """

    def __init__(
        self,
        mesh: HasRuntime,
        library: Library,
        verify: ssl.SSLContext | str | bool,
        http2: bool,
        limits: Limits,
        allow_missing_close_notify: bool,
        authority: str | None,
    ) -> None:
        self._library = library
        self._mesh = mesh
        self._others: dict[Library, SyncTransport] = {}
        self._for_others = (verify, http2, limits, allow_missing_close_notify, authority)
        self._runtime = mesh._runtime
        self._dispatcher = Dispatcher(self._runtime, authority, library)
        self.remember = self._dispatcher.remember
        self._runtime.register(self)
        self._tls = TlsChooser(
            lambda: library.module.create_ssl_context(verify),
            http2=http2,
            secrets=self._runtime.secrets,
            on_first=lambda: self._runtime.watch_certificates(self),
            must_be_told=not allow_missing_close_notify,
        )
        self._limits = limits
        self._pool = SyncPool(self._tls, limits)
        self._mirrors = MirrorThreads()

    def handle_request(self, request: Any, outside: Any = None) -> Any:
        """Send one request; called by the library.

        Args:
            request: The request.
            outside: Takes requests to hosts outside the mesh; None sends them as well.

        Raises:
            Exception: It got no response; the library's exception.
            TypeError: It is of a library that the mesh does not know.
        """
        if type(request) is not self._library.Request and (other := self._beside(request)) is not None:
            return other.handle_request(request, outside)
        try:
            response = self._handle_watched(request, outside)
        except TransportError as error:
            if wants_decisions():
                tell_failure(request, error)
            self._library.fail(error)
        if wants_decisions():
            tell_answer(request, response)
        return response

    def _handle_watched(self, request: Request, outside: Any) -> Any:
        """Tell who counts and logs."""
        metrics, logs = self._runtime.metrics, self._runtime.access_logs
        watcher = metrics or logs
        if watcher is None:
            return self._handle(request, outside, None)
        record: Record = watcher.begin_http(metrics, logs, request, self._library)
        try:
            response = self._handle(request, outside, record)
        except BaseException as error:
            record.failed(error)
            raise
        return record.answered(response)

    def _beside(self, request: Any) -> SyncTransport | None:
        """The same transport for a request of another library's client; None for one of this library's."""
        library = self._library.beside(request)
        if library is None:
            return None
        other = self._others.get(library)
        if other is None:
            other = self._others.setdefault(library, SyncTransport(self._mesh, library, *self._for_others))
        return other

    def _leaves_out(self, request: Request) -> bool:
        """Whether a request is of no protocol of the mesh's, and may go elsewhere."""
        return self._dispatcher.leaves_out(request)

    def _handle(self, request: Request, outside: Any, record: Record | None) -> Any:
        """Decide, and carry out what was decided."""
        begun = self._dispatcher.begin(request)
        while isinstance(begun, Unsettled):
            begun = self._settle(request, begun)
            if record is None and self._runtime.access_logs is not None:
                # What has come says that its requests are told of.
                return self._handle_watched(request, outside)
        if record is not None:
            record.begun(begun, self._dispatcher)
        observer = http_client_observer()
        observed = observe(observer, self._runtime, request, begun) if observer is not None else None
        if observed is None:
            return self._follow_up(request, begun, None, outside)
        try:
            response = self._follow_up(request, begun, observed.observation, outside)
        except BaseException as error:
            observed.failed(self._library.error(error))
            raise
        observed.answered(response)
        return response

    def _follow_up(
        self,
        request: Request,
        begun: Exchange | LocalReply,
        observation: RequestObservation | None,
        outside: Any,
    ) -> Any:
        """Carry out what was decided."""
        if isinstance(begun, LocalReply):
            return self._reply(request, begun, None)
        if outside is None or begun.route is not None:
            return self._carry_out(request, begun, observation)
        if observation is None:
            return passed_on(begun, outside.handle_request(request))
        told, end = observation.pass_on()
        try:
            request.headers.update(told)
            return passed_on(begun, outside.handle_request(request))
        finally:
            end()

    def close(self) -> None:
        """Close all connections; requests under way fail with an httpx exception."""
        self._mirrors.close()
        self._pool.close()
        for other in list(self._others.values()):
            other.close()

    def _look_at_certificates(self) -> None:
        """See `HasCertificates`."""
        if self._tls.refresh():
            self._pool.drop_distrusted()

    def _drop_removed(self) -> None:
        """See `dispatcher.Transport`."""
        self._tls.forget_retired()
        self._pool.drop_removed()

    def _after_fork(self) -> None:
        """In a forked child: forget the parent's connections, without a word to their peers."""
        self._tls.after_fork()
        self._pool = SyncPool(self._tls, self._limits)
        self._mirrors = MirrorThreads()

    def _settle(self, request: Request, unsettled: Unsettled) -> Exchange | LocalReply | Unsettled:
        """Wait for the configuration of the request's host, as long as connecting may take."""
        seconds = timeouts_of(request).connect
        settled = threading.Event()
        cancel = self._dispatcher.when_settled(unsettled, settled.set)
        try:
            if not settled.wait(seconds):
                raise self._dispatcher.unsettled_error(unsettled, seconds)
        finally:
            cancel()
        return self._dispatcher.begin(request)

    def _hold_up(self, seconds: float, tally: FaultTally | None) -> None:
        """Delay a request, as fault injection wants it."""
        try:
            time.sleep(seconds)
        finally:
            if tally is not None:
                tally.end()

    def _reply(self, request: Request, reply: LocalReply, exchange: Exchange | None) -> Any:
        if reply.delay_seconds:
            self._hold_up(reply.delay_seconds, reply.tally)
        return self._dispatcher.local_response(request, reply, exchange)

    def _carry_out(
        self,
        request: Request,
        exchange: Exchange,
        observation: RequestObservation | None,
        body: bytes | RequestBody | None = None,
    ) -> Any:
        """Send a request by an exchange; `body` is that of the request that was redirected to this one."""
        if exchange.delay_seconds:
            self._hold_up(exchange.delay_seconds, exchange.fault_tally)
        if exchange.max_request_bytes is not None:
            whole = self._whole_body(request, exchange, body)
            if whole is None:
                return self._reply(request, exchange.too_large_reply(), exchange)
            body = whole
        attempt = exchange.begin(time.monotonic())
        if isinstance(attempt, LocalReply):
            return self._reply(request, attempt, exchange)
        policy = exchange.retry_policy
        if body is None:
            body = content_of(request)
        if body is None:
            keeps = policy is not None or (exchange.forward is not None and exchange.forward.copies_requests)
            body = RequestBody(request, record=keeps)
        sender = Sender(self._pool, request, exchange, body, timeouts_of(request), observation, self._library.error)
        if exchange.forward is not None and exchange.forward.mirrors and isinstance(body, bytes):
            self._mirror(request, exchange, body)
        if exchange.hedges and isinstance(body, bytes):
            return self._conclude(request, exchange, self._hedged(sender, attempt), body, observation)
        first = sender.send(attempt)
        raw = first.raw
        if raw is not None and exchange.is_final(raw.status, raw.headers):
            return self._dispatcher.response(exchange, first.attempt, raw)
        result = self._retry(sender, first, policy) if policy is not None else first
        return self._conclude(request, exchange, result, body, observation)

    def _whole_body(self, request: Request, exchange: Exchange, body: bytes | RequestBody | None) -> bytes | None:
        """The body in memory, as the filter buffer wants it; None where it is too long."""
        limit = exchange.max_request_bytes or 0
        whole = content_of(request) if body is None else body
        if not isinstance(whole, bytes):
            whole = (whole or RequestBody(request, record=False)).whole(limit)
            exchange.head = exchange.head.with_content_length(len(whole))
        return whole if len(whole) <= limit else None

    def _conclude(
        self,
        request: Request,
        exchange: Exchange,
        result: Result | LocalReply,
        body: bytes | RequestBody,
        observation: RequestObservation | None,
    ) -> Any:
        """What the caller gets of the last attempt's result."""
        if isinstance(result, LocalReply):
            return self._reply(request, result, exchange)
        if result.raw is not None:
            return self._answer(request, exchange, result.attempt, result.raw, body, observation)
        assert result.error is not None
        timed_out = timeout_failure(result.attempt, result.error)
        if timed_out is not None:
            return self._reply(request, exchange.timeout_reply(timed_out), exchange)
        if isinstance(result.error, PendingOverflowError):
            return self._reply(request, exchange.overflow_reply("max_pending_requests"), exchange)
        raise result.error

    def _hedged(self, sender: Sender, attempt: Attempt) -> Result | LocalReply:
        """Attempts side by side: one more whenever the last has not answered in its time; the first good one counts.

        Each has a thread, which lasts as long as the attempt does.
        """
        exchange = sender.exchange
        results: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
        is_over = threading.Event()

        def run(one: Attempt) -> None:
            try:
                result = sender.send(one)
            except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread.
                results.put(error)
            else:
                results.put(result)
            if is_over.is_set():
                let_go_of_late_ones()

        def let_go_of_late_ones() -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    late = results.get_nowait()
                    let_go(late if isinstance(late, Result) else None)

        def begin(one: Attempt) -> None:
            threading.Thread(target=run, args=(one,), name="meshsdk-hedge", daemon=True).start()

        begin(attempt)
        running, last, wait = 1, None, exchange.timeouts.per_try
        try:
            while running:
                try:
                    result = results.get(timeout=wait)
                except queue.Empty:
                    pass
                else:
                    running -= 1
                    if isinstance(result, BaseException):
                        raise result
                    let_go(last)
                    last = result
                    if sender.is_good(last):
                        last = None
                        return result
                another = exchange.hedge(time.monotonic())
                if isinstance(another, Attempt):
                    begin(another)
                    running += 1
                else:
                    wait = None
            assert last is not None
            result, last = last, None
            return result
        finally:
            is_over.set()
            let_go(last)
            let_go_of_late_ones()
            exchange.retries_over()

    def _mirror(self, request: Request, exchange: Exchange, body: bytes) -> None:
        """Send copies of a request elsewhere, on other threads; when too many are under way, they are left out."""
        for copy in self._dispatcher.mirrored(exchange):
            self._mirrors.submit(partial(self._send_mirror, request, copy, body))

    def _send_mirror(self, request: Request, copy: Exchange, body: bytes) -> None:
        attempt = copy.begin(time.monotonic())
        if isinstance(attempt, LocalReply):
            return
        result = Sender(self._pool, request, copy, body, MIRROR_TIMEOUTS, None, self._library.error).send(attempt)
        if result.raw is not None:
            try:
                with contextlib.suppress(TransportError):
                    for _ in result.raw.body:
                        pass
            finally:
                result.raw.let_go()

    def _answer(
        self,
        request: Request,
        exchange: Exchange,
        attempt: Attempt,
        raw: RawResponse,
        body: bytes | RequestBody,
        observation: RequestObservation | None,
    ) -> Any:
        """The response, or that of the request that it redirects to (RouteAction.internal_redirect_policy)."""
        can_replay = isinstance(body, bytes) or body.can_replay
        following = self._dispatcher.follow(exchange, raw) if can_replay else None
        if following is None:
            return self._dispatcher.response(exchange, attempt, raw)
        raw.let_go()
        if isinstance(following, LocalReply):
            return self._reply(request, following, exchange)
        if following.head.method != exchange.head.method:
            body = b""
        return self._carry_out(request, following, observation, body)

    def _retry(self, sender: Sender, first: Result, policy: RetryPolicy) -> Result | LocalReply:
        """Attempts after the first, driven by tenacity."""
        if not sender.wants_retry(first):
            return first
        import tenacity  # When it is needed: only a failure pays for it.

        pending: list[Result] = [first]

        def turn() -> Result | LocalReply:
            return pending.pop() if pending else sender.again()

        loop = retrying(tenacity.Retrying, policy, sender.wants_retry, time.sleep, sender.asked_back_off)
        try:
            return loop(turn)
        finally:
            sender.exchange.retries_over()
