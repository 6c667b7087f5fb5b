"""Load balancing policies as data: how one endpoint of a cluster is chosen.

Sources: envoy.config.cluster.v3.Cluster (lb_policy and its settings), envoy.extensions.load_balancing_policies.*.v3.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from ..route import HashPolicy
from ..values import Metadatum

__all__ = [
    "ClientSideWeightedRoundRobin",
    "ConsistentHashing",
    "HashFunction",
    "LbPolicy",
    "LeastRequest",
    "Maglev",
    "OverrideHost",
    "PickFirst",
    "Random",
    "RingHash",
    "RoundRobin",
    "SlowStart",
    "Subset",
    "SubsetFallback",
    "SubsetSelector",
]


class SlowStart(Struct, frozen=True, gc=False):
    """A new endpoint gets its full share little by little (SlowStartConfig).

    Attributes:
        window_seconds: How long that takes.
        aggression: 1 is linear; above it the share grows fast at first.
        min_weight_percent: The least share, in percent of the full one.
    """

    window_seconds: float
    aggression: float = 1.0
    min_weight_percent: float = 10.0


class RoundRobin(Struct, frozen=True, gc=False):
    """Each endpoint in turn, by weight."""

    slow_start: SlowStart | None = None


class Random(Struct, frozen=True, gc=False):
    """Any endpoint, whatever its weight."""


class LeastRequest(Struct, frozen=True, gc=False):
    """The least busy of `choice_count` endpoints (Cluster.LeastRequestLbConfig); of all with `full_scan`."""

    choice_count: int = 2
    active_request_bias: float = 1.0
    slow_start: SlowStart | None = None
    full_scan: bool = False


class HashFunction(Enum):
    """What a ring is made with (RingHashLbConfig.HashFunction)."""

    XX_HASH = "XX_HASH"
    MURMUR_HASH_2 = "MURMUR_HASH_2"


class ConsistentHashing(Struct, frozen=True, gc=False):
    """What ring hash and maglev have in common (ConsistentHashingLbConfig).

    Attributes:
        use_hostname: Endpoints are placed by their host names instead of their addresses.
        balance_factor: In percent of the mean load, what an endpoint may carry at most; 0 is no limit.
        hash_policies: In place of the route's; empty leaves the route's.
    """

    use_hostname: bool = False
    balance_factor: int = 0
    hash_policies: tuple[HashPolicy, ...] = ()


NO_CONSISTENT_HASHING = ConsistentHashing()


class RingHash(Struct, frozen=True, gc=False):
    """Endpoints on a ring, a request goes to the next one (ketama)."""

    minimum_ring_size: int = 1024
    maximum_ring_size: int = 8 * 1024 * 1024
    hash_function: HashFunction = HashFunction.XX_HASH
    common: ConsistentHashing = NO_CONSISTENT_HASHING


class Maglev(Struct, frozen=True, gc=False):
    """Endpoints in a table of prime size that is evenly filled (Maglev, NSDI 2016)."""

    table_size: int = 65537
    common: ConsistentHashing = NO_CONSISTENT_HASHING


class PickFirst(Struct, frozen=True, gc=False):
    """The first endpoint that is healthy (gRFC A62); shuffled once where asked for."""

    shuffle: bool = False


class ClientSideWeightedRoundRobin(Struct, frozen=True, gc=False):
    """Turns by weights that endpoints report of themselves (ORCA; gRFC A58).

    Attributes:
        blackout_seconds: An endpoint's reports do not count before they have come for so long.
        expiration_seconds: A report that is older does not count.
        update_seconds: How often weights are taken over.
        error_utilization_penalty: What errors add to the utilization.
        metric_names: Utilizations of the report that count in place of the application's; `map.key` of its maps.
    """

    blackout_seconds: float = 10.0
    expiration_seconds: float = 180.0
    update_seconds: float = 1.0
    error_utilization_penalty: float = 1.0
    metric_names: tuple[str, ...] = ()


class SubsetFallback(Enum):
    """What happens where no subset fits (LbSubsetConfig.LbSubsetFallbackPolicy, LbSubsetSelectorFallbackPolicy)."""

    NOT_DEFINED = "NOT_DEFINED"
    NO_FALLBACK = "NO_FALLBACK"
    ANY_ENDPOINT = "ANY_ENDPOINT"
    DEFAULT_SUBSET = "DEFAULT_SUBSET"
    KEYS_SUBSET = "KEYS_SUBSET"


class SubsetSelector(Struct, frozen=True, gc=False):
    """Keys of endpoint metadata by whose values subsets are made (LbSubsetConfig.LbSubsetSelector)."""

    keys: tuple[str, ...]
    fallback: SubsetFallback = SubsetFallback.NOT_DEFINED
    fallback_keys: tuple[str, ...] = ()


class Subset(Struct, frozen=True, gc=False):
    """Endpoints whose metadata fits the route's metadata_match, then a policy among them (Cluster.LbSubsetConfig).

    Attributes:
        inner: That policy.
        fallback: Where no subset fits.
        default: Values of the default subset.
        list_as_any: A list in an endpoint's metadata stands for each of its items.
        panic_mode_any: Where the fallback has nobody, any endpoint will do.
        fallback_list: The route's `fallback_list` gives further metadata to try, in order.
        allow_redundant_keys: Keys of the route that no selector has are left out.
    """

    inner: LbPolicy
    fallback: SubsetFallback = SubsetFallback.NO_FALLBACK
    default: tuple[tuple[str, Metadatum], ...] = ()
    selectors: tuple[SubsetSelector, ...] = ()
    list_as_any: bool = False
    panic_mode_any: bool = False
    fallback_list: bool = False
    allow_redundant_keys: bool = False
    locality_weight_aware: bool = False
    scale_locality_weight: bool = False


class OverrideHost(Struct, frozen=True, gc=False):
    """The endpoint that a request header names, where it is there; otherwise what `fallback` picks."""

    headers: tuple[str, ...]
    fallback: LbPolicy


LbPolicy = (
    RoundRobin
    | Random
    | LeastRequest
    | RingHash
    | Maglev
    | PickFirst
    | ClientSideWeightedRoundRobin
    | Subset
    | OverrideHost
)
