"""How far counts may be from what is expected of them, where chance decides."""

from __future__ import annotations

import math

__all__ = ["spread"]


def spread(total: int, share: float) -> float:
    """How far a count of `total` draws may be from `total * share`.

    Six standard deviations of a binomial, and one: of some hundred draws, one count in 200 million is farther away.
    Five would be one in two million, which is too many for a hundred such counts in each of many runs.
    """
    return 6 * math.sqrt(total * share * (1 - share)) + 1
