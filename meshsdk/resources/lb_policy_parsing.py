"""Load balancing policies: the lb_policy enum, and the extension list of which the first that is known wins."""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.load_balancing_policies.least_request.v3 import least_request_pb2
from envoy.extensions.load_balancing_policies.random.v3 import random_pb2
from envoy.extensions.load_balancing_policies.round_robin.v3 import round_robin_pb2
from envoy.extensions.load_balancing_policies.wrr_locality.v3 import wrr_locality_pb2

from ..errors import ResourceError
from .cluster import LbPolicy, LeastRequest, Random, RoundRobin
from .notes import Notes
from .values import optional, unpack

__all__ = ["parse_lb_policy"]

# gRFC A52: policies may nest; sixteen levels are more than any control plane sends.
_MAX_DEPTH = 16

Parsed = tuple[LbPolicy, bool]


def parse_lb_policy(message: Any, where: str, notes: Notes) -> Parsed:
    """The policy of a Cluster, and whether it weighs localities.

    Cluster.load_balancing_policy wins over lb_policy where both are set (its proto comment).
    """
    if message.HasField("load_balancing_policy"):
        return _parse_list(message.load_balancing_policy, f"{where}.load_balancing_policy", notes, 0)
    kinds = cluster_pb2.Cluster
    if message.lb_policy == kinds.LEAST_REQUEST:
        return _parse_least_request(message.least_request_lb_config, f"{where}.least_request_lb_config", notes), False
    if message.lb_policy == kinds.RANDOM:
        return Random(), False
    if message.lb_policy == kinds.ROUND_ROBIN:
        _note_round_robin(message.round_robin_lb_config, f"{where}.round_robin_lb_config", notes)
        return RoundRobin(), False
    name = kinds.LbPolicy.Name(message.lb_policy)
    notes.add(f"{where}.lb_policy", f"{name} is not acted on; ROUND_ROBIN is used")
    return RoundRobin(), False


def _parse_list(message: Any, where: str, notes: Notes, depth: int) -> Parsed:
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


def _parse_least_request_extension(config: Any, where: str, notes: Notes, depth: int) -> Parsed:
    message = unpack(config, least_request_pb2.LeastRequest, where)
    return _parse_least_request(message, where, notes), message.locality_lb_config.HasField(
        "locality_weighted_lb_config"
    )


_LEAST_REQUEST_FIELDS = frozenset("choice_count active_request_bias locality_lb_config".split())
_ROUND_ROBIN_FIELDS = frozenset(["locality_lb_config"])


def _parse_least_request(message: Any, where: str, notes: Notes) -> LeastRequest:
    notes.unless_acted_on(message, where, _LEAST_REQUEST_FIELDS)
    bias = 1.0
    if message.HasField("active_request_bias"):
        bias = message.active_request_bias.default_value
        if bias < 0:
            raise ResourceError(f"{where}.active_request_bias.default_value", f"must be at least 0, is {bias}")
    return LeastRequest(choice_count=optional(message, "choice_count") or 2, active_request_bias=bias)


def _note_round_robin(message: Any, where: str, notes: Notes) -> None:
    notes.unless_acted_on(message, where, _ROUND_ROBIN_FIELDS)


def _parse_round_robin_extension(config: Any, where: str, notes: Notes, depth: int) -> Parsed:
    message = unpack(config, round_robin_pb2.RoundRobin, where)
    _note_round_robin(message, where, notes)
    return RoundRobin(), message.locality_lb_config.HasField("locality_weighted_lb_config")


def _parse_random_extension(config: Any, where: str, notes: Notes, depth: int) -> Parsed:
    message = unpack(config, random_pb2.Random, where)
    return Random(), message.locality_lb_config.HasField("locality_weighted_lb_config")


def _parse_wrr_locality(config: Any, where: str, notes: Notes, depth: int) -> Parsed:
    message = unpack(config, wrr_locality_pb2.WrrLocality, where)
    policy, _ = _parse_list(message.endpoint_picking_policy, f"{where}.endpoint_picking_policy", notes, depth + 1)
    return policy, True


_PREFIX = "envoy.extensions.load_balancing_policies"
_PARSERS = {
    f"{_PREFIX}.least_request.v3.LeastRequest": _parse_least_request_extension,
    f"{_PREFIX}.round_robin.v3.RoundRobin": _parse_round_robin_extension,
    f"{_PREFIX}.random.v3.Random": _parse_random_extension,
    f"{_PREFIX}.wrr_locality.v3.WrrLocality": _parse_wrr_locality,
}
