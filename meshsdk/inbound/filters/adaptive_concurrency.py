"""The filter adaptive_concurrency: as many requests at once as leave them fast.

Theory of operation. Now and then the limit is lowered for as many requests as it takes to measure the least latency;
between these measurements, each window's latency is compared with it:

    gradient = (least + buffer) / latency, between 0.5 and 2
    limit    = limit · gradient + √(limit · gradient)

Envoy has timers for the windows; here a request that comes later than a window's end ends it.

Sources: Envoy docs, http_filters/adaptive_concurrency_filter; source/extensions/filters/http/adaptive_concurrency/
controller/gradient_controller.cc.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable

from ...exchange.local_reply import LocalReply
from ...resources.filters.load_shedding import AdaptiveConcurrency
from ...resources.filters.settings import FilterSetting
from ..replies import too_many_at_once
from ..request import InboundRequest
from .compiling import Place, Said, Step

__all__ = ["AdaptiveConcurrencyStep", "GradientController", "compile_filter"]

# Of a window's latencies the last so many count.
_MAX_SAMPLES = 4096

# So many windows at the lower bound say that the least latency is not what it was.
_WINDOWS_AT_MINIMUM = 5


class GradientController:
    """The limit, and what it is reckoned from.

    Args:
        settings: The filter's.
        random_fraction: Chance, for the jitter.
    """

    def __init__(self, settings: AdaptiveConcurrency, random_fraction: Callable[[], float]) -> None:
        self.settings = settings
        self._random = random_fraction
        self._under_way: set[object] = set()
        self._samples: deque[float] = deque(maxlen=_MAX_SAMPLES)
        self._sampled = 0
        self._least = settings.min_rtt_seconds
        self._is_measuring = settings.min_rtt_seconds is None
        self._limit_before = settings.min_limit
        self._epoch = 0.0
        self._measures_at = math.inf
        self._window_ends: float | None = None
        self._at_minimum = 0
        self.limit = settings.min_limit

    def begin(self, token: object, now: float) -> bool:
        """Whether one more request may run; `token` stands for it."""
        self._advance(now)
        if len(self._under_way) >= self.limit:
            return False
        self._under_way.add(token)
        return True

    def end(self, token: object, started: float, now: float, *, is_complete: bool) -> None:
        """A request is over; one that was broken off says nothing of latency."""
        self._under_way.discard(token)
        if not is_complete or started < self._epoch:
            return
        self._samples.append(now - started)
        self._sampled += 1
        if self._is_measuring and self._sampled >= self.settings.min_rtt_requests:
            self._measured(now)

    def _advance(self, now: float) -> None:
        settings = self.settings
        if self._window_ends is None:
            self._window_ends = now + settings.update_seconds
        if self._is_measuring:
            return
        if now >= self._window_ends:
            self._window_ends = now + settings.update_seconds
            latency = self._latency()
            if latency is not None and self._least is not None:
                self._set(self._next_limit(self._least, latency), settings.min_limit)
        if now >= self._measures_at:
            self._measure(now)

    def _measure(self, now: float) -> None:
        """Lower the limit, and begin to measure the least latency."""
        self._is_measuring = True
        self._measures_at = math.inf
        self._limit_before, self.limit = self.limit, self.settings.min_limit
        self._forget_samples()
        self._epoch = now
        self._at_minimum = 0

    def _measured(self, now: float) -> None:
        settings, least = self.settings, self._latency()
        if least is None:
            return  # Another thread has measured it.
        self._least = least
        self.limit = self._limit_before
        self._is_measuring = False
        jitter = 1.0 + self._random() * settings.jitter
        self._measures_at = now + settings.min_rtt_interval_seconds * jitter
        self._window_ends = now + settings.update_seconds

    def _set(self, limit: int, minimum: int) -> None:
        self._at_minimum = self._at_minimum + 1 if limit == self.limit == minimum else 0
        self.limit = limit
        if self._at_minimum >= _WINDOWS_AT_MINIMUM and self.settings.min_rtt_seconds is None:
            self._measures_at = 0.0

    def _latency(self) -> float | None:
        """Of the window that ends now; None where nothing was measured."""
        ordered = sorted(self._samples)
        self._forget_samples()
        if not ordered:
            return None
        return ordered[min(len(ordered) - 1, int(len(ordered) * self.settings.percentile))]

    def _forget_samples(self) -> None:
        self._samples.clear()
        self._sampled = 0

    def _next_limit(self, least: float, latency: float) -> int:
        settings = self.settings
        gradient = least * (1.0 + settings.buffer) / latency if latency > 0 else 2.0
        limit = self.limit * max(0.5, min(2.0, gradient))
        return max(settings.min_limit, min(settings.max_limit, int(limit + math.sqrt(limit))))


class AdaptiveConcurrencyStep:
    """The filter for one route."""

    __slots__ = ("_controller",)

    def __init__(self, controller: GradientController) -> None:
        self._controller = controller

    def __call__(self, request: InboundRequest) -> LocalReply | None:
        """Let the request run, and see how long it takes; or refuse it."""
        controller, started, token = self._controller, time.monotonic(), object()
        if not controller.begin(token, started):
            return too_many_at_once(controller.settings.status)

        def ended(status: int | None, grpc_status: int | None) -> None:
            is_complete = status is not None or grpc_status is not None
            controller.end(token, started, time.monotonic(), is_complete=is_complete)

        request.on_done.append(ended)
        return None


def compile_filter(own: FilterSetting, said: Said, place: Place) -> Step | None:
    """The filter for one route; all routes share what it has seen."""
    if not isinstance(own, AdaptiveConcurrency) or not own.is_enabled:
        return None
    return AdaptiveConcurrencyStep(place.states.of(own, lambda settings: GradientController(settings, random.random)))
