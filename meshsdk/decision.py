"""A decision laid open: what would happen to a request, and why. Without I/O, from the same compiled routes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from msgspec import structs

from .balancing import Cluster
from .branches import Branch, as_text
from .exchange import Directory
from .exchange.request_changes import changed_request
from .http.dispatcher import PASSTHROUGH_CLUSTER, head_of
from .resources import RetryPolicy
from .resources.route import RETRY_CONDITIONS
from .routing import CompiledForward, CompiledRoute, RequestHead, RouteTable, explain_route
from .routing.compiled_forward import Destination
from .routing.formatter import FormatContext

# Of a cluster, in a tree.
_MAX_ENDPOINTS = 20

__all__ = ["CandidateCluster", "CandidateEndpoint", "Decision", "decide", "decide_again"]


@dataclass(frozen=True, slots=True)
class CandidateEndpoint:
    """An endpoint that may be picked."""

    address: str
    health: str
    weight: int
    priority: int
    locality: str = ""


@dataclass(frozen=True, slots=True)
class CandidateCluster:
    """A cluster that the route may choose, and its endpoints.

    Attributes:
        share: Of the route's requests, between 0 and 1.
        headers: The request's headers as they would be sent.
        policy: The load balancing policy's name.
        problem: Why it cannot be used; empty where it can.
    """

    name: str
    share: float
    headers: tuple[tuple[str, str], ...] = ()
    policy: str = ""
    endpoints: tuple[CandidateEndpoint, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What would happen to a request.

    Attributes:
        action: `forward`, `redirect`, `direct_response`, `passthrough`, `no_route` or `deny`.
        listener: The listener that stands for the host.
        virtual_host: That the authority belongs to.
        route: The matched route's name.
        skipped: Routes before it, each with the reasons why it did not match.
        path, host: As they would be sent.
        status: Of an answer that needs no server; 0 where one is asked.
        location: Of a redirect.
        timeout_seconds: Of the route; None is no limit.
        retry: The retry policy, in words; empty is none.
        fault: Injected delay and abort, in words; empty is none.
        clusters: That may be chosen.
        problem: Why there is no route.
    """

    method: str
    url: str
    action: str
    listener: str = ""
    virtual_host: str = ""
    route: str = ""
    skipped: tuple[tuple[str, tuple[str, ...]], ...] = ()
    path: str = ""
    host: str = ""
    status: int = 0
    location: str = ""
    timeout_seconds: float | None = None
    retry: dict[str, Any] = field(default_factory=dict)
    fault: dict[str, Any] = field(default_factory=dict)
    clusters: tuple[CandidateCluster, ...] = ()
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return dataclasses.asdict(self)

    def tree(self) -> Branch:
        """As a tree, from the request to the endpoints, which is what `meshsdk route` shows."""
        return _tree_of(self)

    def __str__(self) -> str:
        return as_text(self.tree())


def decide(request: httpx.Request, names: tuple[str, ...], directory: Directory, unknown_hosts: str) -> Decision:
    """The decision on a request, by the same routes that requests go by."""
    shown = Decision(method=request.method, url=str(request.url), action="no_route")
    head = head_of(request, request.url.scheme)
    for name in names:
        target = directory.targets.get(name)
        if target is not None and target.table is not None:
            return _by_table(shown, target.table, head, directory)
    problems = [
        directory.targets[name].problem
        for name in names
        if name in directory.targets and not directory.targets[name].view.does_not_exist
    ]
    if problems:
        return dataclasses.replace(shown, status=503, problem="; ".join(problems))
    unknown = f"the mesh does not know this host (asked for {', '.join(names)})"
    if unknown_hosts == "deny":
        return dataclasses.replace(shown, action="deny", status=404, problem=unknown)
    cluster = CandidateCluster(PASSTHROUGH_CLUSTER, 1.0)
    return dataclasses.replace(
        shown, action="passthrough", path=head.target, host=head.authority, clusters=(cluster,), problem=unknown
    )


def decide_again(head: RequestHead, seen: RequestHead, table: RouteTable, clusters: Mapping[str, Cluster]) -> Decision:
    """The decision on a request that was sent, by the routes and clusters of then. Chance is cast anew.

    Args:
        seen: The request as it may be shown.
    """
    shown = Decision(method=head.method, url=f"{seen.scheme}://{seen.authority}{seen.target}", action="no_route")
    return _by_table(shown, table, head, Directory(clusters=clusters), seen)


def _by_table(
    shown: Decision, table: RouteTable, head: RequestHead, directory: Directory, seen: RequestHead | None = None
) -> Decision:
    seen = seen or head
    explanation = explain_route(table, head, random.random, seen)
    shown = dataclasses.replace(
        shown,
        listener=table.listener.name,
        virtual_host=explanation.virtual_host,
        skipped=explanation.skipped,
        path=seen.target,
        host=seen.authority,
    )
    route = explanation.route
    if route is None:
        problem = (
            "no route matches" if explanation.has_virtual_host else f"no virtual host has domain {head.authority!r}"
        )
        return dataclasses.replace(shown, status=404, problem=problem)
    shown = dataclasses.replace(shown, route=route.name, fault=_fault(route))
    if route.redirect is not None and route.location is not None:
        return dataclasses.replace(
            shown, action="redirect", status=route.redirect.status, location=route.location(seen)
        )
    if route.direct_response is not None:
        return dataclasses.replace(shown, action="direct_response", status=route.direct_response.status)
    if route.forward is None:
        return dataclasses.replace(shown, status=404, problem="the route is for servers only")
    return _forwarded(shown, route.forward, head, directory, seen)


def _forwarded(
    shown: Decision, forward: CompiledForward, head: RequestHead, directory: Directory, seen: RequestHead
) -> Decision:
    weights = [cluster.weight for cluster in forward.action.clusters]
    total = sum(weights)
    if weights:
        shares = [(one, weight / total) for one, weight in zip(forward.destinations, weights, strict=True)]
    else:
        shares = [(forward.choose(head, random.random), 1.0)]
    changed = changed_request(forward, shares[0][0], seen, FormatContext(seen, shares[0][0].cluster))
    timeouts = forward.timeouts if forward.timeouts_for is None else forward.timeouts_for(head)
    return dataclasses.replace(
        shown,
        action="forward",
        path=changed.target,
        host=changed.authority,
        timeout_seconds=timeouts.route,
        retry=_retry(forward.retry_policy),
        clusters=tuple(_candidate(forward, destination, share, seen, directory) for destination, share in shares),
    )


def _candidate(
    forward: CompiledForward, destination: Destination, share: float, head: RequestHead, directory: Directory
) -> CandidateCluster:
    changed = changed_request(forward, destination, head, FormatContext(head, destination.cluster))
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in changed.raw_headers)
    cluster = directory.clusters.get(destination.cluster)
    if cluster is None:
        view = directory.views.get(destination.cluster)
        problem = view.problem if view is not None else "the cluster does not exist"
        return CandidateCluster(destination.cluster, share, headers, problem=problem)
    endpoints = tuple(
        CandidateEndpoint(
            address=str(endpoint.address),
            health=endpoint.health.name,
            weight=endpoint.weight,
            priority=priority,
            locality="/".join(filter(None, structs.astuple(endpoint.locality))),
        )
        for priority, endpoint in cluster
    )
    problem = cluster.problem or ("" if endpoints else "there are no endpoints")
    policy = type(cluster.config.lb_policy).__name__
    return CandidateCluster(destination.cluster, share, headers, policy, endpoints, problem)


def _retry(policy: RetryPolicy | None) -> dict[str, Any]:
    if policy is None:
        return {}
    return {
        "conditions": [name for name, flag in RETRY_CONDITIONS.items() if policy.conditions & flag],
        "num_retries": policy.num_retries,
        "per_try_timeout_seconds": policy.per_try_timeout_seconds,
        "retriable_status_codes": sorted(policy.retriable_status_codes),
        "avoid_previous_hosts": policy.avoid_previous_hosts,
    }


def _fault(route: CompiledRoute) -> dict[str, Any]:
    filters = route.forward.destinations[0].filters if route.forward is not None else route.filters
    if not filters.faults:
        return {}
    fault = filters.faults[0].fault
    return {
        "delay_seconds": fault.delay_seconds,
        "delay_share": fault.delay_share.share,
        "abort_status": fault.abort_status,
        "abort_share": fault.abort_share.share,
    }


def _tree_of(decision: Decision) -> Branch:
    """The tree of a decision."""
    tree = Branch(f"{decision.method} {decision.url}")
    if decision.listener:
        tree.add(f"listener {decision.listener}")
    if decision.virtual_host:
        tree.add(f"virtual host {decision.virtual_host}")
    for name, reasons in decision.skipped:
        skipped = tree.add(f"not: {name}", "dim")
        for reason in reasons:
            skipped.add(reason, "dim")
    if decision.problem:
        tree.add(decision.problem, "bad")
    _add_action(tree, decision)
    return tree


def _add_action(tree: Branch, decision: Decision) -> None:
    named = f" by route {decision.route}" if decision.route else ""
    status = f" {decision.status}" if decision.status else ""
    action = tree.add(f"{decision.action}{status}{named}", "good")
    if decision.location:
        action.add(f"location {decision.location}")
    if decision.action not in ("forward", "passthrough"):
        return
    action.add(f"path {decision.path}, host {decision.host}")
    timeout = "none" if decision.timeout_seconds is None else f"{decision.timeout_seconds:g} s"
    action.add(f"timeout {timeout}")
    if decision.retry:
        conditions = ",".join(decision.retry["conditions"])
        action.add(f"up to {decision.retry['num_retries']} retries on {conditions}")
    if decision.fault:
        action.add("fault " + ", ".join(f"{name} {value}" for name, value in decision.fault.items() if value))
    for cluster in decision.clusters:
        _add_cluster(action, cluster)


def _add_cluster(parent: Branch, cluster: CandidateCluster) -> None:
    branch = parent.add(f"{cluster.share:.0%} cluster {cluster.name} {cluster.policy}".rstrip())
    if cluster.problem:
        branch.add(cluster.problem, "bad")
    for endpoint in cluster.endpoints[:_MAX_ENDPOINTS]:
        branch.add(f"{endpoint.address} {endpoint.health} weight {endpoint.weight} priority {endpoint.priority}")
    if len(cluster.endpoints) > _MAX_ENDPOINTS:
        branch.add(f"and {len(cluster.endpoints) - _MAX_ENDPOINTS} more")
