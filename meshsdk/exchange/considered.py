"""A request that somebody else has decided by the same routes, as grpc-core decides calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..balancing import Cluster
from ..routing import CompiledRoute, RequestHead, RouteTable

__all__ = ["Considered"]


class Considered(NamedTuple):
    """What it was decided by."""

    head: RequestHead
    table: RouteTable
    clusters: Mapping[str, Cluster]

    @property
    def route(self) -> CompiledRoute | None:
        """The route, where chance has no say in which it is."""
        index = self.table.routes_for(self.head)
        if index is None:
            return None
        found = index.find(self.head, lambda: 0.0)
        return found if found is index.find(self.head, lambda: 0.999999) else None
