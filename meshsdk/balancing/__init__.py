"""From a cluster to one of its endpoints.

Enters: a cluster's configuration and endpoints, and for each pick a `PickContext`, the request as far as it matters.
Leaves: `Cluster.pick`, an `Endpoint` or None. No I/O; time and randomness are passed in.

A pick goes down Envoy's steps (Envoy docs, upstream/load_balancing): `subset` chooses by metadata where there are
subsets, `priority` among priorities by their health, `host_set` among the localities of one by their weights, and a
policy (`policies`, `ring_hash`, `maglev`, …) among the endpoints. Everything but the last step's counters is worked out
when configuration or health changes. `outlier_detection` and `circuit_breaker` count what happens to requests.
"""

from .cluster import Cluster
from .endpoint import Endpoint

__all__ = ["Cluster", "Endpoint"]
