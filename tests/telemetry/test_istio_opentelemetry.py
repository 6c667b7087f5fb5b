"""Istio's metrics through OpenTelemetry's API, with its real SDK in a process of its own: it can be set only once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meshsdk.telemetry.cells import BOUNDS
from meshsdk.telemetry.istio_metrics import REQUEST_LABELS

from ..conftest import service
from ..patience import PATIENCE
from ..processes import CLEAN_ENVIRONMENT
from ..servers import EchoServer
from .test_metric_overrides import override, telemetry

ROOT = Path(__file__).parents[2]


def told(tmp_path: Path, when: str, *documents: str) -> dict[str, Any]:
    """What the reader gets of three requests."""
    folder = tmp_path / "mesh"
    folder.mkdir()
    with EchoServer("reviews") as server:
        (folder / "mesh.yaml").write_text(service("reviews", server.port) + "".join(documents))
        command = [sys.executable, "-m", "tests.telemetry.istio_by_opentelemetry", str(folder), "http://reviews", when]
        done = subprocess.run(
            command, cwd=ROOT, env=CLEAN_ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_counters_and_histograms_are_exported_and_views_hold(tmp_path: Path) -> None:
    points = told(tmp_path, "early")["points"]
    [requests] = points["istio_requests_total"]
    assert requests["count"] == 3
    # grpc_response_status is empty, and so no attribute.
    assert set(requests["attributes"]) == set(REQUEST_LABELS) - {"grpc_response_status"}
    assert requests["attributes"]["source_workload"] == "productpage-v1"
    assert requests["attributes"]["destination_service"] == "reviews.default.svc.cluster.local"
    [duration] = points["istio_request_duration_milliseconds"]
    assert (duration["count"], duration["attributes"]) == (3, requests["attributes"])
    assert duration["bounds"] == list(BOUNDS)
    # By the application's views: one is dropped, the other has one attribute.
    assert "istio_request_bytes" not in points
    [response] = points["istio_response_bytes"]
    assert (response["count"], response["attributes"]) == (3, {"response_code": "200"})


def test_a_provider_that_is_set_later_gets_all_that_was_counted(tmp_path: Path) -> None:
    points = told(tmp_path, "late")["points"]
    assert points["istio_requests_total"][0]["count"] == 3
    # What was counted before there was anybody to record it is not in a histogram.
    assert points["istio_request_duration_milliseconds"][0]["count"] == 1


def test_without_a_provider_nothing_is_recorded(tmp_path: Path) -> None:
    found = told(tmp_path, "never")
    assert found == {"points": {}, "records": False, "loads_sdk": False}


@pytest.mark.parametrize("name", ["istio_requests_total", "istio_request_duration_milliseconds"])
def test_labels_that_telemetry_changes_are_changed_there_too(tmp_path: Path, name: str) -> None:
    tags = override("tagOverrides: {request_method: {value: request.method}, source_app: {operation: REMOVE}}")
    [point] = told(tmp_path, "early", telemetry(tags))["points"][name]
    assert point["attributes"]["request_method"] == "GET"
    assert "source_app" not in point["attributes"]
    assert point["count"] == 3
