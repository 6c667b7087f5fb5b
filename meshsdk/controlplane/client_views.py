"""The views of all clients, each made once, and what is kept of them from state to state.

A control plane's clients are of few kinds, and those of one kind share a view. With each edit all of them ask again, so
what was made for one is kept for the next state, until it has not asked for some: then it is gone.
"""

from __future__ import annotations

import itertools
import threading

from msgspec import Struct

from .client import Client
from .memo import Memo
from .packing import Packed
from .scope import Scope
from .view import View
from .world import World

__all__ = ["ClientMemos", "ClientViews"]

_MAX_CLIENTS = 64
# A stream may be some edits behind.
_MAX_EDITS_UNASKED = 8


class _Kept(Struct, frozen=True):
    memo: Memo
    asked_in: int


class _Asked(Struct, eq=False):
    view: View
    turn: int = 0


class ClientMemos:
    """What was made for each client. Shared by the states of a folder, of which streams may still ask an older one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Client, _Kept] = {}
        self._edit = 0

    def begin_edit(self) -> None:
        """A new state is in use: forget whoever has not asked for some."""
        with self._lock:
            self._edit += 1
            since = self._edit - _MAX_EDITS_UNASKED
            self._kept = {client: one for client, one in self._kept.items() if one.asked_in >= since}

    def of(self, client: Client) -> Memo | None:
        """What was made for a client."""
        kept = self._kept.get(client)
        return kept.memo if kept is not None else None

    def keep(self, client: Client, memo: Memo) -> None:
        """A client has asked, and this was made for it. Where there are too many, whoever asked last is kept."""
        with self._lock:
            if client not in self._kept and len(self._kept) >= _MAX_CLIENTS:
                first = min(self._kept, key=lambda one: self._kept[one].asked_in)
                if self._kept[first].asked_in >= self._edit - 1:
                    return  # All are about to ask again: if they took turns here, none would find what it had.
                del self._kept[first]
            self._kept[client] = _Kept(memo, self._edit)


class ClientViews:
    """What each client has of a world.

    Args:
        world: All that there is.
        raw: Resources that stand in the folder as they are.
        client: Whose view is made first, and is checked.
        memos: What was made for each client before.
    """

    def __init__(self, world: World, raw: Packed, client: Client, memos: ClientMemos) -> None:
        self.memos = memos
        self._world = world
        self._raw = raw
        self._first = client
        # Each stream has a thread, and all ask at once when there is a new state. One for all views, since each begins
        # with the first one's; those that are made do not wait for it.
        self._making = threading.RLock()
        self._turns = itertools.count()
        self._views: dict[Client, _Asked] = {}

    def of(self, client: Client) -> View:
        """The view of a client."""
        found = self._views.get(client)
        if found is None:
            with self._making:
                found = self._views.get(client) or self._make(client)
        found.turn = next(self._turns)
        self.memos.keep(client, found.view.memo)
        return found.view

    def _make(self, client: Client) -> _Asked:
        checked = {} if client == self._first else self.of(self._first).grpc
        if len(self._views) >= _MAX_CLIENTS:
            del self._views[min(self._views, key=lambda one: self._views[one].turn)]
        memo = Memo(self.memos.of(client))
        scope = Scope(self._world, client, memo)
        found = self._views[client] = _Asked(View(scope, self._raw, memo, checked, self._making))
        return found
