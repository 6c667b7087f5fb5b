"""A listener's HTTP filters as they hold for one route: the most specific settings, compiled."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from ..resources import (
    Buffer,
    Fault,
    FilterHeaderMutations,
    FilterSettings,
    FilterSwitch,
    HeaderMutations,
    Listener,
    LocalRateLimit,
    StatefulSession,
)
from ..resources.filters.settings import settings_of
from .conditions import Condition, compile_header
from .formatter import FormatContext
from .header_mutation import MutationLevel, apply_mutations, compile_mutations
from .request_head import RequestHead
from .token_bucket import TokenBucket

__all__ = ["Buckets", "CompiledFault", "CompiledFilters", "FaultTally", "compile_filters"]


class FaultTally:
    """How many requests a fault holds up now (HTTPFault.max_active_faults)."""

    __slots__ = ("active",)

    def __init__(self) -> None:
        self.active = 0

    def begin(self) -> None:
        """One more is held up."""
        self.active += 1

    def end(self) -> None:
        """One is no longer."""
        self.active -= 1


class CompiledFault(Struct, frozen=True):
    """A fault with its header conditions compiled.

    Attributes:
        tally: The count of requests that it holds up.
        changes: What filters before it make of the request.
    """

    fault: Fault
    headers: tuple[Condition, ...]
    tally: FaultTally
    changes: tuple[MutationLevel, ...] = ()

    def seen(self, head: RequestHead) -> RequestHead:
        """The request as the fault meets it."""
        if not self.changes:
            return head
        changed = apply_mutations(self.changes, head.raw_headers, FormatContext(head), of_request=True)
        return head.with_headers(changed)


class CompiledFilters(Struct, frozen=True):
    """What a listener's filters do for one route, by kind.

    Attributes:
        max_request_bytes: Of the buffer filter: the longest body that is sent; None is no limit.
        request_mutations: Of the header_mutation filters, in order, before the router's own.
        response_mutations: The same for the response, after the router's own.
    """

    faults: tuple[CompiledFault, ...] = ()
    rate_limits: tuple[TokenBucket[LocalRateLimit], ...] = ()
    session: StatefulSession | None = None
    max_request_bytes: int | None = None
    request_mutations: tuple[HeaderMutations, ...] = ()
    response_mutations: tuple[HeaderMutations, ...] = ()


NO_FILTERS = CompiledFilters()


class Buckets:
    """What filters count, by the identity of their settings: routes that inherit a setting share its count."""

    def __init__(self) -> None:
        self._buckets: dict[int, TokenBucket[LocalRateLimit]] = {}
        self._tallies: dict[int, FaultTally] = {}

    def bucket(self, limit: LocalRateLimit) -> TokenBucket[LocalRateLimit]:
        """The bucket of a rate limit."""
        return self._buckets.setdefault(id(limit), TokenBucket(limit))

    def tally(self, fault: Fault) -> FaultTally:
        """The count of a fault."""
        return self._tallies.setdefault(id(fault), FaultTally())


def compile_filters(listener: Listener, levels: Sequence[FilterSettings], buckets: Buckets) -> CompiledFilters:
    """The filters of a listener for one route.

    Args:
        listener: Gives the filters.
        levels: What is said about filters, the most specific (a cluster of a split, or the route) first.
        buckets: Those of the listener's other routes; new ones are added.
    """
    if not listener.filters:
        return NO_FILTERS
    faults: list[CompiledFault] = []
    limits: list[TokenBucket[LocalRateLimit]] = []
    session: StatefulSession | None = None
    max_bytes: int | None = None
    requests: list[HeaderMutations] = []
    responses: list[HeaderMutations] = []
    for http_filter in listener.filters:
        given = settings_of(http_filter, levels)
        own = http_filter.setting
        if http_filter.is_disabled and not given:
            continue
        setting = given[0] if given and given[0] is not FilterSwitch.ENABLED else own
        if isinstance(setting, FilterSwitch):
            continue
        if isinstance(own, FilterHeaderMutations):
            mutations = [one for one in given if isinstance(one, FilterHeaderMutations)]
            # The filter's own come first; of the routes', the last one carried out has the last word.
            ordered = [own, *(reversed(mutations) if own.most_specific_wins else mutations)]
            for one in ordered:
                requests += one.request
                responses += one.response
        elif isinstance(setting, Fault) and _does_something(setting):
            conditions = tuple(compile_header(header) for header in setting.headers)
            changes = compile_mutations(requests, f"filter {http_filter.name}")
            faults.append(CompiledFault(setting, conditions, buckets.tally(setting), changes))
        elif isinstance(setting, LocalRateLimit) and setting.max_tokens:
            limits.append(buckets.bucket(setting))
        elif isinstance(setting, Buffer) and setting.max_request_bytes is not None:
            max_bytes = setting.max_request_bytes if max_bytes is None else min(max_bytes, setting.max_request_bytes)
        elif isinstance(setting, StatefulSession) and (setting.cookie or setting.header):
            session = setting
    return CompiledFilters(tuple(faults), tuple(limits), session, max_bytes, tuple(requests), tuple(responses))


def _does_something(fault: Fault) -> bool:
    delays = fault.delay_seconds or fault.delay_by_header
    return bool(delays or fault.abort_status or fault.abort_grpc_status is not None or fault.abort_by_header)
