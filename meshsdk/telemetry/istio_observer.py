"""Istio's standard metrics through OpenTelemetry's API, for applications that export by its SDK.

Counters are read from the cells when somebody collects. Histograms cannot be read so, since the API has no observable
ones: each request is recorded as it is counted, but only where there is a meter provider. Names and labels are those
that Prometheus gets; labels that are empty are left out. Each process tells its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from .cells import BOUNDS, HISTOGRAM, HTTP, MESSAGES, Cells
from .label_names import STANDARD_LABELS
from .label_overrides import meaning_of
from .providers import is_measured

__all__ = ["Counted", "IstioObserver"]

_SCOPE = "meshsdk"
_MAX_KNOWN = 8192

_HISTOGRAMS = (
    ("istio_request_duration_milliseconds", "ms", "How long requests took."),
    ("istio_request_bytes", "By", "Size of requests."),
    ("istio_response_bytes", "By", "Size of responses."),
)
# Name, kind of rows, the metric's number in a row, what it is.
_COUNTERS = (
    ("istio_requests_total", HTTP, 0, "Requests."),
    ("istio_request_messages_total", MESSAGES, 0, "gRPC messages that clients have sent."),
    ("istio_response_messages_total", MESSAGES, 1, "gRPC messages that servers have sent."),
)

Attributes = dict[str, str]
# Which of a row's metrics are shown, and the attributes that they have.
_Known = tuple[frozenset[int], Attributes]


Record = Callable[[int, int, int, int], None]


class Counted(Protocol):
    """What counts (`istio_metrics.IstioMetrics`)."""

    @property
    def cells(self) -> Cells:
        """Where it is counted."""

    def record_by(self, make: Callable[[Cells], Record]) -> None:
        """Have each request recorded, too: its row, milliseconds, and bytes that came and went."""


class IstioObserver:
    """Tells of what is counted.

    Args:
        living: Gives whatever counts.
    """

    def __init__(self, living: Callable[[], Iterable[Counted]]) -> None:
        self._living = living
        meter = metrics.get_meter(_SCOPE)
        self._histograms = [
            meter.create_histogram(
                name,
                unit=unit,
                description=description,
                explicit_bucket_boundaries_advisory=[float(one) for one in BOUNDS],
            )
            for name, unit, description in _HISTOGRAMS
        ]
        for name, kind, number, description in _COUNTERS:
            meter.create_observable_counter(name, [self._reader(kind, number)], description=description)
        for one in living():
            self.attach(one)

    def attach(self, counted: Counted) -> None:
        """Have requests recorded from now on, where there is a meter provider."""
        if is_measured():
            counted.record_by(self._recorder)

    def _reader(self, kind: str, number: int) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(options: CallbackOptions) -> Iterator[Observation]:
            for counted in self._living():
                self.attach(counted)
                for (shown, attributes), numbers in _rows(counted.cells, kind):
                    if number in shown:
                        value = sum(numbers[1:HISTOGRAM]) if kind == HTTP else numbers[number]
                        yield Observation(value, attributes)

        return read

    def _recorder(self, cells: Cells) -> Record:
        """What is called with each request: its row, milliseconds, and bytes that came and went."""
        known: dict[int, _Known] = {}
        duration, came, went = self._histograms

        def record(row: int, milliseconds: int, received: int, sent: int) -> None:
            found = known.get(row)
            if found is None:
                if len(known) >= _MAX_KNOWN:
                    known.clear()
                found = known[row] = _known(*cells.meaning(row))
            shown, attributes = found
            if 1 in shown:
                duration.record(milliseconds, attributes)
            if 2 in shown:
                came.record(received, attributes)
            if 3 in shown:
                went.record(sent, attributes)

        return record


def _rows(cells: Cells, kind: str) -> Iterator[tuple[_Known, list[int]]]:
    for (row_kind, labels), numbers in cells.own_rows():
        if row_kind.startswith(kind):
            yield _known(row_kind, labels), numbers


def _known(kind: str, labels: tuple[str, ...]) -> _Known:
    _, shown, names = meaning_of(kind, STANDARD_LABELS)
    return shown, {name: value for name, value in zip(names, labels, strict=True) if value}
