"""A plaintext port for the probes of kubelets and load balancers, beside one that takes mutual TLS.

They have no certificate, so a port under STRICT takes none of their connections. What is told here is whether the
process lives and serves, and nothing else. Beside a sidecar, Istio's agent does this (its rewriteAppHTTPProbers).

    /livez, /healthz   200 while the event loop answers
    /readyz, /         200 while requests are taken: after the start, and until the shutdown begins
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable

from .side_port import Answer, Asked, SidePort

__all__ = ["HealthPort"]

# Kubelets give up after a second, unless they are told otherwise, and come again.
_LOOP_SECONDS = 5.0
_TEXT = "text/plain; charset=utf-8"


class HealthPort:
    """Tells probes how a server is.

    Args:
        port: To listen on, at all addresses.
        is_ready: Whether it takes requests.
    """

    def __init__(self, port: int, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._side_port = SidePort("the health port", port, self._answer)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer from now on.

        Args:
            loop: The server's, which has to answer as well.
        """
        self._loop = loop
        self._side_port.start()

    def close(self) -> None:
        """Give the port back."""
        self._side_port.close()

    def _answer(self, asked: Asked) -> Answer:
        if asked.path in ("/livez", "/healthz"):
            return _told(self._loop_answers(), "the event loop does not answer")
        if asked.path in ("/readyz", "/"):
            return _told(self._is_ready() and self._loop_answers(), "no requests are taken")
        return Answer(404, _TEXT, b"here are /livez, /healthz and /readyz\n")

    def _loop_answers(self) -> bool:
        loop = self._loop
        if loop is None or loop.is_closed():
            return False
        answered: concurrent.futures.Future[None] = concurrent.futures.Future()
        try:
            loop.call_soon_threadsafe(answered.set_result, None)
            answered.result(_LOOP_SECONDS)
        except (RuntimeError, TimeoutError):
            return False
        return True


def _told(is_well: bool, otherwise: str) -> Answer:
    return Answer(200, _TEXT, b"ok\n") if is_well else Answer(503, _TEXT, f"{otherwise}\n".encode())
