"""What a test's control plane serves at one moment: its folder's resources, and those that were set as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..controlplane import FolderState
from ..resources import ResourceType

__all__ = ["Generation", "Key"]

Key = tuple[ResourceType, str]


class Generation:
    """See `xds.server_session.Served`.

    Args:
        number: Counts what was published.
        state: The folder's.
        raw: Resources that clients get in place of the folder's of the same name, whether they are good or not.
    """

    def __init__(self, number: int, state: FolderState, raw: Mapping[Key, bytes]) -> None:
        self.number = number
        self._state = state
        self._raw = raw

    def for_client(self, node: Any) -> Mapping[Key, bytes]:
        """See `Served`."""
        found = self._state.for_client(node)
        return _Both(self._raw, found) if self._raw else found


class _Both(Mapping[Key, bytes]):
    def __init__(self, first: Mapping[Key, bytes], rest: Mapping[Key, bytes]) -> None:
        self._first = first
        self._rest = rest

    def __getitem__(self, key: Key) -> bytes:
        found = self._first.get(key)
        return found if found is not None else self._rest[key]

    def __iter__(self) -> Iterator[Key]:
        return iter({**dict.fromkeys(self._first), **dict.fromkeys(self._rest)})

    def __len__(self) -> int:
        return sum(1 for _ in self)
