"""Fault injection (envoy.extensions.filters.http.fault.v3.HTTPFault)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from envoy.extensions.filters.http.fault.v3 import fault_pb2

from .matchers import FractionalPercent, parse_fractional_percent
from .notes import Notes
from .values import seconds, unpack

__all__ = ["FAULT_FILTER_TYPE", "Fault", "parse_fault"]

FAULT_FILTER_TYPE = fault_pb2.HTTPFault.DESCRIPTOR.full_name

_ACTED_ON = frozenset({"delay", "abort"})


NEVER = FractionalPercent(0, 100)


@dataclass(frozen=True, slots=True)
class Fault:
    """Delay and abort, each for its share of the requests.

    Attributes:
        delay_seconds: How long the request is held before it goes on.
        abort_status: The HTTP status that answers an aborted request.
    """

    delay_seconds: float = 0.0
    delay_share: FractionalPercent = NEVER
    abort_status: int = 0
    abort_share: FractionalPercent = NEVER


def parse_fault(container: Any, where: str, notes: Notes) -> Fault:
    """The HTTPFault inside a google.protobuf.Any."""
    message = unpack(container, fault_pb2.HTTPFault, where)
    notes.unless_acted_on(message, where, _ACTED_ON)
    delay, abort = message.delay, message.abort
    if message.HasField("delay") and delay.WhichOneof("fault_delay_secifier") == "header_delay":
        notes.add(f"{where}.delay.header_delay", "is not acted on")
    if message.HasField("abort") and abort.WhichOneof("error_type") != "http_status":
        notes.add(f"{where}.abort.{abort.WhichOneof('error_type')}", "is not acted on")
    return Fault(
        delay_seconds=seconds(delay, "fixed_delay") or 0.0,
        delay_share=parse_fractional_percent(delay.percentage, f"{where}.delay.percentage"),
        abort_status=abort.http_status,
        abort_share=parse_fractional_percent(abort.percentage, f"{where}.abort.percentage"),
    )
