"""What of a configuration gRPC channels do not carry out, in words: for the log, `Mesh.status` and `meshsdk check`.

grpc-core ignores in silence what it does not have (grpc/grpc doc/grpc_xds_features.md). Whatever meshsdk does in its
place is not listed here; what is left is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...resources import (
    Cluster,
    HashPolicy,
    HeaderHash,
    LeastRequest,
    Random,
    RetryPolicy,
    RoundRobin,
    StatefulSession,
)
from ...resources.cluster import ConsistentHashing, HashFunction, LbPolicy, Maglev, OverrideHost, RingHash, Subset
from ...resources.route import RetryOn
from ...routing import CompiledForward, RouteTable
from ...routing.compiled_route import CompiledRoute
from .listener import routes_of

__all__ = ["of_cluster", "of_routes"]

# What grpc-core can tell from a response; the others look at HTTP statuses and headers (gRFC A44).
_CARRIED_OUT = (
    RetryOn.SERVER_ERROR
    | RetryOn.GATEWAY_ERROR
    | RetryOn.RESET
    | RetryOn.RESET_BEFORE_REQUEST
    | RetryOn.CONNECT_FAILURE
    | RetryOn.REFUSED_STREAM
    | RetryOn.GRPC_CANCELLED
    | RetryOn.GRPC_DEADLINE_EXCEEDED
    | RetryOn.GRPC_INTERNAL
    | RetryOn.GRPC_RESOURCE_EXHAUSTED
    | RetryOn.GRPC_UNAVAILABLE
)


# What a server of HTTP says in place of gRPC's UNAVAILABLE.
_UNAVAILABLE = frozenset({503})


def of_cluster(cluster: Cluster) -> Iterator[str]:
    """Notes about a cluster."""
    where = f"cluster {cluster.name}"
    yield from (f"{where}: {text}" for text in _of_policy(cluster.lb_policy))
    if cluster.max_stream_duration_seconds is not None:
        yield f"{where}: max_stream_duration of the cluster is not carried out; set it on the route"
    if cluster.fail_traffic_on_panic and cluster.healthy_panic_threshold:
        yield f"{where}: fail_traffic_on_panic fails calls with UNAVAILABLE, without Envoy's flag"


def _of_policy(policy: LbPolicy) -> Iterator[str]:
    match policy:
        case LeastRequest(choice_count=2, active_request_bias=1.0, full_scan=False):
            pass  # Istio's default, which nobody has asked for; round_robin takes its place.
        case LeastRequest():
            yield "least_request_lb_config: grpc-core does not have it, round_robin takes its place"
        case Random():
            yield "random: grpc-core does not have it, round_robin takes its place"
        case Maglev(common=common):
            yield "maglev: grpc-core does not have it, ring_hash takes its place (other keys go to other endpoints)"
            yield from _of_hashing(common)
        case RingHash(hash_function=function, minimum_ring_size=size, common=common):
            if function is not HashFunction.XX_HASH:
                yield f"ring_hash with {function.value}: grpc-core hashes with XX_HASH"
            if size > 4096:
                yield f"ring_hash with a minimum_ring_size of {size}: grpc-core makes rings of 4096 entries at most"
            yield from _of_hashing(common)
        case Subset(inner=inner):
            yield "lb_subset_config is not carried out: endpoints are chosen among all"
            yield from _of_policy(inner)
        case OverrideHost(fallback=fallback):
            yield "override_host by header is not carried out; stateful sessions by cookie are"
            yield from _of_policy(fallback)
    if isinstance(policy, (RoundRobin, LeastRequest)) and policy.slow_start is not None:
        yield "slow_start_config is not carried out: a new endpoint gets its full share at once"


def _of_hashing(common: ConsistentHashing) -> Iterator[str]:
    if common.use_hostname:
        yield "use_hostname_for_hashing is not carried out: endpoints are placed by their addresses"
    if common.balance_factor:
        yield "hash_balance_factor is not carried out"
    if common.hash_policies:
        yield "hash policies of the balancing policy are not carried out; set them on the route"


def of_routes(table: RouteTable, authority: str) -> Iterable[str]:
    """Notes about the routes that calls to an authority may take."""
    index = routes_of(table, authority)
    for route in index.routes if index is not None else ():
        where = f"route {route.name!r} of {table.configuration.name}"
        yield from (f"{where}: {text}" for text in _of_route(route))
    for one in table.listener.filters:
        if isinstance(one.setting, StatefulSession) and one.setting.header:
            yield f"listener {table.listener.name}: sessions by header are not carried out; sessions by cookie are"


def _of_route(route: CompiledRoute) -> Iterator[str]:
    forward = route.forward
    if forward is None:
        return
    if forward.retry_policy is not None:
        yield from _of_retries(forward.retry_policy)
    yield from _of_forward(forward)
    for policy in forward.action.hash_policies:
        text = _of_hash_policy(policy)
        if text:
            yield text


def _of_retries(policy: RetryPolicy) -> Iterator[str]:
    left = policy.conditions & ~_CARRIED_OUT
    if policy.retriable_status_codes <= _UNAVAILABLE and policy.conditions & RetryOn.GRPC_UNAVAILABLE:
        left &= ~RetryOn.RETRIABLE_STATUS_CODES  # As in Istio's default policy: it means nothing, or nothing more.
    if left:
        names = [flag.name.lower() for flag in RetryOn if flag & left and flag.name]
        yield f"retry_on {', '.join(names)}: grpc-core does not see it"
    if policy.per_try_timeout_seconds is not None or policy.per_try_idle_timeout_seconds is not None:
        yield "per_try_timeout is not carried out: the call's deadline bounds all tries together"
    # previous_hosts is what round robin comes to by itself, mostly; Istio's default policy has it everywhere.
    if policy.omit_canary_hosts or policy.omit_host_metadata:
        yield "retry_host_predicate is not carried out: retries go where the policy picks"
    if policy.retry_other_priorities is not None:
        yield "retry_priority is not carried out"


def _of_forward(forward: CompiledForward) -> Iterator[str]:
    if forward.hedge_on_per_try_timeout and forward.retry_policy is not None:
        yield "hedge_policy is not carried out"
    if forward.internal_redirect is not None:
        yield "internal_redirect_policy means nothing for gRPC"
    if any(destination.metadata_match for destination in forward.destinations):
        yield "metadata_match is not carried out: endpoints are chosen among all of the cluster"
    if forward.action.high_priority:
        yield "priority HIGH: calls count against the DEFAULT limits of circuit breakers"


def _of_hash_policy(policy: HashPolicy) -> str:
    if isinstance(policy, HeaderHash):
        return "" if not policy.name.startswith(":") else f"hash_policy of {policy.name} is not carried out"
    return f"hash_policy {type(policy).__name__}: grpc-core hashes metadata only"
