"""A process that counts by Istio's metrics and exports by OpenTelemetry's SDK: what its reader gets, as JSON.

python -m tests.telemetry.istio_by_opentelemetry FOLDER URL early|late|never
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import meshsdk

# Longer than a look for a provider holds (telemetry/lookup.py).
ONE_LOOK_SECONDS = 0.5

folder, url, when = sys.argv[1:]


def set_provider() -> Any:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.metrics.view import DropAggregation, View

    reader = InMemoryMetricReader()
    views = [
        View(instrument_name="istio_request_bytes", aggregation=DropAggregation()),
        View(instrument_name="istio_response_bytes", attribute_keys={"response_code"}),
    ]
    metrics.set_meter_provider(MeterProvider([reader], views=views))
    return reader


reader = set_provider() if when == "early" else None
os.environ["ISTIO_META_WORKLOAD_NAME"] = "productpage-v1"
with meshsdk.Mesh(config=folder) as mesh:
    mesh.metrics_asgi()
    with mesh.client() as client:
        for path in ("a", "b", "c"):
            if path == "c" and when == "late":
                reader = set_provider()
                time.sleep(ONE_LOOK_SECONDS)
            client.get(f"{url}/{path}")
    points = {}
    for resource in reader.get_metrics_data().resource_metrics if reader is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name.startswith("istio_"):
                    points[metric.name] = [
                        {
                            "attributes": dict(point.attributes or {}),
                            "count": getattr(point, "count", getattr(point, "value", 0)),
                            "bounds": list(getattr(point, "explicit_bounds", ())),
                        }
                        for point in metric.data.data_points
                    ]
    recorder = mesh._runtime.metrics.cells.recorder is not None if mesh._runtime.metrics is not None else False
print(json.dumps({"points": points, "records": recorder, "loads_sdk": "opentelemetry.sdk" in sys.modules}))
