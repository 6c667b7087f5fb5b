"""Which labels the metrics of a listener have, where configuration changes them (Telemetry's metrics, istio.stats).

Metrics that have the same labels share a row of cells, as all do where nothing is changed. What is counted is worked
out once for each set of labels, so a request pays for the values of expressions alone.

Source: Envoy contrib/istio/filters/http/istio_stats/source/istio_stats.cc (MetricOverrides, overrideTags).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .cells import HTTP, MESSAGES
from .workload import UNKNOWN, bounded

__all__ = ["Chosen", "Expression", "LabelOverrides", "MetricChange", "meaning_of"]

Labels = tuple[str, ...]
# Gives a value of a request; None where it has none.
Expression = Callable[[Any], str | None]

# The values of expressions; beyond them they are not known: a label by paths must not take the room of all others.
_MAX_VALUES = 200

# Metrics by their numbers in a row, as kinds of rows have them.
_OF_KIND = {
    HTTP: ("requests_total", "request_duration_milliseconds", "request_bytes", "response_bytes"),
    MESSAGES: ("request_messages_total", "response_messages_total"),
}


class MetricChange:
    """What is changed of one metric.

    Attributes:
        removed: Names of labels.
        values: Names of labels, each with the number of its expression.
        is_dropped: It is not counted.
    """

    __slots__ = ("is_dropped", "removed", "values")

    def __init__(self) -> None:
        self.removed: set[str] = set()
        self.values: dict[str, int] = {}
        self.is_dropped = False


class _Group:
    """Metrics that share a row, and how its labels are made."""

    __slots__ = ("kind", "picks")

    def __init__(self, kind: str, picks: tuple[int, ...]) -> None:
        self.kind = kind
        self.picks = picks

    def labels(self, standard: Labels, values: Labels) -> Labels:
        """Of the standard ones and of expressions, by their places; those are below zero."""
        return tuple([standard[place] if place >= 0 else values[~place] for place in self.picks])


class LabelOverrides:
    """The labels of one listener's metrics.

    Args:
        changes: By the names of metrics, without `istio_`.
        expressions: That changes refer to.
        standard: The labels of requests and of messages, by kind.
    """

    __slots__ = ("_expressions", "_groups", "_seen")

    def __init__(
        self,
        changes: Mapping[str, MetricChange],
        expressions: Sequence[Expression],
        standard: Mapping[str, Labels],
    ) -> None:
        self._expressions = tuple(expressions)
        self._seen: tuple[set[str], ...] = tuple(set() for _ in expressions)
        self._groups = {kind: _groups(kind, changes, standard[kind]) for kind in _OF_KIND}

    def chosen(self, request: Any) -> Chosen:
        """What a request's labels are made of: these overrides, and what its expressions are.

        Args:
            request: As expressions take it.
        """
        return self, tuple([self._value(place, request) for place in range(len(self._expressions))])

    def _value(self, place: int, request: Any) -> str:
        value = self._expressions[place](request)
        if value is None:
            return UNKNOWN
        value = bounded(value) if value else ""
        seen = self._seen[place]
        if value not in seen:
            if len(seen) >= _MAX_VALUES:
                return UNKNOWN
            seen.add(value)
        return value

    def rows(self, kind: str, standard: Labels, values: Labels) -> list[tuple[str, Labels]]:
        """The rows that a request is counted in, by kind and labels; none where every metric is dropped."""
        return [(group.kind, group.labels(standard, values)) for group in self._groups[kind]]


Chosen = tuple[LabelOverrides, Labels]


def _groups(kind: str, changes: Mapping[str, MetricChange], standard: Labels) -> list[_Group]:
    """The metrics of a kind by what labels they have."""
    shared: dict[tuple[Labels, tuple[int, ...]], list[int]] = {}
    for number, metric in enumerate(_OF_KIND[kind]):
        change = changes.get(metric) or MetricChange()
        if change.is_dropped:
            continue
        names, picks = [], []
        for place, name in enumerate(standard):
            if name in change.values or name not in change.removed:
                names.append(name)
                picks.append(~change.values[name] if name in change.values else place)
        for name, number_of_expression in sorted(change.values.items()):
            if name not in standard:
                names.append(name)
                picks.append(~number_of_expression)
        shared.setdefault((tuple(names), tuple(picks)), []).append(number)
    every = list(range(len(_OF_KIND[kind])))
    return [
        _Group(kind if names == standard and metrics == every else kind_of(kind, metrics, names), picks)
        for (names, picks), metrics in shared.items()
    ]


def kind_of(kind: str, metrics: Sequence[int], names: Labels) -> str:
    """The kind of rows that have other labels, or not all of the metrics: it says which."""
    return f"{kind} {''.join(map(str, metrics))} {','.join(names)}"


def meaning_of(kind: str, standard: Mapping[str, Labels]) -> tuple[str, frozenset[int], Labels]:
    """What a kind of rows stands for: HTTP or MESSAGES, the metrics that it shows, and the names of labels."""
    base, _, rest = kind.partition(" ")
    if not rest:
        return base, frozenset(range(len(_OF_KIND[base]))), standard[base]
    metrics, _, names = rest.partition(" ")
    return base, frozenset(map(int, metrics)), tuple(names.split(",")) if names else ()
