"""Metrics of identities: renewals that failed, and how long certificates are still good."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

__all__ = ["IdentityObserver", "Renewed"]

_SCOPE = "meshsdk"


class Renewed(Protocol):
    """An identity that renews itself."""

    @property
    def source(self) -> str:
        """Where its certificates come from."""

    @property
    def expires_at(self) -> float | None:
        """When its certificate ends, in seconds since the epoch; None while there is none."""


class IdentityObserver:
    """Counts failures, and tells what is left of each certificate's life.

    Args:
        living: Gives the identities that there are.
    """

    def __init__(self, living: Callable[[], Iterable[Renewed]]) -> None:
        meter = metrics.get_meter(_SCOPE)
        failures = meter.create_counter(
            "meshsdk.identity.failures", unit="{failure}", description="Certificates that could not be renewed."
        )
        self.count_failure: Callable[[str], None] = lambda source: failures.add(1, {"meshsdk.identity.source": source})

        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for one in living():
                if one.expires_at is not None:
                    yield Observation(one.expires_at - time.time(), {"meshsdk.identity.source": one.source})

        meter.create_observable_gauge(
            "meshsdk.identity.remaining",
            [observe],
            unit="s",
            description="What is left of a certificate's life; below zero it has expired.",
        )
