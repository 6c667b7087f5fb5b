"""The filter fault: delays and answers that a test of others wants (Envoy docs, http_filters/fault_filter)."""

from __future__ import annotations

import random
from collections.abc import Generator
from functools import partial
from typing import Any

from ...exchange.filters import run_fault
from ...exchange.local_reply import LocalReply
from ...resources import Fault
from ...resources.filters.settings import FilterSetting
from ...routing.compiled_filters import CompiledFault, FaultTally
from ...routing.conditions import compile_header
from ..request import InboundRequest
from ..waits import Delay, Wait
from .compiling import Place, Result, Said, Step, of_route

__all__ = ["compile_filter"]


def compile_filter(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """The filter for one route."""
    fault = of_route(said, Fault) or own
    if not isinstance(fault, Fault):
        return None
    conditions = tuple(compile_header(header) for header in fault.headers)
    return partial(_fault, CompiledFault(fault, conditions, place.states.of(fault, lambda _: FaultTally())))


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
