"""New endpoints get their full share little by little (Envoy docs, load_balancing/slow_start).

The weight of an endpoint in its window is its own times (elapsed / window) ** (1 / aggression), and at least
min_weight_percent of it. The window begins when the endpoint becomes part of the cluster, or healthy again.
"""

from __future__ import annotations

from collections.abc import Callable

from ..resources.cluster import SlowStart
from .endpoint import Endpoint

__all__ = ["slow_start_weight"]


def slow_start_weight(settings: SlowStart, clock: Callable[[], float]) -> Callable[[Endpoint], float]:
    """A function from an endpoint to its weight now."""
    window, exponent = settings.window_seconds, 1 / settings.aggression
    least = settings.min_weight_percent / 100

    def weight(endpoint: Endpoint) -> float:
        elapsed = clock() - endpoint.available_since
        if elapsed >= window:
            return float(endpoint.weight)
        # Envoy: in the first second the factor is that of one second's share of the window.
        factor = max(elapsed, 1e-3) / window
        return float(max(endpoint.weight * max(factor**exponent, least), 1e-6))

    return weight
