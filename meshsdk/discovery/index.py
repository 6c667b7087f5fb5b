"""Who depends on what, in little memory: nearly everything in a mesh is asked for by one other thing."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import Generic, TypeVar

__all__ = ["Index"]

K = TypeVar("K", bound=Hashable)


class Index(Generic[K]):
    """Names by keys. A key that has one name has that instead of a set of one, which is seven times as large."""

    def __init__(self) -> None:
        self._names: dict[K, str | set[str]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._names

    def of(self, key: K) -> Collection[str]:
        """The names of a key."""
        found = self._names.get(key, ())
        return (found,) if isinstance(found, str) else found

    def add(self, key: K, name: str) -> bool:
        """Put a name to a key; says whether it is the first."""
        found = self._names.get(key)
        if found is None:
            self._names[key] = name
            return True
        if isinstance(found, set):
            found.add(name)
        elif found != name:
            self._names[key] = {found, name}
        return False

    def discard(self, key: K, name: str) -> bool:
        """Take a name from a key; says whether it was the last."""
        found = self._names.get(key)
        if isinstance(found, set):
            found.discard(name)
            if found:
                return False
        elif found != name:
            return False
        del self._names[key]
        return True

    def replace(self, name: str, before: Iterable[K], after: Iterable[K]) -> tuple[list[K], list[K]]:
        """Move a name from some keys to others; says which keys are new, and which have no name any more."""
        old, new = set(before), set(after)
        gone = [key for key in old - new if self.discard(key, name)]
        return [key for key in new - old if self.add(key, name)], gone
