"""The filters of one route, compiled to steps in the listener's order.

A step takes the request and gives None (go on), an answer, or a generator of what it waits for that ends in one of
these.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

from ..exchange.filters import Over, limit_reply, over_limit, run_fault
from ..exchange.local_reply import LocalReply
from ..resources import (
    Buffer,
    Fault,
    FilterHeaderMutations,
    FilterSettings,
    FilterSwitch,
    HttpFilter,
    LocalRateLimit,
)
from ..resources.browser_policy import CorsPolicy, Csrf
from ..resources.ext_authz import ExtAuthz, ExtAuthzPerRoute
from ..resources.http_filters import FilterSetting
from ..resources.jwt import JwtAuthentication, JwtPerRoute
from ..resources.rbac import Rbac
from ..routing import apply_mutations
from ..routing.compiled_filters import Buckets, CompiledFault
from ..routing.conditions import compile_header
from ..routing.formatter import FormatContext
from ..routing.header_mutation import MutationLevel, compile_mutations
from ..routing.token_bucket import TokenBucket
from .authorization import ExtAuthzStep
from .browser import CorsStep, CsrfStep
from .jwks import KeyStore
from .jwt import compile_jwt
from .rbac import RbacStep
from .request import Headers, InboundRequest
from .waits import Delay, Wait

__all__ = ["FilterStates", "Step", "compile_steps"]

Result = Generator[Wait, Any, LocalReply | None] | LocalReply | None
Step = Callable[[InboundRequest], Result]


class FilterStates:
    """What filters remember from request to request, by their settings: tokens, faults under way, keys.

    Settings that an update leaves as they were keep what they remember.
    """

    def __init__(self) -> None:
        self._buckets: dict[LocalRateLimit, TokenBucket] = {}
        self._stores: dict[object, KeyStore] = {}
        self.tallies = Buckets()

    def bucket(self, limit: LocalRateLimit) -> TokenBucket:
        """The bucket of a rate limit; routes that inherit one share it."""
        return self._buckets.setdefault(limit, TokenBucket(limit))

    def stores(self, settings: JwtAuthentication) -> dict[str, KeyStore]:
        """The keys of each provider."""
        return {
            name: self._stores.setdefault(provider, KeyStore(provider)) for name, provider in settings.providers.items()
        }


def compile_steps(
    filters: Sequence[HttpFilter], levels: Sequence[FilterSettings], states: FilterStates, where: str
) -> tuple[Step, ...]:
    """The steps of one route.

    Args:
        filters: The listener's.
        levels: What is said about filters, the most specific first.
        states: What they remember.
        where: For messages.

    Raises:
        ResourceError: A format string is wrong.
    """
    steps = []
    for http_filter in filters:
        said = [one.setting for level in levels for one in level if one.name == http_filter.name]
        step = _compile(http_filter, said, states, where)
        if step is not None:
            steps.append(step)
    return tuple(steps)


def _compile(http_filter: HttpFilter, said: list[FilterSetting], states: FilterStates, where: str) -> Step | None:
    if (http_filter.is_disabled and not said) or (said and said[0] is FilterSwitch.DISABLED):
        return None
    own = http_filter.setting
    given = next((one for one in said[:1] if one is not FilterSwitch.ENABLED), None)
    match own:
        case FilterHeaderMutations():
            return _compile_mutations(own, said, f"{where} filter {http_filter.name}")
        case JwtAuthentication():
            return compile_jwt(own, given if isinstance(given, JwtPerRoute) else None, states.stores(own))
        case ExtAuthz():
            return ExtAuthzStep(own, given if isinstance(given, ExtAuthzPerRoute) else None, random.random)
    match given if given is not None else own:
        case Rbac() as rbac if rbac.rules is not None or rbac.shadow_rules is not None:
            return RbacStep(rbac)
        case CorsPolicy() as cors:
            return CorsStep(cors, random.random)
        case Csrf() as csrf:
            return CsrfStep(csrf, random.random)
        case LocalRateLimit() as limit if limit.max_tokens:
            return _limit_step(limit, states.bucket(limit), where)
        case Fault() as fault:
            conditions = tuple(compile_header(header) for header in fault.headers)
            return partial(_fault, CompiledFault(fault, conditions, states.tallies.tally(fault)))
        case Buffer(max_request_bytes=longest) if longest is not None:
            return partial(_bound_body, longest)
        case _:
            return None


def _compile_mutations(own: FilterHeaderMutations, said: list[FilterSetting], where: str) -> Step | None:
    """Envoy: the filter's own come first; of the routes', the last one carried out has the last word."""
    of_routes = [one for one in said if isinstance(one, FilterHeaderMutations)]
    ordered = [own, *(reversed(of_routes) if own.most_specific_wins else of_routes)]
    request = compile_mutations([one for each in ordered for one in each.request], where)
    response = compile_mutations([one for each in ordered for one in each.response], where)
    return partial(_mutate, request, response) if request or response else None


def _mutate(
    request_levels: tuple[MutationLevel, ...], response_levels: tuple[MutationLevel, ...], request: InboundRequest
) -> None:
    if request_levels:
        context = FormatContext(request.head, route=request.route_name)
        headers = apply_mutations(request_levels, request.head.raw_headers, context, of_request=True)
        request.head = request.head.with_headers(headers)
    if response_levels:

        def change(headers: Headers, status: int) -> Headers:
            context = FormatContext(request.head, route=request.route_name, status=status)
            return apply_mutations(response_levels, headers, context)

        request.response_changes.append(change)


def _limit_step(limit: LocalRateLimit, bucket: TokenBucket, where: str) -> Step:
    unenforced = compile_mutations([limit.request_headers_unenforced], where)

    def step(request: InboundRequest) -> LocalReply | None:
        over = over_limit(bucket, random.random, time.monotonic())
        if over is Over.ENFORCED:
            return limit_reply(bucket)
        if over is Over.NOT_ENFORCED and unenforced:
            _mutate(unenforced, (), request)
        return None

    return step


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
