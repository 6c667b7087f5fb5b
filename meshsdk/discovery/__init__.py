"""From resources to complete configuration: listener → routes → clusters → endpoints.

Enters: the names of the listeners that are in use, and the `ResourceCache`. Leaves: an immutable `Snapshot` in which
nothing that it refers to is missing, or it says exactly what is; and the names that should be asked for next.
"""

from .dns import DnsResolver
from .graph import CLUSTER_ROOT, SERVER_ROOT, Graph, Resolution
from .snapshot import Changes, ClusterView, ListenerView, ServerView, Snapshot

__all__ = [
    "CLUSTER_ROOT",
    "SERVER_ROOT",
    "Changes",
    "ClusterView",
    "DnsResolver",
    "Graph",
    "ListenerView",
    "Resolution",
    "ServerView",
    "Snapshot",
]
