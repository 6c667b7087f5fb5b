"""Weights that endpoints report of themselves (ORCA; gRFC A58; client_side_weighted_round_robin.proto).

A report comes in a response's `endpoint-load-metrics` header or trailer. The weight is queries per second over
utilization; endpoints without a usable one have the median of those that have.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..resources.cluster import ClientSideWeightedRoundRobin
from .endpoint import Endpoint

__all__ = ["current_weights", "parse_report", "take_load_report", "take_report"]


def parse_report(text: str) -> Mapping[str, Any] | None:
    """The fields of a load report in one of its text forms (`TEXT a=1, b.c=2` or `JSON {…}`); None for no report."""
    form, _, rest = text.strip().partition(" ")
    if form == "JSON":
        try:
            report = json.loads(rest)
        except ValueError:
            return None
        return report if isinstance(report, dict) else None
    if form != "TEXT":
        return None
    report = {}
    for pair in rest.split(","):
        name, _, value = pair.strip().partition("=")
        try:
            number = float(value)
        except ValueError:
            continue
        section, dot, key = name.partition(".")
        if dot:
            report.setdefault(section, {})[key] = number
        else:
            report[name] = number
    return report


def take_report(
    policy: ClientSideWeightedRoundRobin, endpoint: Endpoint, report: Mapping[str, Any], now: float
) -> None:
    """Remember the weight that a report gives an endpoint; a report without one is as none."""
    weight = _weight(policy, report)
    if weight <= 0:
        return
    if not endpoint.reported_weight or now - endpoint.reported_at >= policy.expiration_seconds:
        endpoint.first_report_at = now
    endpoint.reported_weight, endpoint.reported_at = weight, now


def take_load_report(endpoint: Endpoint, text: str | None, now: float) -> None:
    """What an endpoint says of its load, in a header or trailer (gRFC A51), where its cluster asks for it."""
    policy, load = endpoint.cluster.load_reports, endpoint.cluster.load
    is_told_on = load is not None and bool(load.reporting.metrics)
    report = parse_report(text) if text and (policy is not None or is_told_on) else None
    if report is None:
        return
    if policy is not None:
        take_report(policy, endpoint, report, now)
    if load is not None:
        load.take(endpoint, report)


def current_weights(
    policy: ClientSideWeightedRoundRobin, endpoints: Sequence[Endpoint], now: float
) -> dict[Endpoint, float]:
    """The weight of each endpoint now; all are equal where fewer than two have a usable one."""
    known = {
        endpoint: endpoint.reported_weight
        for endpoint in endpoints
        if endpoint.reported_weight
        and now - endpoint.reported_at < policy.expiration_seconds
        and now - endpoint.first_report_at >= policy.blackout_seconds
    }
    if len(known) < 2:
        return dict.fromkeys(endpoints, 1.0)
    middle = statistics.median(known.values())
    return {endpoint: known.get(endpoint, middle) for endpoint in endpoints}


def _weight(policy: ClientSideWeightedRoundRobin, report: Mapping[str, Any]) -> float:
    queries = _number(report, "rps_fractional") or _number(report, "rps")
    if queries <= 0:
        return 0.0
    utilization = _utilization(policy, report)
    if utilization <= 0:
        return 0.0
    errors = _number(report, "eps")
    if errors > 0 and policy.error_utilization_penalty > 0:
        utilization += errors / queries * policy.error_utilization_penalty
    return queries / utilization


def _utilization(policy: ClientSideWeightedRoundRobin, report: Mapping[str, Any]) -> float:
    """The application's own, or the named metrics' highest, or that of the CPU."""
    named = [_named(report, name) for name in policy.metric_names]
    highest = max(named, default=0.0)
    return _number(report, "application_utilization") or highest or _number(report, "cpu_utilization")


def _named(report: Mapping[str, Any], name: str) -> float:
    section, _, key = name.partition(".")
    inner = report.get(section)
    return _number(inner, key) if isinstance(inner, Mapping) else 0.0


def _number(report: Mapping[str, Any], name: str) -> float:
    value = report.get(name, 0.0)
    return float(value) if isinstance(value, (int, float)) and value == value else 0.0
