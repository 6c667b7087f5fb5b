"""A decision, for people."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from ..decision import CandidateCluster, Decision

__all__ = ["render_decision"]

_MAX_ENDPOINTS = 20


def render_decision(decision: Decision, console: Console) -> None:
    """Print a decision as a tree, from the request to the endpoints."""
    tree = Tree(f"[bold]{escape(decision.method)} {escape(decision.url)}[/bold]")
    if decision.listener:
        tree.add(f"listener {escape(decision.listener)}")
    if decision.virtual_host:
        tree.add(f"virtual host {escape(decision.virtual_host)}")
    for name, reasons in decision.skipped:
        skipped = tree.add(f"[dim]not: {escape(name)}[/dim]")
        for reason in reasons:
            skipped.add(f"[dim]{escape(reason)}[/dim]")
    if decision.problem:
        tree.add(f"[red]{escape(decision.problem)}[/red]")
    _add_action(tree, decision)
    console.print(tree)


def _add_action(tree: Tree, decision: Decision) -> None:
    named = f" by route {decision.route}" if decision.route else ""
    status = f" {decision.status}" if decision.status else ""
    action = tree.add(f"[green]{decision.action}{status}[/green]{escape(named)}")
    if decision.location:
        action.add(f"location {escape(decision.location)}")
    if decision.action not in ("forward", "passthrough"):
        return
    action.add(f"path {escape(decision.path)}, host {escape(decision.host)}")
    timeout = "none" if decision.timeout_seconds is None else f"{decision.timeout_seconds:g} s"
    action.add(f"timeout {timeout}")
    if decision.retry:
        conditions = ",".join(decision.retry["conditions"])
        action.add(f"up to {decision.retry['num_retries']} retries on {escape(conditions)}")
    if decision.fault:
        action.add("fault " + ", ".join(f"{name} {value}" for name, value in decision.fault.items() if value))
    for cluster in decision.clusters:
        _add_cluster(action, cluster)


def _add_cluster(parent: Tree, cluster: CandidateCluster) -> None:
    branch = parent.add(f"{cluster.share:.0%} cluster {escape(cluster.name)} {cluster.policy}")
    if cluster.problem:
        branch.add(f"[red]{escape(cluster.problem)}[/red]")
    for endpoint in cluster.endpoints[:_MAX_ENDPOINTS]:
        branch.add(f"{endpoint.address} {endpoint.health} weight {endpoint.weight} priority {endpoint.priority}")
    if len(cluster.endpoints) > _MAX_ENDPOINTS:
        branch.add(f"and {len(cluster.endpoints) - _MAX_ENDPOINTS} more")
