"""A process whose identity cannot be renewed any more; prints what its status and its metrics say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import meshsdk
from meshsdk.identities import FileIdentity

from ..certificates import SpiffeCa, spiffe, write_identity


def main(folder: Path) -> None:
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    ca, place = SpiffeCa(), folder / "identity"
    write_identity(place, ca.issue(spiffe("web")), ca.pem)
    (folder / "mesh").mkdir()
    identity = FileIdentity(place / "cert.pem", place / "key.pem", place / "roots.pem")
    with meshsdk.Mesh(config=folder / "mesh", identity=identity) as mesh:
        identity.credentials()
        told: dict[str, object] = {"before": mesh.status()["identity"]}
        (place / "cert.pem").write_bytes(ca.issue(spiffe("web"))[1])
        identity.credentials()
        told["after"] = mesh.status()["identity"]
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                told[metric.name] = next(point.value for point in metric.data.data_points)
    print(json.dumps(told))


main(Path(sys.argv[1]))
