"""From a cluster to one of its endpoints.

Enters: a cluster's configuration and endpoints. Leaves: `Cluster.pick()`, an `Endpoint` or None. No I/O, no clock;
randomness is passed in.

A pick goes down Envoy's steps (Envoy docs, upstream/load_balancing): `priority` chooses among priorities by their
health, `host_set` among the localities of one by their weights, and a policy (`round_robin`, `least_request`,
`random_choice`) among the endpoints. Everything but the last step's counters is worked out when configuration comes.
"""

from .cluster import Cluster
from .endpoint import Endpoint

__all__ = ["Cluster", "Endpoint"]
