"""The dashboard in integrations/grafana is what Grafana imports, and is about metrics that there are."""

from __future__ import annotations

import re
from itertools import combinations

from .our_dashboard import DASHBOARD, ROOT, panels_of

DOCUMENTED = (ROOT / "docs/metrics.md").read_text()
NAME = re.compile(r"meshsdk_[a-z_]+")


def documented() -> set[str]:
    """Names in the tables; ` `_more` ` stands for the first of its row, up to where they part."""
    names: set[str] = set()
    for row in re.findall(r"^\| (`meshsdk_.*?) \|", DOCUMENTED, re.MULTILINE):
        first, *others = re.findall(r"`([a-z_]+)`", row)
        prefix = "meshsdk_cluster" if first.startswith("meshsdk_cluster_") else "meshsdk_certificate"
        names |= {first, *(f"{prefix}{other}" if other.startswith("_") else other for other in others)}
    return names


def test_it_is_a_dashboard_of_grafanas_schema() -> None:
    assert DASHBOARD["uid"] == "meshsdk-engine"
    assert len(DASHBOARD["uid"]) <= 40, "Grafana takes no longer one"
    assert DASHBOARD["id"] is None, "one that is imported has none"
    assert DASHBOARD["schemaVersion"] >= 38
    assert DASHBOARD["title"]
    assert {"from", "to"} == DASHBOARD["time"].keys()
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in panels_of():
        assert panel["type"] in ("stat", "timeseries")
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert {"defaults", "overrides"} == panel["fieldConfig"].keys()
        references = [target["refId"] for target in panel["targets"]]
        assert references == sorted(set(references))
        for target in panel["targets"]:
            assert target["expr"]
            assert target["datasource"] == panel["datasource"]


def test_it_asks_for_its_data_source_and_for_what_is_to_be_seen() -> None:
    first, *others = DASHBOARD["templating"]["list"]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    assert [one["name"] for one in others] == ["job", "instance", "cluster"]
    for variable in others:
        assert variable["type"] == "query"
        assert variable["includeAll"]
        assert variable["allValue"] == ".*"
        assert variable["query"]["query"] == variable["definition"]


def test_no_panel_lies_on_another() -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in DASHBOARD["panels"]]
    for _, place in places:
        assert place["x"] + place["w"] <= 24
    for (one, a), (other, b) in combinations(places, 2):
        is_beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        is_below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert is_beside or is_below, (one, other)


def test_it_shows_every_metric_that_the_documentation_names_and_no_other() -> None:
    shown = {name for panel in panels_of() for target in panel["targets"] for name in NAME.findall(target["expr"])}
    of_requests = {"meshsdk_metrics_series", "meshsdk_metrics_missed_requests_total"}
    of_logs = {"meshsdk_access_log_dropped_lines_total"}
    assert shown == documented() - of_requests - of_logs
