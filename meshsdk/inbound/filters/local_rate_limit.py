"""The filter local_ratelimit: tokens of this process, by descriptor where there are any.

Of the buckets that a request's descriptors have, the one that fills slowest is asked first, and the first that is empty
refuses. The filter's own bucket is asked last, or not at all.

Sources: Envoy docs, http_filters/local_rate_limit_filter; source/extensions/filters/common/local_ratelimit/
local_ratelimit_impl.cc and source/extensions/filters/http/local_ratelimit/local_ratelimit.cc.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from ...exchange.local_reply import LocalReply
from ...resources import LocalRateLimit
from ...resources.filters.local_rate_limit import DescriptorLimit
from ...resources.filters.settings import FilterSetting
from ...routing import apply_mutations
from ...routing.timeouts import is_grpc
from ...routing.token_bucket import TokenBucket
from ..peer import compile_changes, format_context
from ..replies import locally_limited
from ..request import Headers, InboundRequest
from .compiling import Place, Said, Step, of_route
from .descriptors import Descriptor, Entry, MakeDescriptors, compile_descriptors

__all__ = ["LocalLimiter", "LocalRateLimitStep", "compile_filter"]

Bucket = TokenBucket[LocalRateLimit] | TokenBucket[DescriptorLimit]


class LocalLimiter:
    """The buckets of one filter's settings.

    Args:
        limit: The settings.
    """

    def __init__(self, limit: LocalRateLimit) -> None:
        self.limit = limit
        self._default = TokenBucket(limit) if limit.max_tokens else None
        self._exact: dict[tuple[Entry, ...], TokenBucket[DescriptorLimit]] = {}
        self._open = []
        for one in limit.descriptors:
            if all(value for _, value in one.entries):
                self._exact[one.entries] = TokenBucket(one)
            else:
                self._open.append((one, _Dynamic(one, limit.max_dynamic_descriptors)))

    def take(self, descriptors: Sequence[Descriptor], now: float) -> tuple[bool, Bucket | None]:
        """Whether a request may pass, and the bucket that said so; None where there is none to ask."""
        found = self._found(descriptors) if descriptors else []
        if len(found) > 1:
            found.sort(key=lambda one: one[0].limit.tokens_per_fill / one[0].limit.fill_seconds)
        for bucket, count in found:
            if not bucket.take(now, count):
                return False, bucket
        default = self._default
        asks_default = default is not None and (not found or self.limit.takes_default_too)
        if default is not None and asks_default and not default.take(now):
            return False, default
        return True, found[0][0] if found else default

    def _found(self, descriptors: Sequence[Descriptor]) -> list[tuple[TokenBucket[DescriptorLimit], int]]:
        found = []
        for descriptor in descriptors:
            bucket = self._exact.get(descriptor.entries)
            if bucket is None:
                fitting = next((kept for one, kept in self._open if _fits(one, descriptor.entries)), None)
                bucket = fitting.bucket(descriptor.entries) if fitting is not None else None
            if bucket is not None:
                found.append((bucket, 1 if descriptor.hits_addend is None else descriptor.hits_addend))
        return found


def _fits(limit: DescriptorLimit, entries: tuple[Entry, ...]) -> bool:
    if len(entries) != len(limit.entries):
        return False
    pairs = zip(limit.entries, entries, strict=True)
    return all(wanted[0] == given[0] and wanted[1] in ("", given[1]) for wanted, given in pairs)


class _Dynamic:
    """Buckets made as values come; the one that was not used for longest makes room."""

    def __init__(self, limit: DescriptorLimit, most: int) -> None:
        self._limit = limit
        self._most = most
        self._buckets: OrderedDict[tuple[Entry, ...], TokenBucket[DescriptorLimit]] = OrderedDict()

    def bucket(self, entries: tuple[Entry, ...]) -> TokenBucket[DescriptorLimit]:
        """The bucket of these values."""
        bucket = self._buckets.pop(entries, None) or TokenBucket(self._limit)
        self._buckets[entries] = bucket
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return bucket


class LocalRateLimitStep:
    """The filter for one route.

    Args:
        limiter: The buckets, which routes that inherit the settings share.
        make_descriptors: None where no bucket goes by descriptors.
        place: In the chain.
        where: For messages.
        random_fraction: Chance.

    Raises:
        ResourceError: A format string is wrong.
    """

    __slots__ = ("_limiter", "_make_descriptors", "_place", "_random", "_refused", "_unenforced")

    def __init__(
        self,
        limiter: LocalLimiter,
        make_descriptors: MakeDescriptors | None,
        place: int,
        where: str,
        random_fraction: Callable[[], float],
    ) -> None:
        limit = limiter.limit
        self._limiter = limiter
        self._make_descriptors = make_descriptors
        self._place = place
        self._random = random_fraction
        self._unenforced = compile_changes([limit.request_headers_unenforced], where)
        self._refused = compile_changes([limit.response_headers], where)

    def __call__(self, request: InboundRequest) -> LocalReply | None:
        """Let the request pass, or refuse it."""
        limiter = self._limiter
        limit = limiter.limit
        if self._random() >= limit.enabled.share:
            return None
        make = self._make_descriptors
        passes, bucket = limiter.take(make(request) if make is not None else (), time.monotonic())
        if limit.tells_limits and bucket is not None:
            request.response_changes.append((self._place, _telling(bucket)))
        if passes:
            return None
        context = format_context(request)
        if self._random() >= limit.enforced.share:
            if self._unenforced:
                headers = apply_mutations(self._unenforced, request.head.raw_headers, context, of_request=True)
                request.head = request.head.with_headers(headers)
            return None
        added = tuple(apply_mutations(self._refused, (), context)) if self._refused else ()
        grpc_status = (8 if limit.as_resource_exhausted else 14) if is_grpc(request.head) else None
        return locally_limited(limit.status, added, grpc_status)


def _telling(bucket: Bucket) -> Callable[[Headers, int], Headers]:
    limit, remaining, reset = bucket.limit.max_tokens, bucket.remaining, bucket.seconds_to_next
    told = [
        (b"x-ratelimit-limit", b"%d" % limit),
        (b"x-ratelimit-remaining", b"%d" % remaining),
        (b"x-ratelimit-reset", b"%d" % reset),
    ]
    return lambda headers, status: [*headers, *told]


def compile_filter(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """The filter for one route. Routes that inherit a limit share its buckets, those that have an equal one do not."""
    limit = of_route(said, LocalRateLimit) or own
    if not isinstance(limit, LocalRateLimit) or not (limit.max_tokens or limit.descriptors):
        return None
    make = None
    if limit.descriptors:
        rules = limit.rules or place.limits.rules(limit.stage, limit.virtual_host)
        make = compile_descriptors(rules, place.limits, place.where)
    limiter = place.states.of(limit, LocalLimiter)
    return LocalRateLimitStep(limiter, make, place.number, place.where, random.random)
