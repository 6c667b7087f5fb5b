"""The xDS protocol: resources by name, from a management server, kept current.

Enters: a bootstrap's servers and the names that discovery wants. Leaves: a `ResourceCache` of typed resources with
their versions and errors. What a resource means is not known here.

- `loop` is the control thread: everything in this package and in `discovery` runs on it, so nothing there locks.
- `session` is the protocol itself, without I/O: subscriptions, versions, nonces, ACK and NACK; `sotw` is its variant of
  the state of the world, `delta` the incremental one.
- `ads_client` keeps one stream open, and one server behind it.
- `server_session` and `ads_server` are the other side, for those who serve resources.
"""

from .cache import ANY_LISTENER, DOES_NOT_EXIST_SECONDS, CachedResource, ResourceCache, ResourceKey, Status
from .loop import ControlLoop, Timer
from .source import Source, Wanted

__all__ = [
    "ANY_LISTENER",
    "DOES_NOT_EXIST_SECONDS",
    "CachedResource",
    "ControlLoop",
    "ResourceCache",
    "ResourceKey",
    "Source",
    "Status",
    "Timer",
    "Wanted",
]
