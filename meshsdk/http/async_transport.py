"""The async transport. Its sync twin is `sync_transport`; the two read line for line alike."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

from ..exchange import Attempt, Exchange, LocalReply, retrying
from ..resources import RetryPolicy
from ..routing.compiled_filters import FaultTally
from ..telemetry.lookup import http_client_observer
from .async_pool import AsyncPool
from .async_sender import Sender, discard
from .dispatcher import Dispatcher, Unsettled, passed_on, timeout_failure
from .errors import PendingOverflowError, TransportError
from .library import Library
from .mirror import MAX_MIRRORS, MIRROR_TIMEOUTS
from .raw_response import RawResponse
from .request_body import AsyncRequestBody, content_of
from .runtime import HasRuntime
from .sender import Result, let_go
from .shapes import Limits, Request
from .timeouts import timeouts_of
from .tls import TlsChooser
from .told_decision import tell_answer, tell_failure, wants_decisions
from .traced import observe

if TYPE_CHECKING:
    from ..telemetry.http_client import RequestObservation
    from .measured import Record  # Nobody pays for metrics and logs who wants none.

__all__ = ["AsyncTransport"]


class AsyncTransport:
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
        self._others: dict[Library, AsyncTransport] = {}
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
        self._pools: dict[asyncio.AbstractEventLoop, AsyncPool] = {}
        self._mirrors: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: Any, outside: Any = None) -> Any:
        """Send one request; called by the library.

        Args:
            request: The request.
            outside: Takes requests to hosts outside the mesh; None sends them as well.

        Raises:
            Exception: It got no response; the library's exception.
            TypeError: It is of a library that the mesh does not know.
        """
        if type(request) is not self._library.Request and (other := self._beside(request)) is not None:
            return await other.handle_async_request(request, outside)
        try:
            response = await self._handle_watched(request, outside)
        except TransportError as error:
            if wants_decisions():
                tell_failure(request, error)
            self._library.fail(error)
        if wants_decisions():
            tell_answer(request, response)
        return response

    async def _handle_watched(self, request: Request, outside: Any) -> Any:
        """Tell who counts and logs."""
        metrics, logs = self._runtime.metrics, self._runtime.access_logs
        watcher = metrics or logs
        if watcher is None:
            return await self._handle(request, outside, None)
        record: Record = watcher.begin_http(metrics, logs, request, self._library)
        try:
            response = await self._handle(request, outside, record)
        except BaseException as error:
            record.failed(error)
            raise
        return record.answered(response)

    def _beside(self, request: Any) -> AsyncTransport | None:
        """The same transport for a request of another library's client; None for one of this library's."""
        library = self._library.beside(request)
        if library is None:
            return None
        other = self._others.get(library)
        if other is None:
            other = self._others.setdefault(library, AsyncTransport(self._mesh, library, *self._for_others))
        return other

    def _leaves_out(self, request: Request) -> bool:
        """Whether a request is of no protocol of the mesh's, and may go elsewhere."""
        return self._dispatcher.leaves_out(request)

    async def _handle(self, request: Request, outside: Any, record: Record | None) -> Any:
        """Decide, and carry out what was decided."""
        begun = self._dispatcher.begin(request)
        while isinstance(begun, Unsettled):
            begun = await self._settle(request, begun)
            if record is None and self._runtime.access_logs is not None:
                # What has come says that its requests are told of.
                return await self._handle_watched(request, outside)
        if record is not None:
            record.begun(begun, self._dispatcher)
        observer = http_client_observer()
        observed = observe(observer, self._runtime, request, begun) if observer is not None else None
        if observed is None:
            return await self._follow_up(request, begun, None, outside)
        try:
            response = await self._follow_up(request, begun, observed.observation, outside)
        except BaseException as error:
            observed.failed(self._library.error(error))
            raise
        observed.answered(response)
        return response

    async def _follow_up(
        self,
        request: Request,
        begun: Exchange | LocalReply,
        observation: RequestObservation | None,
        outside: Any,
    ) -> Any:
        """Carry out what was decided."""
        if isinstance(begun, LocalReply):
            return await self._reply(request, begun, None)
        if outside is None or begun.route is not None:
            return await self._carry_out(request, begun, observation)
        if observation is None:
            return passed_on(begun, await outside.handle_async_request(request))
        told, end = observation.pass_on()
        try:
            request.headers.update(told)
            return passed_on(begun, await outside.handle_async_request(request))
        finally:
            end()

    async def aclose(self) -> None:
        """Close all connections; requests under way fail with an httpx exception."""
        for task in list(self._mirrors):
            if task.get_loop() is asyncio.get_running_loop():
                task.cancel()
        for loop, pool in list(self._pools.items()):
            if loop.is_closed():
                continue
            if loop is asyncio.get_running_loop():
                pool.close()
            else:
                loop.call_soon_threadsafe(pool.close)
        self._pools.clear()
        for other in list(self._others.values()):
            await other.aclose()

    def _pool(self) -> AsyncPool:
        """The pool of the running event loop: connections are bound to their loop."""
        loop = _running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for closed in [old for old in self._pools if old.is_closed()]:
                del self._pools[closed]
            pool = self._pools[loop] = AsyncPool(loop, self._tls, self._limits)
        return pool

    def _look_at_certificates(self) -> None:
        """See `HasCertificates`."""
        if not self._tls.refresh():
            return
        for loop, pool in list(self._pools.items()):
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                loop.call_soon_threadsafe(pool.drop_distrusted)

    def _drop_removed(self) -> None:
        """See `dispatcher.Transport`."""
        self._tls.forget_retired()
        for loop, pool in list(self._pools.items()):
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                loop.call_soon_threadsafe(pool.drop_removed)

    def _after_fork(self) -> None:
        """In a forked child: forget the parent's connections, without a word to their peers."""
        self._tls.after_fork()
        self._pools = {}
        self._mirrors = set()

    async def _settle(self, request: Request, unsettled: Unsettled) -> Exchange | LocalReply | Unsettled:
        """Wait for the configuration of the request's host, as long as connecting may take."""
        seconds = timeouts_of(request).connect
        loop = _running_loop()
        settled = asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settled.set)

        cancel = self._dispatcher.when_settled(unsettled, wake)
        try:
            async with asyncio.timeout(seconds):
                await settled.wait()
        except TimeoutError:
            raise self._dispatcher.unsettled_error(unsettled, seconds) from None
        finally:
            cancel()
        return self._dispatcher.begin(request)

    async def _hold_up(self, seconds: float, tally: FaultTally | None) -> None:
        """Delay a request, as fault injection wants it."""
        try:
            await asyncio.sleep(seconds)
        finally:
            if tally is not None:
                tally.end()

    async def _reply(self, request: Request, reply: LocalReply, exchange: Exchange | None) -> Any:
        if reply.delay_seconds:
            await self._hold_up(reply.delay_seconds, reply.tally)
        return self._dispatcher.local_response(request, reply, exchange)

    async def _carry_out(
        self,
        request: Request,
        exchange: Exchange,
        observation: RequestObservation | None,
        body: bytes | AsyncRequestBody | None = None,
    ) -> Any:
        """Send a request by an exchange; `body` is that of the request that was redirected to this one."""
        if exchange.delay_seconds:
            await self._hold_up(exchange.delay_seconds, exchange.fault_tally)
        pool = self._pool()
        if exchange.max_request_bytes is not None:
            whole = await self._whole_body(request, exchange, body)
            if whole is None:
                return await self._reply(request, exchange.too_large_reply(), exchange)
            body = whole
        attempt = exchange.begin(pool.loop.time())
        if isinstance(attempt, LocalReply):
            return await self._reply(request, attempt, exchange)
        policy = exchange.retry_policy
        if body is None:
            body = content_of(request)
        if body is None:
            keeps = policy is not None or (exchange.forward is not None and exchange.forward.copies_requests)
            body = AsyncRequestBody(request, record=keeps)
        sender = Sender(pool, request, exchange, body, timeouts_of(request), observation, self._library.error)
        if exchange.forward is not None and exchange.forward.mirrors and isinstance(body, bytes):
            self._mirror(request, exchange, body)
        if exchange.hedges and isinstance(body, bytes):
            return await self._conclude(request, exchange, await self._hedged(sender, attempt), body, observation)
        first = await sender.send(attempt)
        raw = first.raw
        if raw is not None and exchange.is_final(raw.status, raw.headers):
            return self._dispatcher.response(exchange, first.attempt, raw)
        result = await self._retry(sender, first, policy) if policy is not None else first
        return await self._conclude(request, exchange, result, body, observation)

    async def _whole_body(
        self, request: Request, exchange: Exchange, body: bytes | AsyncRequestBody | None
    ) -> bytes | None:
        """The body in memory, as the filter buffer wants it; None where it is too long."""
        limit = exchange.max_request_bytes or 0
        whole = content_of(request) if body is None else body
        if not isinstance(whole, bytes):
            whole = await (whole or AsyncRequestBody(request, record=False)).whole(limit)
            exchange.head = exchange.head.with_content_length(len(whole))
        return whole if len(whole) <= limit else None

    async def _conclude(
        self,
        request: Request,
        exchange: Exchange,
        result: Result | LocalReply,
        body: bytes | AsyncRequestBody,
        observation: RequestObservation | None,
    ) -> Any:
        """What the caller gets of the last attempt's result."""
        if isinstance(result, LocalReply):
            return await self._reply(request, result, exchange)
        if result.raw is not None:
            return await self._answer(request, exchange, result.attempt, result.raw, body, observation)
        assert result.error is not None
        timed_out = timeout_failure(result.attempt, result.error)
        if timed_out is not None:
            return await self._reply(request, exchange.timeout_reply(timed_out), exchange)
        if isinstance(result.error, PendingOverflowError):
            return await self._reply(request, exchange.overflow_reply("max_pending_requests"), exchange)
        raise result.error

    async def _hedged(self, sender: Sender, attempt: Attempt) -> Result | LocalReply:
        """Attempts side by side: one more whenever the last has not answered in its time; the first good one counts."""
        exchange, loop = sender.exchange, self._pool().loop
        begun = [loop.create_task(sender.send(attempt))]
        last: Result | None = None
        wait: float | None = exchange.timeouts.per_try
        try:
            while begun:
                done, _ = await asyncio.wait(begun, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                for task in [one for one in begun if one in done]:
                    begun.remove(task)
                    result = task.result()
                    let_go(last)
                    last = result
                    if sender.is_good(result):
                        last = None
                        return result
                another = exchange.hedge(loop.time())
                if isinstance(another, Attempt):
                    begun.append(loop.create_task(sender.send(another)))
                else:
                    wait = None
            assert last is not None
            final, last = last, None
            return final
        finally:
            exchange.retries_over()
            let_go(last)
            for task in begun:
                if task.done():
                    discard(task)
                else:
                    task.cancel()
                    task.add_done_callback(discard)

    def _mirror(self, request: Request, exchange: Exchange, body: bytes) -> None:
        """Send copies of a request elsewhere, in other tasks; when too many are under way, they are left out."""
        for copy in self._dispatcher.mirrored(exchange):
            if len(self._mirrors) < MAX_MIRRORS:
                task = asyncio.create_task(self._send_mirror(request, copy, body))
                self._mirrors.add(task)
                task.add_done_callback(self._mirrors.discard)

    async def _send_mirror(self, request: Request, copy: Exchange, body: bytes) -> None:
        pool = self._pool()
        attempt = copy.begin(pool.loop.time())
        if isinstance(attempt, LocalReply):
            return
        result = await Sender(pool, request, copy, body, MIRROR_TIMEOUTS, None, self._library.error).send(attempt)
        if result.raw is not None:
            try:
                with contextlib.suppress(TransportError):
                    if type(result.raw.stream) is not bytes:
                        async for _ in result.raw.stream:
                            pass
            finally:
                result.raw.let_go()

    async def _answer(
        self,
        request: Request,
        exchange: Exchange,
        attempt: Attempt,
        raw: RawResponse,
        body: bytes | AsyncRequestBody,
        observation: RequestObservation | None,
    ) -> Any:
        """The response, or that of the request that it redirects to (RouteAction.internal_redirect_policy)."""
        can_replay = isinstance(body, bytes) or body.can_replay
        following = self._dispatcher.follow(exchange, raw) if can_replay else None
        if following is None:
            return self._dispatcher.response(exchange, attempt, raw)
        raw.let_go()
        if isinstance(following, LocalReply):
            return await self._reply(request, following, exchange)
        if following.head.method != exchange.head.method:
            body = b""
        return await self._carry_out(request, following, observation, body)

    async def _retry(self, sender: Sender, first: Result, policy: RetryPolicy) -> Result | LocalReply:
        """Attempts after the first, driven by tenacity."""
        if not sender.wants_retry(first):
            return first
        import tenacity  # When it is needed: only a failure pays for it.

        pending: list[Result] = [first]

        async def turn() -> Result | LocalReply:
            return pending.pop() if pending else await sender.again()

        loop = retrying(tenacity.AsyncRetrying, policy, sender.wants_retry, asyncio.sleep, sender.asked_back_off)
        try:
            return await loop(turn)
        finally:
            sender.exchange.retries_over()


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "meshsdk's async transport runs on asyncio; under trio, use mesh.client() in a worker thread"
            " (trio.to_thread.run_sync)"
        ) from None
