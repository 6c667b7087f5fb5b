"""How endpoints' health is found out while a mesh runs.

Enters: the living clusters of a `Directory`. Leaves: `is_ejected`, `fails_checks` and the like on their endpoints, and
`Cluster.refresh()` when something changed. `watcher` keeps the timers on the control thread; `check_state` is the
state machine of one endpoint's active check, without I/O; `probes` carries a check out, on worker threads, over the
cluster's own TLS. What outlier detection counts and decides is in `balancing.outlier_detection`.
"""

from .watcher import HealthWatcher

__all__ = ["HealthWatcher"]
