"""The real Prometheus, and what it answers."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from ..patience import PATIENCE
from ..processes import free_ports, wait_for_port

__all__ = ["Answer", "Prometheus", "Series", "prometheus"]


class Series(NamedTuple):
    """One element of an instant vector."""

    labels: dict[str, str]
    value: float


class Answer(list[Series]):
    """An instant vector."""

    def find(self, **wanted: str) -> Answer:
        """The series that have these labels."""
        return Answer(one for one in self if wanted.items() <= one.labels.items())

    def total(self, **wanted: str) -> float:
        """The sum of such series."""
        return sum(one.value for one in self.find(**wanted))

    def by(self, *names: str) -> dict[tuple[str, ...], float]:
        """Sums by the values of some labels."""
        sums: dict[tuple[str, ...], float] = {}
        for labels, value in self:
            key = tuple(labels.get(name, "") for name in names)
            sums[key] = sums.get(key, 0.0) + value
        return sums


class Prometheus:
    """One that runs."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=PATIENCE, trust_env=False)

    def ask(self, query: str, at: float | None = None) -> Answer:
        """What an instant query gives, now or at a time in seconds since the epoch."""
        response = self._client.get("/query", params={"query": query, **({"time": at} if at is not None else {})})
        assert response.status_code == 200, (query, response.text)
        data: dict[str, Any] = response.json()["data"]
        assert data["resultType"] == "vector", query
        return Answer(Series(one["metric"], float(one["value"][1])) for one in data["result"])

    def wait_for_targets(self, count: int) -> None:
        """Wait until so many processes have been scraped."""
        deadline = time.monotonic() + PATIENCE
        while self.ask("sum(up)").total() < count:
            assert time.monotonic() < deadline, self.ask("up == 0")
            time.sleep(0.2)

    def close(self) -> None:
        self._client.close()


@contextmanager
def prometheus(folder: Path, config: str) -> Iterator[Prometheus]:
    """A Prometheus of this configuration, up."""
    port = free_ports(1)[0]
    (folder / "prometheus.yml").write_text(config)
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        running = Prometheus(port)
        deadline = time.monotonic() + PATIENCE
        while running._client.get("/status/runtimeinfo").status_code != 200:
            assert time.monotonic() < deadline, "it listens, and never is ready"
            time.sleep(0.05)
        yield running
        running.close()
    finally:
        process.terminate()
        process.wait(PATIENCE)
