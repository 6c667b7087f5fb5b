"""Strategies of hypothesis that are made once, for generators that draw a hundred times for each example.

To make one, and to have hypothesis look whether it is sound, takes several times as long as to draw from it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

__all__ = ["composite", "sampled_from"]

# By type as well: 1 and True are the same key otherwise.
_one_of_these = functools.lru_cache(maxsize=None, typed=True)(lambda *values: st.sampled_from(values))


def sampled_from(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of some values, all of which can be keys of a dictionary."""
    return _one_of_these(*values)


def composite(function: Callable[..., Any]) -> Callable[..., st.SearchStrategy[Any]]:
    """As `st.composite`; with the same arguments it gives the same strategy."""
    return functools.cache(st.composite(function))
