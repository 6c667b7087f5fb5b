"""A Mesh in a line."""

from __future__ import annotations

from pathlib import Path

from .control import Control
from .security import Identity
from .xds import Status

__all__ = ["described"]


def described(control: Control, folder: Path | None, identity: Identity | None) -> str:
    """Where its configuration is from, who it is, and what it knows. From any thread; nothing is asked or started."""
    node = control.bootstrap.node
    servers = ", ".join(server.uri for server in control.bootstrap.servers)
    parts = [f"of {folder}" if folder is not None else f"of {servers}", f"namespace {node.namespace}"]
    spiffe_id = getattr(identity, "spiffe_id", "")
    if spiffe_id:
        parts.append(f"as {spiffe_id}")
    parts.append(_state_of(control))
    return ", ".join(parts)


def _state_of(control: Control) -> str:
    if control.is_closed:
        return "closed"
    if control.source is None:
        return "not used yet"
    directory, cache = control.directory, control.cache
    hosts = sum(not target.view.does_not_exist for target in directory.targets.values())
    state = f"{hosts} hosts and {len(directory.clusters)} clusters"
    refused = cache.count(Status.NACKED)
    if refused:
        state += f", {refused} resources refused"
    problem = control.problem
    return f"{state}, problem: {problem}" if problem else state
