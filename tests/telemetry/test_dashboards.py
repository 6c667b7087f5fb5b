"""Kiali's graph and Istio's dashboards of bookinfo, by a real Prometheus that scrapes its processes."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from typing import Any

import pytest

from .istio_dashboards import mesh_queries, service_queries, workload_queries
from .kiali import Graph, app_node, first_values, graph_of, request_queries, telemetry_queries
from .our_dashboard import targets_of
from .watched_bookinfo import Watched, watched_bookinfo

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="there is no prometheus here")

# Within which the traffic is steady; rates are of its last seconds.
WINDOW = 12
_SIDES = ("source", "destination")
VISITORS, PAGE, DETAILS = "visitors-v1.shop", "productpage-v1.default", "details-v1.default"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_bookinfo(tmp_path_factory.mktemp("bookinfo")) as one:
        yield one


def expected_edges(watched: Watched) -> dict[tuple[str, str, str], dict[tuple[str, str], int]]:
    """What Kiali must draw, by what the answers of the traffic said."""
    pages, reviews, ratings = sum(watched.pages.values()), watched.reviews, watched.ratings
    assert pages > 30, "too little traffic to be seen"
    edges: dict[tuple[str, str, str], dict[tuple[str, str], int]] = {
        (VISITORS, PAGE, "http"): {("200", "-"): watched.pages["visitors"], ("404", "-"): watched.missing},
        ("unknown", PAGE, "http"): {("200", "-"): watched.pages["stranger"]},
        (PAGE, DETAILS, "http"): {("200", "-"): watched.details[True]},
        (VISITORS, "service details.default", "http"): {("500", "FI"): watched.refused},
        # What a fault answers came to no workload: the edge ends at the service.
        (PAGE, "service details.default", "http"): {("500", "FI"): watched.details[False]},
    }
    for version, count in reviews.items():
        edges[PAGE, f"reviews-{version}.default", "http"] = {("200", "-"): count}
    for (version, replica), count in ratings.items():
        source = f"reviews-{version}.default"
        if replica == "unavailable":
            edges[source, "service ratings.default", "grpc"] = {("14", "FI"): count}
        else:
            edges[source, f"ratings-{replica}.default", "grpc"] = {("0", "-"): count}
    return edges


def of_namespace(edges: dict[tuple[str, str, str], Any], namespace: str) -> dict[tuple[str, str, str], Any]:
    """Those that begin or end in a namespace."""
    return {ends: edge for ends, edge in edges.items() if any(one.endswith(f".{namespace}") for one in ends)}


def codes_of(graph: Graph) -> dict[tuple[str, str, str], dict[tuple[str, str], float]]:
    return {ends: edge.codes for ends, edge in graph.edges.items()}


@pytest.mark.parametrize("namespace", ["default", "shop"])
def test_kialis_graph_has_the_edges_and_the_counts_of_the_traffic(watched: Watched, namespace: str) -> None:
    queries = request_queries(namespace, "istio_requests_total{%s}")
    graph = graph_of(watched.counted(query) for query in queries)
    assert codes_of(graph) == of_namespace(expected_edges(watched), namespace)
    assert graph.skipped == []


def test_kiali_counts_a_request_once_that_both_ends_tell(watched: Watched) -> None:
    queries = request_queries("default", "istio_requests_total{%s}")
    graph = graph_of(watched.counted(query) for query in queries)
    told_by_both = [
        codes
        for (source, end, _), codes in expected_edges(watched).items()
        if source.endswith(".default") and not end.startswith("service")
    ]
    assert graph.doubled == sum(map(len, told_by_both))


def test_kialis_rates_are_those_of_the_traffic(watched: Watched) -> None:
    queries = request_queries("default", f"rate(istio_requests_total{{%s}} [{WINDOW}s])")
    graph = graph_of(watched.during(query) for query in queries)
    expected = expected_edges(watched)
    assert graph.edges.keys() == expected.keys()
    for ends, edge in graph.edges.items():
        total = sum(expected[ends].values())
        assert edge.total == pytest.approx(total / watched.seconds, rel=0.4), ends
    visitors = graph.edges[VISITORS, PAGE, "http"]
    share = watched.missing / (watched.missing + watched.pages["visitors"])
    assert visitors.error_share == pytest.approx(share, abs=0.05)
    assert graph.edges[PAGE, "service details.default", "http"].error_share == 1
    assert graph.edges[PAGE, DETAILS, "http"].error_share == 0


def test_kialis_graph_of_apps_has_their_versions(watched: Watched) -> None:
    queries = request_queries("default", "istio_requests_total{%s}")
    graph = graph_of((watched.counted(query) for query in queries), app_node)
    ends = {(source, end) for source, end, _ in graph.edges}
    assert {("visitors v1", "productpage v1"), ("productpage v1", "details v1")} <= ends
    assert {end for source, end in ends if source == "productpage v1" and end.startswith("reviews")} == {
        "reviews v1",
        "reviews v2",
        "reviews v3",
    }
    # Both replicas are one version of the app.
    assert ("reviews v2", "ratings v1") in ends


def test_kialis_labels_of_edges_are_there_for_every_edge(watched: Watched) -> None:
    asked = telemetry_queries("default", WINDOW)
    found = {what: first_values(watched.during(query) for query in queries) for what, queries in asked.items()}
    ends = {(source, end) for source, end, _ in expected_edges(watched)}
    for what in ("average", "quantile"):
        # Kiali leaves out what is 0: durations are whole milliseconds, and most of what a fault answers takes none.
        assert ends >= found[what].keys() >= {pair for pair in ends if not pair[1].startswith("service")}, what
        assert all(0 <= one.value < 10_000 for one in found[what].values()), found[what]
    # The visitors' own clock; rates are of the last seconds alone.
    milliseconds = statistics.mean(watched.seconds_of_pages) * 1000
    assert 0.3 * milliseconds < found["average"][VISITORS, PAGE].value < 2 * milliseconds
    for what in ("messages sent", "messages received"):
        # What a fault aborts, sends none.
        assert found[what].keys() == {(source, end) for source, end in ends if end.startswith("ratings")}
    # Kiali divides what the source reports for requests, and what the destination does for responses.
    assert found["bytes in"].keys() == {(source, end) for source, end in ends if source != "unknown"}
    assert found["bytes out"].keys() == {pair for pair in ends if not pair[1].startswith("service")}
    assert found["health"].keys() == ends - {(VISITORS, "service details.default")}
    assert found["health of services"].keys() == {pair for pair in ends if not pair[0].endswith(".default")}


def test_grpc_messages_are_as_many_as_the_calls(watched: Watched) -> None:
    for metric in ("istio_request_messages_total", "istio_response_messages_total"):
        told = watched.counted(f'sum({metric}{{reporter="destination"}}) by (source_workload, destination_workload)')
        calls = {
            (f"reviews-{version}", f"ratings-{replica}"): count
            for (version, replica), count in watched.ratings.items()
            if replica != "unavailable"
        }
        assert told.by("source_workload", "destination_workload") == calls


def test_kialis_locks_are_on_what_is_encrypted(watched: Watched) -> None:
    for query in telemetry_queries("default", WINDOW)["badge"]:
        for labels, _ in watched.during(query):
            is_open = labels["source_workload"] == "unknown" or labels["destination_workload"].startswith("ratings")
            assert labels["connection_security_policy"] == ("none" if is_open else "mutual_tls"), labels
            who = [f"spiffe://cluster.local/ns/{labels[f'{one}_workload_namespace']}/sa/default" for one in _SIDES]
            principals = [labels[f"{one}_principal"] for one in _SIDES]
            assert principals == (["unknown", "unknown"] if is_open else who)


def test_istios_dashboard_of_the_mesh_shows_the_traffic(watched: Watched) -> None:
    told = {panel: watched.during(query) for panel, query in mesh_queries(f"{WINDOW}s").items()}
    edges = [(ends, codes) for ends, codes in expected_edges(watched).items() if ends[0] != "unknown"]
    total = sum(sum(codes.values()) for _, codes in edges)
    failed = {code: sum(codes.get(code, 0) for _, codes in edges) for code in (("404", "-"), ("500", "FI"))}
    assert told["volume"].total() == pytest.approx(total / watched.seconds, rel=0.3)
    assert told["4xx"].total() == pytest.approx(failed["404", "-"] / watched.seconds, rel=0.5)
    assert told["5xx"].total() == pytest.approx(failed["500", "FI"] / watched.seconds, rel=0.5)
    assert told["success"].total() == pytest.approx(1 - failed["500", "FI"] / total, abs=0.05)
    rows = told["workloads"].by("destination_workload_var", "destination_service")
    assert rows.keys() == {
        (f"{name}.default", f"{name.partition('-')[0]}.default.svc.cluster.local")
        for name in ("productpage-v1", "details-v1", "reviews-v1", "reviews-v2", "reviews-v3", "ratings-a", "ratings-b")
    } | {("unknown.unknown", f"{name}.default.svc.cluster.local") for name in ("details", "ratings")}
    workloads = {workload for workload, _ in rows}
    for panel in ("p5", "p9", "p99", "workloads' success"):
        assert {labels["destination_workload_var"] for labels, _ in told[panel]} == workloads, panel
    assert told["versions"].by("component") == {("proxy",): 8}


def test_istios_dashboard_of_a_service_shows_who_asks_it_and_who_answers(watched: Watched) -> None:
    asked = service_queries("reviews.default.svc.cluster.local", "destination", f"{WINDOW}s")
    told = {panel: watched.during(query) for panel, query in asked.items()}
    rate = sum(watched.reviews.values()) / watched.seconds
    for side in ("client", "server"):
        # irate is of the last second alone.
        assert told[f"{side} volume"].total() == pytest.approx(rate, rel=0.7)
        assert told[f"{side} success"].total() == 1
        assert 0 < told[f"{side} duration"].total() < 10
    assert told["secure by source"].by("source_workload", "response_code").keys() == {("productpage-v1", "200")}
    assert told["secure by workload"].by("destination_workload", "response_code").keys() == {
        ("reviews-v1", "200"),
        ("reviews-v2", "200"),
        ("reviews-v3", "200"),
    }
    assert all(told[panel] for panel in asked if panel.startswith("secure"))
    # Before the traffic somebody looked whether they were up, without a certificate.
    assert told["open by source"].by("source_workload", "response_code") == {("unknown", "200"): 0}
    asked = service_queries("ratings.default.svc.cluster.local", "source", f"{WINDOW}s")
    told = {panel: watched.during(query) for panel, query in asked.items()}
    assert told["open by source"].by("source_workload").keys() == {("reviews-v2",), ("reviews-v3",)}
    assert told["open by workload"].by("destination_workload").keys() == {("ratings-a",), ("ratings-b",)}


def test_istios_dashboard_of_a_workload_shows_what_comes_in_and_what_goes_out(watched: Watched) -> None:
    asked = workload_queries("productpage-v1", "destination", f"{WINDOW}s")
    told = {panel: watched.during(query) for panel, query in asked.items()}
    pages = sum(watched.pages.values()) + watched.missing
    assert told["volume"].total() == pytest.approx(pages / watched.seconds, rel=0.7)
    assert told["success"].total() == 1
    assert told["secure in"].by("source_workload", "response_code").keys() == {
        ("visitors-v1", "200"),
        ("visitors-v1", "404"),
    }
    assert told["open in"].by("source_workload", "response_code").keys() == {("unknown", "200")}
    details, reviews = (f"{name}.default.svc.cluster.local" for name in ("details", "reviews"))
    assert told["secure out"].by("destination_service", "response_code").keys() == {(details, "200"), (reviews, "200")}
    assert told["open out"].by("destination_service", "response_code").keys() == {(details, "500")}
    for panel in asked:
        # A client says nothing of the policy, and so Istio's panels of what goes out are empty by half.
        is_empty = panel.startswith("secure out:")
        assert bool(told[panel]) is not is_empty, panel


def test_our_own_dashboard_has_data_in_every_panel(watched: Watched) -> None:
    told = {}
    for panel, query in targets_of({"job": ".*", "instance": ".*", "cluster": ".*"}, f"{WINDOW}s"):
        told[panel, query] = watched.during(query)
        assert told[panel, query], (panel, query)
    overview = {panel: answer.total() for (panel, _), answer in told.items()}
    assert overview["Processes"] == 8
    for panel in ("Without a management server", "With a problem", "Refused resources", "Ejected endpoints"):
        assert overview[panel] == 0, panel
    assert overview["Next certificate ends in"] > 0
    reviews = {"cluster": "outbound|9080|v2|reviews.default.svc.cluster.local"}
    (healthy,) = (answer for (panel, _), answer in told.items() if panel == "Healthy endpoints")
    assert healthy.total(**reviews) == 1
    opened = watched.prometheus.ask("sum by (cluster) (meshsdk_cluster_tls_handshakes_total)")
    assert opened.total(**reviews) >= 1
    limits = watched.prometheus.ask('max by (cluster) (meshsdk_cluster_requests_limit{priority="default"})')
    assert limits.total(**reviews) == 900
