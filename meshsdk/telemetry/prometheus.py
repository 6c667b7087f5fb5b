"""What a scrape is told: our numbers in Prometheus' text format 0.0.4, then those of the application.

The text is written here and not by prometheus_client, which makes an object of each of the sixty lines that a set of
labels has, and sorts its labels anew for each: 10,000 lines take it half a second of the process whose requests wait
meanwhile, and this one 40 ms (prometheus_client 0.26, Python 3.11). An application that counts by prometheus_client has
its own registry joined on, as Istio's agent joins the application's page.

Source: Prometheus docs, instrumenting/exposition_formats.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from ..errors import MeshError
from .cells import BOUNDS, HISTOGRAM, HTTP
from .istio_metrics import STANDARD_LABELS, IstioMetrics
from .label_overrides import meaning_of

__all__ = ["CONTENT_TYPE", "Family", "exposition"]

logger = logging.getLogger("meshsdk.telemetry")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# prometheus_client's own, for processes that share their numbers.
MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_HISTOGRAMS = ("istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes")
_COUNTERS_OF_MESSAGES = ("istio_request_messages_total", "istio_response_messages_total")
_BOUNDS = (*(f"{bound:g}" if bound < 1e6 else str(int(bound)) for bound in BOUNDS), "+Inf")


# Its labels as text, and its numbers.
_Row = tuple[str, list[int]]


class Family(NamedTuple):
    """A metric that is read when it is asked for.

    Attributes:
        kind: `gauge` or `counter`.
        labels: Names of its labels.
        samples: Their values, and its own.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    samples: Sequence[tuple[tuple[str, ...], float]]


def exposition(
    metrics: IstioMetrics, build: str = "unknown", dropped_lines: int | None = None, families: Iterable[Family] = ()
) -> bytes:
    """The page.

    Args:
        metrics: Of this process.
        build: The version of Istio that it says it is.
        dropped_lines: Of access logs that this process could not write; None where it has none.
        families: That stand beside them.
    """
    page = bytearray()
    for block in chain(_blocks(metrics, build, dropped_lines), map(_family, families)):
        # One by one: together they may have tens of megabytes, and would be there three times over.
        page += block.encode("utf-8", "replace")
        page += b"\n"
    page += _of_application()
    return bytes(page)


def _blocks(metrics: IstioMetrics, build: str, dropped_lines: int | None) -> Iterator[str]:
    """Lines of the page, some of them several in one."""
    rows, missed = metrics.cells.rows()
    # By metric, in the order of a row's.
    requests: list[list[_Row]] = [[], [], [], []]
    messages: list[list[_Row]] = [[], []]
    meanings: dict[str, tuple[str, frozenset[int], tuple[str, ...]]] = {}
    for (kind, values), numbers in rows.items():
        meaning = meanings.get(kind)
        if meaning is None:
            meaning = meanings[kind] = meaning_of(kind, STANDARD_LABELS)
        base, metrics_shown, names = meaning
        row = (_labels(names, values), numbers)
        for number in metrics_shown:
            (requests if base == HTTP else messages)[number].append(row)
    if requests[0]:
        yield "# TYPE istio_requests_total counter"
        for labels, numbers in requests[0]:
            yield f"istio_requests_total{{{labels}}} {sum(numbers[1:HISTOGRAM])}"
    for place, name in enumerate(_HISTOGRAMS):
        if requests[place + 1]:
            yield f"# TYPE {name} histogram"
        for labels, numbers in requests[place + 1]:
            yield _histogram(name, labels, numbers[place * HISTOGRAM : (place + 1) * HISTOGRAM])
    for place, name in enumerate(_COUNTERS_OF_MESSAGES):
        if messages[place]:
            yield f"# TYPE {name} counter"
        for labels, numbers in messages[place]:
            yield f"{name}{{{labels}}} {numbers[place]}"
    yield "# TYPE istio_build gauge"
    yield f'istio_build{{component="proxy",tag="{_escaped(build)}"}} 1'
    yield "# TYPE meshsdk_metrics_series gauge"
    yield f"meshsdk_metrics_series {len(rows)}"
    yield "# TYPE meshsdk_metrics_missed_requests_total counter"
    yield f"meshsdk_metrics_missed_requests_total {missed}"
    if dropped_lines is not None:
        yield "# TYPE meshsdk_access_log_dropped_lines_total counter"
        yield f"meshsdk_access_log_dropped_lines_total {dropped_lines}"


def _family(family: Family) -> str:
    lines = [f"# TYPE {family.name} {family.kind}"]
    for values, value in family.samples:
        labels = f"{{{_labels(family.labels, values)}}}" if values else ""
        # Times have more digits than `g` shows.
        lines.append(f"{family.name}{labels} {value!r}")
    return "\n".join(lines)


def _escaped(value: str) -> str:
    # str.translate takes ten times as long.
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def _histogram(name: str, labels: str, numbers: list[int]) -> str:
    count, lines, bucket = 0, [], f'{name}_bucket{{{labels},le="'
    for bound, number in zip(_BOUNDS, numbers[1:], strict=True):
        count += number
        lines.append(f'{bucket}{bound}"}} {count}')
    lines.append(f"{name}_sum{{{labels}}} {numbers[0]}")
    lines.append(f"{name}_count{{{labels}}} {count}")
    return "\n".join(lines)


_has_told = False


def _of_application() -> bytes:
    """What the application's own metrics are, where it counts by prometheus_client."""
    global _has_told
    try:
        if os.environ.get(MULTIPROCESS_VARIABLE):
            # Every process of the application counts into files there; this one may not have imported it.
            from prometheus_client import CollectorRegistry, generate_latest, multiprocess

            registry: Any = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        elif "prometheus_client" in sys.modules:
            from prometheus_client import REGISTRY, generate_latest

            registry = REGISTRY
        else:
            return b""
        page: bytes = generate_latest(registry)
        return page
    except Exception as error:  # noqa: BLE001 - a collector of the application's; the mesh's metrics do without it.
        if not _has_told:
            _has_told = True
            # A text within an error of ours is one line.
            logger.error("the application's own metrics cannot be had: %s", MeshError(repr(error)))
        return b""
