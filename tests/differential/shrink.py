"""Make a counter-example small: take parts of a configuration away as long as the two sides still differ.

Hypothesis shrinks by drawing again, which takes minutes for configurations of this size; deleting from JSON takes
a second or two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["smallest"]


def smallest(configuration: dict[str, Any], still_differs: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """A configuration from which nothing more can be taken without the difference going away."""
    current = configuration
    found = True
    while found:
        found = False
        for smaller in _with_one_part_less(current):
            if still_differs(smaller):
                current, found = smaller, True
                break
    return current


def _with_one_part_less(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name in value:
            if name == "@type":
                continue
            yield {other: inner for other, inner in value.items() if other != name}
        for name, inner in value.items():
            for smaller in _with_one_part_less(inner):
                yield {**value, name: smaller}
    elif isinstance(value, list):
        for index in range(len(value)):
            yield value[:index] + value[index + 1 :]
        for index, inner in enumerate(value):
            for smaller in _with_one_part_less(inner):
                yield [*value[:index], smaller, *value[index + 1 :]]
