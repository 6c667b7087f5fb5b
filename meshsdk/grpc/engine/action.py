"""A route's action as grpc-core takes it: retries and hashing.

Durations are not left to it: they are given to each call as its timeout. On one machine calls with grpc-core's own
max_stream_duration (grpcio 1.85) ended about 1.6 seconds early, shorter ones at once; why is not known.

Sources: gRFC A42 (hash policies), A44 (retries), A81 (auto_host_rewrite).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from envoy.config.route.v3 import route_components_pb2

from ...resources import HashPolicy, HeaderHash, RetryPolicy
from ...resources.route import RetryOn
from ...routing import CompiledForward

__all__ = ["write_action", "write_policy"]

# Envoy's conditions that are gRPC's own.
_GRPC_CONDITIONS = {
    RetryOn.GRPC_CANCELLED: "cancelled",
    RetryOn.GRPC_DEADLINE_EXCEEDED: "deadline-exceeded",
    RetryOn.GRPC_INTERNAL: "internal",
    RetryOn.GRPC_RESOURCE_EXHAUSTED: "resource-exhausted",
    RetryOn.GRPC_UNAVAILABLE: "unavailable",
}

# What a gRPC client sees of a reset stream, of a 502, 503 or 504, and of a server that is gone (gRPC
# doc/http-grpc-status-mapping.md). A connection that fails before it is used, and a stream that was refused, grpc-core
# tries again by itself, whatever the policy (gRFC A6, transparent retries).
_SEEN_AS_UNAVAILABLE = RetryOn.SERVER_ERROR | RetryOn.GATEWAY_ERROR | RetryOn.RESET


def write_action(forward: CompiledForward, cluster_name: Callable[[str], str], message: Any) -> None:
    """Write a forwarding route's action; clusters whose names come in a header are not in it.

    Args:
        forward: The route's.
        cluster_name: From a cluster to the name of its resource.
        message: The envoy.config.route.v3.RouteAction to write to.
    """
    choices = [one for one in forward.action.clusters if one.name]
    if len(choices) == 1:
        message.cluster = cluster_name(choices[0].name)
    else:
        for choice in choices:
            if choice.weight:
                entry = message.weighted_clusters.clusters.add(name=cluster_name(choice.name))
                entry.weight.value = choice.weight
    write_policy(forward, message)


def write_policy(forward: CompiledForward, message: Any) -> None:
    """Write all of an action but where it leads."""
    if forward.retry_policy is not None:
        _write_retry_policy(forward.retry_policy, message.retry_policy)
    for policy in forward.action.hash_policies:
        _write_hash_policy(policy, message)
    if forward.action.auto_host_rewrite:
        message.auto_host_rewrite.value = True


def _write_retry_policy(policy: RetryPolicy, message: route_components_pb2.RetryPolicy) -> None:
    conditions = [name for flag, name in _GRPC_CONDITIONS.items() if policy.conditions & flag]
    if policy.conditions & _SEEN_AS_UNAVAILABLE and "unavailable" not in conditions:
        conditions.append("unavailable")
    if not policy.num_retries or not conditions:
        return
    message.retry_on = ",".join(conditions)
    message.num_retries.value = policy.num_retries
    _set_seconds(message.retry_back_off.base_interval, policy.back_off.base_seconds)
    _set_seconds(message.retry_back_off.max_interval, policy.back_off.max_seconds)


def _write_hash_policy(policy: HashPolicy, message: Any) -> None:
    if not isinstance(policy, HeaderHash) or policy.name.startswith(":"):
        return  # Said in `limits`: grpc-core hashes metadata only.
    entry = message.hash_policy.add(terminal=policy.terminal)
    entry.header.header_name = policy.name
    if policy.rewrite is not None:
        entry.header.regex_rewrite.pattern.regex = policy.rewrite.pattern
        entry.header.regex_rewrite.substitution = policy.rewrite.substitution


def _set_seconds(message: Any, seconds: float) -> None:
    message.FromNanoseconds(round(seconds * 1e9))
