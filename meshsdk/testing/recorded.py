"""An ADS service that keeps what clients ask for and answer, and knows when they are all up to date."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Any

from msgspec import Struct

from ..resources import RESOURCE_TYPES, ResourceType, resource_name
from ..xds.ads_server import AdsService, Session
from ..xds.server_session import Served
from .generation import Generation

__all__ = ["Ack", "Nack", "RecordedAds"]

# Of answers; a test that has more looks at the last.
_MAX_KEPT = 10_000


class Ack(Struct, frozen=True):
    """A client has taken a response.

    Attributes:
        client: Its node's id.
        type: Of the resources, as their message is called: `Listener`, `RouteConfiguration`, `Cluster`,
            `ClusterLoadAssignment`, `Secret`.
        names: Of the resources that it was sent.
    """

    client: str
    type: str
    names: tuple[str, ...]


class Nack(Struct, frozen=True):
    """A client has refused a response.

    Attributes:
        client: Its node's id.
        type: As of an `Ack`.
        names: Of the resources that it was sent; not all of them need be bad.
        error: Why, as the client says.
    """

    client: str
    type: str
    names: tuple[str, ...]
    error: str


class _Stream:
    """One stream of one client: what it asks for, and what it was sent and has not answered."""

    def __init__(self) -> None:
        self.client = ""
        self.names: dict[str, set[str]] = {}
        self.waiting: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.seen = -1
        self.read = self.handled = 0

    def take(self, request: Any) -> None:
        """Note what is asked for: all names of a type, or those that come and go. `*` is every name."""
        kind = _short(request.type_url)
        if not hasattr(request, "resource_names_subscribe"):
            self.names[kind] = set(request.resource_names) or {"*"}
            return
        names = self.names.get(kind)
        if names is None:
            names = self.names[kind] = set() if request.resource_names_subscribe else {"*"}
        names.update(request.resource_names_subscribe)
        names.difference_update(request.resource_names_unsubscribe)

    def owes(self, number: int) -> str:
        """What is not done yet; empty where all is."""
        name = self.client or "a client"
        if self.seen != number or self.read != self.handled:
            return f"{name} is being answered"
        if self.waiting:
            what = ", ".join(f"{kind} {', '.join(names)}".strip() for kind, names in self.waiting.values())
            return f"{name} has not answered to {what}"
        return ""


class RecordedAds(AdsService):
    """Serves as `AdsService` does.

    Args:
        state: What is served at first.
    """

    def __init__(self, state: Generation) -> None:
        super().__init__(state)
        self._changed = threading.Condition()
        self._open: set[_Stream] = set()
        self._number = state.number
        self._answers: deque[Ack | Nack] = deque(maxlen=_MAX_KEPT)

    @property
    def answers(self) -> list[Ack | Nack]:
        """Every answer, in order."""
        with self._changed:
            return list(self._answers)

    @property
    def clients(self) -> list[str]:
        """Node ids of the clients that are connected."""
        with self._changed:
            return sorted({stream.client for stream in self._open if stream.client})

    def asked_for(self, client: str) -> dict[str, set[str]]:
        """The names that a client is subscribed to, by type; `*` is all there are."""
        found: dict[str, set[str]] = {}
        with self._changed:
            for stream in self._open:
                if stream.client == client:
                    for kind, names in stream.names.items():
                        found.setdefault(kind, set()).update(names)
        return found

    def publish(self, state: Served, changed: Collection[tuple[ResourceType, str]] | None = None) -> None:
        """See `AdsService`."""
        assert isinstance(state, Generation)
        with self._changed:
            self._number = state.number
        super().publish(state, changed)

    def forget(self) -> None:
        """Forget the answers there were."""
        with self._changed:
            self._answers.clear()

    def wait_quiet(self, ends: float) -> str:
        """Wait until each client has what is served, and has answered to it.

        Args:
            ends: By this time of the monotonic clock.

        Returns:
            What is not done then; empty where all is.
        """
        with self._changed:
            while owed := next((text for one in self._open if (text := one.owes(self._number))), ""):
                left = ends - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return owed
            return ""

    def _serve(self, make_session: Callable[[Served], Session], requests: Iterator[Any]) -> Iterator[Any]:
        stream = _Stream()

        def read() -> Iterator[Any]:
            for request in requests:
                with self._changed:
                    stream.read += 1
                yield request

        def make(state: Served) -> Any:
            assert isinstance(state, Generation)
            with self._changed:
                stream.seen = state.number
                self._open.add(stream)
            return _RecordedSession(make_session(state), stream, self)

        try:
            yield from super()._serve(make, read())
        finally:
            with self._changed:
                self._open.discard(stream)
                self._changed.notify_all()

    def take_request(self, stream: _Stream, request: Any) -> None:
        """A client says something."""
        with self._changed:
            if request.node.id:
                stream.client = request.node.id
            stream.take(request)
            sent = stream.waiting.pop(request.response_nonce, None) if request.response_nonce else None
            if sent is not None:
                if request.HasField("error_detail"):
                    self._answers.append(Nack(stream.client, *sent, error=request.error_detail.message))
                else:
                    self._answers.append(Ack(stream.client, *sent))

    def take_response(self, stream: _Stream, response: Any, names: tuple[str, ...]) -> None:
        """A client is told something."""
        with self._changed:
            stream.waiting[response.nonce] = (_short(response.type_url), names)

    def take_done(self, stream: _Stream, *, number: int | None = None) -> None:
        """A request, or a new state, has been dealt with."""
        with self._changed:
            if number is None:
                stream.handled += 1
            else:
                stream.seen = number
            self._changed.notify_all()


class _RecordedSession:
    """A session that tells what goes through it."""

    def __init__(self, session: Session, stream: _Stream, ads: RecordedAds) -> None:
        self._session = session
        self._stream = stream
        self._ads = ads

    def receive(self, request: Any) -> Iterator[Any]:
        self._ads.take_request(self._stream, request)
        yield from self._told(self._session.receive(request))
        self._ads.take_done(self._stream)

    def update(self, state: Generation, changed: Collection[tuple[ResourceType, str]] | None = None) -> Iterator[Any]:
        yield from self._told(self._session.update(state, changed))
        self._ads.take_done(self._stream, number=state.number)

    def _told(self, responses: Iterator[Any]) -> Iterator[Any]:
        for response in responses:
            self._ads.take_response(self._stream, response, _names_in(response))
            yield response


def _short(type_url: str) -> str:
    return type_url.rpartition(".")[2]


def _names_in(response: Any) -> tuple[str, ...]:
    removed = getattr(response, "removed_resources", None)
    if removed is not None:
        return (*(one.name for one in response.resources), *removed)
    kind = RESOURCE_TYPES.get(response.type_url)
    return tuple(resource_name(kind, one.value) for one in response.resources) if kind is not None else ()
