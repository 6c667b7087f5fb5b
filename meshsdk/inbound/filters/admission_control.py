"""The filter admission_control: the more of the last requests failed, the more are refused.

Sources: Envoy docs, http_filters/admission_control_filter; source/extensions/filters/http/admission_control/
{admission_control,thread_local_controller}.cc.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from ...exchange.local_reply import LocalReply
from ...resources.filters.load_shedding import AdmissionControl
from ...resources.filters.settings import FilterSetting
from ..replies import not_admitted
from ..request import InboundRequest
from .compiling import Place, Said, Step

__all__ = ["AdmissionController", "AdmissionStep", "compile_filter"]

_ACCURACY = 10_000  # Envoy reckons with four digits of the probability.


class _Second:
    """What was counted in one second of the clock."""

    __slots__ = ("at", "requests", "successes")

    def __init__(self) -> None:
        self.at = -1
        self.requests = 0
        self.successes = 0


class AdmissionController:
    """Counts of a sliding window, second by second.

    The seconds lie in a ring, so that threads may count and sum without a lock: the worst is a request miscounted.

    Args:
        settings: The filter's.
    """

    def __init__(self, settings: AdmissionControl) -> None:
        self.settings = settings
        self._ring = tuple(_Second() for _ in range(int(settings.window_seconds)))

    def record(self, is_success: bool, now: float) -> None:
        """A request was answered."""
        at = int(now)
        second = self._ring[at % len(self._ring)]
        if second.at != at:
            second.at, second.requests, second.successes = at, 0, 0
        second.requests += 1
        second.successes += is_success

    def probability(self, now: float) -> float:
        """That a request is to be refused."""
        settings, at = self.settings, int(now)
        requests, successes, oldest = 0, 0, at
        for second in self._ring:
            if at - second.at < len(self._ring):
                requests += second.requests
                successes += second.successes
                oldest = min(oldest, second.at)
        if requests / max(1, at - oldest) < settings.rps_threshold:
            return 0.0
        probability = (requests - successes / settings.success_threshold) / (requests + 1)
        if probability <= 0.0:
            return 0.0
        return min(settings.max_probability, float(probability ** (1.0 / settings.aggression)))


class AdmissionStep:
    """The filter for one route."""

    __slots__ = ("_controller", "_random")

    def __init__(self, controller: AdmissionController, random_fraction: Callable[[], float]) -> None:
        self._controller = controller
        self._random = random_fraction

    def __call__(self, request: InboundRequest) -> LocalReply | None:
        """Admit the request and see how it ends, or refuse it."""
        probability = self._controller.probability(time.monotonic())
        if probability and int(_ACCURACY * self._random()) < _ACCURACY * probability:
            return not_admitted()
        request.on_done.append(self._ended)
        return None

    def _ended(self, status: int | None, grpc_status: int | None) -> None:
        settings = self._controller.settings
        if grpc_status is not None:
            is_success = grpc_status in settings.grpc_successes
        else:
            is_success = status is not None and any(start <= status < end for start, end in settings.http_successes)
        self._controller.record(is_success, time.monotonic())


def compile_filter(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """The filter for one route; all routes share what it has seen."""
    if not isinstance(own, AdmissionControl) or not own.is_enabled:
        return None
    return AdmissionStep(place.states.of(own, AdmissionController), random.random)
