"""Requests that policy itself makes: to authorization and rate limit servers, and for keys.

They go through the mesh to the cluster that configuration names, with its balancing, health and TLS. Nothing of an
answer is believed before its size is bounded.

Sources: envoy.service.auth.v3 (Authorization.Check), envoy.service.ratelimit.v3; Envoy docs,
http_filters/ext_authz_filter; gRPC PROTOCOL-HTTP2.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

import httpx

from ..http.cluster_client import AsyncClusterClient, ClusterClient, check_plain
from ..inbound.waits import AskAuthorization, AskRateLimit, AuthorizationAnswer, RateLimitAnswer
from ..log_lines import logger_of
from ..resources.filters.ext_authz import GrpcAuthorization, HttpAuthorization
from ..resources.filters.jwt import MAX_JWKS_BYTES, RemoteJwks
from . import check_request, http_check, limit_request

if TYPE_CHECKING:
    from ..control import Control

__all__ = ["Callouts"]

logger = logger_of("meshsdk.server")

_MAX_ANSWER_BYTES = 1 << 20


class Callouts:
    """Asks other servers.

    Args:
        control: The control side.
    """

    def __init__(self, control: Control) -> None:
        self._client = ClusterClient(control)
        self._async_client = AsyncClusterClient(control)
        self._lock = threading.Lock()
        self._fetches: dict[RemoteJwks, Future[str | None]] = {}
        self._tasks: dict[tuple[asyncio.AbstractEventLoop, RemoteJwks], asyncio.Task[str | None]] = {}

    def fetch_keys(self, remote: RemoteJwks) -> str | None:
        """A key set's text; None where it cannot be fetched. Requests that ask at once get one fetch."""
        with self._lock:
            under_way = self._fetches.get(remote)
            mine: Future[str | None] = under_way or self._fetches.setdefault(remote, Future())
        if under_way is not None:
            return under_way.result()
        text: str | None = None
        try:
            text = self._fetch_keys(remote)
        finally:
            with self._lock:
                self._fetches.pop(remote, None)
            mine.set_result(text)
        return text

    def _fetch_keys(self, remote: RemoteJwks) -> str | None:
        try:
            answer = self._client.send(
                remote.cluster, httpx.Request("GET", remote.uri), remote.timeout_seconds, MAX_JWKS_BYTES
            )
            return _keys(answer)
        except (httpx.HTTPError, OSError, ValueError) as error:
            logger.warning("keys cannot be fetched from %s: %s", remote.uri, error)
            return None

    async def fetch_keys_async(self, remote: RemoteJwks) -> str | None:
        """See `fetch_keys`."""
        key = (asyncio.get_running_loop(), remote)
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(self._fetch_keys_async(remote))
            task.add_done_callback(lambda _: self._tasks.pop(key, None))
        # A request that is cancelled does not take the keys from the others.
        return await asyncio.shield(task)

    async def _fetch_keys_async(self, remote: RemoteJwks) -> str | None:
        try:
            answer = await self._async_client.send(
                remote.cluster, httpx.Request("GET", remote.uri), remote.timeout_seconds, MAX_JWKS_BYTES
            )
            return _keys(answer)
        except (httpx.HTTPError, OSError, ValueError) as error:
            logger.warning("keys cannot be fetched from %s: %s", remote.uri, error)
            return None

    def ask(self, question: AskAuthorization) -> AuthorizationAnswer | None:
        """What an authorization server says; None where it cannot be asked."""
        service, request = question.settings.service, _question(question)
        if request is None:
            return AuthorizationAnswer(allowed=False, status=question.settings.status_on_error)
        try:
            answer = self._client.send(service.cluster, request, service.timeout_seconds, _MAX_ANSWER_BYTES)
            return _answer(service, answer)
        except (httpx.HTTPError, OSError, ValueError) as error:
            logger.warning("authorization server %s cannot be asked: %s", service.cluster, error)
            return None

    async def ask_async(self, question: AskAuthorization) -> AuthorizationAnswer | None:
        """See `ask`."""
        service, request = question.settings.service, _question(question)
        if request is None:
            return AuthorizationAnswer(allowed=False, status=question.settings.status_on_error)
        try:
            answer = await self._async_client.send(service.cluster, request, service.timeout_seconds, _MAX_ANSWER_BYTES)
            return _answer(service, answer)
        except (httpx.HTTPError, OSError, ValueError) as error:
            logger.warning("authorization server %s cannot be asked: %s", service.cluster, error)
            return None

    def ask_limit(self, question: AskRateLimit) -> RateLimitAnswer | None:
        """What a rate limit server says; None where it cannot be asked."""
        service = question.service
        try:
            answer = self._client.send(
                service.cluster, limit_request.write(question), service.timeout_seconds, _MAX_ANSWER_BYTES
            )
            return limit_request.read(answer)
        except (httpx.HTTPError, OSError, ValueError) as error:
            logger.warning("rate limit server %s cannot be asked: %s", service.cluster, error)
            return None

    async def ask_limit_async(self, question: AskRateLimit) -> RateLimitAnswer | None:
        """See `ask_limit`."""
        service = question.service
        try:
            answer = await self._async_client.send(
                service.cluster, limit_request.write(question), service.timeout_seconds, _MAX_ANSWER_BYTES
            )
            return limit_request.read(answer)
        except (httpx.HTTPError, OSError, ValueError) as error:
            logger.warning("rate limit server %s cannot be asked: %s", service.cluster, error)
            return None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def close_async(self) -> None:
        """Close the connections."""
        await self._async_client.close()
        self._client.close()


def _keys(answer: httpx.Response) -> str:
    if answer.status_code != 200:
        raise ValueError(f"the answer is {answer.status_code}")
    check_plain(answer)
    return answer.text


def _question(question: AskAuthorization) -> httpx.Request | None:
    """The request that asks; None where this one cannot be asked about.

    That is the caller's doing, and nobody's being away: failure_mode_allow is not for it.
    """
    service = question.settings.service
    try:
        if isinstance(service, GrpcAuthorization):
            return check_request.write(service, question)
        return http_check.write(service, question)
    except Exception as error:  # noqa: BLE001
        # Whatever a caller has put there: names, lengths, tokens' claims.
        logger.warning("authorization server %s cannot be asked about a request: %s", service.cluster, error)
        return None


def _answer(service: GrpcAuthorization | HttpAuthorization, answer: httpx.Response) -> AuthorizationAnswer | None:
    if isinstance(service, GrpcAuthorization):
        return check_request.read(answer)
    return http_check.read(service, answer)
