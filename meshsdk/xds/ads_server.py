"""ADS for others: one thread a stream that tells a session what its client says, and what there is anew."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc
from msgspec import Struct

from ..resources import ResourceType
from .server_session import DeltaServerSession, Served, SotwServerSession

__all__ = ["AdsService"]

# Requests of one client that were read and not answered yet.
_MAX_WAITING = 2

Session = SotwServerSession | DeltaServerSession


class AdsService(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Serves resources over ADS, state-of-the-world and incremental.

    Args:
        state: What is served at first.
        on_request: Called with each request before it is answered, on the stream's thread.
    """

    def __init__(self, state: Served, on_request: Callable[[Any], None] = lambda request: None) -> None:
        self._state = state
        self._on_request = on_request
        self._streams: set[queue.SimpleQueue[Any]] = set()
        self._lock = threading.Lock()

    def add_to(self, server: Any) -> None:
        """Have a grpc.Server offer this service."""
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, server)

    def publish(self, state: Served, changed: Collection[tuple[ResourceType, str]] | None = None) -> None:
        """From now on serve `state`, and tell every stream. From any thread; never blocks for long.

        Args:
            state: What is served.
            changed: All that differs from the state before, where that is known: then nothing else is looked at.
        """
        with self._lock:
            self._state = state
            for stream in self._streams:
                stream.put(_Update(state, changed))

    def close(self) -> None:
        """End every stream."""
        with self._lock:
            for stream in self._streams:
                stream.put(None)

    def StreamAggregatedResources(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:
        """State of the world."""
        return self._serve(SotwServerSession, request_iterator)

    def DeltaAggregatedResources(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:
        """Incremental."""
        return self._serve(DeltaServerSession, request_iterator)

    def _serve(self, make_session: Callable[[Served], Session], requests: Iterator[Any]) -> Iterator[Any]:
        """One stream, until its client or this server ends it."""
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # A client is read as fast as it is answered.
        room, is_over = threading.Semaphore(_MAX_WAITING), threading.Event()
        # In one step, so that no state is missed between reading it and hearing of the next.
        with self._lock:
            session = make_session(self._state)
            self._streams.add(inbox)

        def read() -> None:
            try:
                for request in requests:
                    room.acquire()
                    if is_over.is_set():
                        return
                    inbox.put(request)
            except grpc.RpcError:
                pass  # The client is gone; that ends the stream below.
            inbox.put(None)

        threading.Thread(target=read, name="meshsdk-ads-reader", daemon=True).start()
        try:
            while (item := inbox.get()) is not None:
                if isinstance(item, _Update):
                    yield from session.update(item.state, item.changed)
                else:
                    self._on_request(item)
                    yield from session.receive(item)
                    room.release()
        finally:
            is_over.set()
            room.release()
            with self._lock:
                self._streams.discard(inbox)


class _Update(Struct, frozen=True):
    """A new state, as against a request; and what in it is new, where that is known."""

    state: Served
    changed: Collection[tuple[ResourceType, str]] | None
