"""The routes of one virtual host, found without trying each.

Routes are ordered and the first match wins. Exact paths and prefixes are indexed by their text, the others (regular
expressions, matches without case) are tried on every request; the candidates are then taken in the routes' order. So
a thousand routes cost about what ten cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from ..resources import PathMatchKind
from .compiled_route import CompiledRoute
from .conditions import Condition, RandomFraction, without_parameters
from .request_head import RequestHead

__all__ = ["RouteIndex"]

Ranked = tuple[int, CompiledRoute]

# Below this, trying each route in order is faster than looking candidates up.
_WORTH_INDEXING = 6

_rank = itemgetter(0)


class RouteIndex:
    """First-match lookup over the routes of a virtual host.

    Args:
        routes: In order.
        ignore_parameters: Match paths without their parameters
            (RouteConfiguration.ignore_path_parameters_in_path_matching).
        require_tls: Requests that are not https are redirected (VirtualHost.require_tls).
        spares_internal: Not those that come from inside, as a server knows.
    """

    def __init__(
        self,
        routes: Sequence[CompiledRoute],
        *,
        ignore_parameters: bool = False,
        require_tls: bool = False,
        spares_internal: bool = False,
    ) -> None:
        self.routes = tuple(routes)
        self.ignore_parameters = ignore_parameters
        self.require_tls = require_tls
        self.spares_internal = spares_internal
        self._exact: dict[str, list[Ranked]] = {}
        self._prefixes: dict[int, dict[str, list[Ranked]]] = {}
        self._others: list[Ranked] = []
        for ranked in enumerate(self.routes):
            self._add(ranked)
        self._prefix_lengths = sorted(self._prefixes)
        self._in_order = tuple((_plain_prefix(route), route) for route in self.routes)
        self.find = self._find_by_index if len(self.routes) >= _WORTH_INDEXING else self._find_in_order

    def _add(self, ranked: Ranked) -> None:
        match = ranked[1].path.match
        if match.case_sensitive and match.kind is PathMatchKind.EXACT:
            self._exact.setdefault(match.value, []).append(ranked)
        elif match.case_sensitive and match.kind in (PathMatchKind.PREFIX, PathMatchKind.SEPARATED_PREFIX):
            self._prefixes.setdefault(len(match.value), {}).setdefault(match.value, []).append(ranked)
        else:
            self._others.append(ranked)

    def _find_in_order(self, head: RequestHead, random_fraction: RandomFraction) -> CompiledRoute | None:
        path = without_parameters(head.path) if self.ignore_parameters else head.path
        for prefix, route in self._in_order:
            # Most routes are prefixes; a method of str costs less than a function of ours.
            if not (path.startswith(prefix) if prefix is not None else route.path.test(head.path)):
                continue
            if not route.conditions or _all_hold(route.conditions, head, random_fraction):
                return route
        return None

    def _find_by_index(self, head: RequestHead, random_fraction: RandomFraction) -> CompiledRoute | None:
        path = without_parameters(head.path) if self.ignore_parameters else head.path
        candidates = list(self._others)
        candidates += self._exact.get(path, ())
        for length in self._prefix_lengths:
            if length > len(path):
                break
            candidates += self._prefixes[length].get(path[:length], ())
        candidates.sort(key=_rank)
        for _, route in candidates:
            if route.path.test(head.path) and _all_hold(route.conditions, head, random_fraction):
                return route
        return None


def _plain_prefix(route: CompiledRoute) -> str | None:
    match = route.path.match
    return match.value if match.kind is PathMatchKind.PREFIX and match.case_sensitive else None


def _all_hold(conditions: tuple[Condition, ...], head: RequestHead, random_fraction: RandomFraction) -> bool:
    # A loop, since all() over a generator costs as much as the rest of the search.
    for condition in conditions:  # noqa: SIM110
        if not condition.holds(head, random_fraction):
            return False
    return True
