"""Scrapes of metrics over the real port, read by prometheus_client's own parser, and workloads to be scraped."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import meshsdk

from ..patience import PATIENCE
from ..processes import free_ports

__all__ = ["REQUESTS", "Scraped", "World", "become", "mesh_of_pod", "scrape"]

REQUESTS = "istio_requests_total"


class Scraped:
    """One scrape.

    Attributes:
        families: Types by the names of families.
        samples: Name, labels and value, in order.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.families: dict[str, str] = {}
        self.samples: list[tuple[str, dict[str, str], float]] = []
        for family in text_string_to_metric_families(text):
            self.families[family.name] = family.type
            self.samples += [(one.name, dict(one.labels), one.value) for one in family.samples]

    def find(self, name: str, **wanted: str) -> list[tuple[dict[str, str], float]]:
        """The samples of a name that have these labels."""
        return [
            (labels, value) for one, labels, value in self.samples if one == name and wanted.items() <= labels.items()
        ]

    def one(self, name: str = REQUESTS, **wanted: str) -> dict[str, str]:
        """The labels of the only such sample; the empty ones, which are none, left out."""
        found = self.find(name, **wanted)
        assert len(found) == 1, (wanted, found)
        return {key: value for key, value in found[0][0].items() if value}

    def value(self, name: str = REQUESTS, **wanted: str) -> float:
        """The sum of such samples."""
        return sum(value for _, value in self.find(name, **wanted))


def scrape(port: int, path: str = "/stats/prometheus") -> Scraped:
    """What Prometheus gets."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, body
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return Scraped(body)
    finally:
        connection.close()


@contextmanager
def become(
    monkeypatch: pytest.MonkeyPatch, folder: Path, workload: str, namespace: str = "default", **labels: str
) -> Iterator[None]:
    """Within this block a Mesh is made for a pod of that workload, with these labels."""
    root = folder / f"pod-{workload}"
    (root / "etc/istio/pod").mkdir(parents=True, exist_ok=True)
    lines = [f"{name}={json.dumps(value)}" for name, value in labels.items()]
    (root / "etc/istio/pod/labels").write_text("\n".join(lines))
    with monkeypatch.context() as patch:
        patch.setenv("MESHSDK_POD_ROOT", str(root))
        patch.setenv("ISTIO_META_WORKLOAD_NAME", workload)
        patch.setenv("ISTIO_META_CLUSTER_ID", "Kubernetes")
        yield


def mesh_of_pod(
    monkeypatch: pytest.MonkeyPatch, folder: Path, workload: str, config: Path, port: int, **options: Any
) -> meshsdk.Mesh:
    """A Mesh over a folder, in a pod of `app-version`, that is scraped at a port."""
    app, _, version = workload.rpartition("-")
    with become(monkeypatch, folder, workload, app=app, version=version):
        return meshsdk.Mesh(config=config, metrics_port=port, **options)


class World:
    """productpage-v1, a client, and reviews-v2, a server, each with its Mesh and its port for metrics."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._stack = stack
        self.port, self.client_port, self.server_port = free_ports(3)
        self.sent = 0
        self.config = folder / "mesh"
        self.config.mkdir()

    def configure(self, yaml: str) -> None:
        (self.config / "mesh.yaml").write_text(yaml)

    def mesh(self, workload: str, metrics_port: int, **options: Any) -> meshsdk.Mesh:
        made = mesh_of_pod(self._monkeypatch, self._folder, workload, self.config, metrics_port, **options)
        return self._stack.enter_context(made)

    def client_mesh(self, **options: Any) -> meshsdk.Mesh:
        return self.mesh("productpage-v1", self.client_port, **options)

    def server_mesh(self, **options: Any) -> meshsdk.Mesh:
        return self.mesh("reviews-v2", self.server_port, **options)

    def of_client(self, requests: int = 1) -> Scraped:
        """The client's page, once it counts so many requests."""
        return _counting(self.client_port, requests)

    def of_server(self, requests: int = 1) -> Scraped:
        """The server's, which counts a request when its answer is out."""
        return _counting(self.server_port, requests)


def _counting(port: int, requests: int) -> Scraped:
    deadline = time.monotonic() + PATIENCE
    while (page := scrape(port)).value() < requests and time.monotonic() < deadline:
        time.sleep(0.02)
    return page
