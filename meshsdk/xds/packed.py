"""Resources of a type that is subscribed to as a whole: packed until something refers to one.

A mesh has ten thousand clusters, of which a process uses a few dozen. What is not referred to costs its bytes, and
nothing is parsed of it but its name. Those of one type are much alike, so each is written down as what tells it from
the first one (zlib with a dictionary): a cluster of istiod's takes 50 bytes of its 1,100. Control thread only.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable

from ..resources import ResourceType
from ..resources.cluster import is_original, stands_for

__all__ = ["PackedResources", "of_sidecars"]

# A window of 8 KB without a header; little memory, as there is one of these for each resource that comes.
_WINDOW, _MEMORY, _LEVEL = -13, 6, 3
_MAX_DICTIONARY = 1 << -_WINDOW


class PackedResources:
    """All resources of one type, by name.

    Args:
        marks: Tells resources that somebody must know of before they are referred to.

    Attributes:
        is_known: A response has told which there are, so that one which is not here does not exist.
        marked: The names of those that `marks` has told.
    """

    def __init__(self, marks: Callable[[bytes], bool] | None = None) -> None:
        self.is_known = False
        self.marked: set[str] = set()
        self._marks = marks
        self._marks_changed = False
        self._dictionary = b""
        self._entries: dict[str, tuple[bytes, str]] = {}
        self._changed: set[str] = set()
        # Those of another server, of which this one has not said that it has them.
        self._unconfirmed: set[str] = set()
        # Names under which one is referred to beside its own.
        self._others: dict[str, set[str]] = {}

    def get(self, name: str) -> tuple[bytes, str] | None:
        """The bytes and the version of a resource, also by a name that stands for it; None where there is none."""
        entry = self._entries.get(stands_for(name))
        return None if entry is None else (self._unfolded(entry[0]), entry[1])

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def versions(self) -> dict[str, str]:
        """Of all, by name."""
        return {name: version for name, (_, version) in self._entries.items()}

    def put(self, name: str, packed: bytes, version: str) -> None:
        """A resource came."""
        self._unconfirmed.discard(name)
        self._dictionary = self._dictionary or packed[:_MAX_DICTIONARY]
        known, folded = self._entries.get(name), self._folded(packed)
        if known is None or known[0] != folded:
            self._changed.add(name)
            self._mark(name, self._marks is not None and self._marks(packed))
        self._entries[name] = folded, version

    def _mark(self, name: str, is_marked: bool) -> None:
        if (name in self.marked) is not is_marked:
            (self.marked.add if is_marked else self.marked.discard)(name)
            self._marks_changed = True

    def take_marks_changed(self) -> bool:
        """Whether others are marked than when this was last asked."""
        changed, self._marks_changed = self._marks_changed, False
        return changed

    def _folded(self, packed: bytes) -> bytes:
        folding = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW, _MEMORY, zdict=self._dictionary)
        return folding.compress(packed) + folding.flush()

    def _unfolded(self, folded: bytes) -> bytes:
        unfolding = zlib.decompressobj(_WINDOW, zdict=self._dictionary)
        return unfolding.decompress(folded) + unfolding.flush()

    def remove(self, names: Iterable[str]) -> None:
        """Resources are gone."""
        for name in names:
            if self._entries.pop(name, None) is not None:
                self._changed.add(name)
                self._mark(name, False)

    def others_than(self, names: set[str]) -> list[str]:
        """Names of resources that are not among these."""
        return [name for name in self._entries if name not in names]

    def doubt(self) -> None:
        """What comes next is another server's, which does not know what was there before."""
        self._unconfirmed = set(self._entries)

    def take_unconfirmed(self) -> set[str]:
        """Those that were doubted and have not come since."""
        found, self._unconfirmed = self._unconfirmed, set()
        return found

    @property
    def has_changed(self) -> bool:
        """Whether `take_changed` has anything."""
        return bool(self._changed)

    def take_changed(self) -> set[str]:
        """Names of what has come, changed or gone since this was last asked."""
        changed, self._changed = self._changed, set()
        return changed

    def refer(self, name: str) -> None:
        """A resource is referred to by a name, which may stand for its own."""
        own = stands_for(name)
        if own != name:
            self._others.setdefault(own, set()).add(name)

    def let_go(self, name: str) -> None:
        """A resource is referred to by a name no longer."""
        names = self._others.get(stands_for(name), set())
        names.discard(name)
        if not names:
            self._others.pop(stands_for(name), None)

    def names_of(self, name: str) -> list[str]:
        """The names under which a resource may be referred to."""
        return [name, *self._others.get(name, ())]


def of_sidecars() -> dict[ResourceType, PackedResources]:
    """What istiod sends sidecars as a whole; clusters are marked that stand for wherever a request was to go."""
    return {ResourceType.LISTENER: PackedResources(), ResourceType.CLUSTER: PackedResources(is_original)}
