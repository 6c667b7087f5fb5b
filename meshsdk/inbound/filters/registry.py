"""The filters of one route, compiled to steps in the listener's order.

A step takes the request and gives None (go on), an answer, or a generator of what it waits for that ends in one of
these.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from ...exchange.filters import run_fault
from ...exchange.local_reply import LocalReply
from ...resources import Buffer, Fault, FilterHeaderMutations, FilterSettings, FilterSwitch, HttpFilter, LocalRateLimit
from ...resources.filters.browser import Cors, CorsPolicy, Csrf
from ...resources.filters.ext_authz import ExtAuthz, ExtAuthzPerRoute
from ...resources.filters.jwt import JwtAuthentication, JwtPerRoute, JwtProvider
from ...resources.filters.load_shedding import AdaptiveConcurrency, AdmissionControl
from ...resources.filters.rate_limit import RateLimit, RateLimitPerRoute
from ...resources.filters.rbac import Rbac
from ...resources.filters.set_filter_state import SetFilterState
from ...resources.filters.settings import FilterSetting, settings_of
from ...routing import apply_mutations
from ...routing.compiled_filters import Buckets, CompiledFault
from ...routing.conditions import compile_header
from ...routing.header_mutation import MutationLevel
from ..asked import NOTHING_ASKED, Asked, asked_of
from ..peer import compile_changes, format_context
from ..request import Headers, InboundRequest
from ..waits import Delay, Wait
from .adaptive_concurrency import AdaptiveConcurrencyStep, GradientController
from .admission_control import AdmissionController, AdmissionStep
from .browser import CorsStep, CsrfStep
from .descriptors import RouteLimits, compile_descriptors
from .ext_authz import ExtAuthzStep
from .jwks import KeyStore
from .jwt import compile_jwt
from .local_rate_limit import LocalLimiter, LocalRateLimitStep
from .rate_limit import RateLimitStep
from .rbac import RbacStep
from .set_filter_state import compile_set_filter_state

NO_LIMITS = RouteLimits(is_routed=False)

__all__ = ["FilterStates", "RouteFilters", "Step", "compile_steps"]

Result = Generator[Wait, Any, LocalReply | None] | LocalReply | None
Step = Callable[[InboundRequest], Result]


class FilterStates:
    """What filters remember from request to request: tokens, faults under way, keys.

    Settings that an update leaves as they were keep what they remember.

    Args:
        before: Of the policy that is replaced.
    """

    def __init__(self, before: FilterStates | None = None) -> None:
        self._limiters: dict[int, LocalLimiter] = {}
        self._old_limiters = list(before._limiters.values()) if before is not None else []
        self._shedders: dict[int, AdmissionController | GradientController] = {}
        self._old_shedders = list(before._shedders.values()) if before is not None else []
        self._stores: dict[JwtProvider, KeyStore] = {}
        self._old_stores = dict(before._stores) if before is not None else {}
        self._asked: dict[int, Asked] = {}
        self.tallies = Buckets()

    def limiter(self, limit: LocalRateLimit) -> LocalLimiter:
        """The buckets of a rate limit; routes that inherit one share them, those that have an equal one do not."""
        known = self._limiters.get(id(limit))
        if known is None:
            old = next((one for one in self._old_limiters if one.limit == limit), None)
            if old is not None:
                self._old_limiters.remove(old)
                old.limit = limit
            known = self._limiters[id(limit)] = old or LocalLimiter(limit)
        return known

    def shedder(self, settings: AdmissionControl | AdaptiveConcurrency) -> AdmissionController | GradientController:
        """What a filter that sheds load has seen; all routes share it."""
        known = self._shedders.get(id(settings))
        if known is None:
            known = next((one for one in self._old_shedders if one.settings == settings), None)
            if known is not None:
                self._old_shedders.remove(known)
            elif isinstance(settings, AdmissionControl):
                known = AdmissionController(settings)
            else:
                known = GradientController(settings, random.random)
            self._shedders[id(settings)] = known
        return known

    def stores(self, settings: JwtAuthentication) -> dict[str, KeyStore]:
        """The keys of each provider."""
        return {name: self._store(provider) for name, provider in settings.providers.items()}

    def _store(self, provider: JwtProvider) -> KeyStore:
        known = self._stores.get(provider)
        if known is None:
            known = self._stores[provider] = self._old_stores.get(provider) or KeyStore(provider)
        return known

    def asked(self, setting: FilterSetting) -> Asked:
        """What a filter's settings ask; many routes share the listener's."""
        known = self._asked.get(id(setting))
        if known is None:
            known = self._asked[id(setting)] = asked_of(setting)
        return known

    def settle(self) -> None:
        """The policy is compiled: what the one before remembered and nobody took over is forgotten."""
        self._old_limiters = []
        self._old_shedders = []
        self._old_stores = {}
        self._asked = {}


class RouteFilters(Struct, frozen=True):
    """The filters of one route.

    Attributes:
        steps: In order.
        response_levels: What header_mutation does to every answer, also to those of filters before it, by its place.
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
    for place, http_filter in enumerate(filters):
        said = settings_of(http_filter, levels)
        if (http_filter.is_disabled and not said) or (said and said[0] is FilterSwitch.DISABLED):
            continue
        for setting in _in_force(http_filter.setting, said):
            asked |= states.asked(setting)
        if isinstance(http_filter.setting, LocalRateLimit | RateLimit):
            asked |= asked_of((limits.route, limits.virtual_host))
        if isinstance(http_filter.setting, FilterHeaderMutations):
            request, response = _compile_mutations(http_filter.setting, said, f"{where} filter {http_filter.name}")
            if request:
                steps.append(partial(_mutate, request))
            if response:
                response_levels.append((place, response))
            continue
        if not has_application and isinstance(http_filter.setting, Cors):
            continue
        step = _compile(http_filter.setting, said, place, states, where, limits)
        if step is not None:
            steps.append(step)
    return RouteFilters(tuple(steps), tuple(response_levels), asked)


def _in_force(own: FilterSetting, said: list[FilterSetting]) -> list[FilterSetting]:
    """Which of a filter's settings count on a route: a route's take the place of most filters' own."""
    given: list[FilterSetting] = [one for one in said if not isinstance(one, FilterSwitch)]
    takes_both = isinstance(own, FilterHeaderMutations | JwtAuthentication | ExtAuthz | RateLimit)
    return [own, *given] if takes_both else given[:1] or [own]


def _compile(
    own: FilterSetting, said: list[FilterSetting], place: int, states: FilterStates, where: str, limits: RouteLimits
) -> Step | None:
    given = next((one for one in said[:1] if one is not FilterSwitch.ENABLED), None)
    match own:
        case AdmissionControl() | AdaptiveConcurrency():
            if not own.is_enabled:
                return None
            shedder = states.shedder(own)
            if isinstance(shedder, AdmissionController):
                return AdmissionStep(shedder, random.random)
            return AdaptiveConcurrencyStep(shedder)
        case JwtAuthentication():
            return compile_jwt(own, given if isinstance(given, JwtPerRoute) else None, states.stores(own))
        case ExtAuthz():
            return ExtAuthzStep(own, given if isinstance(given, ExtAuthzPerRoute) else None, place, random.random)
        case RateLimit():
            return _limit_step(own, given if isinstance(given, RateLimitPerRoute) else None, limits, place, where)
    match given if given is not None else own:
        case Rbac() as rbac if any((rbac.rules, rbac.shadow_rules, rbac.matcher, rbac.shadow_matcher)):
            return RbacStep(rbac)
        case SetFilterState() as state:
            return compile_set_filter_state(state, where)
        case CorsPolicy() as cors:
            for below in said[1:]:
                if isinstance(below, CorsPolicy):
                    cors = cors.over(below)
            return CorsStep(cors, place, random.random)
        case Csrf() as csrf:
            return CsrfStep(csrf, random.random)
        case LocalRateLimit() as limit if limit.max_tokens or limit.descriptors:
            make = None
            if limit.descriptors:
                make = compile_descriptors(limit.rules or limits.rules(limit.stage, limit.virtual_host), limits, where)
            return LocalRateLimitStep(states.limiter(limit), make, place, where, random.random)
        case Fault() as fault:
            conditions = tuple(compile_header(header) for header in fault.headers)
            return partial(_fault, CompiledFault(fault, conditions, states.tallies.tally(fault)))
        case Buffer(max_request_bytes=longest) if longest is not None:
            return partial(_bound_body, longest)
        case _:
            return None


def _compile_mutations(
    own: FilterHeaderMutations, said: list[FilterSetting], where: str
) -> tuple[tuple[MutationLevel, ...], tuple[MutationLevel, ...]]:
    """Envoy: the filter's own come first; of the routes', the last one carried out has the last word."""
    of_routes = [one for one in said if isinstance(one, FilterHeaderMutations)]
    ordered = [own, *(reversed(of_routes) if own.most_specific_wins else of_routes)]
    request = compile_changes([one for each in ordered for one in each.request], where)
    response = compile_changes([one for each in ordered for one in each.response], where)
    return request, response


def _mutate(levels: tuple[MutationLevel, ...], request: InboundRequest) -> None:
    context = format_context(request)
    headers = apply_mutations(levels, request.head.raw_headers, context, of_request=True)
    request.head = request.head.with_headers(headers)


def response_change(levels: tuple[MutationLevel, ...], request: InboundRequest) -> Callable[[Headers, int], Headers]:
    """What levels of header changes do to the answer to a request."""

    def change(headers: Headers, status: int) -> Headers:
        context = format_context(request, status=status)
        return apply_mutations(levels, headers, context)

    return change


def _limit_step(
    settings: RateLimit, per_route: RateLimitPerRoute | None, limits: RouteLimits, place: int, where: str
) -> Step | None:
    said = per_route or RateLimitPerRoute()
    rules = said.rules or settings.rules or limits.rules(settings.stage, said.virtual_host)
    if not rules:
        return None
    make = compile_descriptors(rules, limits, where)
    return RateLimitStep(settings, make, said.domain or settings.domain, place, where, random.random)


def _fault(fault: CompiledFault, request: InboundRequest) -> Result:
    verdict = run_fault(fault, request.head, "", random.random)
    return _held_up(fault, verdict.delay_seconds, verdict.reply) if verdict.delay_seconds else verdict.reply


def _held_up(fault: CompiledFault, seconds: float, reply: LocalReply | None) -> Generator[Wait, Any, LocalReply | None]:
    fault.tally.begin()
    try:
        yield Delay(seconds)
    finally:
        fault.tally.end()
    return reply


def _bound_body(longest: int, request: InboundRequest) -> None:
    known = request.max_body_bytes
    request.max_body_bytes = longest if known is None else min(known, longest)
