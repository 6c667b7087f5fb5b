"""A client and a management server without sockets, threads or time: whoever tests says what happens next.

The client is all of `Control`, its server the sessions that our own server has; between them are wires, on which
messages wait until they are told to arrive.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from meshsdk.bootstrap import parse_bootstrap
from meshsdk.configuration import ads_source
from meshsdk.control import Control
from meshsdk.resources import ResourceType
from meshsdk.xds import Timer
from meshsdk.xds.server_session import DeltaServerSession, SotwServerSession

__all__ = ["OTHERS", "OURS", "Client", "Key", "ManualLoop", "Server", "Wire", "in_process"]

Key = tuple[ResourceType, str]

# Longer than any timer of the client's, and than all that follow each other.
_LONGEST_SECONDS = 200.0
_ROUNDS = 2_000


class Clock:
    """Seconds, as the test has them; stands for the module `time`, too."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


CLOCK = Clock()


class ManualLoop:
    """A `ControlLoop` that runs when it is told to."""

    def __init__(self, name: str, after_batch: Callable[[], object]) -> None:
        self._after_batch = after_batch
        self._inbox: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self.failures = 0

    def start(self) -> None:
        pass

    def stop(self, timeout_seconds: float = 0.0) -> None:
        self.run()

    def post(self, callback: Callable[[], object]) -> None:
        self._inbox.append(callback)

    def now(self) -> float:
        return CLOCK.now

    def call_later(self, delay_seconds: float, callback: Callable[[], object]) -> Timer:
        timer = Timer(CLOCK.now + delay_seconds, callback)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    def next_due(self) -> float | None:
        """When the next timer is due."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def run(self) -> bool:
        """All that there is to do now, in one batch after the other. Returns whether there was anything."""
        has_run = False
        while self._inbox or (self.next_due() or CLOCK.now + 1) <= CLOCK.now:
            has_run = True
            for _ in range(len(self._inbox)):
                self._inbox.popleft()()
            while (due := self.next_due()) is not None and due <= CLOCK.now:
                callback = heapq.heappop(self._timers)[2].callback
                assert callback is not None
                callback()
            self._after_batch()
        return has_run


class Wire:
    """A stream: both ends, and what is under way. Stands for `AdsStream` at the client's end."""

    server: Server  # Of the test that runs.

    def __init__(
        self,
        server: Any,
        channels: Any,
        on_response: Callable[[Any, Any], None],
        on_end: Callable[[Any, str], None],
        *,
        on_sent: Callable[[Any], None] | None = None,
        is_incremental: bool = False,
        service: str = "",
    ) -> None:
        self._on_response = on_response
        self._on_end = on_end
        self._on_sent = on_sent
        # What is asked on a stream beside the first waits for no moment of its own.
        self.is_beside = on_sent is None
        self.has_sent = False
        self.code = None
        self.room = 2
        self.to_server: deque[Any] = deque()
        self.to_client: deque[Any] = deque()
        self.is_open = Wire.server.is_up
        if not self.is_open:
            on_end(self, "UNAVAILABLE: the server is down")
            return
        self.session: Any = Wire.server.sessions[is_incremental](Wire.server.state)
        Wire.server.wires.append(self)

    def send(self, request: Any) -> None:
        copy = type(request)()
        copy.CopyFrom(request)
        self.to_server.append(copy)

    def processed(self) -> None:
        self.room += 1

    def close(self) -> None:
        self.is_open = False
        if self in Wire.server.wires:
            Wire.server.wires.remove(self)

    def reset(self) -> None:
        """Break; what is under way is lost."""
        self.close()
        self._on_end(self, "the test broke it")

    def arrive_at_server(self) -> bool:
        """The next request arrives, and is answered."""
        if not self.to_server or not self.is_open:
            return False
        if not self.has_sent:
            self.has_sent = True
            if self._on_sent is not None:
                self._on_sent(self)
        self.to_client.extend(self.session.receive(self.to_server.popleft()))
        return True

    def arrive_at_client(self) -> bool:
        """The next response arrives, where the client takes one."""
        if not self.to_client or not self.room or not self.is_open:
            return False
        self.room -= 1
        self._on_response(self, self.to_client.popleft())
        return True


class _State:
    def __init__(self, resources: Mapping[Key, bytes]) -> None:
        self._resources = dict(resources)

    def for_client(self, node: Any) -> Mapping[Key, bytes]:
        return self._resources

    def differences(self, other: _State) -> set[Key]:
        keys = self._resources.keys() | other._resources.keys()
        return {key for key in keys if self._resources.get(key) != other._resources.get(key)}


class LikeIstiod(SotwServerSession):
    """Passes over the names in a refusal (istio pilot/pkg/xds/ads.go, ShouldRespond)."""

    def receive(self, request: Any) -> Iterator[Any]:
        return iter(()) if request.HasField("error_detail") else super().receive(request)


class LikeGo(DeltaServerSession):
    """Says nothing of names that it never had, as go-control-plane."""

    def _send(self, *what: Any, missing: Any = (), force: bool = False) -> Iterator[Any]:
        return super()._send(*what, force=force)


OURS = (SotwServerSession, DeltaServerSession)
OTHERS = (LikeIstiod, LikeGo)


class Server:
    """A management server: what it serves, and its streams.

    Args:
        resources: That it serves.
        sessions: How it speaks the state of the world, and incrementally.
    """

    def __init__(self, resources: Mapping[Key, bytes], sessions: Any = OURS) -> None:
        self.sessions = sessions
        self.wires: list[Wire] = []
        self.is_up = True
        self.state = _State(resources)

    def publish(self, resources: Mapping[Key, bytes], *, says_what: bool = False) -> None:
        """Serve these.

        Args:
            resources: All that there is.
            says_what: Sessions are told what has changed; else they find out.
        """
        before, self.state = self.state, _State(resources)
        changed = before.differences(self.state) if says_what else None
        for wire in self.wires:
            wire.to_client.extend(wire.session.update(self.state, changed))

    def stop(self) -> None:
        self.is_up = False
        for wire in list(self.wires):
            wire.reset()

    def subscriptions(self) -> dict[ResourceType, frozenset[str]]:
        """What the only client asks for, on its first stream."""
        [wire] = [one for one in self.wires if not one.is_beside]
        found: dict[Any, Any] = wire.session._subscriptions
        return {kind: frozenset(one.names) for kind, one in found.items() if one.names}


class Client:
    """A `Control` whose server is in the process."""

    def __init__(self, *, is_incremental: bool) -> None:
        server = {
            "server_uri": "in-process",
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["meshsdk.incremental"] if is_incremental else [],
        }
        bootstrap = parse_bootstrap({"xds_servers": [server], "node": {"id": "test"}})
        self.control = Control(bootstrap, ads_source(bootstrap, None))
        self.control.start()
        loop: Any = self.control._loop
        self.loop: ManualLoop = loop

    def want(self, name: str) -> None:
        """Somebody asks for a listener."""
        self.control.when_settled([name], lambda: None)

    def drop(self, name: str) -> None:
        """Nobody does any more."""

        def forget() -> None:
            self.control._roots.pop(name, None)
            self.control._mark_dirty()

        self.loop.post(forget)

    @property
    def roots(self) -> list[str]:
        return list(self.control._roots)

    def settle(self, server: Server) -> None:
        """Until nothing is under way and no timer is due any more."""
        ends = CLOCK.now + _LONGEST_SECONDS
        for _ in range(_ROUNDS):
            moved = self.loop.run()
            for wire in list(server.wires):
                moved |= wire.arrive_at_server()
                moved |= wire.arrive_at_client()
            if moved:
                continue
            due = self.loop.next_due()
            if due is None or due > ends:
                return
            CLOCK.now = max(CLOCK.now, due)
        raise AssertionError("it does not come to rest")

    def close(self) -> None:
        self.control.close()


@contextmanager
def in_process() -> Iterator[None]:
    """Clients that are made meanwhile have no threads, no time and no sockets."""
    clock = SimpleNamespace(monotonic=CLOCK.monotonic, time=CLOCK.time)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meshsdk.control.ControlLoop", ManualLoop)
        patch.setattr("meshsdk.control.time", clock)
        patch.setattr("meshsdk.xds.connection.AdsStream", Wire)
        yield
