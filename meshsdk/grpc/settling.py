"""What a call is told whose target's configuration has not come."""

from __future__ import annotations

from ..control import Control
from ..errors import NoRouteError
from ..exchange import LocalReply

__all__ = ["SETTLE_SECONDS", "not_settled"]

# A little more than the time after which a resource counts as missing (Envoy docs, xds_protocol: 15 seconds).
SETTLE_SECONDS = 20.0


def not_settled(control: Control, names: tuple[str, ...]) -> LocalReply:
    """The answer to a call in place of its target's."""
    problem = f"no configuration for {', '.join(names)}: {control.problem or 'it was asked for and has not come'}"
    return LocalReply(503, problem.encode(), flag="NC", details="cluster_not_found", error=NoRouteError(problem))
