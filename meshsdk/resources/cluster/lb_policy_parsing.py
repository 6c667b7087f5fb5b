"""Load balancing policies: the lb_policy enum, and the extension list of which the first that is known wins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from ...errors import ResourceError
from .. import protos
from ..notes import Notes
from ..route import parse_hash_policies
from ..values import frozen, optional, seconds, struct_as_dict, unpack
from .lb_policy import (
    ClientSideWeightedRoundRobin,
    ConsistentHashing,
    HashFunction,
    LbPolicy,
    LeastRequest,
    Maglev,
    OverrideHost,
    PickFirst,
    Random,
    RingHash,
    RoundRobin,
    SlowStart,
    Subset,
    SubsetFallback,
    SubsetSelector,
)

__all__ = ["ParsedPolicy", "parse_lb_policy"]

# gRFC A52: policies may nest; sixteen levels are more than any control plane sends.
_MAX_DEPTH = 16


class ParsedPolicy(Struct, frozen=True, gc=False):
    """A policy, and what its settings say of localities.

    Attributes:
        locality_weighted: Localities get traffic by their weights.
        fail_traffic_on_panic: In panic nobody is picked, instead of anybody.
    """

    policy: LbPolicy
    locality_weighted: bool = False
    fail_traffic_on_panic: bool = False


def parse_lb_policy(message: Any, where: str, notes: Notes) -> ParsedPolicy:
    """The policy of a Cluster.

    Cluster.load_balancing_policy wins over lb_policy where both are set (its proto comment).
    """
    if message.HasField("load_balancing_policy"):
        return _parse_list(message.load_balancing_policy, f"{where}.load_balancing_policy", notes, 0)
    policy = _parse_by_name(message, where, notes)
    common = message.common_lb_config
    if message.HasField("lb_subset_config") and message.lb_subset_config.subset_selectors:
        policy = _parse_subset(message.lb_subset_config, policy, f"{where}.lb_subset_config", notes)
    return ParsedPolicy(
        policy,
        common.HasField("locality_weighted_lb_config"),
        common.zone_aware_lb_config.fail_traffic_on_panic,
    )


def _parse_by_name(message: Any, where: str, notes: Notes) -> LbPolicy:
    kinds = protos.cluster_pb2.Cluster
    common = message.common_lb_config.consistent_hashing_lb_config
    hashing = ConsistentHashing(common.use_hostname_for_hashing, optional(common, "hash_balance_factor") or 0)
    if message.lb_policy == kinds.LEAST_REQUEST:
        return _parse_least_request(message.least_request_lb_config, f"{where}.least_request_lb_config", notes)
    if message.lb_policy == kinds.RANDOM:
        return Random()
    if message.lb_policy == kinds.ROUND_ROBIN:
        return RoundRobin(_parse_slow_start(message.round_robin_lb_config))
    if message.lb_policy == kinds.RING_HASH:
        config = message.ring_hash_lb_config
        is_murmur = config.hash_function == kinds.RingHashLbConfig.MURMUR_HASH_2
        return _ring_hash(config, is_murmur, hashing, f"{where}.ring_hash_lb_config")
    if message.lb_policy == kinds.MAGLEV:
        return _maglev(message.maglev_lb_config, hashing, f"{where}.maglev_lb_config")
    if message.lb_policy == kinds.CLUSTER_PROVIDED and (
        message.HasField("cluster_type") or message.type == kinds.ORIGINAL_DST
    ):
        # An aggregate chooses among its clusters by their health; what it chooses with is theirs. Of an original
        # destination there is one.
        return RoundRobin()
    name = kinds.LbPolicy.Name(message.lb_policy)
    raise ResourceError(f"{where}.lb_policy", f"{name} is not a policy that meshsdk has")


def _parse_list(message: Any, where: str, notes: Notes, depth: int) -> ParsedPolicy:
    if depth >= _MAX_DEPTH:
        raise ResourceError(where, f"is nested more than {_MAX_DEPTH} levels deep")
    skipped: list[str] = []
    for index, policy in enumerate(message.policies):
        config = policy.typed_extension_config.typed_config
        path = f"{where}.policies[{index}]"
        parse = _PARSERS.get(config.type_url.rpartition("/")[2])
        if parse is not None:
            for name in skipped:
                notes.add(path, f"used, since {name} before it is not known")
            return parse(config, path, notes, depth)
        skipped.append(policy.typed_extension_config.name or config.type_url)
    raise ResourceError(f"{where}.policies", f"none is known to meshsdk: {skipped}")


def _with_localities(policy: LbPolicy, config: Any, where: str, notes: Notes) -> ParsedPolicy:
    """A policy with its locality_lb_config."""
    zone_aware = config.zone_aware_lb_config
    if config.HasField("zone_aware_lb_config"):
        notes.unless_acted_on(
            zone_aware, f"{where}.locality_lb_config.zone_aware_lb_config", frozenset({"fail_traffic_on_panic"})
        )
    return ParsedPolicy(policy, config.HasField("locality_weighted_lb_config"), zone_aware.fail_traffic_on_panic)


_LEAST_REQUEST_FIELDS = frozenset(
    "choice_count active_request_bias locality_lb_config slow_start_config enable_full_scan selection_method".split()
)


def _parse_least_request_extension(config: Any, where: str, notes: Notes, depth: int) -> ParsedPolicy:
    message = unpack(config, protos.least_request_pb2.LeastRequest, where)
    full_scan = optional(message, "enable_full_scan") or message.selection_method == 1
    policy = _parse_least_request(message, where, notes, full_scan=bool(full_scan))
    return _with_localities(policy, message.locality_lb_config, where, notes)


def _parse_least_request(message: Any, where: str, notes: Notes, *, full_scan: bool = False) -> LeastRequest:
    notes.unless_acted_on(message, where, _LEAST_REQUEST_FIELDS)
    bias = 1.0
    if message.HasField("active_request_bias"):
        bias = message.active_request_bias.default_value
        if bias < 0:
            raise ResourceError(f"{where}.active_request_bias.default_value", f"must be at least 0, is {bias}")
    return LeastRequest(optional(message, "choice_count") or 2, bias, _parse_slow_start(message), full_scan)


def _parse_slow_start(message: Any) -> SlowStart | None:
    if not message.HasField("slow_start_config"):
        return None
    config = message.slow_start_config
    window = seconds(config, "slow_start_window") or 0.0
    if not window:
        return None
    aggression = config.aggression.default_value if config.HasField("aggression") else 1.0
    least = config.min_weight_percent.value if config.HasField("min_weight_percent") else 10.0
    return SlowStart(window, aggression, least)


def _parse_round_robin_extension(config: Any, where: str, notes: Notes, depth: int) -> ParsedPolicy:
    message = unpack(config, protos.round_robin_pb2.RoundRobin, where)
    return _with_localities(RoundRobin(_parse_slow_start(message)), message.locality_lb_config, where, notes)


def _parse_random_extension(config: Any, where: str, notes: Notes, depth: int) -> ParsedPolicy:
    message = unpack(config, protos.random_pb2.Random, where)
    return _with_localities(Random(), message.locality_lb_config, where, notes)


def _parse_wrr_locality(config: Any, where: str, notes: Notes, depth: int) -> ParsedPolicy:
    message = unpack(config, protos.wrr_locality_pb2.WrrLocality, where)
    inner = _parse_list(message.endpoint_picking_policy, f"{where}.endpoint_picking_policy", notes, depth + 1)
    return ParsedPolicy(inner.policy, True, inner.fail_traffic_on_panic)


def _hashing(message: Any, where: str) -> ConsistentHashing:
    """The consistent_hashing_lb_config of an extension, and the older fields that it replaces."""
    if message.HasField("consistent_hashing_lb_config"):
        config = message.consistent_hashing_lb_config
        return ConsistentHashing(
            config.use_hostname_for_hashing,
            optional(config, "hash_balance_factor") or 0,
            parse_hash_policies(config, f"{where}.consistent_hashing_lb_config"),
        )
    if "use_hostname_for_hashing" not in message.DESCRIPTOR.fields_by_name:
        return ConsistentHashing()
    return ConsistentHashing(message.use_hostname_for_hashing, optional(message, "hash_balance_factor") or 0)


def _parse_ring_hash_extension(config: Any, where: str, notes: Notes, depth: int) -> ParsedPolicy:
    message = unpack(config, protos.ring_hash_pb2.RingHash, where)
    is_murmur = message.hash_function == protos.ring_hash_pb2.RingHash.MURMUR_HASH_2
    policy = _ring_hash(message, is_murmur, _hashing(message, where), where)
    return ParsedPolicy(policy, message.HasField("locality_weighted_lb_config"))


def _ring_hash(message: Any, is_murmur: bool, hashing: ConsistentHashing, where: str) -> RingHash:
    least, most = optional(message, "minimum_ring_size"), optional(message, "maximum_ring_size")
    policy = RingHash(
        minimum_ring_size=1024 if least is None else least,
        maximum_ring_size=8 * 1024 * 1024 if most is None else most,
        hash_function=HashFunction.MURMUR_HASH_2 if is_murmur else HashFunction.XX_HASH,
        common=hashing,
    )
    if policy.minimum_ring_size > policy.maximum_ring_size:
        raise ResourceError(f"{where}.minimum_ring_size", "must not be above maximum_ring_size")
    return policy


def _parse_maglev_extension(config: Any, where: str, notes: Notes, depth: int) -> ParsedPolicy:
    message = unpack(config, protos.maglev_pb2.Maglev, where)
    policy = _maglev(message, _hashing(message, where), where)
    return ParsedPolicy(policy, message.HasField("locality_weighted_lb_config"))


def _maglev(message: Any, hashing: ConsistentHashing, where: str) -> Maglev:
    size = optional(message, "table_size") or 65537
    if not _is_prime(size):
        raise ResourceError(f"{where}.table_size", f"must be a prime number, is {size}")
    return Maglev(size, hashing)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _parse_pick_first(config: Any, where: str, notes: Notes, depth: int) -> ParsedPolicy:
    return ParsedPolicy(PickFirst(unpack(config, protos.pick_first_pb2.PickFirst, where).shuffle_address_list))


_CLIENT_WEIGHTED_FIELDS = frozenset(
    "blackout_period weight_expiration_period weight_update_period error_utilization_penalty"
    " metric_names_for_computing_utilization".split()
)


def _parse_client_weighted(config: Any, where: str, notes: Notes, depth: int) -> ParsedPolicy:
    message = unpack(config, protos.client_side_weighted_round_robin_pb2.ClientSideWeightedRoundRobin, where)
    notes.unless_acted_on(message, where, _CLIENT_WEIGHTED_FIELDS)

    def period(field: str, default: float) -> float:
        value = seconds(message, field)
        return default if value is None else value

    penalty = optional(message, "error_utilization_penalty")
    policy = ClientSideWeightedRoundRobin(
        blackout_seconds=period("blackout_period", 10.0),
        expiration_seconds=period("weight_expiration_period", 180.0),
        # gRFC A58: at least 100 ms.
        update_seconds=max(0.1, period("weight_update_period", 1.0)),
        error_utilization_penalty=1.0 if penalty is None else penalty,
        metric_names=tuple(message.metric_names_for_computing_utilization),
    )
    return ParsedPolicy(policy)


_SUBSET_FIELDS = frozenset(
    "fallback_policy default_subset subset_selectors locality_weight_aware scale_locality_weight panic_mode_any"
    " list_as_any metadata_fallback_policy allow_redundant_keys subset_lb_policy".split()
)
_FALLBACKS = (SubsetFallback.NO_FALLBACK, SubsetFallback.ANY_ENDPOINT, SubsetFallback.DEFAULT_SUBSET)
_SELECTOR_FALLBACKS = (SubsetFallback.NOT_DEFINED, *_FALLBACKS, SubsetFallback.KEYS_SUBSET)


def _parse_subset(message: Any, inner: LbPolicy, where: str, notes: Notes) -> Subset:
    notes.unless_acted_on(message, where, _SUBSET_FIELDS)
    default = struct_as_dict(message.default_subset)
    return Subset(
        inner=inner,
        fallback=_FALLBACKS[message.fallback_policy],
        default=tuple((key, frozen(default[key])) for key in sorted(default)),
        selectors=tuple(
            _parse_selector(selector, f"{where}.subset_selectors[{index}]")
            for index, selector in enumerate(message.subset_selectors)
        ),
        list_as_any=message.list_as_any,
        panic_mode_any=message.panic_mode_any,
        fallback_list=message.metadata_fallback_policy == 1,
        allow_redundant_keys=getattr(message, "allow_redundant_keys", False),
        locality_weight_aware=message.locality_weight_aware,
        scale_locality_weight=message.scale_locality_weight,
    )


def _parse_selector(message: Any, where: str) -> SubsetSelector:
    fallback = _SELECTOR_FALLBACKS[message.fallback_policy]
    keys, fallback_keys = frozenset(message.keys), frozenset(message.fallback_keys_subset)
    if fallback is SubsetFallback.KEYS_SUBSET and not (fallback_keys and fallback_keys < keys):
        raise ResourceError(f"{where}.fallback_keys_subset", "must be some, and not all, of the keys")
    return SubsetSelector(tuple(sorted(keys)), fallback, tuple(sorted(fallback_keys)))


def _parse_subset_extension(config: Any, where: str, notes: Notes, depth: int) -> ParsedPolicy:
    message = unpack(config, protos.subset_pb2.Subset, where)
    inner = _parse_list(message.subset_lb_policy, f"{where}.subset_lb_policy", notes, depth + 1)
    policy = _parse_subset(message, inner.policy, where, notes)
    return ParsedPolicy(policy, inner.locality_weighted, inner.fail_traffic_on_panic)


def _parse_override_host(config: Any, where: str, notes: Notes, depth: int) -> ParsedPolicy:
    message = unpack(config, protos.override_host_pb2.OverrideHost, where)
    for index, source in enumerate(message.override_host_sources):
        if not source.header:
            notes.add(f"{where}.override_host_sources[{index}].metadata", "there is no dynamic metadata in a client")
    fallback = _parse_list(message.fallback_policy, f"{where}.fallback_policy", notes, depth + 1)
    headers = tuple(source.header.lower() for source in message.override_host_sources if source.header)
    policy = OverrideHost(headers, fallback.policy)
    return ParsedPolicy(policy, fallback.locality_weighted, fallback.fail_traffic_on_panic)


_PREFIX = "envoy.extensions.load_balancing_policies"
_PARSERS: dict[str, Callable[[Any, str, Notes, int], ParsedPolicy]] = {
    f"{_PREFIX}.least_request.v3.LeastRequest": _parse_least_request_extension,
    f"{_PREFIX}.round_robin.v3.RoundRobin": _parse_round_robin_extension,
    f"{_PREFIX}.random.v3.Random": _parse_random_extension,
    f"{_PREFIX}.wrr_locality.v3.WrrLocality": _parse_wrr_locality,
    f"{_PREFIX}.ring_hash.v3.RingHash": _parse_ring_hash_extension,
    f"{_PREFIX}.maglev.v3.Maglev": _parse_maglev_extension,
    f"{_PREFIX}.pick_first.v3.PickFirst": _parse_pick_first,
    f"{_PREFIX}.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin": _parse_client_weighted,
    f"{_PREFIX}.subset.v3.Subset": _parse_subset_extension,
    f"{_PREFIX}.override_host.v3.OverrideHost": _parse_override_host,
}
