"""The filter ratelimit: a server counts the requests of all, and says when it is enough.

Sources: Envoy docs, http_filters/rate_limit_filter; source/extensions/filters/http/ratelimit/{ratelimit,
ratelimit_headers}.cc; draft-polli-ratelimit-headers-03.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from typing import Any

from ...exchange.local_reply import LocalReply
from ...resources.filters.rate_limit import RateLimit, RateLimitPerRoute
from ...resources.filters.settings import FilterSetting
from ...routing import apply_mutations
from ...routing.timeouts import is_grpc
from ..peer import compile_changes, format_context
from ..replies import globally_limited, rate_limiter_failed
from ..request import Headers, InboundRequest
from ..waits import AskRateLimit, LimitStatus, RateLimitAnswer, Wait
from .compiling import Place, Said, Step, of_route
from .descriptors import MakeDescriptors, compile_descriptors

__all__ = ["RateLimitStep", "compile_filter"]

_DAY = 86400
_UNIT_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": _DAY, "WEEK": 7 * _DAY, "MONTH": 30 * _DAY}
_UNIT_SECONDS["YEAR"] = 365 * _DAY


class RateLimitStep:
    """The filter for one route.

    Args:
        settings: The filter's.
        make_descriptors: By the rules that hold for the route.
        domain: Whose limits they are.
        place: In the chain.
        where: For messages.
        random_fraction: Chance.

    Raises:
        ResourceError: A format string is wrong.
    """

    __slots__ = ("_domain", "_make_descriptors", "_place", "_random", "_refused", "_settings")

    def __init__(
        self,
        settings: RateLimit,
        make_descriptors: MakeDescriptors,
        domain: str,
        place: int,
        where: str,
        random_fraction: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._make_descriptors = make_descriptors
        self._domain = domain
        self._place = place
        self._random = random_fraction
        self._refused = compile_changes([settings.response_headers], where)

    def __call__(self, request: InboundRequest) -> Generator[Wait, Any, LocalReply | None] | None:
        """Ask, where the request is counted by something."""
        settings = self._settings
        if self._random() >= settings.enabled.share:
            return None
        if settings.request_type != "both":
            is_internal = request.head.header("x-envoy-internal") == "true"
            if is_internal is not (settings.request_type == "internal"):
                return None
        descriptors = self._make_descriptors(request)
        if not descriptors:
            return None
        return self._ask(request, AskRateLimit(settings.service, self._domain, tuple(descriptors)))

    def _ask(self, request: InboundRequest, question: AskRateLimit) -> Generator[Wait, Any, LocalReply | None]:
        settings = self._settings
        answer: RateLimitAnswer | None = yield question
        if answer is None:
            if self._random() >= settings.deny_on_failure.share:
                return None
            return rate_limiter_failed(settings.status_on_error)
        if answer.metadata:
            request.metadata.setdefault("envoy.filters.http.ratelimit", {}).update(answer.metadata)
        told = list(answer.response_headers)
        if settings.tells_limits:
            told += limits_told(answer.statuses)
        if answer.is_over_limit and settings.tells_refusal:
            told.append((b"x-envoy-ratelimited", b"true"))
        if told:
            request.response_changes.append((self._place, lambda headers, status: _with(headers, told)))
        if not answer.is_over_limit or self._random() >= settings.enforced.share:
            for header in answer.request_headers:
                request.set_header(*header)
            return None
        added: Headers = []
        if self._refused:
            added = apply_mutations(self._refused, added, format_context(request))
        grpc_status = (8 if settings.as_resource_exhausted else 14) if is_grpc(request.head) else None
        return globally_limited(settings.status, answer.body, tuple(added), grpc_status)


def _with(headers: Headers, told: Headers) -> Headers:
    return [*headers, *told]


def limits_told(statuses: tuple[LimitStatus, ...]) -> Headers:
    """The headers of draft-polli-ratelimit-headers-03: of the limit that is nearest, with all limits as its policy."""
    known = [one for one in statuses if one.requests_per_unit is not None]
    if not known:
        return []
    nearest = min(known, key=lambda one: one.remaining)
    policy = ""
    for one in known:
        window = _UNIT_SECONDS.get(one.unit)
        if window is not None:
            policy += f", {one.requests_per_unit};w={window}" + (f';name="{one.name}"' if one.name else "")
    return [
        (b"x-ratelimit-limit", f"{nearest.requests_per_unit}{policy}".encode("latin-1", "replace")),
        (b"x-ratelimit-remaining", b"%d" % nearest.remaining),
        (b"x-ratelimit-reset", b"%d" % nearest.reset_seconds),
    ]


def compile_filter(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """The filter for one route; None where nothing counts the route's requests."""
    if not isinstance(own, RateLimit):
        return None
    per_route = of_route(said, RateLimitPerRoute) or RateLimitPerRoute()
    rules = per_route.rules or own.rules or place.limits.rules(own.stage, per_route.virtual_host)
    if not rules:
        return None
    make = compile_descriptors(rules, place.limits, place.where)
    return RateLimitStep(own, make, per_route.domain or own.domain, place.number, place.where, random.random)
