"""What one client of a control plane gets: what was made for it, and what is made when it asks by name.

Listeners have many names: of a server's port, at whatever address it listens on; of a host, in each of its short forms.
They are not made before somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from envoy.config.listener.v3 import listener_pb2

from ..errors import ConfigError
from ..log_lines import logger_of
from ..resources import ResourceType

__all__ = ["ServedResources"]

logger = logger_of("meshsdk.controlplane")

Key = tuple[ResourceType, str]

# Of names that a client may make up as it likes.
_MAX_ASKED = 10_000


class ServedResources(Mapping[Key, bytes]):
    """Resources by type and name.

    Args:
        made: Those that there are in any case.
        make: Makes the listener of a server, or of a host that nothing names; None where there is none.
        full_names: Of hosts, by their short forms.
    """

    def __init__(
        self,
        made: Mapping[Key, bytes],
        make: Callable[[str], bytes | None],
        full_names: Mapping[str, str],
    ) -> None:
        self._made = made
        self._make = make
        self._full_names = full_names
        self._asked: dict[str, bytes | None] = {}

    def __getitem__(self, key: Key) -> bytes:
        found = self._made.get(key)
        if found is None and key[0] is ResourceType.LISTENER:
            name = key[1]
            if name not in self._asked:
                if len(self._asked) >= _MAX_ASKED:
                    self._asked.clear()
                self._asked[name] = self._listener(name)
            found = self._asked[name]
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[Key]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)

    def _listener(self, name: str) -> bytes | None:
        try:
            found = self._make(name)
        except ConfigError as error:
            logger.error("%s", error)
            return None
        if found is not None:
            return found
        host, _, port = name.rpartition(":")
        full = self._full_names.get(host)
        packed = self._made.get((ResourceType.LISTENER, f"{full}:{port}")) if full is not None else None
        if packed is None:
            return None
        listener = listener_pb2.Listener.FromString(packed)
        listener.name = name
        return bytes(listener.SerializeToString(deterministic=True))
