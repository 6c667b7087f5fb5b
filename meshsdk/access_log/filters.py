"""Which requests an access log tells of: Envoy's filters, compiled into predicates.

Source: Envoy source/common/access_log/access_log_impl.cc.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable

from ..resources import access_log as config
from ..resources.access_log import AccessLogFilter, Comparison
from ..routing.conditions import compile_header, no_chance
from .cel import compile_expression
from .entry import Entry
from .grpc_status import grpc_number

__all__ = ["Predicate", "compile_filter"]

Predicate = Callable[[Entry], bool]
RandomFraction = Callable[[], float]

_COMPARE: dict[Comparison, Callable[[int, int], bool]] = {
    Comparison.EQ: operator.eq,
    Comparison.GE: operator.ge,
    Comparison.LE: operator.le,
    Comparison.NE: operator.ne,
}


def compile_filter(filter_: AccessLogFilter, where: str, random_fraction: RandomFraction = random.random) -> Predicate:
    """A function that says whether a request is told of.

    Args:
        filter_: The filter.
        where: Path for error messages.
        random_fraction: Uniform in [0, 1).

    Raises:
        ResourceError: A CEL expression is none, or asks what is not known; or CEL is not installed.
    """
    match filter_:
        case config.AllOf(filters):
            every = [compile_filter(one, where, random_fraction) for one in filters]
            return lambda entry: all(one(entry) for one in every)
        case config.AnyOf(filters):
            some = [compile_filter(one, where, random_fraction) for one in filters]
            return lambda entry: any(one(entry) for one in some)
        case config.Compared(of, comparison, value):
            read = operator.attrgetter(of)
            compare = _COMPARE[comparison]
            return lambda entry: compare(read(entry), value)
        case config.HasFlags(flags):
            return lambda entry: (
                not flags.isdisjoint(entry.steady.flags.split(",")) if flags else bool(entry.steady.flags)
            )
        case config.HasHeader(header):
            condition = compile_header(header)
            return lambda entry: condition.holds(entry.head, no_chance)
        case config.HasGrpcStatus(statuses, excludes):
            return lambda entry: (grpc_number(entry) in statuses) != excludes
        case config.Sampled():
            return _sampled(filter_, random_fraction)
        case config.IsTraced():
            return _is_traced
        case config.LogTypes(matches):
            return lambda entry: matches
        case config.Expression(text):
            return compile_expression(text, where)
        case config.IsNoHealthCheck():
            # The filter health_check marks them, which no process has.
            return lambda entry: True


def _sampled(sampled: config.Sampled, random_fraction: RandomFraction) -> Predicate:
    """A share of the requests: of one request id the same on all its way, unless that is not wanted."""

    def by_chance() -> bool:
        return int(random_fraction() * sampled.denominator) < sampled.numerator

    def picks(entry: Entry) -> bool:
        number = None if sampled.is_independent else _number_of(entry.head.header("x-request-id"))
        return by_chance() if number is None else number % sampled.denominator < sampled.numerator

    return picks


def _number_of(request_id: str | None) -> int | None:
    """What a UUID stands for where a share is chosen by it (request_id/uuid: the first eight digits)."""
    if request_id is None or len(request_id) != 36:
        return None
    digits = request_id[:8]
    return int(digits, 16) if all(one in "0123456789abcdefABCDEF" for one in digits) else None


def _is_traced(entry: Entry) -> bool:
    """As the request id says it, in whose 15th character Envoy writes the decision."""
    request_id = entry.head.header("x-request-id") or ""
    return len(request_id) == 36 and request_id[14] in "9ab"
