"""Why a route was chosen, and why the ones before it were not."""

from __future__ import annotations

from msgspec import Struct

from .compiled_route import CompiledRoute
from .conditions import RandomFraction
from .request_head import RequestHead
from .route_table import RouteTable

__all__ = ["RouteExplanation", "explain_route"]


class RouteExplanation(Struct, frozen=True):
    """How a request met the routes.

    Attributes:
        has_virtual_host: Whether the authority is a domain of one.
        virtual_host: Its name, if it has one.
        route: The route that matched, or None.
        skipped: Each earlier route's name and the reasons why it did not match.
    """

    has_virtual_host: bool
    virtual_host: str
    route: CompiledRoute | None
    skipped: tuple[tuple[str, tuple[str, ...]], ...]


def explain_route(
    table: RouteTable, head: RequestHead, random_fraction: RandomFraction, seen: RequestHead | None = None
) -> RouteExplanation:
    """The decision that `table.find` makes, with its reasons.

    Args:
        seen: The request as reasons may show it, where that is not all of it.
    """
    index = table.routes_for(head)
    if index is None:
        return RouteExplanation(False, "", None, ())
    skipped: list[tuple[str, tuple[str, ...]]] = []
    for route in index.routes:
        reasons = tuple(
            condition.why_not(seen or head)
            for condition in (route.path, *route.conditions)
            if not condition.holds(head, random_fraction)
        )
        if not reasons:
            return RouteExplanation(True, route.virtual_host.name, route, tuple(skipped))
        skipped.append((route.name, reasons))
    name = index.routes[0].virtual_host.name if index.routes else ""
    return RouteExplanation(True, name, None, tuple(skipped))
