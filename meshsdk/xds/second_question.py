"""Asking a management server a second time, where its answer can only be to this question.

Nothing in a state-of-the-world response says which request it answers, so one that lacks a name which was added to a
subscription says nothing of it. gRPC waits 15 seconds then. A process that also talks to hosts outside its mesh would
wait that long for each of them, so such names are asked for once more, on a stream beside the first one and over the
same connection: whatever comes there answers a request that named them. What that answer lacks does not exist.

Control thread only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..resources import RESOURCE_TYPES, ResourceType
from .loop import ControlLoop, Timer
from .session import Session
from .stream import AdsStream

__all__ = ["SecondQuestion"]

# How long the first stream has for its answer. What the server has comes there, mostly in a fraction of this.
_PATIENCE_SECONDS = 0.02

_KINDS = tuple(kind for kind in ResourceType if kind.is_complete_in_every_response)

Callbacks = tuple[Callable[[AdsStream, Any], None], Callable[[AdsStream, str], None]]


class SecondQuestion:
    """Asks for what a session cannot decide; one question at a time.

    Args:
        session: Whose undecided names are asked for.
        loop: The control thread.
        open_stream: Opens a stream beside the first one; None while that one has brought no response.
        on_absent: Called with each name that does not exist.
        give_up_seconds: How long an answer may take.
    """

    def __init__(
        self,
        session: Session,
        loop: ControlLoop,
        open_stream: Callable[[Callbacks], AdsStream | None],
        on_absent: Callable[[ResourceType, str], None],
        give_up_seconds: float,
    ) -> None:
        self._session = session
        self._loop = loop
        self._open_stream = open_stream
        self._on_absent = on_absent
        self._give_up_seconds = give_up_seconds
        self._stream: AdsStream | None = None
        self._asked: dict[ResourceType, frozenset[str]] = {}
        # Each name is asked for once as long as the first stream lasts: what stays undecided is the timer's.
        self._asked_before: set[tuple[ResourceType, str]] = set()
        self._there: set[tuple[ResourceType, str]] = set()
        self._timer: Timer | None = None

    def is_there(self, kind: ResourceType, name: str) -> bool:
        """Whether the server has a resource that its first stream has not brought."""
        return (kind, name) in self._there

    def forget(self, kind: ResourceType, name: str) -> None:
        """Nobody asks for it any more."""
        self._there.discard((kind, name))
        self._asked_before.discard((kind, name))

    def look(self) -> None:
        """Something was asked for, or answered: ask again for what stays undecided for a moment."""
        if self._timer is None and self._stream is None and self._open():
            self._timer = self._loop.call_later(_PATIENCE_SECONDS, self._ask)

    def stop(self) -> None:
        """The first stream is over, and with it all that was learnt beside it."""
        self._there.clear()
        self._asked_before.clear()
        self._end()

    def _open(self) -> dict[ResourceType, frozenset[str]]:
        """Names to ask for, by type."""
        return {
            kind: names
            for kind in _KINDS
            if (names := frozenset(n for n in self._session.undecided(kind) if (kind, n) not in self._asked_before))
        }

    def _ask(self) -> None:
        self._timer = None
        names = self._open()
        if not names:
            return
        post = self._loop.post
        self._stream = self._open_stream(
            (
                lambda stream, response: post(partial(self._on_response, stream, response)),
                lambda stream, reason: post(partial(self._on_end, stream)),
            )
        )
        if self._stream is None:
            return  # Its first response is looked at anew.
        self._asked = names
        for kind, asked in names.items():
            self._asked_before.update((kind, name) for name in asked)
            self._stream.send(self._session.question(kind, asked))
        self._timer = self._loop.call_later(self._give_up_seconds, self._give_up)

    def _on_response(self, stream: AdsStream, response: Any) -> None:
        stream.processed()
        kind = RESOURCE_TYPES.get(response.type_url)
        if stream is not self._stream or kind not in self._asked:
            return
        absent, there = self._session.learn_absence(kind, self._asked.pop(kind), response)
        self._there.update((kind, name) for name in there)
        for name in absent:
            self._on_absent(kind, name)
        if not self._asked:
            self._give_up()

    def _on_end(self, stream: AdsStream) -> None:
        if stream is self._stream:
            self._give_up()

    def _give_up(self) -> None:
        self._end()
        self.look()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        stream, self._stream, self._asked = self._stream, None, {}
        if stream is not None:
            stream.close()
