"""Connections that are put away while others clear up: none is forgotten."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import httpx

from meshsdk.http.sync_pool import SyncPool
from tests.patience import PATIENCE


class _Leaving:
    """An endpoint that goes while a connection is put away.

    Whoever clears up has seen that none is idle, and asks whether the endpoint is gone; whoever puts the connection
    away does so now, and asks only after that other one is done.
    """

    def __init__(self, clearing: threading.Thread) -> None:
        self._clearing = clearing
        self.is_put_away = threading.Event()
        self.has_looked = threading.Event()

    @property
    def is_removed(self) -> bool:
        if threading.current_thread() is self._clearing:
            self.has_looked.set()
            assert self.is_put_away.wait(PATIENCE)
        else:
            self.is_put_away.set()
            self._clearing.join(PATIENCE)
            assert not self._clearing.is_alive()
        return True


class _Connection:
    def __init__(self, pool: SyncPool) -> None:
        self.is_open, self.requests, self.idle_since = True, 1, time.monotonic()
        self._pool = pool

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._pool.release(self)  # type: ignore[arg-type]


def test_a_connection_put_away_while_its_endpoint_is_cleared_up_is_closed() -> None:
    pool = SyncPool(None, httpx.Limits())  # type: ignore[arg-type]
    clearing = threading.Thread(target=pool.drop_removed)
    endpoint: Any = _Leaving(clearing)
    breaker = SimpleNamespace(connections=1)
    slot: Any = SimpleNamespace(
        endpoint=endpoint, is_secure=False, secured=None, breaker=breaker, keeps=lambda _: True, fits=lambda _: True
    )
    connection: Any = _Connection(pool)
    key = (endpoint, False)
    pool._slots[connection], pool._counts[key], pool._idle[key] = slot, 1, {}
    clearing.start()
    assert endpoint.has_looked.wait(PATIENCE)
    pool.release(connection)
    assert not connection.is_open
    assert (breaker.connections, pool._slots, pool._idle) == (0, {}, {})
