"""Last known good: configuration of a management server, kept on disk for a process that starts while it is away.

Enters: what the cache of resources holds. Leaves: the same, in another process of the same node and the same servers.

- `store` is the file: who may have written it, whether it is whole, how old it may be, how large.
- `keeper` writes it on a thread of its own.
- `source` stands before another source: it notes what comes, and gives what was kept where nothing comes.
"""

from .keeper import Keeper
from .source import LastGoodSource
from .store import Store, fingerprint

__all__ = ["Keeper", "LastGoodSource", "Store", "fingerprint"]
