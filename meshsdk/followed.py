"""What configuration says of access logs and of metrics, followed as it changes. Nobody pays for what is not there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .node import Node

if TYPE_CHECKING:
    from .access_log import AccessLogs, Entry
    from .access_log.sinks import Sink
    from .resources.access_log import AccessLogConfig
    from .resources.istio_stats import StatsConfig
    from .resources.log_service import LogService
    from .telemetry.istio_metrics import IstioMetrics

__all__ = ["OpenLogService", "Stats", "follow_logs", "follow_metrics"]

# Opens a server that is told of requests.
OpenLogService = Callable[["LogService"], "Sink[Entry]"]

# Of each listener that changes some metrics; its name, and whether it is a server's.
Stats = Sequence[tuple["StatsConfig", str, bool]]


def follow_logs(
    logs: AccessLogs | None,
    configs: list[tuple[AccessLogConfig, ...]],
    open_service: OpenLogService | None,
) -> tuple[AccessLogs | None, list[str]]:
    """The access logs of a Mesh, which may be none, and what is wrong with them.

    Args:
        logs: Until now.
        configs: Those of every listener.
        open_service: Opens a server that is told of requests.
    """
    if configs and logs is None:
        from .access_log import AccessLogs
        from .http.measured import Record

        logs = AccessLogs((), Record, open_service)
    return logs, logs.follow(configs) if logs is not None else []


def follow_metrics(metrics: IstioMetrics | None, stats: Stats, node: Node) -> list[str]:
    """Have metrics labelled as configuration says, where there are any; returns what is refused of it.

    Args:
        metrics: Of a Mesh.
        stats: What listeners change.
        node: This process, for expressions.
    """
    if metrics is None or not (stats or metrics.overrides):
        return []
    from .access_log.metric_tags import follow

    return follow(metrics, stats, {"id": node.id, "cluster": node.cluster, "metadata": dict(node.metadata)})
