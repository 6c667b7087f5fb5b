"""What Kiali asks Prometheus, and the graph that it makes of the answers.

Source: kiali graph/telemetry/istio/istio.go (buildNamespaceTrafficMap, populateTrafficMap), its appenders
response_time, throughput and security_policy, util/util.go, graph/types.go (Id).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .real_prometheus import Answer, Series

__all__ = [
    "GROUP",
    "Edge",
    "Graph",
    "app_node",
    "first_values",
    "graph_of",
    "request_queries",
    "telemetry_queries",
    "workload_node",
]

GROUP = (
    "source_cluster,source_workload_namespace,source_workload,source_canonical_service,source_canonical_revision,"
    "destination_cluster,destination_service_namespace,destination_service,destination_service_name,"
    "destination_workload_namespace,destination_workload,destination_canonical_service,destination_canonical_revision"
)
_CODES = "request_protocol,response_code,grpc_response_status,response_flags"
_OPTIONAL = ("source_cluster", "destination_cluster", "grpc_response_status")

_SELECTORS = (
    'reporter="source",source_workload_namespace!="%(n)s",destination_workload_namespace="unknown",'
    'destination_workload="unknown",destination_service=~"^.+\\\\.%(n)s\\\\..+$"',
    'reporter="destination",destination_workload_namespace="%(n)s"',
    'reporter="source",source_workload_namespace="%(n)s"',
)
_TIMED = (
    'reporter="destination",destination_service_namespace="%(n)s"',
    'reporter="source",source_workload_namespace="%(n)s"',
)
_PASSING = (
    'source_workload_namespace!="%(n)s",destination_service_namespace="%(n)s"',
    'source_workload_namespace="%(n)s"',
)


def request_queries(namespace: str, metric: str = "rate(istio_requests_total{%s} [15s])") -> list[str]:
    """The three of the graph itself; `metric` says what of the counter is summed."""
    return [f"sum({metric % (selector % {'n': namespace})}) by ({GROUP},{_CODES}) > 0" for selector in _SELECTORS]


def telemetry_queries(namespace: str, seconds: int) -> dict[str, list[str]]:
    """What the edges are labelled with, and what the health of services and workloads is made of."""
    window = f"[{seconds}s]"
    group = f"{GROUP},request_protocol"
    no_service = GROUP.replace("destination_service,", "")

    def each(selectors: Iterable[str], form: str) -> list[str]:
        return [form.replace("SELECTED", selector % {"n": namespace}) for selector in selectors]

    into = (
        f'istio_requests_total{{destination_service_namespace="{namespace}",source_workload_namespace!="{namespace}",'
        'destination_cluster%s"%s"}'
    )
    out_of = f'istio_requests_total{{source_workload_namespace="{namespace}",source_cluster="Kubernetes"}}'
    timed = "istio_request_duration_milliseconds"
    proof = f"{no_service},source_principal,destination_principal,connection_security_policy"
    return {
        "messages sent": each(
            _SELECTORS, f"sum(rate(istio_request_messages_total{{SELECTED}} {window})) by ({GROUP}) > 0"
        ),
        "messages received": each(
            _SELECTORS, f"sum(rate(istio_response_messages_total{{SELECTED}} {window})) by ({GROUP}) > 0"
        ),
        "average": each(
            _TIMED,
            f"sum(rate({timed}_sum{{SELECTED}}{window})) by ({group})"
            f" / sum(rate({timed}_count{{SELECTED}}{window})) by ({group}) > 0",
        ),
        "quantile": each(
            _TIMED, f"histogram_quantile(0.95, sum(rate({timed}_bucket{{SELECTED}}{window})) by (le,{group})) > 0"
        ),
        "bytes out": each(
            _PASSING, f'sum(rate(istio_response_bytes_sum{{reporter="destination",SELECTED}}{window})) by ({GROUP}) > 0'
        ),
        "bytes in": each(
            _PASSING, f'sum(rate(istio_request_bytes_sum{{reporter="source",SELECTED}}{window})) by ({GROUP}) > 0'
        ),
        "badge": each(
            _PASSING, f'sum(rate(istio_requests_total{{reporter="destination",SELECTED}}{window})) by ({proof}) > 0'
        ),
        "health": [f"rate({into % ('=', 'Kubernetes')}{window}) > 0", f"rate({out_of}{window}) > 0"],
        # Of services, also what came to no workload.
        "health of services": [f"rate({into % ('=~', 'Kubernetes|unknown')}{window}) > 0"],
    }


Node = Callable[[str, str, str, str, str], str]


def workload_node(namespace: str, workload: str, app: str, version: str, service: str) -> str:
    """The node of a workload graph."""
    if _is_known(workload):
        return f"{workload}.{namespace}"
    return f"service {service}.{namespace}" if _is_known(service) else "unknown"


def app_node(namespace: str, workload: str, app: str, version: str, service: str) -> str:
    """The node of a graph of versioned apps."""
    if not _is_known(workload) or not _is_known(app):
        return workload_node(namespace, workload, app, version, service)
    return f"{app} {version}" if _is_known(version) and version != "latest" else app


@dataclass
class Edge:
    """What goes from one node to another by one protocol.

    Attributes:
        codes: How much by Kiali's code and the flags.
    """

    codes: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.codes.values())

    @property
    def error_share(self) -> float:
        return sum(value for (code, _), value in self.codes.items() if _is_error(code)) / self.total


@dataclass
class Graph:
    """A traffic map.

    Attributes:
        edges: By source, destination and protocol.
        skipped: Series that make no edge, and why.
        doubled: Series that both reporters tell and that are counted once.
    """

    edges: dict[tuple[str, str, str], Edge] = field(default_factory=dict)
    skipped: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    doubled: int = 0


def graph_of(answers: Iterable[Answer], node: Node = workload_node) -> Graph:
    """The graph that Kiali makes of the answers to the three queries, in their order."""
    graph = Graph()
    applied: set[tuple[str, ...]] = set()
    for series in (one for answer in answers for one in answer):
        labels = series.labels
        reason = _why_skipped(labels)
        if reason:
            graph.skipped.append((reason, labels))
            continue
        ending = (labels["request_protocol"], _code(labels), labels["response_flags"])
        key = (*(labels.get(name, "") for name in GROUP.split(",")), *ending)
        if key in applied:
            graph.doubled += 1
            continue
        applied.add(key)
        source, destination = _ends(labels, node)
        edge = graph.edges.setdefault((source, destination, labels["request_protocol"]), Edge())
        edge.codes[ending[1:]] = edge.codes.get(ending[1:], 0.0) + series.value
    return graph


def first_values(answers: Iterable[Answer], node: Node = workload_node) -> dict[tuple[str, str], Series]:
    """Values of edges, of which the first that is told wins."""
    found: dict[tuple[str, str], Series] = {}
    for series in (one for answer in answers for one in answer):
        found.setdefault(_ends(series.labels, node), series)
    return found


def _ends(labels: Mapping[str, str], node: Node) -> tuple[str, str]:
    def of(side: str, service: str) -> str:
        names = ("workload_namespace", "workload", "canonical_service", "canonical_revision")
        namespace, workload, app, version = (labels[f"{side}_{name}"] for name in names)
        if side == "destination" and not _is_known(workload):
            namespace = labels["destination_service_namespace"]
        return node(namespace, workload, app, version, service)

    return of("source", ""), of("destination", labels["destination_service_name"])


def _is_known(value: str) -> bool:
    return value not in ("", "unknown")


def _why_skipped(labels: Mapping[str, str]) -> str:
    """Why a series makes no edge; empty where it makes one. A label that is empty is none in Prometheus."""
    missing = [name for name in f"{GROUP},{_CODES}".split(",") if name not in (*_OPTIONAL, *labels)]
    if missing:
        return f"no {missing}"
    source = [labels[f"source_{name}"] for name in ("workload_namespace", "workload", "canonical_service")]
    if _is_known(source[0]):
        if not _is_known(source[1]) and not _is_known(source[2]):
            return "a source without a name"
        if not _is_known(labels.get("source_cluster", "-")):
            return "a source of no cluster"
    if _is_known(labels["destination_service_namespace"]):
        cluster = labels.get("destination_cluster", "-")
        if not _is_known(cluster) and not _is_known(labels.get("source_cluster", "unknown")):
            return "a destination of no cluster"
    return ""


def _code(labels: Mapping[str, str]) -> str:
    code, status = labels["response_code"], labels.get("grpc_response_status")
    if code == "0":
        return "-"
    if labels["request_protocol"] != "grpc" or code[0] in "45" or status is None:
        return code
    return status


def _is_error(code: str) -> bool:
    return code == "-" or (len(code) == 3 and code[0] in "45") or (len(code) < 3 and code != "0")
