"""Which HTTP filters a server has, and those of one route, compiled to steps in the listener's order."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

from msgspec import Struct

from ...resources.filters.settings import FilterSetting, FilterSettings, FilterSwitch, HttpFilter, settings_of
from ...routing.header_mutation import MutationLevel
from ..asked import NOTHING_ASKED, Asked, asked_of
from .compiling import NO_LIMITS, FilterStates, Place, Said, Step
from .descriptors import RouteLimits

__all__ = ["RouteFilters", "compile_steps"]

Compile = Callable[[FilterSetting, Said, Place], Step | None]


def _by(module: str, function: str = "compile_filter") -> Compile:
    """A function of a module that is loaded when the first such filter comes."""

    def compile_filter(own: FilterSetting, said: Said, place: Place) -> Step | None:
        found: Compile = getattr(importlib.import_module(f".{module}", __package__), function)
        return found(own, said, place)

    return compile_filter


_FILTERS = "envoy.extensions.filters.http"
# By the package of the filter's protobufs.
_COMPILERS: dict[str, Compile] = {
    f"{_FILTERS}.adaptive_concurrency.v3": _by("adaptive_concurrency"),
    f"{_FILTERS}.admission_control.v3": _by("admission_control"),
    f"{_FILTERS}.buffer.v3": _by("buffer"),
    f"{_FILTERS}.cors.v3": _by("browser", "compile_cors"),
    f"{_FILTERS}.csrf.v3": _by("browser", "compile_csrf"),
    f"{_FILTERS}.ext_authz.v3": _by("ext_authz"),
    f"{_FILTERS}.fault.v3": _by("fault"),
    f"{_FILTERS}.header_mutation.v3": _by("header_mutation"),
    f"{_FILTERS}.jwt_authn.v3": _by("jwt"),
    f"{_FILTERS}.local_ratelimit.v3": _by("local_rate_limit"),
    f"{_FILTERS}.ratelimit.v3": _by("rate_limit"),
    f"{_FILTERS}.rbac.v3": _by("rbac"),
    f"{_FILTERS}.set_filter_state.v3": _by("set_filter_state"),
}


class RouteFilters(Struct, frozen=True):
    """The filters of one route.

    Attributes:
        steps: In order.
        response_levels: What filters do to every answer, also to those of filters before them, by their place.
        asked: What they look at, and not every server tells.
    """

    steps: tuple[Step, ...]
    response_levels: tuple[tuple[int, tuple[MutationLevel, ...]], ...]
    asked: Asked = NOTHING_ASKED


def compile_steps(
    filters: Sequence[HttpFilter],
    levels: Sequence[FilterSettings],
    states: FilterStates,
    where: str,
    *,
    has_application: bool = True,
    limits: RouteLimits = NO_LIMITS,
) -> RouteFilters:
    """The filters of one route, compiled.

    Args:
        filters: The listener's.
        levels: What is said about filters, the most specific first.
        states: What they remember.
        where: For messages.
        has_application: Whether the route leads to the application; one that answers by itself (a redirect, a direct
            response) has no cross-origin policy, in Envoy neither.
        limits: What the route's requests are counted by.

    Raises:
        ResourceError: A format string is wrong.
    """
    steps: list[Step] = []
    response_levels = []
    asked = NOTHING_ASKED
    for number, http_filter in enumerate(filters):
        said = settings_of(http_filter, levels)
        if (http_filter.is_disabled and not said) or (said and said[0] is FilterSwitch.DISABLED):
            continue
        own = http_filter.setting
        for setting in _in_force(own, said):
            asked |= states.asked(setting)
        if own.counts_by_routes:
            asked |= asked_of((limits.route, limits.virtual_host))
        place = Place(number, http_filter.name, where, states, limits, has_application)
        step = _COMPILERS[http_filter.package](own, said, place)
        if step is not None:
            steps.append(step)
        if place.response_levels:
            response_levels.append((number, place.response_levels))
    return RouteFilters(tuple(steps), tuple(response_levels), asked)


def _in_force(own: FilterSetting, said: Said) -> Said:
    """Which of a filter's settings count on a route: a route's take the place of most filters' own."""
    given = [one for one in said if not isinstance(one, FilterSwitch)]
    return [own, *given] if own.stands_beside_routes else given[:1] or [own]
